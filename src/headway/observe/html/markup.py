"""Markup as a value: what is text is escaped, always, unless it was built here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["Child", "Html", "css_class", "element", "join"]

_VOID: Final = frozenset({"br", "hr", "input", "link", "meta"})
# Not allowed in HTML at all, or able to turn the text around them.
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
Attribute = str | int | float | bool | None


def join(*children: Child) -> Html:
    """Put pieces after each other. A plain ``str`` is escaped, ``None`` is nothing.

    Example:
        >>> join("a < b", Html("<br>"), None, ["c", 1])
        'a &lt; b<br>c1'
    """
    pieces: list[str] = []
    for child in children:
        if isinstance(child, Html):
            pieces.append(child)
        elif isinstance(child, str | int | float):
            pieces.append(_escape(str(child)))
        elif child is not None:
            pieces.append(join(*child))
    return Html("".join(pieces))


def element(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """One element.

    Args:
        name: Its name, never from a user.
        children: What is in it, see :func:`join`.
        attributes: A ``_`` at the end is left off and any other becomes ``-``; ``None`` and
            ``False`` leave an attribute out, ``True`` gives it no value.

    Example:
        >>> element("td", "1 < 2", class_="wide", aria_label='"x"', hidden=False)
        '<td class="wide" aria-label="&quot;x&quot;">1 &lt; 2</td>'
    """
    given = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{_escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def css_class(*names: str | bool | None) -> str | None:
    """The names that are set, as the value of a ``class`` attribute.

    Example:
        >>> css_class("bar", False, "s0"), css_class(None)
        ('bar s0', None)
    """
    return " ".join(name for name in names if isinstance(name, str)) or None


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _escape(text: str) -> str:
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))
