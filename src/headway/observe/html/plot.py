"""The frame that every figure shares, and the paths that go into it.

Nothing in a frame is measured in pixels from left to right, so that a figure fits a phone as well
as a wide screen without a script: texts and bars stand at percentages, and paths are drawn in a
square of ``SIDE`` by ``SIDE`` that is stretched to the frame while their strokes are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headway.observe.html.groups import Group
from headway.observe.html.markup import Child, Html, css_class, element, join
from headway.observe.html.scale import Tick

__all__ = ["area_path", "figure", "key", "legend", "mark", "pct", "plot", "step_path"]

SIDE: Final = 10_000
_Floats = NDArray[np.float64]

# A shape for each colour, so that lines are told apart in print and by any eyes.
_SHAPES: Final = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.6 3.6H-4.6z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.6-3.6H-4.6z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.8 0L3.6-4.6V4.6z",
    "M4.8 0L-3.6-4.6V4.6z",
)


def plot(
    *,
    label: str,
    layers: Child = None,
    overlay: Child = None,
    x: Sequence[Tick] = (),
    y: Sequence[Tick] = (),
    height: int = 300,
    class_: str | None = None,
    **data: str | int | float | None,
) -> Html:
    """A figure's frame with its ticks.

    Args:
        label: What someone hears who cannot see the figure.
        layers: What is drawn in the stretched square.
        overlay: What stands at percentages, above the layers.
        x: Ticks below.
        y: Ticks at the left, with lines across.
        height: Of the frame, in CSS pixels.
        class_: More classes.
        data: More attributes of the frame.
    """
    grid = [_x_tick(index, tick) for index, tick in enumerate(x)] + [_y_tick(tick) for tick in y]
    square = element(
        "svg",
        layers,
        viewBox=f"0 0 {SIDE} {SIDE}",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
        class_="square",
    )
    drawing = element(
        "svg", element("g", grid, class_="grid"), square, overlay, role="img", aria_label=label
    )
    return element(
        "div", drawing, class_=css_class("plot", class_), style=f"height:{height}px", **data
    )


def figure(body: Child, *, caption: Child, note: Child = None, class_: str | None = None) -> Html:
    """A figure with a line above it, and notes below."""
    below = element("p", note, class_="note") if note else None
    return element("figure", element("figcaption", caption), body, below, class_=class_)


def legend(groups: Iterable[Group], *more: Html) -> Html:
    """Which colour and shape is which group, and more items after that."""
    items = [
        element(
            "li",
            key(group, line=True),
            element("span", group.label, class_="name"),
            element("span", "synchronous", class_="tag") if group.synchronous else None,
        )
        for group in groups
    ]
    return element("ul", items, more, class_="legend")


def key(group: Group, *, line: bool = False) -> Html:
    """A group's colour and shape, in the size of text."""
    width = 28 if line else 12
    shape = element("path", d=_shape(group), transform=f"translate({width / 2:g} 6)")
    stroke = (
        element("path", d="M1 6H27", class_=css_class("mean", _dashes(group))) if line else None
    )
    return element(
        "svg",
        stroke,
        shape,
        class_=f"key {group.css}",
        viewBox=f"0 0 {width} 12",
        width=width,
        height=12,
        aria_hidden="true",
    )


def mark(group: Group, x: float, y: float) -> Html:
    """A group's shape at a place in the frame, both from 0 to 1, y upwards."""
    shape = element("path", d=_shape(group))
    return element(
        "svg", shape, x=pct(x), y=pct(1 - y), width=1, height=1, class_=f"mark {group.css}"
    )


def pct(share: float) -> str:
    """A share as a CSS or SVG percentage.

    Example:
        >>> pct(0.5), pct(1 / 3)
        ('50%', '33.33%')
    """
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def step_path(x: _Floats, y: _Floats) -> str:
    """The path of a value that is held until the next one, from places in [0, 1].

    Example:
        >>> import numpy as np
        >>> step_path(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.25, 1.0]))
        'M0 10000H5000V7500H10000V0'
    """
    pieces: list[str] = []
    for start, stop in _stretches(np.isfinite(y)):
        across, down = _units(x[start:stop]), _units(1 - y[start:stop])
        pieces.append(f"M{across[0]} {down[0]}")
        moves = pairwise(zip(across, down, strict=True))
        pieces += [_step(before, after) for before, after in moves] or ["h0"]
    return "".join(pieces)


def area_path(x: _Floats, low: _Floats, high: _Floats) -> str:
    """The outline of the area between two values that are both held until the next one.

    Example:
        >>> import numpy as np
        >>> area_path(np.array([0.0, 1.0]), np.array([0.0, 0.0]), np.array([0.5, 1.0]))
        'M0 5000H10000V0V10000V10000H0Z'
    """
    pieces: list[str] = []
    for start, stop in _stretches(np.isfinite(low) & np.isfinite(high)):
        part = slice(start, stop)
        across, bottom = _units(x[part]), _units(1 - low[part])
        pieces.append(f"{step_path(x[part], high[part])}V{bottom[-1]}{_returning(across, bottom)}Z")
    return "".join(pieces)


def _returning(across: list[int], bottom: list[int]) -> str:
    # Backwards, a value is held from its point to the right: first down to it, then to the left.
    return "".join(
        f"V{down}H{left}" for left, down in zip(across[-2::-1], bottom[-2::-1], strict=True)
    )


def _step(before: tuple[int, int], after: tuple[int, int]) -> str:
    return f"H{after[0]}" + (f"V{after[1]}" if after[1] != before[1] else "")


def _units(places: _Floats) -> list[int]:
    units: list[int] = np.rint(places * SIDE).astype(int).tolist()
    return units


def _stretches(known: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _x_tick(index: int, tick: Tick) -> Html:
    at = pct(tick.place)
    said = element(
        "text", tick.text, x=at, y="100%", dy=17, class_=css_class("x", index % 2 == 1 and "odd")
    )
    return said


def _y_tick(tick: Tick) -> Html:
    at = pct(1 - tick.place)
    line = element("line", x1="0", x2="100%", y1=at, y2=at)
    return join(line, element("text", tick.text, x="0", dx=-8, y=at, dy=4, class_="y"))


def _shape(group: Group) -> str:
    return _SHAPES[group.index % len(_SHAPES)]


def _dashes(group: Group) -> str | None:
    return "again" if group.index >= len(_SHAPES) else None
