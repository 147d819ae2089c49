"""Checks of the arguments of algorithms, and their description for settings and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from math import inf, isfinite
from operator import index
from typing import Any

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError

__all__ = [
    "check_choice",
    "check_count",
    "check_flag",
    "check_number",
    "check_seed",
    "describe",
]


def check_number(
    name: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float = inf,
    above: bool = False,
) -> float:
    """Check that a number is finite and in its range.

    Args:
        name: What it is called.
        value: What was given.
        minimum: The smallest that can be used.
        maximum: The largest that can be used.
        above: The minimum itself cannot be used.

    Returns:
        It, as a float.

    Raises:
        ArgumentTypeError: It is not a number.
        ConfigurationError: It is NaN, infinite or out of its range.

    Example:
        >>> check_number("mixing", 1, maximum=1.0, above=True)
        1.0
    """
    edge = f"above {minimum:g}" if above else f"at least {minimum:g}"
    expected = f"a number, {edge}" + ("" if maximum == inf else f" and at most {maximum:g}")
    # float() would take strings too, and a boolean is an int.
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise ArgumentTypeError(f"`{name}` must be a number", got=repr(value), expected=expected)
    number = float(value)
    if not isfinite(number) or not minimum <= number <= maximum or (above and number == minimum):
        raise ConfigurationError(f"`{name}` is out of its range", got=value, expected=expected)
    return number


def check_count(name: str, value: object, *, minimum: int = 1) -> int:
    """Check that a number is whole and not too small; errors as :func:`check_number`.

    Args:
        name: What it is called.
        value: What was given.
        minimum: The smallest that can be used.

    Returns:
        It, as an int.

    Example:
        >>> check_count("buffer_size", 10)
        10
    """
    expected = f"an int, at least {minimum}"
    try:
        count = None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None:
        raise ArgumentTypeError(f"`{name}` must be an int", got=repr(value), expected=expected)
    if count < minimum:
        raise ConfigurationError(f"`{name}` is out of its range", got=value, expected=expected)
    return count


def check_flag(name: str, value: object) -> bool:
    """Check that an option is ``True`` or ``False``: any text would count as true, ``"no"`` too.

    Args:
        name: What it is called.
        value: What was given.

    Returns:
        It.

    Raises:
        ArgumentTypeError: It is neither.

    Example:
        >>> check_flag("cancel", False)
        False
    """
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"`{name}` must be a bool", got=repr(value), expected="True or False"
        )
    return value


def check_seed(seed: object, *, where: str) -> int:
    """Check that a seed is one that every generator takes.

    Args:
        seed: What was given.
        where: The argument that errors name.

    Returns:
        It, as an int in [0, 2**63).

    Raises:
        ArgumentTypeError: It is no whole number.
        ConfigurationError: It is out of its range.

    Example:
        >>> check_seed(3, where="run(seed=...)")
        3
    """
    try:
        number = None if isinstance(seed, bool) else index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise ArgumentTypeError(
            "a seed is a whole number", where=where, got=repr(seed), help="write seed=0"
        )
    if not 0 <= number < 1 << 63:
        raise ConfigurationError(
            "a seed is out of range",
            where=where,
            got=number,
            expected="an int in [0, 2**63)",
            help="choose another; neighbouring seeds have nothing in common",
        )
    return number


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Check that a name is one of those known.

    Args:
        name: What is chosen.
        value: What was given.
        known: All that can be given.

    Raises:
        UnknownNameError: It is none of them.
    """
    names = tuple(known)
    if value not in names:
        raise UnknownNameError.of(name, str(value), names)


def describe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the arguments of an algorithm in plain JSON values.

    Numbers, strings, booleans and ``None`` stay; an optimizer becomes ``"SGD(lr=1.0)"``; anything
    else, such as a staleness weight, becomes its ``repr``.

    Args:
        settings: Argument names and values.

    Example:
        >>> import torch
        >>> describe({"buffer_size": 10, "server_optimizer": partial(torch.optim.SGD, lr=1.0)})
        {'buffer_size': 10, 'server_optimizer': 'SGD(lr=1.0)'}
    """
    return {name: _describe(value) for name, value in settings.items()}


def _describe(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, partial):
        options = ", ".join(f"{name}={option!r}" for name, option in value.keywords.items())
        return f"{_describe(value.func)}({options})"
    if isinstance(value, type):
        return value.__name__
    return repr(value)
