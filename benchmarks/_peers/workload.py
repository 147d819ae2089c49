"""The work that every candidate does, and how ``peers.py`` talks to a candidate.

Imported in each peer's own environment, so it needs nothing but torch. A candidate is a process. It
starts, says so, and then trains some rounds for every line that comes in; meanwhile it waits, so that
all candidates can be alive and take turns. What it prints goes to the standard error: the standard
output carries one line of JSON for a turn.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIENTS, EXAMPLES, EPOCHS, BATCH, RATE = 100, 50, 5, 10, 0.05
STEPS = EPOCHS * EXAMPLES // BATCH
SHAPES = {"60-16-10": (60, 16, 10), "784-200-10": (784, 200, 10)}


def model_for(name: str) -> nn.Module:
    """The same initial weights for every candidate."""
    inputs, hidden, outputs = SHAPES[name]
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@functools.lru_cache(maxsize=CLIENTS)
def client_data(name: str, client: int) -> tuple[Tensor, Tensor]:
    """The same examples of a client for every candidate; remembered by each process."""
    draw = torch.Generator().manual_seed(1 + client)
    inputs = torch.randn(EXAMPLES, SHAPES[name][0], generator=draw)
    # A rule that can be learned, so that the loss tells whether all did the same.
    return inputs, inputs[:, :10].argmax(1)


def loss_of(module: nn.Module, name: str) -> float:
    """Of a model on all clients' data."""
    with torch.no_grad():
        parts = [client_data(name, client) for client in range(CLIENTS)]
        inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        return float(F.cross_entropy(module(inputs), targets))


def train_one(module: nn.Module, name: str, client: int, shuffle: torch.Generator) -> int:
    """One client's training as a careful user writes it, without a DataLoader: the steps taken."""
    inputs, targets = client_data(name, client)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    steps = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(EXAMPLES, generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(module(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            steps += 1
    return steps


class Turns:
    """The candidate's end of the line."""

    def __init__(self) -> None:
        # Libraries write to descriptor 1 themselves: it is turned to the standard error for good.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def say(self, **message: Any) -> None:
        """One line of JSON."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def wait(self) -> bool:
        """Until the next turn; false when there is none."""
        return sys.stdin.readline().strip() == "go"
