"""What a running server writes down: events, means of what workers report, who came and went."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from headway.core import Bulk, Submitted
from headway.core.errors import ExchangeError
from headway.observe import Point, Result, RunFolder
from headway.observe.journal import beginning_of, result_of
from headway.runtime.returning import RETURN_S
from headway.training.guestbook import Guestbook
from headway.training.record import Record
from headway.training.standstill import Standstill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.core import Algorithm
    from headway.runtime.hub import Hub

__all__ = ["Ledger", "plain", "too_few"]

_NOTES: Final = logging.getLogger("headway")
_TAKE_AT: Final = 200
_TAKE_EVERY_S: Final = 1.0
_POINT_EVERY: Final = 100
_POINTS: Final = 10_000
_METRIC: Final = "train_loss"
_EXECUTION: Final = {"mode": "server"}
_ADVICE: Final = (
    "choose another folder; a server goes on from its checkpoint_dir (headway server "
    "--checkpoint-dir), not from this folder: with one it leaves this as it is, and writes <folder>-2"
)


@final
class Ledger:
    """Keeps a server's books. What is not said otherwise is for the hub's thread.

    Every hundred updates the mean of the losses that workers have reported becomes a point of the
    history, as ``"train_loss"``; when there are ten thousand, every second one is left out, and the
    distance is twice as long from then on. Events are kept in the folder and nowhere else, because a server
    may run for long.

    Args:
        folder: A run folder to write; ``None``: none.
        hub: Whose workers; it does not run yet.
        task: What is trained.
        seed: Of the server.
        concurrency: How many jobs may be in flight.
        began_s: The server's time at which this process began.
        config: What the folder says of how it was made; ``None``: what is known here.
        keeps_payloads: Whether they are in the folder too, so that the run can be replayed.

    Attributes:
        seen: How many workers have asked for work since the start, or had left before it, and how
            many are here, working or looking. For any thread.
        guests: What is said of who comes and goes.
        refusals: Who was not let in.
    """

    def __init__(
        self,
        folder: str | Path | None,
        hub: Hub,
        *,
        task: str,
        seed: int,
        concurrency: int | None,
        began_s: float,
        config: Mapping[str, Any] | None = None,
        keeps_payloads: bool = False,
    ) -> None:
        self.seen = (0, 0)
        self._finished: set[str] = set()
        self._awaited: set[str] = set()
        self._num_working = 0
        self._awaited_until_s = time.monotonic() + RETURN_S
        self.guests, self.refusals = Guestbook(), hub.members.refusals
        hub.members.noticed, self.refusals.noticed = self.guests.note, self.guests.refused
        self._num_uncounted = 0
        self._standstill = Standstill(hub.server.algorithm)
        self._about = _about(hub.server.algorithm, task, seed, concurrency)
        self._record: Record | None = None
        if folder is not None:
            made = RunFolder.create(folder, config or _config(self._about), advice=_ADVICE)
            made.write_about({**self._about, "execution": _EXECUTION})
            if keeps_payloads:
                begins, about = hub.server, {"mode": "server", **beginning_of(hub.server)}
                made.append_initial(begins.parameters, begins.buffers, about=about)
            self._record = Record(made)
        # Each payload that waits takes as much memory as a model.
        self._take_at = 1 if keeps_payloads else _TAKE_AT
        self._history: list[Point] = []
        self._losses = (0.0, 0)
        self._next_point = self._point_every = _POINT_EVERY
        self._taken_s = time.monotonic()
        self._began_s = began_s
        self._changed = threading.Condition()

    # --- for any thread

    def is_over(self, num_workers: int) -> bool:
        """Whether so many have joined, and nobody is here, or likely to come back.

        Args:
            num_workers: At least 1.
        """
        joined, here = self.seen
        if joined < num_workers or here:
            return False
        return not self._awaited or time.monotonic() >= self._awaited_until_s

    def wait(self, timeout_s: float) -> None:
        """Wait until somebody comes or goes. If all have been waiting for others, it is said.

        Args:
            timeout_s: How long at most, in seconds.
        """
        with self._changed:
            self._changed.wait(timeout_s)
        self._standstill.warn()
        self.guests.tell()

    def ring(self) -> None:
        """Have whoever waits look again. For a signal's handler too: the lock can be taken twice."""
        with self._changed:
            self._changed.notify_all()

    def goes_on(self, found: Mapping[str, Any]) -> None:
        """Count those who had left an earlier life of the server. Before the hub runs.

        Args:
            found: The server's state and what was beside it.
        """
        self._num_uncounted = int(found.get("uncounted", 0))
        if found.get("ended", False):
            return
        roster = found["server"]["roster"]
        workers = roster["workers"]
        for index, lost in zip(workers["index"].tolist(), workers["lost"], strict=True):
            (self._finished if lost else self._awaited).add(roster["names"][index])
        self.seen = (len(self._finished), 0)

    # --- for the hub's thread

    def settled(self, hub: Hub) -> None:
        """Look at what has happened.

        Args:
            hub: Whose server.
        """
        members = hub.members
        if members.num_working != self._num_working:
            self._num_working = members.num_working
            # Whoever is back is counted by the members; and they forget those who go again.
            names = (*self._finished, *self._awaited)
            known = map(members.by_name.get, names)
            back = {member.name for member in known if member is not None and member.works}
            self._finished -= back
            self._awaited -= back
        seen = (members.num_working + len(self._finished), len(members.here))
        if seen != self.seen:
            self.seen = seen
            with self._changed:
                self._changed.notify_all()
        self._standstill.look(hub)
        events = hub.server.events
        if events and (
            len(events) >= self._take_at or time.monotonic() - self._taken_s > _TAKE_EVERY_S
        ):
            self._take(hub)
        if hub.state == "ended":
            with self._changed:
                self._changed.notify_all()

    def result(self, hub: Hub, reason: str, warnings: list[str] | None = None) -> Result:
        """What the run came to so far.

        Args:
            hub: Whose server.
            reason: What ended it.
            warnings: What the user should know.
        """
        self._take(hub)
        server, tally, now = hub.server, hub.tally, hub.now
        return result_of(
            server,
            tally,
            {**self._about, "num_clients": hub.members.num_names},
            history=list(self._history),
            virtual_time_s=now,
            wall_time_s=now - self._began_s,
            idle_share=tally.idle_share(now),
            execution=dict(_EXECUTION),
            stop_reason=reason,
            warnings=[
                *(warnings or ()),
                *self._standstill.nothing(hub),
                *_bad(tally.reasons["not_finite"], tally.updates),
                *_told(hub.dismissals.num_told),
                *filter(None, [self.refusals.text, self.guests.idle]),
                *_uncounted(self._num_uncounted),
                *(self._record.warnings if self._record is not None else ()),
            ],
            log_hash=self._record.log_hash if self._record is not None else "",
        )

    def finished(self, hub: Hub, reason: str, warnings: list[str]) -> Result:
        """What the run came to, written into the folder; what could not be is in its warnings.

        Args:
            hub: One that has ended.
            reason: What ended it.
            warnings: What the user should know.
        """
        self._take(hub)
        self.guests.tell()
        for told in self._standstill.nothing(hub):
            _NOTES.warning("Headway: %s", told)
        if self._losses[1]:
            self._add_point(hub)
        if self._record is None:
            return self.result(hub, reason, warnings)
        return self._record.finish(lambda: self.result(hub, reason, warnings))

    def close(self) -> None:
        """Write no more. May be called twice."""
        if self._record is not None:
            self._record.close()

    def describe(self, hub: Hub) -> dict[str, Any]:
        """How far the server is, in plain values.

        Args:
            hub: Whose server.
        """
        server, tally = hub.server, hub.tally
        return {
            "algorithm": self._about["algorithm"],
            "settings": self._about["settings"],
            "version": server.version,
            "updates": tally.updates,
            "applied": server.counts["applied"],
            "buffered": server.counts["buffered"],
            "rejected": server.counts["rejected"],
            "cancelled": server.counts["cancelled"],
            "lost": server.counts["lost"],
            "reasons": dict(sorted(tally.reasons.items())),
            "examples": tally.examples,
            "in_flight": server.num_in_flight,
            "refused": self.refusals.describe(),
            "waits": self.waits or None,
            "concurrency": self._about["concurrency"],
            "staleness": round(tally.recent_staleness, 3),
            "train_loss": self._history[-1].metrics[_METRIC] if self._history else None,
            "folder_error": self.folder_error,
            "up_s": round(hub.now - self._began_s, 3),
        }

    @property
    def waits(self) -> str:
        """For want of what the model stands still; empty: it does not. For any thread."""
        return self._standstill.told

    @property
    def folder_error(self) -> str | None:
        """Why the run folder cannot be written now; ``None``: it can."""
        problem = None if self._record is None else self._record.problem
        return None if problem is None else str(problem)

    def _take(self, hub: Hub) -> None:
        events = hub.server.take_events()
        self._taken_s = time.monotonic()
        for event in events:
            if type(event) is Submitted and event.status != "rejected":
                loss = event.metrics.get("loss", math.nan)
                # One that is not finite would be all that is seen of the others.
                if math.isfinite(loss):
                    total, count = self._losses
                    self._losses = (total + loss, count + 1)
        if self._record is not None:
            self._record.take(events)
        if hub.tally.updates >= self._next_point and self._losses[1]:
            self._next_point = hub.tally.updates + self._point_every
            self._add_point(hub)

    def _add_point(self, hub: Hub) -> None:
        total, count = self._losses
        self._losses = (0.0, 0)
        tally, now = hub.tally, hub.now
        point = Point(
            updates=tally.updates,
            versions=hub.server.version,
            examples=tally.examples,
            bytes=tally.bytes_up + tally.bytes_down,
            virtual_time_s=now,
            wall_time_s=now - self._began_s,
            metrics={_METRIC: total / count},
        )
        self._history.append(point)
        if len(self._history) >= _POINTS:
            del self._history[-2::-2]
            self._point_every *= 2
        if self._record is not None:
            self._record.take((), point)


def plain(tree: Any) -> Any:
    """A status as strict JSON can hold it: what is not finite becomes ``None``.

    Args:
        tree: Of dicts, lists and values.

    Example:
        >>> plain({"staleness": float("nan"), "workers": [{"updates": 3}]})
        {'staleness': None, 'workers': [{'updates': 3}]}
    """
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def too_few(ledger: Ledger, num_workers: int, timeout_s: float | None) -> ExchangeError:
    """The error of a wait that took too long.

    Args:
        ledger: The server's.
        num_workers: How many were waited for.
        timeout_s: How long, in seconds.
    """
    joined, here = ledger.seen
    more = f"; the server {ledger.waits}" if ledger.waits else ""
    more += "".join(f"; {told}" for told in (ledger.refusals.text, ledger.guests.idle) if told)
    return ExchangeError(
        "workers have not finished in time",
        where="ParameterServer.wait_for_workers",
        got=f"after {timeout_s:g} seconds {joined} had joined, and {here} are still here" + more,
        expected=f"{num_workers} to have joined, and nobody to be here any more",
        help="look at server.status(), or wait longer",
    )


def _about(algorithm: Algorithm, task: str, seed: int, concurrency: int | None) -> dict[str, Any]:
    return {
        "label": algorithm.name,
        "algorithm": algorithm.name,
        "settings": _plain(algorithm.settings),
        "task": task,
        "seed": seed,
        "synchronous": isinstance(algorithm.gate, Bulk),
        "population": {"name": "workers"},
        "concurrency": concurrency,
        "num_clients": 0,
    }


def _config(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if value is not None}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, bool | int | float | str | list) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def _bad(count: int, updates: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count} of {updates} updates were rejected because they were not finite; "
        "the workers' learning rate is probably too high"
    ]


def _told(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count:,} time{'s' * (count != 1)} a worker was told to stop, because its updates were "
        "rejected again and again"
    ]


def _uncounted(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"examples, bytes, staleness and the counts of each worker leave out {count:,} updates, which "
        "came after the newest checkpoint and before the server was started again"
    ]
