"""Transforms that decide whether an update counts, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import final

from headway.algorithms.arguments import check_count, check_number
from headway.algorithms.staleness import check_weight
from headway.algorithms.transforms.functions import Stateless, reweighted
from headway.core import Context, Dropped, Needs, Outcome, Pass, Update

__all__ = ["drop_stale", "saturate", "scale_by_examples", "scale_by_staleness"]

_NOTHING = Needs()
_TOO_STALE = Dropped("too_stale")
_BAD_STALENESS_WEIGHT = Dropped("bad_staleness_weight")
_BAD_WEIGHT = Dropped("bad_weight")


@final
@dataclass(frozen=True, slots=True)
class _DropStale:
    max_staleness: int

    @property
    def needs(self) -> Needs:
        return _NOTHING

    def init(self, context: Context) -> None:
        return

    def apply(self, update: Update, state: None, context: Context) -> Outcome:
        return Pass(update) if context.staleness <= self.max_staleness else _TOO_STALE

    def __repr__(self) -> str:
        return f"drop_stale({self.max_staleness})"


@final
@dataclass(frozen=True, slots=True)
class _ScaleByStaleness:
    weight: Callable[[int], float]

    @property
    def needs(self) -> Needs:
        return _NOTHING

    def init(self, context: Context) -> None:
        return

    def apply(self, update: Update, state: None, context: Context) -> Outcome:
        factor = self.weight(context.staleness)
        if factor == 1.0:
            return Pass(update)
        # One comparison that NaN fails too. A function is tried out at a few values of the
        # staleness only, and what it gives at another would otherwise end up in the model.
        if not 0.0 <= factor < inf:
            return _BAD_STALENESS_WEIGHT
        weight = update.weight * factor
        return Pass(reweighted(update, weight)) if weight < inf else _BAD_WEIGHT

    def __repr__(self) -> str:
        return f"scale_by_staleness({self.weight!r})"


def drop_stale(max_staleness: int) -> _DropStale:
    r"""Reject updates that are more than ``max_staleness`` versions late, as ``"too_stale"``.

    .. math:: \text{reject} \iff \tau > \tau_{\max}

    Args:
        max_staleness: The largest staleness that is let through, in versions, at least 0.

    Raises:
        ConfigurationError: It is negative.

    Example:
        >>> drop_stale(20)
        drop_stale(20)
    """
    return _DropStale(check_count("max_staleness", max_staleness, minimum=0))


def scale_by_staleness(weight: Callable[[int], float]) -> _ScaleByStaleness:
    r"""Multiply the update's weight by a function of its staleness.

    .. math:: w \leftarrow s(\tau)\, w

    The staleness is the server's version minus the base version when the update arrives: 0 for a
    fresh one, whether or not a buffer follows.

    An update for which ``s`` gives something negative or not finite is rejected, as
    ``"bad_staleness_weight"``; one whose weight grows out of range, as ``"bad_weight"``.

    Args:
        weight: ``s``, from ``headway.staleness`` or any function of an int.

    Raises:
        ArgumentTypeError: It is no function of an int.
        ConfigurationError: It gives something else than finite numbers of at least 0.

    Example:
        >>> from headway import staleness
        >>> scale_by_staleness(staleness.polynomial(0.5))
        scale_by_staleness(polynomial(exponent=0.5))
    """
    check_weight(weight)
    return _ScaleByStaleness(weight)


def scale_by_examples() -> Stateless:
    r"""Multiply the update's weight by its number of examples.

    .. math:: w \leftarrow n_i\, w

    ``n_i`` is ``update.num_examples``: for a delta or weights how many examples the client holds,
    however much it trained on them; for a gradient how many its batches hold.

    Weights are then far above 1: follow it with :func:`saturate`, or with a buffer that divides by
    their sum. (``buffer(..., reduce="weighted_mean")`` counts examples by itself.) An update whose
    weight grows out of range is rejected, as ``"bad_weight"``.

    Example:
        >>> scale_by_examples()
        scale_by_examples()
    """
    return Stateless(_scale_by_examples)


def saturate(damping: float) -> Stateless:
    r"""Turn a weight of any size into a share below 1.

    .. math:: w \leftarrow \frac{w}{w + d}

    Weight 0 stays 0.

    Args:
        damping: ``d``, the weight that becomes 1/2; at least 0. With 0 every weight becomes 1.

    Raises:
        ConfigurationError: It is negative.

    Example:
        >>> saturate(64.0)
        saturate(damping=64.0)
    """
    return Stateless(_saturate, (("damping", check_number("damping", damping)),))


def _scale_by_examples(update: Update, context: Context) -> Outcome:
    weight = update.weight * update.num_examples
    return Pass(reweighted(update, weight)) if weight < inf else _BAD_WEIGHT


def _saturate(update: Update, context: Context, *, damping: float) -> Outcome:
    weight = update.weight
    return Pass(reweighted(update, weight / (weight + damping) if weight > 0.0 else 0.0))
