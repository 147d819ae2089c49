"""The summary: one column per algorithm, so that what is compared stands in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from statistics import fmean
from typing import Final, NamedTuple

from headway.observe import text
from headway.observe.comparison import Spread
from headway.observe.html.amounts import mean_and_std, range_of
from headway.observe.html.groups import Goal, Group, are_mixed, metrics_of, plural
from headway.observe.html.markup import Html, css_class, element, join
from headway.observe.html.plot import key
from headway.observe.points import direction_of
from headway.observe.result import Result

__all__ = ["summary"]

_MAX_METRICS: Final = 6
_NONE: Final = "–"
_TWO_CLOCKS: Final = (
    " Times of simulated runs and of real workers are not compared: virtual time is that of the "
    "simulated runs, and their wall time is how long it took to simulate them."
)


class _Cell(NamedTuple):
    """What a cell says, what it says below in small, and what the best one is found by."""

    said: str
    small: str = ""
    rank: float | None = None


class _Row(NamedTuple):
    """One measure. ``better``: ``min`` or ``max`` if the best is to be marked."""

    title: str
    cells: list[_Cell]
    better: Callable[..., float] | None = None
    help: str = ""


def summary(groups: Sequence[Group], goal: Goal | None) -> Html:
    """The table of all measures.

    Args:
        groups: One column each.
        goal: What the runs were to reach; without one that part is left out.
    """
    parts: list[tuple[str, list[_Row]]] = []
    runs = [run for group in groups for run in group.runs]
    if goal is not None:
        parts.append((f"Until {goal.bound}", list(_to_target(groups, goal))))
    parts.append(
        ("At the end of the runs", list(_at_the_end(groups, metrics_of(runs, goal), goal)))
    )
    parts.append(("Staleness and waste", list(_waste(groups))))
    mixed = are_mixed(groups)
    head = element(
        "tr",
        element("td"),
        [
            element("th", key(group), " ", group.label, _kind(group, mixed=mixed), scope="col")
            for group in groups
        ],
    )
    bodies = [
        element("tbody", _heading(title, len(groups)), [_row(row) for row in rows])
        for title, rows in parts
    ]
    table = element("table", element("thead", head), bodies, class_="summary")
    note = (
        ""
        if max(len(group.runs) for group in groups) < 2
        else (
            "Mean ± sample standard deviation over seeds, the lowest to the highest below it. "
            "Staleness and counts of jobs are means over seeds. "
        )
    )
    marked = "The best of a row is bold." if len(groups) > 1 else ""
    marked += _TWO_CLOCKS if mixed else ""
    region = element(
        "div", table, class_="scroll", tabindex=0, role="region", aria_label="Summary of all runs"
    )
    return join(region, element("p", note, marked, class_="note") if note or marked else None)


def _kind(group: Group, *, mixed: bool) -> Html:
    kind = "synchronous" if group.synchronous else "asynchronous"
    if mixed:
        kind += ", real workers" if group.is_real else ", simulated"
    drawn = group.runs[0].simulated_staleness
    label = "" if drawn is None else f", simulated staleness 0 to {drawn}"
    return element("span", f"{kind}{label}, {group.seeds_text}", class_="small")


def _heading(title: str, columns: int) -> Html:
    cell = element("th", element("span", title), colspan=columns + 1, scope="rowgroup")
    return element("tr", cell, class_="part")


def _row(row: _Row) -> Html:
    ranks = [cell.rank for cell in row.cells if cell.rank is not None and isfinite(cell.rank)]
    best = row.better(ranks) if row.better is not None and len(set(ranks)) > 1 else None
    # Values that read the same are equally good.
    winners = {cell.said for cell in row.cells if cell.rank is not None and cell.rank == best}
    cells = [
        element(
            "td",
            element("span", cell.said, class_="value"),
            element("span", cell.small, class_="small") if cell.small else None,
            class_=css_class(cell.said in winners and "best"),
        )
        for cell in row.cells
    ]
    title = element("th", row.title, scope="row", title=row.help or None)
    return element("tr", title, cells)


def _to_target(groups: Sequence[Group], goal: Goal) -> Iterator[_Row]:
    rows = (
        ("Virtual time", "virtual_time_s"),
        ("Updates", "updates"),
        ("Bytes", "bytes"),
        ("Examples", "examples"),
        ("Wall time", "wall_time_s"),
    )
    reached = []
    for group in groups:
        times = [value for value in group.taken(goal, "updates") if value is not None]
        reached.append(_Cell(f"{len(times)} of {plural(len(group.runs), 'run')}"))
    yield _Row("Reached by", reached)
    for title, axis in rows:
        shown = [group for group in groups if _has(group, axis)]
        if not any(value for group in shown for value in group.taken(goal, axis)):
            continue
        cells = [
            _taken(axis, group.taken(goal, axis)) if group in shown else _Cell(_NONE)
            for group in groups
        ]
        yield _Row(title, cells, None if axis.endswith("_s") and are_mixed(groups) else min)


def _taken(axis: str, values: Sequence[float | None]) -> _Cell:
    found = [value for value in values if value is not None]
    spread = Spread.of(found)
    if spread is None:
        return _Cell("not reached")
    # A mean over the seeds that were lucky is no match for one over all of them.
    if len(found) < len(values):
        return _Cell(mean_and_std(axis, spread), f"only {len(found)} of {len(values)}")
    return _Cell(mean_and_std(axis, spread), range_of(axis, spread), spread.mean)


def _at_the_end(
    groups: Sequence[Group], metrics: Sequence[str], goal: Goal | None
) -> Iterator[_Row]:
    for metric in metrics[:_MAX_METRICS]:
        cells = [_final(group, metric) for group in groups]
        yield _Row(f"Final {metric}", cells, _better(metric, goal))
    if not all(group.is_real for group in groups):
        yield _spread("Virtual time", "virtual_time_s", groups, lambda run: run.virtual_time_s)
    yield _spread("Updates", "updates", groups, lambda run: run.updates)
    yield _spread("Model versions", "versions", groups, lambda run: run.versions)
    yield _spread("Examples", "examples", groups, lambda run: run.examples)
    yield _spread("Bytes", "bytes", groups, lambda run: run.bytes_up + run.bytes_down)
    yield _spread("Wall time", "wall_time_s", groups, lambda run: run.wall_time_s)


def _has(group: Group, axis: str) -> bool:
    return axis != "virtual_time_s" or not group.is_real


def _better(metric: str, goal: Goal | None) -> Callable[..., float] | None:
    """How the best value is found, where the name or the goal tells which way is better."""
    if goal is not None and goal.metric == metric:
        return max if goal.direction == "max" else min
    if direction_of(metric) == "min":
        return min
    return max if "accuracy" in metric else None


def _final(group: Group, metric: str) -> _Cell:
    spread = group.finals(metric)
    if spread is not None:
        return _Cell(mean_and_std("", spread), range_of("", spread), spread.mean)
    if not any(metric in run.metrics for run in group.runs):
        return _Cell(_NONE, "never measured")
    ends = [run.final(metric) for run in group.runs if metric in run.metrics]
    lost = sum(not isfinite(value) for value in ends)
    if lost:
        return _Cell("not finite", f"in {lost} of {plural(len(group.runs), 'run')}")
    return _Cell(_NONE, f"measured in {len(ends)} of {len(group.runs)} runs")


def _spread(
    title: str, axis: str, groups: Sequence[Group], value: Callable[[Result], float]
) -> _Row:
    spreads = [
        Spread.of(float(value(run)) for run in group.runs) if _has(group, axis) else None
        for group in groups
    ]
    return _Row(
        title,
        [
            _Cell(_NONE) if one is None else _Cell(mean_and_std(axis, one), range_of(axis, one))
            for one in spreads
        ],
    )


def _waste(groups: Sequence[Group]) -> Iterator[_Row]:
    for title, share in (("median", 0.5), ("95th percentile", 0.95), ("largest", 1.0)):
        cells = [_Cell(_staleness(group, share)) for group in groups]
        yield _Row(f"Staleness, {title}", cells, help="In versions, of the updates that were taken")
    yield _Row(
        "Idle share",
        [_share(group, lambda run: run.idle_share) for group in groups],
        min,
        "Share of the time in which a place in flight stood empty",
    )
    yield _Row(
        "Work thrown away",
        [_thrown_away(group) for group in groups],
        min,
        "Share of the trained examples whose update was rejected, cancelled or lost",
    )


def _staleness(group: Group, share: float) -> str:
    found = [run.staleness_quantile(share) for run in group.runs]
    values = [value for value in found if value is not None]
    return text.number(fmean(values), 3) if values else _NONE


def _share(group: Group, value: Callable[[Result], float]) -> _Cell:
    spread = Spread.of(value(run) for run in group.runs)
    if spread is None:
        return _Cell(_NONE)
    small = ""
    if spread.std is not None and spread.min != spread.max:
        small = f"{text.percent(spread.min)} to {text.percent(spread.max)}"
    return _Cell(text.percent(spread.mean), small, spread.mean)


def _thrown_away(group: Group) -> _Cell:
    cell = _share(group, lambda run: run.discarded_share)
    kinds = []
    for kind in ("rejected", "cancelled", "lost"):
        jobs = fmean(run.counts.get(kind, 0) for run in group.runs)
        if jobs:
            kinds.append(f"{text.number(jobs, 3)} {kind}")
    return cell._replace(small=", ".join(kinds))
