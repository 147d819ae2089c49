from __future__ import annotations

import pytest

from headway import config

QUADRATIC = """\
seed = 3
[task]
kind = "quadratic"
dim = 5
num_clients = 6
[population]
name = "lognormal"
median_s = 2.0
sigma = 0.5
[stop]
updates = 20
[algorithm]
name = "fedbuff"
buffer_size = 4
"""

LEARNING = """\
seeds = [0, 1]
[data]
name = "digits"
[data.partition]
name = "dirichlet"
num_clients = 8
alpha = 0.5
[model]
name = "mlp"
hidden = [16]
[local]
epochs = 2
batch_size = 10
[run]
concurrency = 4
evaluate_every = 50
[stop]
updates = 100
target = { metric = "accuracy", value = 0.9 }
[algorithms.fedbuff]
name = "fedbuff"
[algorithms."sync (3)"]
name = "fedavg"
clients_per_round = 3
concurrency = 3
local = { steps = 5 }
"""


@pytest.fixture
def load(tmp_path):
    """Load a text as run.toml, with some --set, and nothing of the real environment."""

    def load_text(text, *assignments, environment=None):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return config.load(path, assignments=assignments, environment=environment or {})

    return load_text


@pytest.fixture
def quadratic(load):
    return lambda *assignments, **more: load(QUADRATIC, *assignments, **more)


@pytest.fixture
def learning(load):
    return lambda *assignments, **more: load(LEARNING, *assignments, **more)
