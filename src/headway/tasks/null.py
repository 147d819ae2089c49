"""A task that costs nothing, to measure everything around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from headway.core import Buffers, ParameterLayout, WorkOrder
from headway.task import Assignment, LocalResult, Start
from headway.tasks.checks import check_count

if TYPE_CHECKING:
    from headway.core import Algorithm, Receipt

__all__ = ["NullTask", "null"]


def null(num_params: int = 10, num_clients: int = 1000) -> NullTask:
    """Make a task whose every job returns the same payload at once.

    Args:
        num_params: Length of the flat parameter tensor, at least 1.
        num_clients: At least 1; it costs no memory.

    Raises:
        ConfigurationError: A number outside its range.

    Example:
        >>> task = null(num_params=3)
        >>> task.evaluate(task.start(0, torch.device("cpu")).parameters, None)
        {'loss': 0.0}
    """
    return NullTask(num_params, num_clients)


@final
class NullTask:
    """What :func:`null` returns; an :class:`~headway.task.Objective`."""

    def __init__(self, num_params: int, num_clients: int) -> None:
        check_count("tasks.null", "num_params", num_params)
        check_count("tasks.null", "num_clients", num_clients)
        self._num_params = num_params
        self._num_clients = num_clients

    @property
    def name(self) -> str:
        """What reports call it."""
        return "null"

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return self._num_clients

    def start(self, seed: int, device: torch.device) -> Start:
        """Start at 0, whatever the seed."""
        layout = ParameterLayout.flat(self._num_params)
        return Start(torch.zeros(self._num_params, device=device), layout)

    def trainer(self, algorithm: Algorithm, device: torch.device) -> NullTrainer:
        """Make what answers this algorithm's jobs; its client chain is left out."""
        return NullTrainer(torch.full((self._num_params,), 1e-3, device=device))

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        """There is nothing to judge: the loss is always 0."""
        return {"loss": 0.0}

    def num_examples(self, client: int) -> int:
        """One each."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Say in plain JSON what this is."""
        return {
            "name": self.name,
            "num_params": self._num_params,
            "num_clients": self._num_clients,
        }


@final
class NullTrainer:
    """Answers every job with one and the same result."""

    def __init__(self, payload: Tensor) -> None:
        self._result = LocalResult(
            payload, num_examples=1, num_processed=1, num_steps=1, metrics={}
        )

    def train(self, assignment: Assignment) -> LocalResult:
        """Return the result, the same object each time."""
        return self._result

    def num_steps(self, client: int, work: WorkOrder) -> int:
        """One, whatever the order says."""
        return 1

    def num_processed(self, client: int, work: WorkOrder) -> int:
        """One, whatever the order says."""
        return 1

    def receipt(self, client: int, receipt: Receipt) -> None:
        """Nothing to learn."""
