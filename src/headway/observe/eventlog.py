"""The event log: one event a line, each a compact JSON object.

A line is :func:`headway.core.to_record` of the event as strict JSON (:mod:`headway.observe.strict`).
A ``submitted`` event whose payload was kept also has ``"payload"``: the number of its record in
``payloads.bin``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from math import isfinite
from operator import index
from pathlib import Path
from typing import Any, Final, final

from headway.core.errors import LogDamagedError
from headway.core.events import Event, from_record, to_record
from headway.observe import files
from headway.observe.appender import Appender
from headway.observe.fields import FREQUENT, Kind, by_kind
from headway.observe.payloads import PayloadReader
from headway.observe.strict import dumps

__all__ = ["EventLog", "encode_event", "encode_events", "read_events"]

# Blocks keep the columns of a long list of events in the processor's caches.
_BLOCK: Final = 1024


@final
class EventLog(Appender):
    """Appends events to a file. What was appended is safe from a crash after :meth:`flush`.

    Args:
        path: The file; it is made if it is missing, and appended to if it is not.

    Raises:
        RunFolderError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def append(self, events: Sequence[Event]) -> None:
        """Append events, without their payloads.

        Raises:
            RunFolderError: The file cannot be written.
        """
        for start in range(0, len(events), _BLOCK):
            self.append_lines(encode_events(events[start : start + _BLOCK]))

    def append_lines(self, lines: Sequence[str]) -> None:
        """Append lines that are encoded already.

        Raises:
            RunFolderError: The file cannot be written.
        """
        if lines:
            self.put("\n".join([*lines, ""]).encode())


def encode_events(events: Sequence[Event]) -> list[str]:
    """The lines of some events, without line ends and payloads.

    Args:
        events: In order; their payloads are left out.

    Example:
        >>> from headway.core import Waited
        >>> encode_events([Waited(1.5, "worker-0", "concurrency")])
        ['{"event":"waited","time":1.5,"worker":"worker-0","reason":"concurrency"}']
    """
    lines = {kind: iter(_encode_kind(kind, group)) for kind, group in by_kind(events).items()}
    return [next(lines[type(event)]) for event in events]


def encode_event(event: Event, payload: int) -> str:
    """The line of one event whose payload was kept.

    Args:
        event: The event.
        payload: The number of its record in the payload file.
    """
    return dumps({**to_record(event), "payload": payload})


def read_events(path: Path, payloads: PayloadReader | None = None) -> Iterator[Event]:
    """Read an event log, one event after the other.

    Args:
        path: The file.
        payloads: Where the payloads are; ``None`` leaves them out.

    Raises:
        RunFolderError: The file cannot be read.
        LogDamagedError: A line does not parse, or its payload is damaged or missing. A last line
            that is cut off is left out, with one warning.
    """

    def parse(record: dict[str, Any]) -> Event:
        number = record.pop("payload", None)
        if number is None or payloads is None:
            return from_record(record)
        if not isinstance(number, int) or isinstance(number, bool):
            raise LogDamagedError("this is not the number of a payload", got=repr(number))
        kept = payloads.read(number)
        if kept.meta.get("job") != record.get("job"):
            raise LogDamagedError(
                f"payload {number} belongs to another job",
                got=f"job {kept.meta.get('job')}",
                expected=f"job {record.get('job')}",
            )
        return from_record(record, payload=kept.tensors.get("payload"), buffers=kept.buffers)

    return files.read_lines(path, parse)


def _encode_kind(kind: type[Any], events: Sequence[Event]) -> Iterable[str]:
    if kind in FREQUENT:
        try:
            return list(map(_TEMPLATES[kind].__mod__, zip(*_columns(kind, events), strict=True)))
        except (KeyError, OverflowError, TypeError, ValueError):
            # A NaN, or a value of an unusual type: rare enough to be written the slow way.
            pass
    return [dumps(to_record(event)) for event in events]


def _columns(kind: type[Any], events: Sequence[Event]) -> list[Iterable[Any]]:
    columns = list(zip(*events, strict=True))
    return [
        _WRITERS.get(field.type, _write_any)(columns[field.place])
        for field in FREQUENT[kind].fields
    ]


def _write_floats(column: Sequence[Any]) -> Iterable[Any]:
    values = list(map(float, column))
    if not all(map(isfinite, values)):
        raise ValueError("not finite")
    return values


def _write_ints(column: Sequence[Any]) -> Iterable[Any]:
    return map(index, column)


def _write_bools(column: Sequence[Any]) -> Iterable[Any]:
    return map({False: "false", True: "true"}.__getitem__, column)


# A few thousand workers are named over and over again.
_quote = lru_cache(maxsize=1 << 16)(dumps)


def _write_strings(column: Sequence[Any]) -> Iterable[Any]:
    return map(_quote, column)


def _write_any(column: Sequence[Any]) -> Iterable[Any]:
    return [dumps(value) if value else _empty(value) for value in column]


def _empty(value: Any) -> str:
    # Most events have no metrics, cancel nothing and have no fragment.
    if value is None:
        return "null"
    return "[]" if value == () else "{}" if value == {} else dumps(value)


_WRITERS: Final[dict[Any, Callable[[Sequence[Any]], Iterable[Any]]]] = {
    float: _write_floats,
    int: _write_ints,
    bool: _write_bools,
    str: _write_strings,
}


def _template(kind: Kind) -> str:
    shapes = {float: "%r", int: "%d"}
    fields = (f'"{field.name}":{shapes.get(field.type, "%s")}' for field in kind.fields)
    return "{" + ",".join([f'"event":"{kind.name}"', *fields]) + "}"


_TEMPLATES: Final = {event: _template(kind) for event, kind in FREQUENT.items()}
