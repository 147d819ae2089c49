"""Participation: how the work was shared among the clients, and how much of their time was used."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

import numpy as np

from headway.observe import text
from headway.observe.html.groups import Group, plural
from headway.observe.html.markup import Html, element, join
from headway.observe.html.plot import area_path, figure, key, pct, plot
from headway.observe.html.scale import Scale, Tick
from headway.observe.result import Result

__all__ = ["participation"]

_MAX_GROUPS: Final = 12
_MAX_STEPS: Final = 400


def participation(groups: Sequence[Group]) -> Html:
    """Sorted bars of the updates per client, and how much of the room for work was used."""
    shown = groups[:_MAX_GROUPS]
    counted = [(group, _counts(group.runs[0])) for group in shown]
    top = max((taken + wasted for _, counts in counted for taken, wasted in counts), default=0)
    note = (
        "One step per client, of the first seed, those with the most updates first. The pale part "
        "is work that was thrown away: rejected, cancelled or lost."
    )
    if len(groups) > _MAX_GROUPS:
        note += f" Only the first {_MAX_GROUPS} algorithms are shown."
    if top == 0:
        sorted_bars = element("p", "No client was counted in these runs.", class_="empty")
    else:
        figures = [_sorted_bars(group, counts, top) for group, counts in counted]
        sorted_bars = join(
            element("div", figures, class_="grid"), element("p", note, class_="note")
        )
    return join(_idle(shown), element("h3", "Updates per client"), sorted_bars)


def _counts(run: Result) -> list[tuple[int, int]]:
    """Of each client the updates that were taken and the jobs thrown away, the busiest first."""
    counts = [
        (count.accepted, count.rejected + count.cancelled + count.lost)
        for count in run.clients.values()
    ]
    counts += [(0, 0)] * max(0, run.num_clients - len(counts))
    return sorted(counts, reverse=True)


def _sorted_bars(group: Group, counts: list[tuple[int, int]], top: int) -> Html:
    caption = [key(group), " ", element("b", group.label)]
    if not group.runs[0].clients:
        return figure(element("p", "No client trained.", class_="empty"), caption=caption)
    at = np.unique(np.linspace(0, len(counts) - 1, min(len(counts), _MAX_STEPS)).astype(int))
    edges = np.append(at, len(counts)) / len(counts)
    scale = Scale(0.0, float(top))
    chosen = np.array([counts[i] for i in [*at, at[-1]]], dtype=np.float64)
    taken, given = scale.places(chosen[:, 0]), scale.places(chosen.sum(axis=1))
    told = _told(group.runs[0], [accepted for accepted, _ in counts])
    return figure(
        plot(
            label=f"Updates per client with {group.label}: {told}",
            layers=[
                element("path", d=area_path(edges, taken, given), class_=f"wasted {group.css}"),
                element("path", d=area_path(edges, taken * 0, taken), class_=f"area {group.css}"),
            ],
            x=[Tick(0.0, "most"), Tick(1.0, "fewest")],
            y=scale.ticks(min(4, top)),
            height=160,
            class_="ends",
        ),
        caption=[*caption, element("span", told, class_="small")],
    )


def _told(run: Result, accepted: Sequence[int]) -> str:
    never = run.num_clients - len(run.clients)
    said = f"median {text.number(median(accepted), 3)}, {min(accepted):,} to {max(accepted):,}"
    return said + (f"; {plural(never, 'client')} never trained" if never > 0 else "")


def _idle(groups: Sequence[Group]) -> Html:
    rows = []
    for group in groups:
        idle = fmean(run.idle_share for run in group.runs)
        wasted = fmean(run.discarded_share for run in group.runs)
        cells = [_meter(group, idle, "idle"), _meter(group, wasted, "thrown away")]
        name = element("th", key(group), " ", group.label, scope="row")
        rows.append(element("tr", name, [element("td", cell) for cell in cells]))
    head = element(
        "tr",
        element("td"),
        element("th", "Places in flight that stood empty", scope="col"),
        element("th", "Trained examples thrown away", scope="col"),
    )
    return element("table", element("thead", head), element("tbody", rows), class_="meters")


def _meter(group: Group, share: float, said: str) -> Html:
    full = min(1.0, max(0.0, share)) if share == share else 0.0
    bar = element("i", element("i", style=f"width:{pct(full)}"), class_=f"meter {group.css}")
    return join(bar, element("span", text.percent(share), title=said))
