"""Events: one small record for each call of the server's doors, the same for every kind of run.

An event holds what went in and what came of it, so that the calls can be made again
(:func:`headway.core.replay`) and the answers compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from headway.core.errors import LogDamagedError
from headway.core.layout import Buffers

__all__ = [
    "CheckedOut",
    "Event",
    "Lost",
    "Noted",
    "Registered",
    "Submitted",
    "Ticked",
    "Waited",
    "from_record",
    "to_record",
]


class Registered(NamedTuple):
    """Workers were announced, each as if it had asked and been told to wait."""

    time: float
    workers: tuple[str, ...]


class CheckedOut(NamedTuple):
    """A worker was given a job. ``kept``: it stays on the parameters that it has."""

    time: float
    worker: str
    job: int
    version: int
    kept: bool


class Waited(NamedTuple):
    """A worker asked and was told to wait."""

    time: float
    worker: str
    reason: str


class Submitted(NamedTuple):
    """An update arrived; the fields after ``job`` are those of its receipt and of the update.

    ``again``: the worker asked for its next job in the same trip. A job that was submitted before
    has ``"duplicate"`` as its reason; one that was cancelled or lost has that reason at first.
    """

    time: float
    worker: str
    job: int
    status: str
    reason: str
    staleness: int
    weight: float
    version: int
    base_version: int
    num_examples: int
    num_steps: int
    metrics: Mapping[str, float]
    cancelled: tuple[int, ...]
    again: bool
    sent_weight: float
    fragment: int | None
    payload_bytes: int
    payload: Tensor | None
    buffers: Buffers | None


class Lost(NamedTuple):
    """A worker is gone, and its jobs with it.

    ``again``: only the jobs are gone, and the worker asked for the next. ``applied``: how often the
    model changed, because nobody is waited for any more.
    """

    time: float
    worker: str
    jobs: tuple[int, ...]
    version: int
    cancelled: tuple[int, ...]
    again: bool = False
    applied: int = 0


class Ticked(NamedTuple):
    """Time passed.

    ``closing``: the run ended with this tick. ``applied``: how often the model changed by it.
    """

    time: float
    version: int
    closing: bool
    cancelled: tuple[int, ...]
    applied: int = 0


class Noted(NamedTuple):
    """Something that a shell wants in the stream: an evaluation, a failure, the end."""

    time: float
    kind: str
    data: Mapping[str, Any]


Event = Registered | CheckedOut | Waited | Submitted | Lost | Ticked | Noted

_KINDS: dict[str, type[Any]] = {
    "registered": Registered,
    "checked_out": CheckedOut,
    "waited": Waited,
    "submitted": Submitted,
    "lost": Lost,
    "ticked": Ticked,
    "noted": Noted,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_NOT_IN_RECORD = ("payload", "buffers")
_TUPLES = ("jobs", "cancelled")


def to_record(event: Event) -> dict[str, Any]:
    """A JSON record of an event. Payloads are not in it: they are kept beside the log.

    Args:
        event: Of the server, or noted by a shell.

    Example:
        >>> to_record(Waited(1.5, "worker-0", "concurrency"))
        {'event': 'waited', 'time': 1.5, 'worker': 'worker-0', 'reason': 'concurrency'}
    """
    record: dict[str, Any] = {"event": _NAMES[type(event)], **event._asdict()}
    for name in _NOT_IN_RECORD:
        record.pop(name, None)
    if isinstance(event, Registered):
        record["workers"] = _compress(event.workers)
    elif isinstance(event, Submitted | Noted):
        for name in ("metrics", "data"):
            if name in record:
                record[name] = dict(record[name])
    return record


def from_record(
    record: Mapping[str, Any], *, payload: Tensor | None = None, buffers: Buffers | None = None
) -> Event:
    """Bring an event back from its record.

    Args:
        record: What :func:`to_record` made.
        payload: The payload of a ``submitted`` event, where it was kept.
        buffers: Its buffers, where they were kept.

    Raises:
        LogDamagedError: The record is not one of an event.
    """
    try:
        values = dict(record)
        kind = _KINDS[values.pop("event")]
        if kind is Submitted:
            values |= {"payload": payload, "buffers": buffers}
        if kind is Registered:
            values["workers"] = _expand(values["workers"])
        for name in _TUPLES:
            if name in values:
                values[name] = tuple(values[name])
        event: Event = kind(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LogDamagedError(
            "this is not the record of an event", got=repr(error), expected=", ".join(_KINDS)
        ) from error
    return event


def _compress(workers: Sequence[str]) -> Any:
    # A million names that count up are one prefix and one number.
    prefix = workers[0].rstrip("0123456789") if workers else ""
    counted = len(workers) > 1 and all(
        name == f"{prefix}{index}" for index, name in enumerate(workers)
    )
    return {"prefix": prefix, "count": len(workers)} if counted else list(workers)


def _expand(workers: Any) -> tuple[str, ...]:
    if isinstance(workers, Mapping):
        return tuple(f"{workers['prefix']}{index}" for index in range(int(workers["count"])))
    return tuple(str(name) for name in workers)
