"""Where in a TOML text each key stands, so that an error can name the line.

``tomllib`` gives values without places. This finds the places, in a text that ``tomllib`` has
already accepted; it reads no values, and it is only ever used to write an error or an origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["Path", "find_lines", "nearest_line", "split_key"]

Path = tuple[str, ...]
"""Names from the root of a configuration to one of its values."""

_KEY: Final = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_QUOTES: Final = ('"""', "'''", '"', "'")


def find_lines(text: str) -> dict[Path, int]:
    r"""Find the line of each section and key.

    Args:
        text: Valid TOML.

    Returns:
        Line numbers from 1, for every section, key and part of a dotted key. What stands inside an
        inline table or an array has no line of its own; see :func:`nearest_line`.

    Example:
        >>> find_lines("[run]\nseed = 1\nstop.updates = 5\n")
        {('run',): 1, ('run', 'seed'): 2, ('run', 'stop'): 3, ('run', 'stop', 'updates'): 3}
    """
    lines: dict[Path, int] = {}
    section: Path = ()
    for start, is_section in _statements(text):
        key, _ = split_key(text, start)
        path = key if is_section else section + key
        section = path if is_section else section
        number = text.count("\n", 0, start) + 1
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], number)
        if is_section:
            # A parent that was only implied so far is better shown at its own header.
            lines[path] = number
    return lines


def nearest_line(lines: dict[Path, int], path: Path) -> int | None:
    """The line of a path, or of the closest thing around it; ``None`` if there is none.

    Args:
        lines: From :func:`find_lines`.
        path: What is looked for.
    """
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def split_key(text: str, start: int = 0) -> tuple[Path, int]:
    """Read a dotted key.

    Args:
        text: Where to read.
        start: Where the key begins.

    Returns:
        Its parts without quotes, and where it ends; no parts if there is no key.

    Example:
        >>> split_key('algorithms."K=5".buffer_size=3')
        (('algorithms', 'K=5', 'buffer_size'), 28)
    """
    parts: list[str] = []
    position = start
    while match := _KEY.match(text, position):
        part = match[1]
        parts.append(part[1:-1] if part[0] in "\"'" else part)
        position = match.end()
        if not match[2]:
            break
    return tuple(parts), position


def _statements(text: str) -> Iterator[tuple[int, bool]]:
    """Where each header's or assignment's key begins, and whether it is a header's."""
    position = 0
    while position < len(text):
        character = text[position]
        if character in " \t\r\n":
            position += 1
        elif character == "#":
            position = _line_end(text, position)
        elif character == "[":
            yield position + (2 if text.startswith("[[", position) else 1), True
            position = _line_end(text, position)
        else:
            yield position, False
            _, position = split_key(text, position)
            position = _skip_value(text, position)


def _skip_value(text: str, position: int) -> int:
    depth = 0
    while position < len(text):
        character = text[position]
        if character == "\n" and depth == 0:
            break
        if character in "\"'":
            position = _skip_string(text, position)
            continue
        if character == "#":
            position = _line_end(text, position)
            continue
        depth += (character in "[{") - (character in "]}")
        position += 1
    return position


def _skip_string(text: str, position: int) -> int:
    quote = next(quote for quote in _QUOTES if text.startswith(quote, position))
    position += len(quote)
    while position < len(text) and not text.startswith(quote, position):
        position += 2 if text[position] == "\\" and quote[0] == '"' else 1
    position += len(quote)
    # Up to two quotes may stand right before the three that end a long text.
    while len(quote) == 3 and text.startswith(quote[0], position):
        position += 1
    return position


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end
