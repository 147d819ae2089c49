"""An algorithm with more transforms than it came with, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from headway.core import Algorithm, Context, Transform

__all__ = ["extended"]


@final
@dataclass(frozen=True, slots=True)
class _Within:
    """A view or an order, shown only the states of the chain that it was made for."""

    rule: Callable[[Context, tuple[Any, ...]], Any]
    first: int
    stop: int

    @property
    def orders(self) -> frozenset[str]:
        return getattr(self.rule, "orders", frozenset())

    def __call__(self, context: Context, states: tuple[Any, ...]) -> Any:
        return self.rule(context, (*states[self.first : self.stop], states[-1]))

    def __repr__(self) -> str:
        return repr(self.rule)


def extended(
    algorithm: Algorithm, *, before: Sequence[Transform] = (), after: Sequence[Transform] = ()
) -> Algorithm:
    """Put transforms before and after an algorithm's own.

    Its view and its orders to the workers go on seeing the states of its own chain. A gate that
    watches the chain sees all of them.

    Args:
        algorithm: Stays as it is.
        before: What an update goes through first, in order.
        after: What it goes through last, just before the step.

    Returns:
        The longer algorithm, or the same one where nothing is added.

    Example:
        >>> from headway.algorithms import async_delta, transforms
        >>> extended(async_delta(), before=[transforms.drop_stale(8)]).chain
        (drop_stale(8),)
    """
    if not before and not after:
        return algorithm
    first, stop = len(before), len(before) + len(algorithm.chain)
    view, work = algorithm.view, algorithm.work
    return replace(
        algorithm,
        chain=(*before, *algorithm.chain, *after),
        view=None if view is None else _Within(view, first, stop),
        work=None if work is None else _Within(work, first, stop),
    )
