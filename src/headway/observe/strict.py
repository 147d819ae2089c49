"""Strict JSON that every reader of JSON accepts, and that still gives back what went in.

JSON has no NaN and no infinities, yet a diverged run is full of them. They are written as the strings
``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which ``float()`` understands in most languages. A
string that happens to read like that is written with an apostrophe before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any, Final

__all__ = ["dumps", "loads"]

_NAMES: Final = re.compile(r"'*(?:NaN|-?Infinity)")


def dumps(tree: Any, *, indent: int | None = None) -> str:
    r"""Write a tree of plain values as strict JSON, in ASCII.

    Args:
        tree: Mappings with string keys, lists, tuples, strings, numbers, booleans and ``None``; and
            anything with an ``item()`` that gives a number, such as a scalar tensor.
        indent: Spaces per level; by default all on one line, with no spaces.

    Raises:
        TypeError: There is something else in it.

    Example:
        >>> dumps({"loss": float("nan"), "name": "NaN", "steps": 3})
        '{"loss":"NaN","name":"\'NaN","steps":3}'
    """
    encode = _encode if indent is None else _encoder(indent).encode
    try:
        text = encode(tree)
    except ValueError:
        return encode(_escape(tree))
    return encode(_escape(tree)) if _may_hold_names(text) else text


def loads(text: str) -> Any:
    """Read what :func:`dumps` has written.

    Raises:
        ValueError: It is not strict JSON.
        RecursionError: It is nested too deeply to be ours.

    Example:
        >>> loads('{"loss":"NaN","steps":3}')
        {'loss': nan, 'steps': 3}
    """
    tree = _decode(text)
    return _unescape(tree) if _may_hold_names(text) else tree


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _encoder(indent: int | None) -> json.JSONEncoder:
    separators = (",", ":") if indent is None else None
    return json.JSONEncoder(
        allow_nan=False, indent=indent, separators=separators, default=_plain, check_circular=False
    )


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_encode: Final = _encoder(None).encode
_decode: Final = json.JSONDecoder(parse_constant=_refuse).decode


def _may_hold_names(text: str) -> bool:
    return 'NaN"' in text or 'Infinity"' in text


def _escape(tree: Any) -> Any:
    if isinstance(tree, str):
        return f"'{tree}" if _NAMES.fullmatch(tree) else tree
    if isinstance(tree, float):
        if isfinite(tree):
            return tree
        return "NaN" if isnan(tree) else "Infinity" if tree > 0 else "-Infinity"
    if isinstance(tree, Mapping):
        return {name: _escape(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_escape(value) for value in tree]
    if tree is None or isinstance(tree, int):
        return tree
    return _escape(_plain(tree))


def _unescape(tree: Any) -> Any:
    if isinstance(tree, str) and _NAMES.fullmatch(tree):
        return tree[1:] if tree.startswith("'") else float(tree)
    if isinstance(tree, dict):
        return {name: _unescape(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_unescape(value) for value in tree]
    return tree
