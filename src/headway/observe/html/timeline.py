"""The timeline: a row per worker, a bar per job, and how many jobs were in flight above them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from headway.observe import text
from headway.observe.html.amounts import amount
from headway.observe.html.groups import Group, plural
from headway.observe.html.jobs import Job, Log, in_flight, read_jobs
from headway.observe.html.markup import Html, css_class, element, join
from headway.observe.html.plot import area_path, figure, key, pct, plot
from headway.observe.html.scale import Scale, Tick, axis_scale

__all__ = ["timeline"]

_MAX_GROUPS: Final = 6
_ALL_ROWS: Final = 80
_MIN_ROWS, _MAX_ROWS = 16, 40
_MAX_BARS: Final = 2_400
_JOBS_ACROSS: Final = 32
_MAX_VERSIONS: Final = 60
_ROW_PX: Final = 13
_BAR_PX: Final = 9
_CLASSES: Final = 6


class _Window(NamedTuple):
    """What all timelines of a report have in common."""

    end: float
    rows: list[str]
    edges: list[int]


class _Track(NamedTuple):
    """One run in the window: the jobs of the workers that are shown, and of all."""

    group: Group
    log: Log
    shown: list[Job]


def timeline(groups: Sequence[Group]) -> Html:
    """A timeline per algorithm, of its first seed, with the same workers and the same stretch of time.

    Simulated runs and those with real workers have seconds of their own, and a stretch of their own.

    Args:
        groups: The runs; those without events are named and left out.
    """
    logs = [(group, read_jobs(group.runs[0].events)) for group in groups]
    tracks = [(group, log) for group, log in logs if log.jobs][:_MAX_GROUPS]
    if not tracks:
        said = "These runs have no events in memory: they were made without a record of them."
        return element("p", said, class_="empty")
    kinds = [[track for track in tracks if track[0].is_real is real] for real in (False, True)]
    shown = [
        join(element("h3", title) if all(kinds) else None, _side_by_side(of))
        for title, of in zip(
            ("Simulated, virtual seconds", "Real workers, real seconds"), kinds, strict=True
        )
        if of
    ]
    silent = [group.label for group, log in logs if not log.jobs]
    hidden = len(groups) - len(silent) - len(tracks)
    return join(
        shown,
        element("p", f"No events were kept of {', '.join(silent)}.", class_="note")
        if silent
        else None,
        element("p", f"{plural(hidden, 'more algorithm')} not shown.", class_="note")
        if hidden
        else None,
    )


def _side_by_side(tracks: Sequence[tuple[Group, Log]]) -> Html:
    """Runs with one kind of seconds, on one scale."""
    logs = [log for _, log in tracks]
    window = _window(logs)
    return join(
        element("p", _cut(logs, window), class_="lead"),
        _legend(window.edges, {job.status for log in logs for job in log.jobs}),
        [_track(group, log, window) for group, log in tracks],
    )


def _window(logs: Sequence[Log]) -> _Window:
    """Choose the stretch of time and the workers.

    Bars stay wide enough to be seen when the stretch is some thirty typical jobs long. The workers
    are spread evenly over the speeds, so that neither fast nor slow ones are over-represented.
    """
    num_rows = max(_MIN_ROWS, min(_MAX_ROWS, _ALL_ROWS // len(logs)))
    start = min(log.start for log in logs)
    whole = max(log.end for log in logs) - start
    lengths = [job.end - job.start for log in logs for job in log.jobs if job.end > job.start]
    span = min(whole, _JOBS_ACROSS * median(lengths)) if lengths else whole
    rows = _rows(logs, start + span, num_rows)
    chosen = set(rows)
    starts = sorted(j.start for log in logs for j in log.jobs if j.worker in chosen)
    if len(starts) > _MAX_BARS and starts[_MAX_BARS] < start + span:
        span = starts[_MAX_BARS] - start
    within = [job for log in logs for job in log.jobs if job.start < start + span]
    highest = max((job.staleness or 0 for job in within), default=0)
    return _Window(start + (span or 1.0), rows, _edges(highest))


def _rows(logs: Sequence[Log], end: float, num_rows: int) -> list[str]:
    lengths: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, set[int]] = defaultdict(set)
    for index, log in enumerate(logs):
        for job in log.jobs:
            if job.start < end:
                lengths[job.worker].append(job.end - job.start)
                seen[job.worker].add(index)
    everywhere = [worker for worker in lengths if len(seen[worker]) == len(logs)]
    candidates = everywhere if len(everywhere) >= min(num_rows, len(lengths)) else list(lengths)
    ordered = sorted(candidates, key=lambda worker: (median(lengths[worker]), worker))
    if len(ordered) <= num_rows:
        return ordered
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, num_rows).round().astype(int)]


def _edges(highest: int) -> list[int]:
    """The lowest staleness of each colour: 0, 1, and then ever wider classes.

    Example:
        >>> _edges(3), _edges(40)
        ([0, 1, 2, 3], [0, 1, 3, 5, 10, 20])
    """
    if highest < _CLASSES:
        return list(range(highest + 1))
    spread = np.geomspace(1, highest + 1, _CLASSES)[:-1]
    return sorted({0, 1, *(int(edge) for edge in np.ceil(spread))})[:_CLASSES]


def _track(group: Group, log: Log, window: _Window) -> Html:
    first = min(log.start, window.end)
    place = {worker: row for row, worker in enumerate(window.rows)}
    jobs = [job for job in log.jobs if job.start < window.end and job.worker in place]
    scale = Scale(0.0, window.end)
    bars = [_bar(job, place[job.worker], scale, window.edges) for job in jobs]
    names = [
        element(
            "text",
            _short(worker),
            element("title", worker),
            x="0",
            dx=-8,
            y=row * _ROW_PX + _BAR_PX,
            class_="y worker",
        )
        for worker, row in place.items()
    ]
    ends = [time for time in log.versions if first <= time <= window.end]
    lines = [_version(time, scale) for time in ends] if len(ends) <= _MAX_VERSIONS else []
    height = len(place) * _ROW_PX
    ticks = axis_scale("virtual_time_s", window.end)
    rows = plot(
        label=f"Timeline of {group.label}: {plural(len(jobs), 'job')} of "
        f"{plural(len(place), 'worker')} in {_seconds(window.end)}",
        overlay=[lines, names, bars, _end(log.end, scale)],
        x=[Tick(tick.place, f"{tick.text} {ticks.unit}") for tick in ticks.ticks(8)],
        height=height,
        class_="rows",
    )
    seed = f"seed {group.runs[0].seed}"
    last = min(window.end, log.end)
    said = f"{seed}, {_utilisation(jobs, len(place), first, last)}"
    caption = [key(group), " ", element("b", group.label), element("span", said, class_="small")]
    return figure(join(_flight(group, log, window), rows), caption=caption, class_="track")


def _utilisation(jobs: Sequence[Job], workers: int, start: float, end: float) -> str:
    busy = sum(max(0.0, min(job.end, end) - job.start) for job in jobs)
    room = workers * (end - start)
    share = text.percent(min(1.0, busy / room) if room else 0.0)
    return f"the workers shown are busy {share} of this time"


def _flight(group: Group, log: Log, window: _Window) -> Html:
    levels = in_flight(log.jobs, log.start, min(window.end, log.end))
    most = max((level for _, level in levels), default=0) or 1
    scale, top = Scale(0.0, window.end), Scale(0.0, float(most))
    x = scale.places(np.array([time for time, _ in levels] + [min(window.end, log.end)]))
    y = top.places(np.array([float(level) for _, level in levels] + [float(levels[-1][1])]))
    path = element("path", d=area_path(x, np.zeros_like(y), y), class_=f"area {group.css}")
    return plot(
        label=f"Jobs in flight in {group.label}: at most {most}",
        layers=path,
        y=[Tick(0.0, "0"), Tick(1.0, f"{most:,}")],
        overlay=element("text", "in flight, all workers", x="100%", y="0", dy=-5, class_="corner"),
        height=36,
        class_="flight",
    )


def _bar(job: Job, row: int, scale: Scale, edges: Sequence[int]) -> Html:
    left, right = scale.at(job.start), min(1.0, scale.at(job.end))
    colour = None
    if job.staleness is not None:
        colour = f"k{max(i for i, edge in enumerate(edges) if edge <= max(0, job.staleness))}"
    drawn = job.status if job.status in ("rejected", "cancelled", "lost", "unfinished") else None
    return element(
        "rect",
        element("title", _told(job)),
        x=pct(left),
        y=row * _ROW_PX + 2,
        width=pct(max(right - left, 0.0015)),
        height=_BAR_PX,
        class_=css_class("job", colour, drawn),
    )


def _told(job: Job) -> str:
    parts = [
        job.worker,
        f"job {job.id}",
        f"from version {job.version}",
        "" if job.staleness is None else f"staleness {job.staleness}",
        f"{job.status} ({job.reason.replace('_', ' ')})" if job.reason else job.status,
        f"{text.number(job.start, 4)} to {_seconds(job.end)}",
    ]
    return " · ".join(part for part in parts if part)


def _version(time: float, scale: Scale) -> Html:
    at = pct(scale.at(time))
    return element("line", x1=at, x2=at, y1="0", y2="100%", class_="version")


def _end(time: float, scale: Scale) -> Html | None:
    if time >= 0.99 * scale.high:
        return None
    at = pct(scale.at(time))
    line = element("line", x1=at, x2=at, y1="0", y2="100%", class_="end")
    late = scale.at(time) > 0.8
    said = element(
        "text",
        "end of the run",
        x=at,
        dx=-6 if late else 6,
        y="50%",
        class_=css_class("end", late and "before"),
    )
    return join(line, said)


def _seconds(value: float) -> str:
    return amount("virtual_time_s", value)


def _short(worker: str) -> str:
    return worker if len(worker) <= 11 else f"…{worker[-10:]}"


def _cut(logs: Sequence[Log], window: _Window) -> str:
    workers = {job.worker for log in logs for job in log.jobs}
    whole = max(log.end for log in logs)
    said = [
        "Each bar is a job, from its checkout until it ended; a gap is a worker that waits or is "
        "not asked."
    ]
    if len(workers) > len(window.rows):
        said.append(
            f"Shown are {len(window.rows)} of {len(workers):,} workers, spread evenly over their "
            "speeds, the fastest on top"
        )
    else:
        said.append(f"Shown are all {plural(len(workers), 'worker')}, the fastest on top")
    if whole > window.end:
        part = f"{_seconds(float(f'{window.end:.3g}'))} of {_seconds(whole)}"
        return f"{said[0]} {said[1]}, and the first {part}: more would be too small to read."
    return f"{said[0]} {said[1]}."


def _legend(edges: Sequence[int], statuses: set[str]) -> Html:
    items = []
    for index, low in enumerate(edges):
        high = edges[index + 1] - 1 if index + 1 < len(edges) else None
        ages = f"{low}" if high == low else f"{low} to {high}" if high else f"{low} or more"
        if high is None and low == index:
            ages = f"{low}"
        items.append(element("li", element("i", class_=f"swatch k{index}"), ages))
    told = {
        "rejected": "rejected",
        "cancelled": "cancelled",
        "lost": "lost",
        "unfinished": "not finished",
    }
    items += [
        element("li", element("i", class_=f"swatch {status}"), said)
        for status, said in told.items()
        if status in statuses
    ]
    return element("ul", element("li", "Staleness", class_="of"), items, class_="legend")
