"""Checks of the numbers that make a task."""

from __future__ import annotations

from math import isfinite

from headway.core.errors import ConfigurationError

__all__ = ["check_count", "check_number"]


def check_count(where: str, name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Raises:
        ConfigurationError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{name} is out of range",
            where=f"{where}({name}=...)",
            got=repr(value),
            expected=f"a whole number of at least {least}",
        )


def check_number(where: str, name: str, value: object, *, least: float) -> None:
    """Refuse what is not a finite number of at least ``least``.

    Raises:
        ConfigurationError: It is something else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(float(value)) or float(value) < least:  # type: ignore[arg-type]
        raise ConfigurationError(
            f"{name} is out of range",
            where=f"{where}({name}=...)",
            got=repr(value),
            expected=f"a finite number of at least {least:g}",
        )
