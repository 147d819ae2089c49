"""How a run is seen while it goes on: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TextIO, final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headway.observe import Observer, Point, Result, RunInfo, Snapshot
from headway.observe.text import compact, number, seconds

__all__ = ["LiveTable", "PlainLines", "progress"]

LINE_EVERY_S: Final = 2.0
"""Plain lines come no faster than this."""

ROWS: Final = 16
"""So many runs are shown at once; of more, those around the present one."""


@contextmanager
def progress(runs: Sequence[tuple[str, int]], *, silent: bool) -> Iterator[Sequence[Observer]]:
    """Show runs on stderr, in the way that suits it.

    Args:
        runs: Label and seed of each run to come.
        silent: Show nothing.

    Yields:
        What the runs are to be observed by.
    """
    console = Console(stderr=True, highlight=False)
    if silent:
        yield ()
    elif console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI"):
        table = LiveTable(runs)
        with Live(console=console, refresh_per_second=5, get_renderable=table.render):
            yield (table,)
        console.print()
    else:
        yield (PlainLines(),)


@final
class PlainLines:
    """Writes a line for each evaluation, but no more than one every few seconds.

    Args:
        stream: Where to; by default stderr.
        clock: Tells the seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._due = 0.0
        self._run = ""

    def started(self, info: RunInfo) -> None:
        """A run begins: its first evaluation is shown at once."""
        self._run = f"{info.label}, seed {info.seed}"
        self._due = self._clock()

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing: evaluations say enough."""

    def evaluated(self, point: Point) -> None:
        """Write a line, if it is time for one."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + LINE_EVERY_S
        time_s = seconds(round(point.virtual_time_s, 2))
        self._say(f"{number(point.updates)} updates, {time_s} virtual, {_metrics(point.metrics)}")

    def finished(self, result: Result) -> None:
        """Write how the run ended."""
        last = _metrics(result.history[-1].metrics) if result.history else "never evaluated"
        self._say(f"{result.stop_reason} after {number(result.updates)} updates: {last}")

    def _say(self, text: str) -> None:
        print(f"{self._run}: {text}", file=self._stream or sys.stderr, flush=True)


@dataclass(slots=True)
class _Row:
    label: str
    seed: int
    snapshot: Snapshot | None = None
    result: Result | None = None


@final
class LiveTable:
    """A table of all runs, for a terminal; rich asks for it several times a second.

    Args:
        runs: Label and seed of each run to come.
    """

    def __init__(self, runs: Sequence[tuple[str, int]]) -> None:
        self._rows = [_Row(label, seed) for label, seed in runs]
        self._now = -1

    def started(self, info: RunInfo) -> None:
        """Go on to the next row."""
        self._now += 1

    def progress(self, snapshot: Snapshot) -> None:
        """Show how far the run is."""
        self._rows[self._now].snapshot = snapshot

    def evaluated(self, point: Point) -> None:
        """Nothing: the next snapshot has the metrics."""

    def finished(self, result: Result) -> None:
        """Show how the run ended."""
        self._rows[self._now].result = result

    def render(self) -> Table:
        """The table as of now."""
        metrics = list(
            dict.fromkeys(
                name for row in self._rows if row.snapshot for name in row.snapshot.metrics
            )
        )
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("run", no_wrap=True)
        for name in ("seed", "updates", "per s", "staleness", *metrics, "in flight"):
            # Columns that grow with their numbers would make the whole table jump.
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
        table.add_column("", width=12)
        table.add_column("left", no_wrap=True)
        first = max(0, min(self._now - ROWS // 2, len(self._rows) - ROWS))
        for row in self._rows[first : first + ROWS]:
            table.add_row(*self._cells(row, metrics))
        if len(self._rows) > ROWS:
            done = sum(row.result is not None for row in self._rows)
            table.caption = f"{done} of {len(self._rows)} runs done"
        return table

    def _cells(self, row: _Row, metrics: Sequence[str]) -> list[RenderableType]:
        snapshot = row.snapshot
        if snapshot is None:
            # An empty row too has as many cells as there are columns.
            style = "dim" if self._now < 0 or row is not self._rows[self._now] else ""
            return [Text(row.label, style), Text(str(row.seed), style), *[""] * (len(metrics) + 6)]
        values = [
            compact(snapshot.metrics[name], 3) if name in snapshot.metrics else ""
            for name in metrics
        ]
        updates = row.result.updates if row.result else snapshot.updates
        return [
            row.label,
            str(row.seed),
            number(updates),
            compact(snapshot.updates_per_s, 3),
            f"{snapshot.mean_staleness:.1f}",
            *values,
            "" if row.result else str(snapshot.in_flight),
            "" if row.result else _bar(snapshot),
            _outcome(row.result) if row.result else _left(snapshot),
        ]


def _bar(snapshot: Snapshot) -> RenderableType:
    done = snapshot.fraction_done
    return "" if done is None else ProgressBar(total=1.0, completed=done, width=12)


def _left(snapshot: Snapshot) -> str:
    done = snapshot.fraction_done
    if not done:
        return ""
    left_s = snapshot.wall_time_s * (1.0 - done) / done
    return f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"


def _outcome(result: Result) -> Text:
    bad = result.interrupted or result.stop_reason.startswith(("diverged", "stalled"))
    return Text(result.stop_reason.partition(":")[0], "red" if bad else "green")


def _metrics(metrics: object) -> str:
    items = dict(metrics).items() if metrics else ()  # type: ignore[call-overload]
    return ", ".join(f"{name} {number(value)}" for name, value in items) or "nothing measured"
