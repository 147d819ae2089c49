"""Details: what a reader needs to run it again: settings, environment, hashes, warnings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from headway.observe import text
from headway.observe.folder import CONFIG, ENVIRONMENT
from headway.observe.html.amounts import amount
from headway.observe.html.groups import Group, flatten, plural
from headway.observe.html.markup import Html, element, join
from headway.observe.html.plot import key
from headway.observe.result import Result

__all__ = ["details", "warnings"]

_MAX_TEXT: Final = 20_000
_MAX_RUNS: Final = 100
_MAX_ROWS: Final = 200
_MAX_WARNINGS: Final = 40


def warnings(groups: Sequence[Group]) -> Html | None:
    """What a reader must know before believing the figures; ``None`` if there is nothing."""
    told: dict[str, list[str]] = {}
    for group in groups:
        for run in group.runs:
            stopped = ["interrupted: its numbers are those until then"] if run.interrupted else []
            for said in (*stopped, *run.warnings):
                told.setdefault(said, []).append(f"{group.label}, seed {run.seed}")
    if not told:
        return None
    items = [
        element("li", said, element("span", _where(places), class_="small"))
        for said, places in list(told.items())[:_MAX_WARNINGS]
    ]
    if len(told) > _MAX_WARNINGS:
        items.append(element("li", f"and {len(told) - _MAX_WARNINGS:,} more"))
    return element("ul", items, class_="warnings")


def details(groups: Sequence[Group]) -> Html:
    """Settings of each algorithm, hashes of each run, and the environments they ran in."""
    runs = [run for group in groups for run in group.runs]
    return join([_group(group) for group in groups], _environments(runs), _configs(runs))


def _where(places: Sequence[str]) -> str:
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"{'; '.join(places[:3])}{more}"


def _group(group: Group) -> Html:
    run = group.runs[0]
    rows = {
        "algorithm": run.algorithm,
        **dict(flatten(run.settings)),
        "kind": "synchronous" if run.synchronous else "asynchronous",
        **_drawn(run),
        "task": run.task,
        "clients": f"{run.num_clients:,}",
        "in flight at most": "no limit" if run.concurrency is None else f"{run.concurrency:,}",
        **dict(flatten(run.population, "population.")),
    }
    return _folded(
        join(key(group), " ", group.label, element("span", group.seeds_text, class_="small")),
        element("h3", "Settings"),
        _pairs(rows),
        element("h3", "Runs"),
        _runs(group),
    )


def _drawn(run: Result) -> dict[str, str]:
    most = run.simulated_staleness
    return {} if most is None else {"staleness": f"simulated: drawn from 0 to {most}"}


def _runs(group: Group) -> Html:
    time = "Wall time" if group.is_real else "Virtual time"
    head = ["Seed", "Stopped by", "Updates", "Rejected", time, "Hashes", "Folder"]
    rows = [
        element(
            "tr",
            element("th", run.seed, scope="row"),
            element("td", "interrupted; " if run.interrupted else "", run.stop_reason),
            element("td", f"{run.updates:,}"),
            element("td", _rejected(run)),
            element("td", _time(run)),
            element("td", _hash("log", run.log_hash), _hash("weights", run.weights_hash)),
            element("td", run.folder.name if run.folder is not None else "–"),
        )
        for run in group.runs[:_MAX_RUNS]
    ]
    table = element(
        "table",
        element("thead", element("tr", [element("th", title, scope="col") for title in head])),
        element("tbody", rows),
        class_="runs",
    )
    left_out = len(group.runs) - _MAX_RUNS
    more = element("p", f"and {plural(left_out, 'more run')}") if left_out > 0 else None
    return element("div", table, more, class_="scroll", tabindex=0)


def _time(run: Result) -> str:
    return amount("wall_time_s", run.wall_time_s if run.is_real else run.virtual_time_s)


def _hash(kind: str, digits: str) -> Html:
    said = digits or "none"
    return element("div", f"{kind} ", element("code", said), class_="hash")


def _rejected(run: Result) -> str:
    reasons = [
        f"{name.partition(':')[2]} {count:,}"
        for name, count in sorted(run.counts.items())
        if name.startswith("rejected:") and count
    ]
    total = f"{run.counts.get('rejected', 0):,}"
    return f"{total} ({', '.join(reasons)})" if reasons else total


def _environments(runs: Iterable[Result]) -> list[Html]:
    found: dict[str, list[Result]] = {}
    for run in runs:
        said = _read(run.folder, ENVIRONMENT)
        if said is not None:
            found.setdefault(said, []).append(run)
    trees = [(tree, of) for said, of in found.items() if (tree := _tree(said)) is not None]
    title = "Environment"
    return [
        _folded(join(title, _of(of, len(trees))), _pairs(dict(flatten(tree)))) for tree, of in trees
    ]


def _configs(runs: Iterable[Result]) -> list[Html]:
    found: dict[str, list[Result]] = {}
    for run in runs:
        said = _read(run.folder, CONFIG)
        if said is not None:
            found.setdefault(said, []).append(run)
    return [
        _folded(
            join("Configuration file", _of(of, len(found))),
            element("pre", said[:_MAX_TEXT], "\n…" if len(said) > _MAX_TEXT else "", tabindex=0),
        )
        for said, of in list(found.items())[:_MAX_RUNS]
    ]


def _of(runs: Sequence[Result], kinds: int) -> Html:
    said = "of all runs" if kinds == 1 else _where([f"{r.label}, seed {r.seed}" for r in runs])
    return element("span", said, class_="small")


def _folded(summary: Html, *content: Html) -> Html:
    return element("details", element("summary", summary), content)


def _pairs(rows: Mapping[str, str]) -> Html:
    shown = [
        element("tr", element("th", name, scope="row"), element("td", text.shorten(value, 500)))
        for name, value in list(rows.items())[:_MAX_ROWS]
    ]
    return element("table", element("tbody", shown), class_="pairs")


def _read(folder: Path | None, name: str) -> str | None:
    # The report is about the runs; a folder that is gone or unreadable by now does not prevent it.
    if folder is None:
        return None
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _tree(said: str) -> Mapping[str, Any] | None:
    try:
        tree = json.loads(said)
    except ValueError:
        return None
    return tree if isinstance(tree, Mapping) else None
