"""The recorder: one event for each call of a door, in the detail that was asked for."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from headway.core.events import CheckedOut, Event, Lost, Registered, Submitted, Ticked, Waited
from headway.core.update import NO_METRICS, Receipt, Reply, Update, cancelled_by

__all__ = ["Recorder", "Recording"]

Recording = Literal["nothing", "events", "payloads"]


class Recorder:
    """Appends events to a list that the shell reads, or takes away.

    Args:
        recording: ``"nothing"``, ``"events"``, or ``"payloads"``: events with copies of payloads.
    """

    __slots__ = ("_on", "_payloads", "events")

    def __init__(self, recording: Recording) -> None:
        self.events: list[Event] = []
        self._on = recording != "nothing"
        self._payloads = recording == "payloads"

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def registered(self, now: float, workers: tuple[str, ...]) -> None:
        """Workers were announced."""
        if self._on:
            self.events.append(Registered(now, workers))

    def checked_out(self, now: float, worker: str, job: int, version: int, kept: bool) -> None:
        """A job was given out."""
        if self._on:
            values: Any = (now, worker, job, version, kept)
            self.events.append(tuple.__new__(CheckedOut, values))

    def waited(self, now: float, worker: str, reason: str) -> None:
        """A worker was told to wait."""
        if self._on:
            self.events.append(Waited(now, worker, reason))

    def lost(self, now: float, worker: str, reply: Reply, *, again: bool) -> None:
        """A worker is gone, or its jobs are."""
        if self._on:
            cancelled = cancelled_by(reply.effects)
            event = Lost(now, worker, reply.jobs, reply.version, cancelled, again, reply.applied)
            self.events.append(event)

    def ticked(self, now: float, reply: Reply, *, closing: bool) -> None:
        """Time passed."""
        if self._on:
            cancelled = cancelled_by(reply.effects)
            self.events.append(Ticked(now, reply.version, closing, cancelled, reply.applied))

    def submitted(
        self, now: float, update: Update, receipt: Receipt, again: bool, *, duplicate: bool = False
    ) -> None:
        """An update arrived, and this is its receipt."""
        if not self._on:
            return
        payload, buffers = None, None
        # Not a tensor where :func:`readable` found something else, which cannot be kept.
        sent: Any = update.payload
        is_tensor = isinstance(sent, Tensor)
        if self._payloads:
            payload = sent.clone() if is_tensor else None
            buffers = None if update.buffers is None else update.buffers.clone()
        # Straight through `tuple`: a named tuple's own constructor takes as long as all the rest.
        values: Any = (
            now,
            update.worker,
            update.sequence,
            receipt.status,
            "duplicate" if duplicate else receipt.reason,
            receipt.staleness,
            receipt.weight,
            receipt.version,
            update.base_version,
            update.num_examples,
            update.num_steps,
            dict(update.metrics) if update.metrics else NO_METRICS,
            cancelled_by(receipt.effects),
            again,
            update.weight,
            update.fragment,
            sent.nbytes if is_tensor else 0,
            payload,
            buffers,
        )
        self.events.append(tuple.__new__(Submitted, values))
