"""What the functions of this package demand of their arguments, whatever the annotations promise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.core.errors import ArgumentTypeError, ConfigurationError

__all__ = ["check_positive", "check_tensor", "check_whole_number"]


def check_tensor(
    message: str,
    value: object,
    *,
    where: str,
    dtype: torch.dtype = torch.int64,
    dimensions: int | None = 1,
    help: str | None = None,
) -> None:
    """Refuse what is not a tensor of this dtype and number of dimensions (None: any number).

    Raises:
        ArgumentTypeError: With ``message``, and what was found.
    """
    if isinstance(value, Tensor):
        if value.dtype == dtype and dimensions in (None, value.ndim):
            return
        got = f"{value.dtype} of shape {tuple(value.shape)}"
    else:
        got = type(value).__name__
    shape = "" if dimensions is None else f" with {dimensions} dimension"
    raise ArgumentTypeError(
        message,
        where=where,
        got=got,
        expected=f"a tensor of {dtype}{shape}",
        help=help or f"convert it with torch.as_tensor(..., dtype={dtype})",
    )


def check_positive(name: str, value: object) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ConfigurationError: With the argument's name and what was given.
    """
    if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} is a number above 0", where=name, got=repr(value))


def check_whole_number(name: str, value: object, *, least: int) -> None:
    """Refuse what is not an int of at least ``least``; a bool is none.

    Raises:
        ConfigurationError: With the argument's name and what was given.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{name} is a whole number of at least {least}", where=name, got=repr(value)
        )
