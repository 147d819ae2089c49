"""Replay: make the calls of a log again, and end with the same model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headway.core.errors import LogError, ReplayMismatchError
from headway.core.events import (
    CheckedOut,
    Event,
    Lost,
    Noted,
    Registered,
    Submitted,
    Ticked,
    Waited,
)
from headway.core.server import Server
from headway.core.update import Checkout, Reply, Update, cancelled_by

__all__ = ["replay"]


def replay(server: Server, events: Iterable[Event]) -> Server:
    """Drive a fresh server through the calls of a log, and compare every answer with the log's.

    Args:
        server: Made with the same initial parameters, algorithm, scheduler and seed.
        events: In order, with payloads (``record="payloads"``).

    Returns:
        The server, whose parameters are those of the run, bit for bit on the same hardware.

    Raises:
        LogError: The log holds no payloads.
        ReplayMismatchError: An answer differs: the log is not of such a run, or was changed.
    """
    for number, event in enumerate(events):
        got, logged = _again(server, event, number)
        if got != logged:
            raise ReplayMismatchError(
                f"event {number} does not follow from the events before it",
                where=f"event {number}, {type(event).__name__} at time {event.time}",
                got=f"the log says {logged}",
                expected=f"replay gives {got}",
                help="replay with the configuration, seed and version of Headway of that run",
            )
    return server


def _again(server: Server, event: Event, number: int) -> tuple[Any, Any]:
    """Make one call again: what came of it, and what the log says."""
    match event:
        case Registered():
            server.register(event.workers, event.time)
            return None, None
        case CheckedOut():
            reply = server.checkout(event.worker, event.time)
            if not isinstance(reply, Checkout):
                return f"wait: {reply.reason}", f"job {event.job}"
            got = (reply.job, reply.version, reply.parameters is None)
            return got, (event.job, event.version, event.kept)
        case Waited():
            reply = server.checkout(event.worker, event.time)
            if isinstance(reply, Checkout):
                return f"job {reply.job}", f"wait: {event.reason}"
            return reply.reason, event.reason
        case Submitted():
            return _submit_again(server, event, number)
        case Lost():
            left = server.lose(event.worker, event.time, again=event.again)
            return _of(left), (event.version, event.cancelled, event.applied, event.jobs)
        case Ticked():
            left = server.tick(event.time, closing=event.closing)
            return _of(left), (event.version, event.cancelled, event.applied, ())
        case Noted():
            return None, None


def _of(reply: Reply) -> tuple[Any, ...]:
    return reply.version, cancelled_by(reply.effects), reply.applied, reply.jobs


def _submit_again(server: Server, event: Submitted, number: int) -> tuple[Any, Any]:
    # Of what was not even a tensor nothing could be kept, and it is refused again.
    if event.payload is None and event.payload_bytes:
        raise LogError(
            "the log holds no payloads, so the model cannot be rebuilt from it",
            where=f"event {number}",
            help='run again with record="payloads"',
        )
    payload: Any = event.payload
    update = Update(
        payload,
        event.base_version,
        event.worker,
        event.job,
        num_examples=event.num_examples,
        num_steps=event.num_steps,
        weight=event.sent_weight,
        fragment=event.fragment,
        buffers=event.buffers,
        metrics=event.metrics,
    )
    duplicates = server.counts["duplicates"]
    try:
        receipt = server.submit(update, event.time, again=event.again)
    except Exception:
        if event.reason != "transform_failed":
            raise
        # As in the run: the job has ended.
        return None, None
    reason = "duplicate" if server.counts["duplicates"] > duplicates else receipt.reason
    cancelled = cancelled_by(receipt.effects)
    return (
        (receipt.status, reason, receipt.staleness, receipt.weight, receipt.version, cancelled),
        (
            event.status,
            event.reason,
            event.staleness,
            event.weight,
            event.version,
            event.cancelled,
        ),
    )
