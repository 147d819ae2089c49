"""The work of ``steps.py``, for whoever shares it among processes: it needs nothing but torch.

A worker takes the gradient of a batch at the weights that it was given, the server subtracts it.
Weights and gradients travel as one flat vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

EXAMPLES, BATCH, RATE = 3200, 32, 0.05


def make_model() -> nn.Module:
    """The same initial weights for everybody."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def make_data() -> tuple[Tensor, Tensor]:
    """The same examples for everybody, with a rule that can be learned."""
    inputs = torch.randn(EXAMPLES, 784, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[:, :10].argmax(1)


class Batches:
    """One shuffled pass after another."""

    def __init__(self) -> None:
        self.inputs, self.targets = make_data()
        self._rows: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        """A batch."""
        if not self._rows:
            self._rows = list(torch.randperm(EXAMPLES).split(BATCH))
        rows = self._rows.pop()
        return self.inputs[rows], self.targets[rows]


class Worker:
    """Takes gradients."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model, self._batches = make_model(), Batches()

    def gradient(self, weights: Tensor) -> Tensor:
        """At these weights."""
        vector_to_parameters(weights, self._model.parameters())
        self._model.zero_grad()
        inputs, targets = self._batches.next()
        F.cross_entropy(self._model(inputs), targets).backward()
        return parameters_to_vector(p.grad for p in self._model.parameters() if p.grad is not None)


class Server:
    """Owns the weights."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.weights = parameters_to_vector(make_model().parameters()).detach()
        self.updates = 0

    def apply(self, gradient: Tensor) -> Tensor:
        """One step: the weights after it."""
        self.weights.sub_(gradient, alpha=RATE)
        self.updates += 1
        return self.weights


def loss_at(weights: Tensor) -> float:
    """Of all the data."""
    model = make_model()
    vector_to_parameters(weights, model.parameters())
    inputs, targets = make_data()
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs), targets))
