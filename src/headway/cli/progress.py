"""How a run is seen while it goes on: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TextIO, final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headway.observe import Observer, Point, Result, RunInfo, Snapshot
from headway.observe.text import compact, number, seconds

__all__ = ["LiveTable", "PlainLines", "Silence", "progress"]

LINE_EVERY_S: Final = 2.0
"""Plain lines come no faster than this."""

ROWS: Final = 16
"""So many runs are shown at once; of more, those around the present one."""

WIDE: Final = 100
"""A terminal of so many columns has room for the whole table."""

BAR: Final = 10
"""Columns of the bar."""

STOPPING: Final = "stopping after the present job; Ctrl-C again aborts"
"""What the first Ctrl-C is answered with."""

_REACHED: Final = "target reached"


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
        yield (Silence(),)
    elif console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI"):
        table = LiveTable(runs)
        show = partial(_render, table, console)
        with Live(console=console, refresh_per_second=5, get_renderable=show):
            yield (table,)
        console.print()
    else:
        yield (PlainLines(),)


@final
class Silence:
    """Shows nothing, but answers to Ctrl-C."""

    def started(self, info: RunInfo) -> None:
        """Nothing."""

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def evaluated(self, point: Point) -> None:
        """Nothing."""

    def finished(self, result: Result) -> None:
        """Nothing."""

    def interrupted(self) -> None:
        """Say that it was heard."""
        _answer(sys.stderr)


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
        self._is_real = False

    def started(self, info: RunInfo) -> None:
        """A run begins: its first evaluation is shown at once."""
        self._run = f"{info.label}, seed {info.seed}"
        self._is_real = info.is_real
        self._due = self._clock()

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing: evaluations say enough."""

    def evaluated(self, point: Point) -> None:
        """Write a line, if it is time for one."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + LINE_EVERY_S
        time_s = seconds(round(point.virtual_time_s, 2))
        time_s = time_s if self._is_real else f"{time_s} virtual"
        self._say(f"{number(point.updates)} updates, {time_s}, {_metrics(point.metrics)}")

    def finished(self, result: Result) -> None:
        """Write how the run ended."""
        last = _metrics(result.history[-1].metrics) if result.history else "never evaluated"
        self._say(f"{result.stop_reason} after {number(result.updates)} updates: {last}")

    def interrupted(self) -> None:
        """Say that it was heard."""
        _answer(self._stream or sys.stderr)

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
        self._is_stopping = False

    def started(self, info: RunInfo) -> None:
        """Go on to the next row."""
        self._now += 1

    def progress(self, snapshot: Snapshot) -> None:
        """Show how far the run is."""
        self._rows[self._now].snapshot = snapshot

    def evaluated(self, point: Point) -> None:
        """Nothing: the next snapshot has the metrics."""

    def finished(self, result: Result) -> None:
        """Show how the run ended, and what with."""
        row = self._rows[self._now]
        row.result, row.snapshot = result, _closing(result)

    def interrupted(self) -> None:
        """Say that it was heard, below the table."""
        self._is_stopping = True

    def render(self, width: int = WIDE) -> Table:
        """The table as of now.

        Args:
            width: Of the terminal, in columns; a narrow one gets fewer of the table's.
        """
        metrics = list(
            dict.fromkeys(
                name for row in self._rows if row.snapshot for name in row.snapshot.metrics
            )
        )
        is_wide = width >= WIDE
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        table.add_column("run", no_wrap=True)
        table.add_column("seed", justify="right", no_wrap=True)
        for name in ("updates", "per s", "staleness", *metrics, *(["in flight"] * is_wide)):
            # Columns that grow with their numbers would make the whole table jump.
            table.add_column(name, justify="right", no_wrap=True, min_width=max(6, len(name)))
        if is_wide:
            table.add_column("", width=BAR)
        table.add_column("left", no_wrap=True, min_width=len(_REACHED))
        first = max(0, min(self._now - ROWS // 2, len(self._rows) - ROWS))
        for row in self._rows[first : first + ROWS]:
            table.add_row(*self._cells(row, metrics, is_wide=is_wide))
        if len(self._rows) > ROWS:
            done = sum(row.result is not None for row in self._rows)
            table.caption = f"{done} of {len(self._rows)} runs done"
        if self._is_stopping:
            table.caption = STOPPING
        return table

    def _cells(self, row: _Row, metrics: Sequence[str], *, is_wide: bool) -> list[RenderableType]:
        snapshot, result = row.snapshot, row.result
        if snapshot is None:
            is_now = self._now >= 0 and row is self._rows[self._now]
            style = "" if is_now else "dim"
            return [Text(row.label, style), Text(str(row.seed), style)]
        values = [
            compact(snapshot.metrics[name], 3) if name in snapshot.metrics else ""
            for name in metrics
        ]
        flight: list[RenderableType] = [str(snapshot.in_flight), _bar(snapshot)]
        return [
            row.label,
            str(row.seed),
            number(snapshot.updates),
            compact(snapshot.updates_per_s, 3),
            f"{snapshot.mean_staleness:.1f}",
            *values,
            *((["", ""] if result else flight) if is_wide else []),
            _outcome(result) if result else _left(snapshot),
        ]


def _answer(stream: TextIO) -> None:
    # The signal may have come in the middle of another write, which Python does not let us enter;
    # then the answer is not worth an error.
    with suppress(RuntimeError):
        print(STOPPING, file=stream, flush=True)


def _render(table: LiveTable, console: Console) -> Table:
    return table.render(console.width)


def _closing(result: Result) -> Snapshot:
    """The last state of a run: what was seen before it is behind its end by a measurement or more."""
    taken = sum(result.staleness.values())
    in_all = sum(staleness * count for staleness, count in result.staleness.items())
    return Snapshot(
        updates=result.updates,
        versions=result.versions,
        virtual_time_s=result.virtual_time_s,
        wall_time_s=result.wall_time_s,
        updates_per_s=result.updates / max(result.wall_time_s, 1e-9),
        mean_staleness=in_all / max(taken, 1),
        in_flight=0,
        metrics={name: result.final(name) for name in result.metrics},
        fraction_done=1.0,
    )


def _bar(snapshot: Snapshot) -> RenderableType:
    done = snapshot.fraction_done
    return "" if done is None else ProgressBar(total=1.0, completed=done, width=BAR)


def _left(snapshot: Snapshot) -> str:
    done = snapshot.fraction_done
    if not done:
        return ""
    left_s = snapshot.wall_time_s * (1.0 - done) / done
    return f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"


def _outcome(result: Result) -> Text:
    """How a run ended, in a word or two; the result says the rest."""
    word = result.stop_reason.partition(":")[0]
    if result.interrupted or word in ("diverged", "stalled"):
        return Text("interrupted" if result.interrupted else word, "red")
    return Text(_REACHED if word.startswith("target ") else "done", "green")


def _metrics(metrics: object) -> str:
    items = dict(metrics).items() if metrics else ()  # type: ignore[call-overload]
    return ", ".join(f"{name} {number(value)}" for name, value in items) or "nothing measured"
