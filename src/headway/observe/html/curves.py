"""Curves: a run's history against an axis, and several runs on a common grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.observe.result import Result

__all__ = ["Band", "Curve", "band_of", "curve_of", "thinned"]

_Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A metric against an axis: it holds its value from one point until the next.

    Attributes:
        x: Where it was measured, ``[N]``, never falling.
        y: What was measured, ``[N]``; NaN where it was not a finite number.
    """

    x: _Floats
    y: _Floats


class Band(NamedTuple):
    """Several curves on a common grid.

    Attributes:
        x: The grid, ``[N]``.
        mean: Their mean, ``[N]``; NaN where one of them is NaN.
        low: Their smallest value, ``[N]``.
        high: Their largest value, ``[N]``.
    """

    x: _Floats
    mean: _Floats
    low: _Floats
    high: _Floats


def curve_of(result: Result, axis: str, metric: str) -> Curve:
    """A run's metric against an axis, from the points that measured it."""
    points = [point for point in result.history if metric in point.metrics]
    x = np.array([getattr(point, axis) for point in points], dtype=np.float64)
    y = np.array([point.metrics[metric] for point in points], dtype=np.float64)
    known = np.isfinite(x)
    return Curve(x[known], np.where(np.isfinite(y), y, np.nan)[known])


def band_of(curves: Sequence[Curve], max_points: int) -> Band | None:
    r"""Mean and range of curves, where all of them have begun and none has ended.

    Each holds its last value, so on a grid :math:`g`, made of all their points,

    .. math:: \bar y(g) = \tfrac{1}{S} \sum_s y_s\big(\max \{x \in x_s : x \le g\}\big)

    Args:
        curves: The curves; empty ones are left aside.
        max_points: How large the grid may be.

    Returns:
        The band, or ``None`` if there is no stretch that all curves have.

    Example:
        >>> import numpy as np
        >>> one = Curve(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
        >>> two = Curve(np.array([0.0, 1.0, 3.0]), np.array([0.0, 3.0, 3.0]))
        >>> band_of([one, two], 100).mean.tolist()
        [0.0, 1.5, 2.0]
    """
    found = [curve for curve in curves if len(curve.x)]
    if not found:
        return None
    first, last = max(c.x[0] for c in found), min(c.x[-1] for c in found)
    grid = np.unique(np.concatenate([curve.x for curve in found]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        return None
    grid = grid[_evenly(len(grid), max_points)]
    held = np.stack([c.y[np.searchsorted(c.x, grid, side="right") - 1] for c in found])
    return Band(grid, held.mean(axis=0), held.min(axis=0), held.max(axis=0))


def thinned(curve: Curve, max_points: int) -> Curve:
    """At most ``max_points`` of a curve: its ends, and each stretch's lowest and highest value.

    Example:
        >>> import numpy as np
        >>> thin = thinned(Curve(np.arange(100.0), np.arange(100.0) % 7), 20)
        >>> len(thin.x) <= 20, float(thin.y.min()), float(thin.y.max())
        (True, 0.0, 6.0)
    """
    count = len(curve.x)
    if count <= max_points:
        return curve
    kept = {0, count - 1}
    edges = np.linspace(0, count, max(1, (max_points - 2) // 2) + 1).astype(int)
    for start, stop in pairwise(edges.tolist()):
        part = curve.y[start:stop]
        if np.isfinite(part).any():
            kept |= {int(start + np.nanargmin(part)), int(start + np.nanargmax(part))}
    order = sorted(kept)
    return Curve(curve.x[order], curve.y[order])


def _evenly(count: int, at_most: int) -> NDArray[np.int64]:
    chosen = np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int64)
    return np.unique(chosen)
