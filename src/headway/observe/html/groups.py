"""Groups: the seeds of one algorithm under one setting, which a report shows as one thing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from headway.observe.comparison import Spread
from headway.observe.points import Direction, metric_names
from headway.observe.result import Result

__all__ = ["Goal", "Group", "are_mixed", "flatten", "group_runs", "metrics_of", "plural"]

_COLOURS = 8


class Goal(NamedTuple):
    """What the runs were to reach.

    Attributes:
        metric: Which metric.
        value: What it was to reach.
        direction: ``max`` if larger is better, ``min`` if smaller is.

    Example:
        >>> goal = Goal("loss", 0.5, "min")
        >>> str(goal), goal.bound
        ('loss 0.5', 'loss ≤ 0.5')
    """

    metric: str
    value: float
    direction: Direction

    @property
    def bound(self) -> str:
        """The goal as an inequality."""
        return f"{self.metric} {'≥' if self.direction == 'max' else '≤'} {self.value:.10g}"

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.10g}"


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ by nothing but the seed.

    Args:
        label: What they are called, different for each group of a report.
        index: The group's number in the report, from 0.
        runs: The runs, at least one.
    """

    label: str
    index: int
    runs: tuple[Result, ...]

    @property
    def synchronous(self) -> bool:
        """Whether workers waited for each other."""
        return self.runs[0].synchronous

    @property
    def is_real(self) -> bool:
        """Whether real workers trained, so that times are not virtual."""
        return self.runs[0].is_real

    @property
    def css(self) -> str:
        """The class that gives the group its colour; beyond eight groups colours come again."""
        return f"s{self.index % _COLOURS}"

    @property
    def seeds_text(self) -> str:
        """How many seeds, in words.

        A seed that was run twice, on two machines say, is two runs.
        """
        seeds = len({run.seed for run in self.runs})
        text = plural(seeds, "seed")
        return text if seeds == len(self.runs) else f"{plural(len(self.runs), 'run')} of {text}"

    def taken(self, goal: Goal, axis: str) -> list[float | None]:
        """What each run took to reach the goal; ``None`` where it never did."""
        metric, value, direction = goal
        return [
            run.to_target(metric, value, axis, direction) if metric in run.metrics else None
            for run in self.runs
        ]

    def finals(self, metric: str) -> Spread | None:
        """The metric at the end of the runs; ``None`` if one of them has no finite value."""
        if any(metric not in run.metrics for run in self.runs):
            return None
        return Spread.of(run.final(metric) for run in self.runs)


def group_runs(results: Sequence[Result]) -> list[Group]:
    """Sort results into groups by label, and by settings where one label has several.

    The order is that of first appearance. Labels of groups that would be called the same say by
    what the groups differ.
    """
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.label, _identity(result)), []).append(result)
    labels = _labels([runs[0] for runs in found.values()])
    return [
        Group(label, index, tuple(sorted(runs, key=lambda run: run.seed)))
        for index, (label, runs) in enumerate(zip(labels, found.values(), strict=True))
    ]


def are_mixed(groups: Sequence[Group]) -> bool:
    """Whether there are simulated runs and real ones: their seconds are of two kinds then.

    Example:
        >>> are_mixed([])
        False
    """
    return len({group.is_real for group in groups}) > 1


def metrics_of(results: Sequence[Result], goal: Goal | None) -> list[str]:
    """Names of all metrics of all runs: the goal's first, then an accuracy, then as they come."""
    names = metric_names(point for result in results for point in result.history)
    wanted = goal.metric if goal else None
    return sorted(names, key=lambda name: (name != wanted, "accuracy" not in name))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a plain tree.

    Example:
        >>> list(flatten({"a": {"b": 1, "c": None}, "d": "x", "e": [1, 2]}))
        [('a.b', '1'), ('a.c', 'none'), ('d', 'x'), ('e', '[1, 2]')]
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, "none" if value is None else str(value)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "seed"), plural(1200, "client")
        ('1 seed', '1,200 clients')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _differences(result: Result) -> dict[str, str]:
    return {
        "algorithm": result.algorithm,
        "task": result.task,
        "clients": str(result.num_clients),
        "concurrency": str(result.concurrency),
        "synchronous": str(result.synchronous),
        "simulated staleness": str(result.simulated_staleness),
        "workers": "real workers" if result.is_real else "simulated",
        **dict(flatten(result.settings)),
        **dict(flatten(result.population, "population.")),
    }


def _identity(result: Result) -> str:
    return json.dumps(_differences(result), sort_keys=True)


def _labels(firsts: Sequence[Result]) -> list[str]:
    labels: list[str] = []
    for result in firsts:
        twins = [_differences(other) for other in firsts if other.label == result.label]
        own = _differences(result)
        told = [
            f"{name}={value}"
            for name, value in own.items()
            if any(twin.get(name) != value for twin in twins)
        ]
        if 1 < len(twins) == len({twin["workers"] for twin in twins}):
            # The rest follows from it, or is less than it: the details have all of it.
            told = [own["workers"]]
        label = f"{result.label} ({', '.join(told)})" if told else result.label
        labels.append(label if label not in labels else f"{label} #{len(labels) + 1}")
    return labels
