"""Progress: each metric against each axis, all seeds as thin lines and their mean as a thick one."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final, NamedTuple

import numpy as np

from headway.observe import text
from headway.observe.html.amounts import amount
from headway.observe.html.curves import Band, Curve, band_of, curve_of, thinned
from headway.observe.html.groups import Goal, Group, are_mixed, metrics_of
from headway.observe.html.markup import Html, css_class, element, join
from headway.observe.html.plot import SIDE, area_path, figure, legend, mark, pct, plot, step_path
from headway.observe.html.scale import AXIS_TITLES, Scale, axis_scale, value_scale
from headway.observe.points import AXES, direction_of
from headway.observe.result import Result

__all__ = ["progress"]

_MAX_POINTS: Final = 400
_MIN_POINTS: Final = 16
_ALL_POINTS: Final = 60_000
_MAX_METRICS: Final = 4
_MAX_THIN: Final = 12
_TABLE_ROWS: Final = 8
_MARKS: Final = 5
_LOG_LOSS: Final = 10.0
_LOG_OTHER: Final = 1000.0
_FIRST_AXES: Final = ("virtual_time_s", "wall_time_s", *AXES)


class _Line(NamedTuple):
    """A group, its curves and what they have in common."""

    group: Group
    curves: list[Curve]
    band: Band | None


class _View(NamedTuple):
    """One metric against one axis."""

    number: int
    metric: str
    axis: str
    target: float | None
    points: int


def progress(groups: Sequence[Group], goal: Goal | None) -> tuple[Html, Html]:
    """The figures, with what chooses between them.

    Choosing needs no script: a radio button that is on shows its figure, and a browser that does
    not know ``:has()`` shows all figures below each other.

    Args:
        groups: What is drawn, each in its colour.
        goal: What the runs were to reach: it is drawn as a dashed line.

    Returns:
        The content of the section, and the style rules that it needs.
    """
    runs = [run for group in groups for run in group.runs]
    metrics = metrics_of(runs, goal)
    axes = [axis for axis in AXES if any(_reaches(run, axis) for run in runs)]
    if not metrics or not axes:
        return element("p", "Nothing was evaluated in these runs.", class_="empty"), Html("")
    shown = metrics[:_MAX_METRICS]
    lines = len(shown) * len(axes) * (len(runs) + 3 * len(groups))
    points = min(_MAX_POINTS, max(_MIN_POINTS, _ALL_POINTS // lines))
    mixed = are_mixed(groups)
    first = next(axis for axis in (AXES if mixed else _FIRST_AXES) if axis in axes)
    views = [
        _View(number, metric, axis, _level(metric, goal), points)
        for number, metric in enumerate(shown)
        for axis in axes
    ]
    body = join(
        _choices("metric", "Metric", {str(i): name for i, name in enumerate(shown)}, "0"),
        _choices("axis", "Against", {axis: AXIS_TITLES[axis] for axis in axes}, first),
        legend(groups, *([] if goal is None else [_target_key(goal)])),
        [_panel(groups, view) for view in views],
        element("p", _explanation(groups, metrics[_MAX_METRICS:]), class_="note"),
    )
    return element("div", body, class_="views"), _rules(views)


def _reaches(run: Result, axis: str) -> bool:
    if axis == "virtual_time_s" and run.is_real:
        return False
    return any(isfinite(getattr(p, axis)) and getattr(p, axis) > 0 for p in run.history)


def _level(metric: str, goal: Goal | None) -> float | None:
    return goal.value if goal is not None and goal.metric == metric else None


def _choices(kind: str, title: str, options: dict[str, str], first: str) -> Html:
    buttons = []
    for value, said in options.items():
        name = f"{kind}-{value}"
        button = element("input", type="radio", name=kind, id=name, checked=value == first)
        buttons.append(join(button, element("label", said, for_=name)))
    options_box = element("div", buttons, class_="options")
    return element("fieldset", element("legend", title), options_box, hidden=len(options) < 2)


def _rules(views: Sequence[_View]) -> Html:
    shown = ",".join(
        f".views:has(#metric-{view.number}:checked):has(#axis-{view.axis}:checked) "
        f".m{view.number}.{view.axis}"
        for view in views
    )
    return Html(f"@supports selector(:has(*)){{.panel{{display:none}}{shown}{{display:block}}}}")


def _panel(groups: Sequence[Group], view: _View) -> Html:
    lines = []
    for group in groups:
        if view.axis == "virtual_time_s" and group.is_real:
            continue
        curves = [curve_of(run, view.axis, view.metric) for run in group.runs]
        lines.append(_Line(group, curves, band_of(curves, view.points)))
    drawn = [curve for line in lines for curve in line.curves if len(curve.x)]
    x = axis_scale(view.axis, max((float(curve.x[-1]) for curve in drawn), default=0.0))
    y = value_scale(
        (float(value) for curve in drawn for value in curve.y),
        include=[] if view.target is None else [view.target],
        log_above=_LOG_LOSS if direction_of(view.metric) == "min" else _LOG_OTHER,
    )
    frame = plot(
        label=_spoken(lines, view),
        layers=[
            [_range(line, x, y) for line in lines],
            [_seeds(line, x, y, view.points) for line in lines],
            [_mean(line, x, y) for line in lines],
        ],
        overlay=[_target(view, y), [_marks(line, x, y) for line in lines]],
        x=x.ticks(8),
        y=y.ticks(5),
        height=340,
        class_="hover",
        **_for_script(x, y, AXIS_TITLES[view.axis]),
    )
    said = f"{view.metric} (logarithmic)" if y.log else view.metric
    unit = f" ({x.unit})" if x.unit else ""
    return figure(
        join(
            frame,
            element("p", AXIS_TITLES[view.axis], unit, class_="x-title"),
            _table(lines, view, x),
        ),
        caption=[element("b", said), f" against {AXIS_TITLES[view.axis].lower()}"],
        class_=f"panel m{view.number} {view.axis}",
    )


def _range(line: _Line, x: Scale, y: Scale) -> Html | None:
    if line.band is None or len(line.curves) < 2:
        return None
    band = line.band
    path = area_path(x.places(band.x), y.places(band.low), y.places(band.high))
    return element("path", d=path, class_=f"band {line.group.css}")


def _seeds(line: _Line, x: Scale, y: Scale, points: int) -> list[Html]:
    if len(line.curves) < 2:
        return []
    thin = [thinned(curve, points) for curve in line.curves[:_MAX_THIN] if len(curve.x)]
    paths = [step_path(x.places(curve.x), y.places(curve.y)) for curve in thin]
    return [element("path", d=path, class_=f"seed {line.group.css}") for path in paths]


def _mean(line: _Line, x: Scale, y: Scale) -> Html | None:
    if line.band is None:
        return None
    again = "again" if line.group.index >= 8 else None
    return element(
        "path",
        d=step_path(x.places(line.band.x), y.places(line.band.mean)),
        class_=css_class("mean", line.group.css, again),
        data_name=line.group.label,
    )


def _marks(line: _Line, x: Scale, y: Scale) -> list[Html]:
    if line.band is None:
        return []
    band = line.band
    wanted = np.linspace(band.x[0], band.x[-1], _MARKS + 1)[1:] if len(band.x) > 1 else band.x
    at = np.unique(np.searchsorted(band.x, wanted + 1e-9 * abs(wanted), side="right") - 1)
    places = [(x.at(float(band.x[i])), y.at(float(band.mean[i]))) for i in at]
    return [mark(line.group, left, up) for left, up in places if isfinite(up)]


def _target(view: _View, y: Scale) -> Html | None:
    if view.target is None or not isfinite(y.at(view.target)):
        return None
    at = pct(1 - y.at(view.target))
    return element("line", x1="0", x2="100%", y1=at, y2=at, class_="target")


def _target_key(goal: Goal) -> Html:
    line = element("path", d="M1 6H27", class_="target")
    drawn = element(
        "svg", line, class_="key", viewBox="0 0 28 12", width=28, height=12, aria_hidden="true"
    )
    return element("li", drawn, f"target: {goal}")


def _for_script(x: Scale, y: Scale, title: str) -> dict[str, str | float | int | None]:
    return {
        "data_x": f"{x.low / x.divisor!r} {x.high / x.divisor!r}",
        "data_y": f"{y.low!r} {y.high!r}",
        "data_log": int(y.log),
        "data_unit": x.unit,
        "data_title": title,
        "data_side": SIDE,
    }


def _spoken(lines: Sequence[_Line], view: _View) -> str:
    ends = []
    for group, _, band in lines:
        if band is None:
            ends.append(f"{group.label} has no value that all its runs share")
        else:
            value = text.number(float(band.mean[-1]))
            ends.append(f"{group.label} is at {value} after {amount(view.axis, float(band.x[-1]))}")
    return f"{view.metric} against {AXIS_TITLES[view.axis].lower()}: {'; '.join(ends)}."


def _table(lines: Sequence[_Line], view: _View, x: Scale) -> Html:
    """The same in numbers, for those who cannot point at a line."""
    head = [element("th", AXIS_TITLES[view.axis], scope="col")]
    head += [element("th", line.group.label, scope="col") for line in lines]
    rows = [
        element(
            "tr",
            element("th", amount(view.axis, at), scope="row"),
            [element("td", _value(line.band, at)) for line in lines],
        )
        for at in x.values(_TABLE_ROWS)[1:]
    ]
    table = element(
        "table", element("thead", element("tr", head)), element("tbody", rows), class_="numbers"
    )
    summary = element("summary", f"{view.metric} in numbers")
    return element("details", summary, element("div", table, class_="scroll", tabindex=0))


def _value(band: Band | None, at: float) -> str:
    if band is None or at < band.x[0] or at > band.x[-1] * (1 + 1e-9):
        return "–"
    index = int(np.searchsorted(band.x, at * (1 + 1e-9), side="right")) - 1
    return text.number(float(band.mean[index]))


def _explanation(groups: Sequence[Group], left_out: Sequence[str]) -> str:
    most = max(len(group.runs) for group in groups)
    said = ["A value holds from one evaluation until the next, so lines are steps."]
    if most > 1:
        said.append(
            "Thin lines are single seeds. The thick line is the mean over seeds on the common grid "
            "of all their evaluations, and the band reaches from the lowest to the highest seed; "
            "both end where the first of the runs ends."
        )
    if most > _MAX_THIN:
        said.append(f"Only the first {_MAX_THIN} seeds are drawn thin; the mean is over all.")
    if are_mixed(groups):
        said.append(
            "Virtual time is that of the simulated runs, and real workers have none; the wall time of "
            "a simulated run is how long it took to simulate it."
        )
    if left_out:
        said.append(f"Measured too, but not drawn: {', '.join(left_out)}.")
    return " ".join(said)
