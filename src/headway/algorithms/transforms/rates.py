"""The server's learning rate, as a stale update gets it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, final

import torch

from headway.algorithms.arguments import check_number
from headway.algorithms.staleness import check_weight
from headway.algorithms.transforms.adaptive import adaptive_step, amsgrad_step
from headway.algorithms.transforms.gap_aware import gap_aware_step
from headway.algorithms.transforms.mixing import mix
from headway.algorithms.transforms.momentum_correction import uncorrected
from headway.algorithms.transforms.optimizers import ADD, Rule
from headway.algorithms.transforms.stepping import server_step
from headway.algorithms.transforms.worker_momentum import worker_momentum
from headway.core import Context, Dropped, Needs, Outcome, Pass, ServerStep, Update

__all__ = ["is_proportional", "scale_rate", "server_rate"]

_NOTHING = Needs()
_BAD_STALENESS_WEIGHT = Dropped("bad_staleness_weight")
_PROPORTIONAL: Final = (type(server_step(ADD)), type(mix()))
_RATED: Final = tuple(
    type(step)
    for step in (
        server_step(ADD),
        adaptive_step(),
        amsgrad_step(),
        gap_aware_step(),
        worker_momentum(),
    )
)
# Rprop's steps have sizes of their own after the first, and ASGD's rate takes effect a step late.
_OTHER_SIZES: Final = (torch.optim.Rprop, torch.optim.ASGD)


@final
@dataclass(frozen=True, slots=True)
class _ScaleRate:
    weight: Callable[[int], float]
    learning_rate: float

    @property
    def needs(self) -> Needs:
        return _NOTHING

    def init(self, context: Context) -> None:
        return

    def apply(self, update: Update, state: None, context: Context) -> Outcome:
        flush = update.contributions
        factor = self.weight(context.staleness if flush is None else flush.max_staleness)
        if not 0.0 <= factor < inf:
            return _BAD_STALENESS_WEIGHT
        rate = self.learning_rate if update.learning_rate is None else update.learning_rate
        return Pass(update._replace(learning_rate=rate * factor))

    def __repr__(self) -> str:
        return f"scale_rate({self.weight!r}, {self.learning_rate})"


def scale_rate(weight: Callable[[int], float], learning_rate: float) -> _ScaleRate:
    r"""Multiply the learning rate of the step by a function of the update's staleness.

    .. math:: \eta_t = s(\tau)\, \eta

    What the optimizer sees of the update stays as it is, and so does its momentum. A weight on the
    update itself would do nothing under Adam, which divides by the size of what it gets.

    Put it last. Behind a buffer the staleness is the largest in the flush. A rate that a transform
    gave the update before is multiplied in place of ``η``.

    An update for which ``s`` gives something negative or not finite is rejected, as
    ``"bad_staleness_weight"``.

    Args:
        weight: ``s``, from ``headway.staleness`` or any function of an int.
        learning_rate: ``η``, the rate of the step that follows, at least 0: :func:`server_rate`.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.

    Example:
        >>> from headway import staleness
        >>> scale_rate(staleness.exponential(0.9), 0.001)
        scale_rate(exponential(decay=0.9), 0.001)

    Source:
        arXiv:1511.05950 divides the rate, and not the gradient, by the staleness.
    """
    check_weight(weight)
    return _ScaleRate(weight, check_number("learning_rate", learning_rate))


def is_proportional(step: ServerStep) -> bool:
    """Whether a step moves the model in proportion to the update's weight, and remembers nothing.

    A weight and a learning rate are then the same thing.

    Args:
        step: What ends the chain.

    Example:
        >>> is_proportional(server_step(ADD)), is_proportional(server_step(torch.optim.Adam))
        (True, False)
    """
    return isinstance(step, _PROPORTIONAL)


def server_rate(step: ServerStep) -> float | None:
    """The learning rate that an update's own one would stand in for.

    Args:
        step: What ends the chain.

    Returns:
        ``None`` where a step has none, or does not move by it.

    Example:
        >>> server_rate(server_step(torch.optim.Adam)), server_rate(mix(0.6))
        (0.001, None)
    """
    step = uncorrected(step)
    rule = getattr(step, "rule", None)
    rate: object = None
    if isinstance(rule, Rule) and rule.factory not in _OTHER_SIZES:
        rate = rule.options.get("lr", _default_rate(rule.factory))
    elif isinstance(step, _RATED):
        rate = getattr(step, "learning_rate", None)
    return float(rate) if isinstance(rate, int | float | torch.Tensor) else None


def _default_rate(factory: type[torch.optim.Optimizer]) -> object:
    parameter = inspect.signature(factory).parameters.get("lr")
    return None if parameter is None else parameter.default
