"""Several runs side by side: what each took to reach the same target, and how far seeds differ."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, NamedTuple

from headway.core.errors import ConfigurationError
from headway.observe import text
from headway.observe.points import check_axis, direction_of, metric_names
from headway.observe.result import Result

__all__ = ["Comparison", "Row", "Spread"]

NARROW: Final = 80
"""The table stays within so many columns where it can."""


class Spread(NamedTuple):
    """How a number is spread over the seeds.

    Attributes:
        mean: The mean.
        std: The sample standard deviation; ``None`` for fewer than two values.
        min: The smallest.
        max: The largest.
        num_runs: How many values there are, at least 1.
    """

    mean: float
    std: float | None
    min: float
    max: float
    num_runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The spread of some values; ``None`` if there are none, or one is not finite.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0, min=1.0, max=3.0, num_runs=3)
        """
        found = list(values)
        if not found or not all(map(isfinite, found)):
            return None
        # A loss that diverged may be so large that the sum, or a square, is no float any more.
        largest = max(map(abs, found))
        scale = largest if largest > 1e150 else 1.0
        scaled = [value / scale for value in found]
        std = stdev(scaled) * scale if len(found) > 1 else None
        return cls(fmean(scaled) * scale, std, min(found), max(found), len(found))


class Row(NamedTuple):
    """One line of a comparison: all seeds of one label.

    Attributes:
        label: What the runs are called.
        synchronous: Whether workers waited for each other.
        seeds: How many runs there are.
        reached: How many of them reached the target; all, if there is no target.
        spread: Of what those took, or, if there is no target, of all runs' ends. ``None`` if no run
            reached the target.
        ratio: ``spread.mean`` against that of the synchronous baseline; ``None`` unless every run
            of both reached the target: a mean over the seeds that were lucky is no match for one
            over all of them. ``None`` of times, too, if some of these runs were simulated and
            others had real workers.
    """

    label: str
    synchronous: bool
    seeds: int
    reached: int
    spread: Spread | None
    ratio: float | None


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """Runs of several algorithms and seeds on the same task.

    Results with the same ``label`` are seeds of one algorithm with one setting.

    Args:
        results: The runs, at least one.
        target: The metric and the value that all are to reach; ``None`` compares the runs' ends.
        direction: ``"max"`` if larger is better, ``"min"`` if smaller is; by default told from the
            metric's name.

    Raises:
        ConfigurationError: There is no result, or one label has the same seed twice.
        UnknownNameError: The direction is unknown.
    """

    results: list[Result]
    target: tuple[str, float] | None = None
    direction: str | None = None

    def __post_init__(self) -> None:
        if not self.results:
            raise ConfigurationError("there is nothing to compare", expected="at least one result")
        seen: set[tuple[str, int]] = set()
        for result in self.results:
            if (result.label, result.seed) in seen:
                raise ConfigurationError(
                    "two results have the same label and the same seed",
                    got=f"{result.label!r}, seed {result.seed}",
                    help="give each algorithm of a comparison a label of its own",
                )
            seen.add((result.label, result.seed))
        if self.target is not None:
            self.target = (str(self.target[0]), float(self.target[1]))
            self.direction = direction_of(self.target[0], self.direction)

    @property
    def groups(self) -> dict[str, list[Result]]:
        """The results of each label, in the order of their first appearance."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            groups.setdefault(result.label, []).append(result)
        return groups

    @property
    def baseline(self) -> str | None:
        """The label of the first synchronous algorithm; ``None`` if there is none."""
        return next((result.label for result in self.results if result.synchronous), None)

    def table(self, axis: str = "virtual_time_s") -> list[Row]:
        """What each label took to reach the target, or until its end if there is no target.

        Args:
            axis: What to count: one of :data:`~headway.observe.AXES`.

        Raises:
            UnknownNameError: The axis is unknown, or the target's metric was never measured.
        """
        check_axis(axis)
        spreads = {
            label: Spread.of(self._taken(results, axis)) for label, results in self.groups.items()
        }
        base = self._complete(spreads, self.baseline)
        rows = []
        for label, results in self.groups.items():
            spread, whole = spreads[label], self._complete(spreads, label)
            ratio = whole.mean / base.mean if whole and base and base.mean else None
            if axis.endswith("_s") and self._have_two_clocks(label, self.baseline):
                ratio = None
            reached = len(self._taken(results, axis))
            sync = results[0].synchronous
            rows.append(Row(label, sync, len(results), reached, spread, ratio))
        return rows

    def save(self, folder: str | Path) -> Path:
        """Write ``comparison.json``, and each result into a folder of its own below.

        A result that already lies in a folder below this one stays there.

        Returns:
            The folder.

        Raises:
            RunFolderError: It cannot be written.
        """
        from headway.observe.saving import save_comparison

        return save_comparison(self, folder)

    @classmethod
    def load(cls, folder: str | Path, *, events: bool = True) -> Comparison:
        """Read a comparison that :meth:`save` has written.

        Args:
            folder: The folder.
            events: Whether to read the results' events too, where they are kept.

        Raises:
            RunFolderError: There is no comparison in this folder, or it cannot be read.
            LogDamagedError: A file in it is damaged.
        """
        from headway.observe.saving import load_comparison

        return load_comparison(folder, events=events)

    def report(self, path: str | Path) -> Path:
        """Write a report of all runs: one HTML file that opens anywhere, without a network.

        Returns:
            The file.
        """
        from headway.observe.report import write_report

        return write_report(path, self.results, target=self.target, direction=self.direction)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.groups)}: {len(self.results)} runs)"

    def __str__(self) -> str:
        first = self.results[0]
        seeds = max(map(len, self.groups.values()))
        goal = f"to {self._goal()}" if self.target else "no target: what the runs took in all"
        title = f"{first.task}, {first.num_clients:,} clients, {seeds} seeds: {goal}"
        if seeds == 1:
            title = title.replace("1 seeds", "1 seed, so no spread")
        blocks = [
            [text.shorten(title, NARROW), ""],
            self._main_lines(),
            self._drawn_lines(),
            self._clock_lines(),
            self._ratio_lines(),
        ]
        return "\n".join(line for block in blocks for line in block)

    def _complete(self, spreads: Mapping[str, Spread | None], label: str | None) -> Spread | None:
        """The spread of a label all of whose runs are in it."""
        spread = None if label is None else spreads[label]
        if spread is None or label is None or spread.num_runs < len(self.groups[label]):
            return None
        return spread

    def _goal(self) -> str:
        if self.target is None:
            return ""
        sign = ">=" if self.direction == "max" else "<="
        return f"{self.target[0]} {sign} {self.target[1]:.10g}"

    def _taken(self, results: Sequence[Result], axis: str) -> list[float]:
        if self.target is None:
            return [_at_end(result, axis) for result in results]
        metric, value = self.target
        taken = (result.to_target(metric, value, axis, self.direction) for result in results)
        return [amount for amount in taken if amount is not None]

    def _metric(self) -> str | None:
        if self.target is not None:
            return self.target[0]
        return next(iter(metric_names(point for r in self.results for point in r.history)), None)

    def _time_name(self) -> str:
        """What the seconds are that the runs took."""
        if self._have_two_clocks(*self.groups):
            return "time"
        return "real time" if self.results[0].is_real else "virtual time"

    def _have_two_clocks(self, *labels: str | None) -> bool:
        """Whether some of these runs were simulated, and others had real workers."""
        return len({result.is_real for result in self.results if result.label in labels}) > 1

    def _main_lines(self) -> list[str]:
        metric = self._metric()
        header = ["algorithm", "reached", "updates", self._time_name(), "bytes", "discarded"]
        rows = [[*header, text.shorten(f"final {metric}", 21)] if metric else header]
        tables = zip(
            *(self.table(axis) for axis in ("updates", "virtual_time_s", "bytes")), strict=True
        )
        for updates, virtual, size in tables:
            results = self.groups[updates.label]
            discarded = fmean(result.discarded_share for result in results)
            reached = f"{updates.reached} of {updates.seeds}" if self.target else f"{updates.seeds}"
            cells = [text.shorten(updates.label, 22), reached]
            cells += [_mean(updates.spread, text.compact), _mean(virtual.spread, text.seconds)]
            cells += [_mean(size.spread, text.bytes_text, std=False), text.percent(discarded)]
            ranges = ["", "", _range(updates.spread), _range(virtual.spread), "", ""]
            if metric:
                final = _final(results, metric)
                cells.append(_mean(final, text.compact))
                ranges.append(_range(final))
            rows.append(cells)
            if any(ranges):
                rows.append(ranges)
        if not self.target:
            rows[0][1] = "seeds"
        if text.width(rows) <= NARROW:
            return text.columns(rows)
        # Below each other rather than wrapped: what it took, and then what it cost and came to.
        parts = [[0, 1, 2, 3], [0, *range(4, len(rows[0]))]]
        upper, lower = ([[row[place] for place in places] for row in rows] for places in parts)
        return [*text.columns(upper), "", *text.columns([row for row in lower if any(row)])]

    def _drawn_lines(self) -> list[str]:
        """Which staleness did not emerge: its virtual times stand beside others, and must not."""
        drawn = {
            label: results[0].simulated_staleness
            for label, results in self.groups.items()
            if results[0].simulated_staleness is not None
        }
        if not drawn:
            return []
        told = ", ".join(
            f"{text.shorten(label, 22)} (0 to {most})" for label, most in drawn.items()
        )
        line = f"simulated staleness, one job at a time: {told}"
        return ["", *textwrap.wrap(line, NARROW, subsequent_indent="  ")]

    def _clock_lines(self) -> list[str]:
        """Whose times are virtual, where they stand beside others."""
        if not self._have_two_clocks(*self.groups):
            return []
        told = dict.fromkeys(
            f"{text.shorten(result.label, 22)} ({'real' if result.is_real else 'virtual'})"
            for result in self.results
        )
        line = f"times are of two kinds, and not compared: {', '.join(told)}"
        return ["", *textwrap.wrap(line, NARROW, subsequent_indent="  ")]

    def _ratio_lines(self) -> list[str]:
        if self.baseline is None or len(self.groups) < 2:
            return []
        axes = ("updates", "virtual_time_s", "bytes")
        names = dict(zip(axes, ("updates", self._time_name(), "bytes"), strict=True))
        lines = [
            "",
            f"against {text.shorten(self.baseline, 36)} (synchronous), ratio of the means:",
        ]
        for rows in zip(*(self.table(axis) for axis in axes), strict=True):
            if rows[0].label == self.baseline:
                continue
            ratios = [
                f"{row.ratio:.3g}x the {names[axis]}"
                for row, axis in zip(rows, axes, strict=True)
                if row.ratio is not None
            ]
            said = ", ".join(ratios) or self._why_no_ratio(rows[0])
            line = f"{text.shorten(rows[0].label, 22)}: {said}"
            lines += textwrap.wrap(line, NARROW, initial_indent="  ", subsequent_indent="    ")
        return lines

    def _why_no_ratio(self, row: Row) -> str:
        base = next(other for other in self.table() if other.label == self.baseline)
        if row.reached == row.seeds and base.reached == base.seeds:
            return "no ratio, as one of the two took nothing"
        told = f"{row.reached} of {row.seeds} reached the target"
        return f"no ratio: {told}, and {base.reached} of {base.seeds} of the baseline"


def _at_end(result: Result, axis: str) -> float:
    if axis == "bytes":
        return result.bytes_up + result.bytes_down
    amount: float = getattr(result, axis)
    return amount


def _final(results: Sequence[Result], metric: str) -> Spread | None:
    return Spread.of(result.final(metric) for result in results if metric in result.metrics)


def _mean(spread: Spread | None, show: Callable[[float], str], *, std: bool = True) -> str:
    if spread is None:
        return "-"
    if spread.std is None or not std:
        return show(spread.mean)
    mean, *unit = show(spread.mean).split(" ")
    return " ".join([f"{mean} ± {text.compact(spread.std, 2)}", *unit])


def _range(spread: Spread | None) -> str:
    if spread is None or spread.num_runs < 2:
        return ""
    return f"({text.compact(spread.min)}..{text.compact(spread.max)})"
