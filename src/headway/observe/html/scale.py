"""Scales: from values to places on an axis, with ticks that people read easily."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AXIS_TITLES", "Scale", "Tick", "axis_scale", "value_scale"]

AXIS_TITLES: Final = {
    "updates": "Updates",
    "versions": "Model versions",
    "examples": "Examples",
    "bytes": "Bytes",
    "virtual_time_s": "Virtual time",
    "wall_time_s": "Wall time",
}
_TIME_UNITS: Final = ((7200.0, 1.0, "s"), (259_200.0, 3600.0, "h"), (float("inf"), 86400.0, "d"))


class Tick(NamedTuple):
    """A mark on an axis: where in [0, 1], and what is written there."""

    place: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A stretch of values that fills an axis.

    Args:
        low: The value at place 0.
        high: The value at place 1, above ``low``.
        log: Whether places go with the logarithm; then both ends are above 0.
        divisor: How many of the values make one of the unit.
        unit: What the ticks are counted in.
    """

    low: float
    high: float
    log: bool = False
    divisor: float = 1.0
    unit: str = ""

    def at(self, value: float) -> float:
        """The place of a value; NaN has none, and stays NaN.

        Example:
            >>> Scale(0.0, 50.0).at(20.0), Scale(0.01, 100.0, log=True).at(1.0)
            (0.4, 0.5)
        """
        if self.log:
            low, high = log10(self.low), log10(self.high)
            return (log10(value) - low) / (high - low) if value > 0 else float("nan")
        return (value - self.low) / (self.high - self.low)

    def places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The places of many values."""
        return np.array([self.at(float(value)) for value in values], dtype=np.float64)

    def ticks(self, num: int = 6) -> list[Tick]:
        """About ``num`` ticks at round values within the scale.

        Example:
            >>> [tick.text for tick in Scale(0.0, 3.1e6).ticks()]
            ['0', '1M', '2M', '3M']
            >>> [tick.text for tick in Scale(0.002, 30.0, log=True).ticks()]
            ['0.01', '0.1', '1', '10']
        """
        values = self._marked(num)
        texts = _log_texts(values) if self.log else _texts(values)
        places = [self.at(value * self.divisor) for value in values]
        return [Tick(place, said) for place, said in zip(places, texts, strict=True)]

    def values(self, num: int = 6) -> list[float]:
        """The values at which the ticks are."""
        return [value * self.divisor for value in self._marked(num)]

    def _marked(self, num: int) -> list[float]:
        low, high = self.low / self.divisor, self.high / self.divisor
        return _decades(low, high, num) if self.log else _round_values(low, high, num)


def axis_scale(axis: str, highest: float) -> Scale:
    """The scale of an x-axis, from 0 to the largest value, in a unit that fits it.

    Example:
        >>> axis_scale("virtual_time_s", 36000.0)
        Scale(low=0.0, high=36000.0, log=False, divisor=3600.0, unit='h')
    """
    high = highest if isfinite(highest) and highest > 0 else 1.0
    if axis.endswith("_s"):
        divisor, unit = next((by, unit) for below, by, unit in _TIME_UNITS if high < below)
        return Scale(0.0, high, divisor=divisor, unit=unit)
    if axis == "bytes":
        power = min(max(floor(log10(high) / 3), 0), 6)
        return Scale(0.0, high, divisor=1000.0**power, unit=f"{' kMGTPE'[power].strip()}B")
    return Scale(0.0, high)


def value_scale(
    values: Iterable[float], *, include: Iterable[float] = (), log_above: float = 1000.0
) -> Scale:
    """The scale of a y-axis: around all finite values, logarithmic where they span decades.

    Args:
        values: What is drawn; values that are not finite are left aside.
        include: More values that are to be seen, such as a target.
        log_above: How many times the smallest value the largest one has to be for a logarithm.

    Example:
        >>> value_scale([0.1, 0.9], include=[0.85]).log, value_scale([0.001, 10.0]).log
        (False, True)
    """
    found = sorted(value for value in (*values, *include) if isfinite(value))
    if not found:
        return Scale(0.0, 1.0)
    low, high = found[0], found[-1]
    if low > 0 and high / low > log_above:
        return Scale(low / 1.15, high * 1.15, log=True)
    if low >= 0 and high <= 1 and high - low > 0.1:
        # Shares and accuracies: no room beyond what they can be.
        margin = 0.04 * (high - low)
        return Scale(max(0.0, low - margin), min(1.0, high + margin))
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low - margin, high + margin)


def _round_values(low: float, high: float, num: int) -> list[float]:
    raw = (high - low) / max(num, 1)
    size = 10.0 ** floor(log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(low: float, high: float, num: int) -> list[float]:
    first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
    factors = (1, 2, 5) if last - first < 2 else (1,)
    every = max(1, ceil((last - first + 1) / max(num, 1)))
    values = [
        10.0**power * factor for power in range(first - 1, last + 1, every) for factor in factors
    ]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def _texts(values: list[float]) -> list[str]:
    largest = max(map(abs, values), default=0.0)
    step = values[1] - values[0] if len(values) > 1 else largest
    # As many digits as tell neighbours apart.
    apart = floor(log10(largest)) - floor(log10(step) + 1e-9) + 2 if step > 0 else 0
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if largest >= size:
            size = 1e3 if suffix == "k" else size
            return [
                f"{value / size:.{max(4, apart)}g}{suffix}" if value else "0" for value in values
            ]
    if 0 < largest < 1e-3:
        return [f"{value:.{max(3, apart)}g}" for value in values]
    decimals = max(0, min(6, -floor(log10(step) + 1e-9))) if step > 0 else 0
    if step and abs(round(step, decimals) - step) > 1e-9 * step:
        decimals += 1
    return [f"{value:,.{decimals}f}" for value in values]


def _log_texts(values: list[float]) -> list[str]:
    return [f"{value:g}" if 1e-4 <= value < 1e5 else f"{value:.0e}" for value in values]
