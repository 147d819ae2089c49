"""The verdict: one sentence, computed from the runs, that says no more than they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headway.observe import text
from headway.observe.comparison import Spread
from headway.observe.html.amounts import mean_and_std
from headway.observe.html.groups import Goal, Group, are_mixed, metrics_of, plural
from headway.observe.points import direction_of

__all__ = ["subject", "verdict"]

_TIMES: Final = {
    "virtual_time_s": "virtual time",
    "wall_time_s": "wall time",
    "updates": "updates",
}
_OF: Final = {
    "virtual_time_s": "of virtual time",
    "wall_time_s": "of wall time",
    "updates": "updates",
}
_APART: Final = (
    " Times are not compared: those of simulated runs are virtual, those of real workers are not."
)
_SAME: Final = 1.05
_TIMES_FROM: Final = 1.5


def subject(groups: Sequence[Group]) -> str:
    """What was run, in one line.

    Example:
        >>> subject([])
        'no runs'
    """
    runs = [run for group in groups for run in group.runs]
    if not runs:
        return "no runs"
    clients = sorted({run.num_clients for run in runs})
    seeds = sorted({run.seed for run in runs})
    limits = sorted({run.concurrency for run in runs if run.concurrency is not None})
    listed = ", ".join(str(seed) for seed in seeds[:8]) + (", …" if len(seeds) > 8 else "")
    parts = [
        _and([group.label for group in groups]),
        f"task {_and(list(dict.fromkeys(run.task for run in runs)))}",
        " or ".join(f"{number:,}" for number in clients) + " clients",
        f"at most {' or '.join(map(str, limits))} in flight" if limits else "",
        f"{'seed' if len(seeds) == 1 else 'seeds'} {listed}",
    ]
    return " · ".join(part for part in parts if part)


def verdict(groups: Sequence[Group], goal: Goal | None) -> str:
    """The sentence at the top.

    With a goal it compares the algorithm that was fastest with the best one of the other kind
    (synchronous against asynchronous), or, where there is one kind only, with the next best.
    Only algorithms that reached the goal with every seed are compared, by time, or by updates where
    some runs were simulated and others not. Without a goal it tells where the runs ended.

    Args:
        groups: The runs.
        goal: What the runs were to reach.
    """
    runs = [run for group in groups for run in group.runs]
    if not runs:
        return "There are no runs to report on."
    metrics = metrics_of(runs, goal)
    if not metrics:
        return "Nothing was evaluated in these runs, so there is no verdict."
    if len({run.task for run in runs}) > 1:
        return "These runs are of different tasks, so they are shown side by side but not compared."
    if goal is None:
        return _at_the_end(groups, metrics[0])
    return _to_goal(groups, goal)


def _to_goal(groups: Sequence[Group], goal: Goal) -> str:
    axis = _clock(groups)
    taken = {group.index: group.taken(goal, axis) for group in groups}
    spreads = {
        group.index: Spread.of(x for x in taken[group.index] if x is not None)
        for group in groups
        if None not in taken[group.index]
    }
    complete = sorted(
        ((spread, groups[index]) for index, spread in spreads.items() if spread),
        key=lambda pair: (pair[0].mean, pair[1].index),
    )
    partial = [_partly(g, taken[g.index]) for g in groups if None in taken[g.index]]
    if not any(value is not None for values in taken.values() for value in values):
        return _nobody(groups, goal)
    if not complete:
        return f"No algorithm reached {goal} with every seed.{_list(partial)}"
    (best, winner), *others = complete
    rival = _rival(winner, others)
    rest = _list(partial) + (_APART if are_mixed(groups) else "")
    if rival is None:
        said = f"{_whole(axis, best)} {_OF[axis]} ({_how_many([winner])})"
        return f"{winner.label} reached {goal} after {said}.{rest}"
    other, loser = rival
    compared = _ratio(best.mean, other.mean, axis)
    brackets = f"{_whole(axis, best)} against {_whole(axis, other)}, {_how_many([winner, loser])}"
    return f"{winner.label} reached {goal} {compared} {loser.label} ({brackets}).{rest}"


def _whole(axis: str, spread: Spread) -> str:
    return mean_and_std(axis, spread).replace(" ", "\N{NO-BREAK SPACE}")


def _clock(groups: Sequence[Group]) -> str:
    if are_mixed(groups):
        return "updates"
    points = [point for group in groups for run in group.runs for point in run.history]
    for axis in ("virtual_time_s", "wall_time_s")[groups[0].is_real :]:
        if any(getattr(point, axis) > 0 for point in points):
            return axis
    return "updates"


def _rival(winner: Group, others: Sequence[tuple[Spread, Group]]) -> tuple[Spread, Group] | None:
    of_other_kind = [pair for pair in others if pair[1].synchronous != winner.synchronous]
    return next(iter([*of_other_kind, *others]), None)


def _ratio(best: float, other: float, axis: str) -> str:
    less = "fewer" if axis == "updates" else "less"
    if best <= 0:
        return f"in {less} {_TIMES[axis]} than"
    ratio = other / best
    if ratio < _SAME:
        same = "as many" if axis == "updates" else "the same"
        return f"in about {same} {_TIMES[axis]} as"
    if ratio < _TIMES_FROM:
        return f"in {100 * (1 - best / other):.0f} % {less} {_TIMES[axis]} than"
    return f"in {text.number(ratio, 2)}× {less} {_TIMES[axis]} than"


def _nobody(groups: Sequence[Group], goal: Goal) -> str:
    metric, larger = goal.metric, goal.direction == "max"
    best = [
        (spread.max if larger else spread.min, group)
        for group in groups
        if (
            spread := Spread.of(
                value
                for run in group.runs
                if metric in run.metrics and (value := run.best(metric, goal.direction)) == value
            )
        )
    ]
    if not best:
        return f"No run reached {goal}: {metric} never was a finite number."
    value, closest = sorted(
        best, key=lambda pair: (-pair[0] if larger else pair[0], pair[1].index)
    )[0]
    count, nearest = sum(len(group.runs) for group in groups), text.number(value)
    if count == 1:
        return f"{closest.label} did not reach {goal}; its best was {nearest} (one run)."
    return f"None of {count:,} runs reached {goal}; the closest was {closest.label} with {nearest}."


def _at_the_end(groups: Sequence[Group], metric: str) -> str:
    larger = direction_of(metric) == "max"
    ends = [(spread, group) for group in groups if (spread := group.finals(metric))]
    if not ends:
        return f"No run ended with a finite {metric}."
    ends.sort(key=lambda pair: (-pair[0].mean if larger else pair[0].mean, pair[1].index))
    best, winner = ends[0]
    value = text.number(best.mean)
    if len(groups) == 1:
        return f"{winner.label} ended with {metric} {value} ({_how_many([winner])})."
    others = ", ".join(f"{group.label} {text.number(spread.mean)}" for spread, group in ends[1:])
    tail = f"; {others}" if others else ""
    kind = "highest" if larger else "lowest"
    return f"{winner.label} ended with the {kind} {metric}, {value}{tail} ({_how_many(groups)})."


def _partly(group: Group, taken: Sequence[float | None]) -> str:
    reached = sum(value is not None for value in taken)
    if not reached:
        return f"{group.label} did not reach it"
    return f"{group.label} reached it with only {reached} of {plural(len(taken), 'seed')}"


def _list(said: Sequence[str]) -> str:
    return f" {'; '.join(said)}." if said else ""


def _how_many(groups: Sequence[Group]) -> str:
    seeds = {group.seeds_text for group in groups}
    if len(seeds) > 1:
        counts = sorted(len(group.runs) for group in groups)
        return f"mean of {counts[0]} to {counts[-1]} runs"
    said = seeds.pop()
    return "one seed, so no spread" if said == "1 seed" else f"mean of {said}"


def _and(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
