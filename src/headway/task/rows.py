"""Models as the rows of one matrix: their local optimizer, and what picks their examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

__all__ = ["RowOptimizer", "gathered", "widened"]


@final
class RowOptimizer:
    """An element-wise optimizer on the rows that are still at work: the first so many.

    Args:
        make: ``(parameters, learning rate) -> optimizer``.
        models: ``[lanes, num_params]``; stepped in place.
        gradient: Likewise, what it steps by.
        rate: The learning rate.
    """

    def __init__(
        self, make: Callable[..., Any], models: Tensor, gradient: Tensor, rate: float
    ) -> None:
        self._models, self._gradient = models, gradient
        self._parameter = nn.Parameter(models)
        self._parameter.grad = gradient
        self._optimizer = make([self._parameter], rate)

    def step(self, active: int) -> None:
        """Step the first ``active`` rows; never more than in the step before."""
        if active != len(self._parameter):
            self._narrow(active)
        self._optimizer.step()

    def _narrow(self, active: int) -> None:
        """Go on with fewer rows: the others' models and states stay as they are."""
        before = self._parameter
        self._parameter = nn.Parameter(self._models[:active])
        self._parameter.grad = self._gradient[:active]
        state = self._optimizer.state.pop(before, {})
        self._optimizer.state[self._parameter] = {
            name: value[:active] if _is_matrix(value, len(before)) else value
            for name, value in state.items()
        }
        self._optimizer.param_groups[0]["params"] = [self._parameter]


def gathered(examples: Tensor, rows: Tensor) -> Tensor:
    """``examples[rows]``, at half the time.

    Args:
        examples: ``[examples, *]``.
        rows: Of any shape, int64.
    """
    found = examples.index_select(0, rows.flatten())
    return found.view(*rows.shape, *examples.shape[1:])


def widened(vector: Tensor, like: Tensor) -> Tensor:
    """A vector with as many dimensions as another tensor, for products row by row.

    Args:
        vector: ``[lanes]``.
        like: ``[lanes, *]``.
    """
    return vector.view(-1, *[1] * (like.dim() - 1))


def _is_matrix(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and len(value) == rows
