"""Plain text: aligned columns, and numbers with their units."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import isfinite
from typing import Final

__all__ = [
    "WIDTH",
    "bytes_text",
    "columns",
    "compact",
    "number",
    "pairs",
    "percent",
    "seconds",
    "shorten",
    "width",
]

WIDTH: Final = 100
"""No line of a table is longer than this."""

_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E")


def number(value: float, digits: int = 4) -> str:
    """A number to be read by a person: whole ones with separators, others to a few digits.

    Example:
        >>> number(1234567), number(0.853128), number(2.0), number(1.5e-9), number(float("nan"))
        ('1,234,567', '0.8531', '2', '1.5e-09', 'nan')
    """
    if not isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def compact(value: float, digits: int = 4) -> str:
    """A number in few characters: like :func:`number`, large ones with a decimal prefix.

    Example:
        >>> compact(99_999), compact(1_234_567), compact(0.5)
        ('99,999', '1.235M', '0.5')
    """
    if not isfinite(value) or abs(value) < 99_999.5 or abs(value) >= 1e18:
        return number(value, digits)
    power = 0
    while abs(value) >= 999.95:
        value /= 1000
        power += 1
    return f"{value:.{digits}g}{_PREFIXES[power]}"


def bytes_text(count: float) -> str:
    """A number of bytes with a decimal prefix.

    Example:
        >>> bytes_text(999), bytes_text(1_234_567), bytes_text(0)
        ('999 B', '1.23 MB', '0 B')
    """
    power = 0
    while abs(count) >= 999.5 and power < len(_PREFIXES) - 1:
        count /= 1000
        power += 1
    return f"{count:.3g} {_PREFIXES[power]}B"


def seconds(value: float) -> str:
    """Seconds with their unit.

    Example:
        >>> seconds(0.25), seconds(600.0)
        ('0.25 s', '600 s')
    """
    return f"{compact(value)} s"


def percent(share: float) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.1234), percent(0.0)
        ('12.3 %', '0.0 %')
    """
    return f"{100 * share:.1f} %"


def shorten(text: str, width: int) -> str:
    """Cut a text that is too long, and show that it was cut.

    Example:
        >>> shorten("bounded_staleness_sgd", 12)
        'bounded_s...'
    """
    return text if len(text) <= width else f"{text[: width - 3]}..."


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    r"""Lines of a name and its value, the values below each other, long ones folded.

    Example:
        >>> print("\n".join(pairs([("updates", "120"), ("versions", "12")])))
          updates   120
          versions  12
    """
    width = max((len(name) for name, _ in rows), default=0)
    lines: list[str] = []
    for name, value in rows:
        folded = textwrap.wrap(value, WIDTH - width - 4) or [""]
        lines.append(f"  {name:<{width}}  {folded[0]}".rstrip())
        lines.extend(f"  {'':<{width}}  {more}" for more in folded[1:])
    return lines


def width(rows: Sequence[Sequence[str]]) -> int:
    """How wide :func:`columns` would have to be to cut nothing.

    Example:
        >>> width([["name", "updates"], ["fedbuff", "120"]])
        16
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    r"""Lines of a table: the first column to the left, the others to the right.

    Example:
        >>> print("\n".join(columns([["name", "updates"], ["fedbuff", "120"]])))
        name     updates
        fedbuff      120
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # The first column gives way where the others leave too little room.
    widths[0] = min(widths[0], max(8, WIDTH - sum(widths[1:]) - 2 * len(widths[1:])))
    lines: list[str] = []
    for first, *others in rows:
        cells = [f"{shorten(first, widths[0]):<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
