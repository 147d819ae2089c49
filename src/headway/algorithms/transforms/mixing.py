"""Mixing: a server step that moves the model towards a worker's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from headway.algorithms.arguments import check_number
from headway.core import Context, Needs, Update

if TYPE_CHECKING:
    from headway.core import PayloadKind

__all__ = ["mix"]

_NOTHING = Needs()
_WEIGHTS: frozenset[PayloadKind] = frozenset(("weights",))


@final
@dataclass(frozen=True, slots=True)
class _Mix:
    mixing: float

    @property
    def needs(self) -> Needs:
        return _NOTHING

    @property
    def accepts(self) -> frozenset[PayloadKind]:
        return _WEIGHTS

    def init(self, context: Context) -> None:
        return

    def apply(self, update: Update, state: None, context: Context) -> None:
        share = self.mixing * update.weight
        fragment = update.fragment
        target = context.parameters if fragment is None else context.target(fragment)
        target.lerp_(update.payload, share if share < 1.0 else 1.0)

    def __repr__(self) -> str:
        return f"mix({self.mixing})"


def mix(mixing: float = 1.0) -> _Mix:
    r"""Move the model towards the worker's weights.

    .. math:: x \leftarrow (1 - \alpha w)\, x + \alpha w\, y

    In place, in one pass, without memory. ``mixing`` itself never changes; a share ``αw`` above
    1 (from a weight above 1) counts as 1, which replaces the model. Buffers are mixed by the same
    share.

    Args:
        mixing: ``α``, above 0 and at most 1.

    Raises:
        ConfigurationError: It is out of its range.

    Example:
        >>> mix(0.6)
        mix(0.6)

    Source:
        arXiv:1903.03934 (FedAsync).
    """
    return _Mix(check_number("mixing", mixing, maximum=1.0, above=True))
