"""Checks of the numbers that a user gives to this package, with one wording for all of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from math import inf, isfinite
from typing import Any

from headway.core.errors import ArgumentTypeError, ConfigurationError

__all__ = ["as_items", "check_count", "check_number", "check_positive", "is_list"]


def check_number(name: str, value: object, *, where: str, minimum: float = -inf) -> float:
    """Check that a number is finite and not too small.

    Args:
        name: What it is called.
        value: What was given.
        where: The function it was given to.
        minimum: The smallest that can be used.

    Returns:
        It, as a float.

    Raises:
        ArgumentTypeError: If it is no number.
        ConfigurationError: If it is NaN, infinite or below the minimum.

    Example:
        >>> check_number("sigma", 2, where="population.lognormal", minimum=0)
        2.0
    """
    # float() would take strings too, and a boolean is an int.
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise ArgumentTypeError(
            f"{name} must be a number",
            where=where,
            got=repr(value),
            expected="a finite number",
            help="write a plain number, without quotes",
        )
    try:
        number = float(value)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        # A whole number beyond all floats, or a row of numbers where one is wanted.
        raise _unusable(name, value, where, _range(minimum)) from None
    if not isfinite(number) or number < minimum:
        raise _unusable(name, value, where, _range(minimum))
    return number


def check_positive(name: str, value: object, *, where: str) -> float:
    """Check that a number is finite and above 0; arguments and errors as :func:`check_number`.

    Example:
        >>> check_positive("time_s", 2, where="population.constant")
        2.0
    """
    number = check_number(name, value, where=where)
    if number <= 0.0:
        raise _unusable(name, value, where, "a finite number above 0")
    return number


def check_count(
    name: str, value: object, *, where: str, minimum: int = 1, maximum: int | None = None
) -> int:
    """Check that a number is whole, and neither too small nor too large.

    Args:
        name: What it is called.
        value: What was given.
        where: The function it was given to.
        minimum: The smallest that can be used.
        maximum: The largest that can be used.

    Returns:
        It, as an int.

    Raises:
        ArgumentTypeError: If it is no integer.
        ConfigurationError: If it is outside its range.

    Example:
        >>> check_count("num_clients", 10, where="population.constant")
        10
    """
    expected = f"an int, at least {minimum}" + (
        "" if maximum is None else f" and at most {maximum}"
    )
    try:
        count = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None:
        raise ArgumentTypeError(
            f"{name} must be a whole number",
            where=where,
            got=repr(value),
            expected=expected,
            help="write it without quotes and without a decimal point",
        )
    if count < minimum or (maximum is not None and count > maximum):
        raise _unusable(name, value, where, expected)
    return count


def is_list(value: object) -> bool:
    """Whether a value can be gone through item by item, and is no text.

    Args:
        value: What was given.
    """
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def as_items(name: str, value: object, *, where: str) -> tuple[Any, ...]:
    """Take the items of a list, of an array or of a tensor with one dimension.

    Args:
        name: What it is called.
        value: What was given.
        where: The function it was given to.

    Returns:
        The items.

    Raises:
        ArgumentTypeError: If it is no list.

    Example:
        >>> as_items("times_s", [1.0, 2.0], where="population.from_times")
        (1.0, 2.0)
    """
    # An array without a dimension calls itself iterable, and is not.
    if is_list(value) and getattr(value, "ndim", 1) != 0:
        return tuple(value)  # type: ignore[arg-type]
    raise ArgumentTypeError(
        f"{name} must be a list with a number for each client",
        where=where,
        got=_short(value),
        help="write [0.5, 2.0, ...]",
    )


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python writes out no whole number of more than some thousand digits.
        return "a number with thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(minimum: float) -> str:
    return "a finite number" if minimum == -inf else f"a finite number, at least {minimum:g}"


def _unusable(name: str, value: object, where: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} cannot be {_short(value)}",
        where=where,
        got=_short(value),
        expected=expected,
        help=f"give another {name}",
    )
