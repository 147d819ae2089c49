"""Single values as TOML on one line, for errors and for `headway config show`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

__all__ = ["assignment", "inline", "key_text"]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def inline(value: Any) -> str:
    """Write one value as TOML, on one line.

    Args:
        value: A mapping, list, string, number or boolean.

    Example:
        >>> inline({"name": "SGD", "lr": 1.0, "nesterov": False})
        '{ name = "SGD", lr = 1.0, nesterov = false }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        items = ", ".join(assignment(key, item) for key, item in value.items() if item is not None)
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def assignment(key: str, value: Any) -> str:
    """Write a key and its value.

    Args:
        key: Quoted where it has to be.
        value: See :func:`inline`.

    Example:
        >>> assignment("buffer size", 10)
        '"buffer size" = 10'
    """
    return f"{key_text(key)} = {inline(value)}"


def key_text(key: str) -> str:
    """A key, quoted where TOML asks for it.

    Args:
        key: Any text.
    """
    return key if _BARE.fullmatch(key) else inline(key)
