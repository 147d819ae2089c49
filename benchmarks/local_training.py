"""How fast is one client's local training, against the loop of torch's tutorials?

One job: 50 examples, 5 epochs, batches of 10, so 25 steps. Candidates run in turn, many times over,
in one process with one thread; the figures are medians.

    python benchmarks/local_training.py [--seconds 3]

- ``naive``: deepcopy of the model, a DataLoader, a new optimizer. The bar: 1.25 times its speed
  with plain SGD on the first model.
- ``flat``: a bare loop on one flat parameter and one flat gradient, nothing else: what the plain
  rule could cost with neither checks nor a result.
- ``headway``: ``Task.trainer(...).train(assignment)``, as the simulator calls it.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from headway import core, models
from headway.task import Assignment, LocalTraining, Task

EPOCHS, BATCH, EXAMPLES, RATE, BAR = 5, 10, 50, 0.01, 1.25
CPU = torch.device("cpu")

MODELS = {
    "mlp 784-200-10": (models.mlp(784, 200, 10), (784,)),
    "mlp 60-16-10": (models.mlp(60, 16, 10), (60,)),
    "cnn 28x28": (models.cnn(), (1, 28, 28)),
}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "adam": ("adam", {}),
}
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Delta:
    """The least server step: the trainer never calls it."""

    needs = core.Needs()
    accepts = frozenset({"delta"})
    mixing = 1.0

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> None:
        return None


def naive(model: nn.Module, data: TensorDataset, optimizer: Callable[..., Any]) -> None:
    local = copy.deepcopy(model)
    steps = optimizer(local.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for inputs, targets in DataLoader(data, batch_size=BATCH, shuffle=True):
            steps.zero_grad()
            F.cross_entropy(local(inputs), targets).backward()
            steps.step()


def flat_loop(
    module: nn.Module, flat: Tensor, gradient: Tensor, base: Tensor, data: TensorDataset
) -> None:
    inputs, targets = data.tensors
    flat.copy_(base)
    for _ in range(EPOCHS):
        for rows in torch.randperm(EXAMPLES).split(BATCH):
            gradient.zero_()
            F.cross_entropy(module(inputs[rows]), targets[rows]).backward()
            flat.add_(gradient, alpha=-RATE)


def candidates(model: str, optimizer: str) -> dict[str, Callable[[], Any]]:
    factory, shape = MODELS[model]
    name, options = OPTIMIZERS[optimizer]
    inputs, targets = torch.randn(EXAMPLES, *shape), torch.randint(0, 10, (EXAMPLES,))
    data = TensorDataset(inputs, targets)
    local = LocalTraining(
        epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, optimizer=name, options=options
    )
    task = Task(factory, "cross_entropy", [data.tensors], data.tensors, local=local)
    trainer = task.trainer(core.Algorithm(name="bench", payload="delta", step=Delta()), CPU)
    job = Assignment(0, task.start(0, CPU).parameters, seed=1)
    found = {
        "naive": partial(naive, task.make_module(0), data, partial(CLASSES[name], **options)),
        "headway": partial(trainer.train, job),
    }
    if optimizer == "sgd":
        module = task.make_module(0)
        flat, gradient = task.layout.flatten(module), torch.zeros(task.layout.num_params)
        task.layout.attach(module, flat)
        views = task.layout.views(gradient)
        for key, parameter in module.named_parameters():
            parameter.grad = views[key]
        found["flat"] = partial(flat_loop, module, flat, gradient, flat.clone(), data)
    return found


def measure(work: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in work}
    for function in work.values():
        function()
    end = time.perf_counter() + seconds
    # Twice at least, or there is no range.
    while time.perf_counter() < end or len(times["naive"]) < 2:
        for name, function in work.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row of the table")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread; jobs/s, median (p10..p90)")
    print(f"{'model':<16}{'optimizer':<11}{'loop':<9}{'jobs/s':>8}  {'range':<15}{'x naive':>8}")
    verdict = ""
    for model in MODELS:
        for optimizer in OPTIMIZERS:
            times = measure(candidates(model, optimizer), seconds)
            bar = statistics.median(times["naive"])
            for name, values in times.items():
                median = statistics.median(values)
                low, *_, high = statistics.quantiles(values, n=10)
                spread = f"{1 / high:.0f}..{1 / low:.0f}"
                print(
                    f"{model:<16}{optimizer:<11}{name:<9}{1 / median:>8.0f}  {spread:<15}"
                    f"{bar / median:>7.2f}x"
                )
                if not verdict and name == "headway":
                    ratio = bar / median
                    word = "met" if ratio >= BAR else "MISSED"
                    verdict = f"bar of {BAR}x naive, {model}, {optimizer}: {ratio:.2f}x, {word}"
    print(verdict)


if __name__ == "__main__":
    main()
