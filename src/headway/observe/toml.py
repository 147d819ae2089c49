"""A writer of TOML for plain trees; Python has only a reader (:mod:`tomllib`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite, isnan
from typing import Any, Final

from headway.core.errors import ArgumentTypeError

__all__ = ["dumps"]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def dumps(tree: Mapping[str, Any]) -> str:
    """Write a tree as TOML.

    Args:
        tree: Mappings with string keys, lists, tuples, strings, booleans, integers and floats. TOML
            has no null: an entry that is ``None`` is left out, which a reader takes as its default.

    Returns:
        Text that :func:`tomllib.loads` reads back as the same tree.

    Raises:
        ArgumentTypeError: There is something else in it, or a ``None`` within a list.

    Example:
        >>> print(dumps({"seed": 0, "task": {"name": "mnist", "rates": [0.1, 1.0]}}), end="")
        seed = 0
        <BLANKLINE>
        [task]
        name = "mnist"
        rates = [0.1, 1.0]
    """
    return "\n".join(_table(tree, ())).removeprefix("\n") + "\n" if tree else ""


def _table(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """The lines of a table without its header: plain entries first, since a header ends a table."""
    tables = []
    for name, value in tree.items():
        here = (*path, _checked_key(name, path))
        if isinstance(value, Mapping) or _is_list_of_tables(value):
            tables.append((here, value))
        elif value is not None:
            yield f"{_key(name)} = {_value(value, here)}"
    for here, value in tables:
        dotted = ".".join(map(_key, here))
        if isinstance(value, Mapping):
            yield from ("", f"[{dotted}]", *_table(value, here))
        else:
            for item in value:
                yield from ("", f"[[{dotted}]]", *_table(item, here))


def _is_list_of_tables(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(item, Mapping) for item in value)


def _value(value: Any, path: tuple[str, ...]) -> str:
    if isinstance(value, str):
        return _string(value, path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if isfinite(value):
            return float.__repr__(value)
        return "nan" if isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item, path) for item in value) + "]"
    if isinstance(value, Mapping):
        entries = (
            f"{_key(_checked_key(name, path))} = {_value(item, (*path, name))}"
            for name, item in value.items()
            if item is not None
        )
        return "{" + ", ".join(entries) + "}"
    raise _unwritable(type(value).__name__, path)


def _string(text: str, path: tuple[str, ...]) -> str:
    if _SURROGATE.search(text):
        raise _unwritable("half of a surrogate pair", path)
    # The escapes of JSON are among those of TOML, which also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name, (name,))


def _checked_key(name: Any, path: tuple[str, ...]) -> str:
    if not isinstance(name, str):
        raise _unwritable(f"a key of type {type(name).__name__}", path)
    return name


def _unwritable(got: str, path: tuple[str, ...]) -> ArgumentTypeError:
    return ArgumentTypeError(
        "this value cannot be written as TOML",
        where=".".join(path) or "the top level",
        got=got,
        expected="str, bool, int, float, list or dict",
    )
