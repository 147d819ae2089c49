"""What a run tells its folder and its observers while it goes, whatever makes it run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from headway.core import Event, Server, Submitted
from headway.core.errors import HeadwayError
from headway.observe.folder import REPORT, RunFolder
from headway.observe.hashing import LogHash, weights_hash
from headway.observe.observer import Interruptible, Observer, RunInfo, Snapshot
from headway.observe.points import Point
from headway.observe.result import Result

if TYPE_CHECKING:
    from headway.core import Recording
    from headway.observe.tally import Tally

__all__ = ["Journal", "beginning_of", "result_of", "usual_warnings"]

_GROWN: Final = 10.0
"""A loss that is so many times the first one is told of."""


@final
class Journal:
    """Keeps a run's events, and passes on what happens.

    Args:
        folder: Where the run is written; ``None``: nowhere.
        observers: Who watches.
        record: What the events hold.

    Attributes:
        events: All that were taken; without payloads where these are in the folder.
        hash: Of the events.
    """

    def __init__(
        self, folder: RunFolder | None, observers: Sequence[Observer], record: Recording
    ) -> None:
        self.events: list[Event] = []
        self.hash = LogHash()
        self._folder = folder
        self._observers = tuple(observers)
        self._keeps_payloads = record == "payloads"

    @property
    def is_watched(self) -> bool:
        """Whether there are observers."""
        return bool(self._observers)

    @property
    def log_hash(self) -> str:
        """Of the events; empty where there are none."""
        return self.hash.hexdigest() if self.events else ""

    def started(
        self, info: RunInfo, about: Mapping[str, Any], server: Server, *, resumed: bool = False
    ) -> None:
        """A run begins.

        Args:
            info: For observers.
            about: What is known of its result.
            server: Before anything has happened, unless the run was resumed.
            resumed: Whether the folder holds its beginning already.
        """
        if self._folder is not None:
            self._folder.write_about(about)
            if self._keeps_payloads and not resumed:
                about = beginning_of(server)
                self._folder.append_initial(server.parameters, server.buffers, about=about)
        for observer in self._observers:
            observer.started(info)

    def take(self, events: list[Event]) -> None:
        """Keep events.

        Args:
            events: What happened since the last call.
        """
        self.hash.extend(events)
        if self._folder is not None:
            self._folder.append_events(events)
            if self._keeps_payloads:
                # The payloads are in the folder; in memory they would soon be too many.
                events = [
                    event._replace(payload=None, buffers=None)
                    if type(event) is Submitted
                    else event
                    for event in events
                ]
        self.events.extend(events)

    def evaluated(self, point: Point) -> None:
        """The model was measured.

        Args:
            point: What came of it.
        """
        if self._folder is not None:
            self._folder.append_point(point)
        for observer in self._observers:
            observer.evaluated(point)

    def progress(self, snapshot: Snapshot) -> None:
        """The run goes on.

        Args:
            snapshot: How far it is.
        """
        for observer in self._observers:
            observer.progress(snapshot)

    def interrupted(self) -> None:
        """Tell those who want to know that the run is about to end."""
        for observer in self._observers:
            if isinstance(observer, Interruptible):
                observer.interrupted()

    def finished(self, result: Result) -> Result:
        """The run has ended.

        Args:
            result: What it came to; the events and their hash are put into it.
        """
        self.complete(result)
        if self._folder is not None:
            self._folder.close(result)
            result.report(self._folder.path / REPORT)
        for observer in self._observers:
            observer.finished(result)
        return result

    def failed(self, result: Result, events: list[Event], error: Exception, told: str) -> None:
        """Save what there is of a run that an exception ends, and tell the exception where.

        Args:
            result: What there is.
            events: That were not taken.
            error: Gets a note.
            told: Where and when it was raised.
        """
        if self._folder is not None:
            try:
                self.take(events)
                self._folder.close(self.complete(result))
                told += f"; what there is of the run is in {self._folder.path}"
            # The user shall see the first error, not one that it may have led to.
            except (HeadwayError, OSError) as second:
                told += f"; and it could not be saved: {second}"
        error.add_note(told)

    def broken_off(self, events: list[Event]) -> None:
        """Keep what there is of a run that is broken off.

        Args:
            events: That were not taken.
        """
        if self._folder is not None:
            self.take(events)
            self._folder.close()

    def complete(self, result: Result) -> Result:
        """Put the events and their hash into a result.

        Args:
            result: Of this run.
        """
        result.events, result.log_hash = self.events, self.log_hash
        return result


def beginning_of(server: Server) -> dict[str, Any]:
    """What a replay has to know of a server beside its values.

    Args:
        server: Before anything has happened in this life.

    Returns:
        Plain values: ``"incarnation"``, where it is not the first; ``"resumed"``, where the server
        has lived before, so that there is more to it than its values. Otherwise nothing.
    """
    about: dict[str, Any] = {"incarnation": server.incarnation} if server.incarnation else {}
    return {**about, "resumed": True} if server.now > 0.0 else about


def result_of(server: Server, tally: Tally, about: Mapping[str, Any], /, **others: Any) -> Result:
    """What a run came to, but for its events.

    Args:
        server: At the end.
        tally: What was counted.
        about: What was known of the result before the run.
        others: Further fields of the result, and those that replace these.
    """
    reasons = {f"rejected:{why}": count for why, count in sorted(tally.reasons.items())}
    names = ("applied", "buffered", "rejected", "cancelled", "lost", "duplicates")
    counts = {
        "updates": tally.updates,
        **{name: server.counts[name] for name in names},
        "unapplied": tally.unapplied,
        **reasons,
    }
    fields = {
        **about,
        "staleness": dict(sorted(tally.staleness.items())),
        "counts": counts,
        "clients": tally.per_client(),
        "updates": tally.updates,
        "versions": server.version,
        "examples": tally.examples,
        "discarded_examples": tally.discarded_examples,
        "bytes_up": tally.bytes_up,
        "bytes_down": tally.bytes_down,
        "parameters": server.parameters.clone(),
        "layout": server.layout,
        "buffers": None if server.buffers is None else server.buffers.clone(),
        "log_hash": "",
        "weights_hash": weights_hash(server.parameters, server.buffers),
        **others,
    }
    return Result(**fields)


def usual_warnings(history: Sequence[Point], tally: Tally) -> list[str]:
    """What the user of any run should know.

    Args:
        history: Its evaluations.
        tally: What was counted.
    """
    warnings = []
    losses = [point.metrics.get("loss", 0.0) for point in history]
    # One that is finite and has grown out of all proportion is seen by nobody else.
    if losses and losses[-1] > _GROWN * max(losses[0], 1e-12):
        warnings.append(
            f"the loss grew from {losses[0]:.3g} to {losses[-1]:.3g}: the run diverged; lower the "
            "server's or the workers' learning rate"
        )
    bad = tally.reasons["not_finite"]
    if bad:
        warnings.append(
            f"{bad} of {tally.updates} updates were rejected because they were not finite; "
            "the workers' learning rate is probably too high"
        )
    return warnings
