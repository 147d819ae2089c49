"""Problems of the benchmarks of claims: one function, of which all workers take noisy gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import headway as hw
from headway.core import Algorithm, Buffers, ParameterLayout, Receipt, WorkOrder
from headway.simulation.population import Population
from headway.task import Assignment, LocalResult, Start

_MISSED = 1e9
"""Above every time."""

_HOPELESS = 1e4
"""A gap of so many times the first one does not close any more."""


class DivergedError(Exception):
    """The model has gone far beyond its start."""


class Shared:
    """A function that every worker takes noisy gradients of, and the server judges exactly.

    Args:
        name: What reports call it.
        first: Where every run starts, flat.
        num_workers: How many workers there are.
        gradient: ``(x, generator) -> gradient``, all of whose randomness is the generator's.
        gap: ``x -> f(x) - min f``.
    """

    def __init__(
        self,
        name: str,
        first: Tensor,
        num_workers: int,
        gradient: Callable[[Tensor, torch.Generator], Tensor],
        gap: Callable[[Tensor], float],
    ) -> None:
        self.name, self.first, self.num_clients = name, first, num_workers
        self.gradient, self.gap = gradient, gap
        self._hopeless = _HOPELESS * gap(first)

    def start(self, seed: int, device: torch.device) -> Start:
        layout = ParameterLayout.flat(len(self.first), self.first.dtype)
        return Start(self.first.clone(), layout)

    def trainer(self, algorithm: Algorithm, device: torch.device) -> SharedTrainer:
        return SharedTrainer(self.gradient)

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        gap = self.gap(parameters)
        # Also where it is not a number.
        if not gap <= self._hopeless:
            raise DivergedError
        return {"gap": gap}

    def num_examples(self, client: int) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "dim": len(self.first), "num_workers": self.num_clients}


class SharedTrainer:
    """Takes one gradient a job."""

    def __init__(self, gradient: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self._gradient = gradient
        self._generator = torch.Generator()

    def num_steps(self, client: int, work: WorkOrder) -> int:
        return 1

    def num_processed(self, client: int, work: WorkOrder) -> int:
        return 1

    def receipt(self, client: int, receipt: Receipt) -> None:
        return None

    def train(self, assignment: Assignment) -> LocalResult:
        self._generator.manual_seed(assignment.seed)
        gradient = self._gradient(assignment.parameters, self._generator)
        return LocalResult(gradient, 1, 1, 1, {})


def reach(
    task: Shared,
    algorithm: Algorithm,
    population: Population,
    *,
    gap: float,
    updates: int,
    virtual_time_s: float | None = None,
    evaluate_every: int,
    seed: int,
) -> dict[str, float | None]:
    """Run until the gap is reached, or the limits are: then ``time_s`` and ``gradients`` are None."""
    try:
        result = hw.simulate(
            task,
            algorithm,
            population=population,
            stop=hw.until(
                updates=updates, virtual_time_s=virtual_time_s, target=("gap", gap, "min")
            ),
            evaluate_every=hw.every(updates=evaluate_every),
            seed=seed,
            record="nothing",
        )
    except DivergedError:
        return {"time_s": None, "gradients": None, "gap": None, "delay": None, "cancelled": None}
    reached = result.final("gap") <= gap
    return {
        "time_s": result.virtual_time_s if reached else None,
        "gradients": result.updates if reached else None,
        "gap": result.final("gap"),
        "delay": max(result.staleness, default=0),
        "cancelled": result.counts["cancelled"],
    }


def score(run: dict[str, float | None]) -> float:
    """What tuning minimises: the time; behind all times the gap; behind all gaps divergence."""
    if run["gap"] is None:
        return 2 * _MISSED
    return _MISSED + run["gap"] if run["time_s"] is None else run["time_s"]
