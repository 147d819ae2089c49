"""Staleness: how old the model was that each taken update had started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Final

from headway.observe import text
from headway.observe.html.groups import Group, plural
from headway.observe.html.markup import Html, element, join
from headway.observe.html.plot import figure, key, pct, plot
from headway.observe.html.scale import Scale, Tick

__all__ = ["staleness"]

_MIN_BARS, _MAX_BARS = 10, 40
_MAX_GROUPS: Final = 12


def staleness(groups: Sequence[Group]) -> Html:
    """A histogram per algorithm, the seeds taken together."""
    shown = [(group, _counts(group)) for group in groups[:_MAX_GROUPS]]
    if not any(counts for _, counts in shown):
        return element("p", "No update was taken in these runs.", class_="empty")
    note = (
        "In versions: how many times the model changed between a client’s checkout and the arrival "
        "of its update. Counted over all seeds, for updates that were applied or buffered; each "
        "histogram has axes of its own."
    )
    if len(groups) > _MAX_GROUPS:
        note += f" Only the first {_MAX_GROUPS} algorithms are shown."
    figures = [_histogram(group, counts) for group, counts in shown]
    return join(element("div", figures, class_="grid"), element("p", note, class_="note"))


def _counts(group: Group) -> Counter[int]:
    counts: Counter[int] = Counter()
    for run in group.runs:
        counts.update({age: count for age, count in run.staleness.items() if count > 0})
    return counts


def _bins(counts: Counter[int], width: int) -> list[int]:
    return sorted({age // width for age in counts})


def _share(counts: Counter[int], bin_: int, width: int) -> float:
    return sum(counts[age] for age in range(bin_ * width, (bin_ + 1) * width)) / counts.total()


def _histogram(group: Group, counts: Counter[int]) -> Html:
    caption = [key(group), " ", element("b", group.label)]
    if not counts:
        return figure(element("p", "No update was taken.", class_="empty"), caption=caption)
    highest = max(counts)
    width = ceil((highest + 1) / _MAX_BARS)
    bars = max(_MIN_BARS, ceil((highest + 1) / width))
    top = max(_share(counts, bin_, width) for bin_ in _bins(counts, width))
    scale = Scale(0.0, 100 * top)
    drawn = [_bar(group, counts, bin_, width, bars, top) for bin_ in _bins(counts, width)]
    quantiles = _quantiles(counts)
    return figure(
        plot(
            label=f"Staleness of {group.label}: {quantiles}",
            overlay=drawn,
            x=_ticks(bars, width),
            y=[Tick(tick.place, f"{tick.text} %") for tick in scale.ticks(4)],
            height=180,
        ),
        caption=[*caption, element("span", quantiles, class_="small")],
    )


def _bar(group: Group, counts: Counter[int], bin_: int, width: int, bars: int, top: float) -> Html:
    share = _share(counts, bin_, width)
    first, last = bin_ * width, (bin_ + 1) * width - 1
    ages = f"{first}" if width == 1 else f"{first} to {last}"
    number = sum(counts[age] for age in range(first, last + 1))
    title = f"staleness {ages}: {plural(number, 'update')}, {text.percent(share)}"
    return element(
        "rect",
        element("title", title),
        x=pct((bin_ + 0.08) / bars),
        width=pct(0.84 / bars),
        y=pct(1 - share / top),
        height=pct(share / top),
        class_=f"bar {group.css}",
    )


def _ticks(bars: int, width: int) -> list[Tick]:
    every = max(1, round(bars / 6))
    return [Tick((bar + 0.5) / bars, f"{bar * width}") for bar in range(0, bars, every)]


def _quantiles(counts: Counter[int]) -> str:
    seen, found = 0, dict.fromkeys((0.5, 0.95), max(counts))
    for age in sorted(counts, reverse=True):
        for share in found:
            if counts.total() - seen >= ceil(round(share * counts.total(), 9)):
                found[share] = age
        seen += counts[age]
    return f"median {found[0.5]}, 95 % up to {found[0.95]}, at most {max(counts)}"
