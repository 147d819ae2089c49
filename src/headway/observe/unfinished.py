"""The result of a run that never wrote one: what its events and evaluations still tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headway.core.events import CheckedOut, Event, Lost, Noted, Submitted, Ticked
from headway.observe.counting import RunningCount, idle_share, per_client
from headway.observe.hashing import log_hash
from headway.observe.points import Point
from headway.observe.result import Result

__all__ = ["rebuild"]

_NOTHING: Final = Point(0, 0, 0, 0, 0.0, 0.0, {})


def rebuild(about: Mapping[str, Any], history: Sequence[Point], events: Sequence[Event]) -> Result:
    """Put a result together from what is left of a run.

    Args:
        about: The fields that were known when the run began.
        history: The evaluations that reached the disk.
        events: The events that reached the disk; may be none.

    Returns:
        A result without a model. Its ``examples`` and ``bytes_down`` are those of the last
        evaluation; what was discarded, and what each client did, is told by the updates alone and
        leaves out the work in lost and cancelled jobs.

    Raises:
        TypeError: ``about`` lacks a field, or has one too many.
    """
    last = history[-1] if history else _NOTHING
    count = _Count.of(events)
    updates = max(last.updates, count.updates)
    noted = next((e for e in events if isinstance(e, Noted) and e.kind == "failed"), None)
    reason = "unfinished: the log ends here"
    if noted is not None:
        reason = f"failed: {noted.data.get('error')}: {noted.data.get('message')}"
    result = Result(
        **about,
        history=list(history),
        staleness=dict(sorted(count.staleness.items())),
        counts={"updates": updates, **count.by_outcome()},
        clients=per_client(count.clients),
        updates=updates,
        versions=max(last.versions, count.version),
        examples=max(last.examples, count.examples),
        discarded_examples=count.discarded_examples,
        bytes_up=count.bytes_up,
        bytes_down=max(0, last.bytes - count.bytes_up_at(last.updates)),
        virtual_time_s=max(last.virtual_time_s, count.time_s),
        wall_time_s=last.wall_time_s,
        idle_share=idle_share(count.clients, count.peak, count.time_s),
        stop_reason=reason,
        warnings=[
            "the run did not finish: this is put together from the events and evaluations that "
            "reached the disk, and there is no model"
        ],
        log_hash=log_hash(events) if events else "",
        weights_hash="",
    )
    if result.is_real:
        # Its events have real times too, on a clock that may have begun in an earlier process.
        since = last.virtual_time_s if history else events[0].time if events else 0.0
        result.wall_time_s += max(0.0, count.time_s - since)
    return result


@dataclass(slots=True)
class _Count:
    """The counts of a log. A job that is open at its end was busy until then."""

    updates: int = 0
    version: int = 0
    examples: int = 0
    discarded_examples: int = 0
    time_s: float = 0.0
    peak: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    clients: dict[int, RunningCount] = field(default_factory=dict)
    open: dict[int, tuple[RunningCount, float]] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, events: Sequence[Event]) -> _Count:
        count = cls()
        for event in events:
            count.time_s = max(count.time_s, event.time)
            if isinstance(event, CheckedOut):
                count._start(event)
            elif isinstance(event, Submitted):
                count._arrive(event)
            if isinstance(event, Lost):
                for job in event.jobs:
                    count._end(job, event.time, "lost")
            if isinstance(event, Submitted | Lost | Ticked):
                count.version = max(count.version, event.version)
                for job in event.cancelled:
                    count._end(job, event.time, "cancelled")
        for job in list(count.open):
            count._end(job, count.time_s, None)
        return count

    @property
    def bytes_up(self) -> int:
        return sum(self.sent)

    def bytes_up_at(self, updates: int) -> int:
        return sum(self.sent[:updates])

    def by_outcome(self) -> dict[str, int]:
        names = ("applied", "buffered", "rejected", "cancelled", "lost", "duplicates")
        reasons = {
            name: number for name, number in sorted(self.outcomes.items()) if name not in names
        }
        return {**{name: self.outcomes[name] for name in names}, **reasons}

    def _start(self, event: CheckedOut) -> None:
        client = self._client(event.worker)
        client.dispatched += 1
        self.open[event.job] = (client, event.time)
        self.peak = max(self.peak, len(self.open))

    def _arrive(self, event: Submitted) -> None:
        if event.reason == "duplicate":
            self.outcomes["duplicates"] += 1
            return
        self.updates += 1
        self.sent.append(event.payload_bytes)
        self.examples += event.num_examples
        self.outcomes[event.status] += 1
        client = self._client(event.worker)
        client.examples += event.num_examples
        if event.status == "rejected":
            client.rejected += 1
            self.outcomes[f"rejected:{event.reason}"] += 1
            self.discarded_examples += event.num_examples
        else:
            client.accepted += 1
            self.staleness[event.staleness] += 1
        self._end(event.job, event.time, None)

    def _end(self, job: int, now: float, outcome: str | None) -> None:
        client, since = self.open.pop(job, (None, now))
        if client is None:
            return
        client.busy_s += now - since
        if outcome == "lost":
            client.lost += 1
        elif outcome == "cancelled":
            client.cancelled += 1
        if outcome is not None:
            self.outcomes[outcome] += 1

    def _client(self, worker: str) -> RunningCount:
        digits = worker.rpartition("-")[2]
        # A worker whose name ends in no number gets the next free one.
        index = int(digits) if digits.isdecimal() else len(self.clients)
        return self.clients.setdefault(index, RunningCount())
