"""Amounts as people read them: with a unit, as many digits as mean something, and the spread."""

from __future__ import annotations

from math import floor, log10

from headway.observe import text
from headway.observe.comparison import Spread

__all__ = ["amount", "mean_and_std", "range_of"]


def amount(axis: str, value: float) -> str:
    """A value of an axis, or of a metric, with its unit.

    Example:
        >>> amount("updates", 1234.0), amount("bytes", 4.5e6), amount("wall_time_s", 12.34)
        ('1,234', '4.5 MB', '12.34 s')
    """
    if axis.endswith("_s"):
        return f"{text.number(value)} s"
    return text.bytes_text(value) if axis == "bytes" else text.number(value)


def mean_and_std(axis: str, spread: Spread) -> str:
    """A mean with its standard deviation, in the same unit; the mean alone if there is none.

    Example:
        >>> print(mean_and_std("bytes", Spread(4.5e6, 3.1e5, 4.2e6, 4.8e6, 3)))
        4.50 ±\N{NO-BREAK SPACE}0.31\N{NO-BREAK SPACE}MB
        >>> mean_and_std("updates", Spread(1234.0, None, 1234.0, 1234.0, 1))
        '1,234'
    """
    mean, unit = _parted(amount(axis, spread.mean))
    if not spread.std:
        return f"{mean} {unit}".rstrip()
    shown = float(mean.replace(",", ""))
    # Bytes are shown in a unit of their own size, and so is their deviation.
    divisor = spread.mean / shown if axis == "bytes" and shown else 1.0
    said, std = _rounded(spread.mean / divisor, spread.std / divisor)
    # Wrapped at most before the sign.
    return f"{said} ±\N{NO-BREAK SPACE}{std}" + (f"\N{NO-BREAK SPACE}{unit}" if unit else "")


def range_of(axis: str, spread: Spread) -> str:
    """From the smallest to the largest of several values; empty for one value.

    Example:
        >>> range_of("wall_time_s", Spread(2.0, 1.0, 1.0, 3.0, 3))
        '1 to 3 s'
    """
    if not spread.std:
        return ""
    low, low_unit = _parted(amount(axis, spread.min))
    high, unit = _parted(amount(axis, spread.max))
    return (
        f"{low} to {high} {unit}".rstrip()
        if low_unit == unit
        else (f"{low} {low_unit} to {high} {unit}")
    )


def _rounded(mean: float, std: float) -> tuple[str, str]:
    """Both with no more decimals than the deviation gives meaning to."""
    if not 1e-4 <= abs(mean) < 1e15:
        return text.number(mean, 4), text.number(std, 2)
    decimals = max(0, min(1 - floor(log10(std)), 3 - floor(log10(abs(mean)))))
    # One digit of a deviation could be a third off.
    small = std < 10.0 ** (1 - decimals)
    return f"{mean:,.{decimals}f}", text.number(std, 2) if small else f"{std:,.{decimals}f}"


def _parted(said: str) -> tuple[str, str]:
    number, _, unit = said.partition(" ")
    return number, unit
