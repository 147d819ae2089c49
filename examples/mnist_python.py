"""The race of mnist_race.toml, in Python: a model of your own, on real MNIST digits.

pip install 'headway[data]'
python examples/mnist_python.py
"""

from __future__ import annotations

import sys

from torch import nn

import headway as hw

virtual_time_s = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0

clients = hw.data.federated(hw.data.mnist_5k(), hw.data.dirichlet(50, alpha=0.3))
task = hw.Task(
    model=lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
    loss="cross_entropy",
    train=clients,
    local=hw.LocalTraining(epochs=1, batch_size=20, learning_rate=0.4),
    name="mnist_5k",
)
print(clients)
print(clients.heterogeneity)

comparison = hw.compare(
    task,
    {
        "fedavg": hw.algorithms.fedavg(clients_per_round=20),
        "fedbuff": hw.algorithms.fedbuff(buffer_size=10),
    },
    population=hw.population.lognormal(50, median_s=2.0, sigma=0.8),
    concurrency=20,
    evaluate_every=20,
    stop=hw.until(virtual_time_s=virtual_time_s),
    target=("accuracy", 0.85),
    seeds=(0, 1, 2),
)
print(comparison)
print("report:", comparison.report("report.html"))
