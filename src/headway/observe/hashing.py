"""Hashes by which two runs are told to be the same: of their events, and of their weights."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from headway.core.events import Event, Noted, Submitted, to_record
from headway.core.layout import Buffers
from headway.observe.blocks import little_endian
from headway.observe.fields import FREQUENT, by_kind
from headway.observe.strict import dumps

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["LogHash", "log_hash", "weights_hash"]

_BLOCK: Final = 1024
_CODES: Final = {event: code for code, event in enumerate(FREQUENT, start=1)}


class LogHash:
    """SHA-256 over the records of events, without payloads and without wall-clock data.

    Events are hashed in blocks of 1,024, the last one shorter. Of a block: which kind each event
    is; then for each kind its fields, column by column: floats as 8-byte IEEE numbers, integers as
    8-byte numbers, little endian, and everything else as JSON. Of a note, data whose name begins
    with ``wall_`` is left out. However the events are handed over, and whether or not they went
    through a file, the hash is the same.

    Example:
        >>> from headway.core import Waited
        >>> hash = LogHash()
        >>> hash.update(Waited(1.5, "worker-0", "concurrency"))
        >>> hash.hexdigest() == log_hash([Waited(1.5, "worker-0", "concurrency")])
        True
    """

    __slots__ = ("_pending", "_sha")

    def __init__(self) -> None:
        self._sha = sha256()
        self._pending: list[Event] = []

    def update(self, event: Event) -> None:
        """Take in the next event."""
        if type(event) is Submitted and event.payload is not None:
            # What waits to be hashed must not keep payloads alive.
            event = event._replace(payload=None, buffers=None)
        self._pending.append(event)
        if len(self._pending) == _BLOCK:
            _hash_block(self._sha, self._pending)
            self._pending.clear()

    def extend(self, events: Iterable[Event]) -> None:
        """Take in the next events."""
        for event in events:
            self.update(event)

    def hexdigest(self) -> str:
        """The hash of all events so far, 64 hex digits; more events may follow."""
        sha = self._sha.copy()
        if self._pending:
            _hash_block(sha, self._pending)
        return sha.hexdigest()


def log_hash(events: Iterable[Event]) -> str:
    """The hash of a whole log, see :class:`LogHash`.

    Args:
        events: In order, with or without payloads.
    """
    total = LogHash()
    total.extend(events)
    return total.hexdigest()


def weights_hash(parameters: Tensor, buffers: Buffers | None = None) -> str:
    """SHA-256 over parameters and buffers, 64 hex digits.

    Of each tensor: its dtype, its length, and its elements' bytes, little endian.

    Args:
        parameters: Flat, any of the dtypes that a payload can have.
        buffers: The buffers, where there are any.

    Raises:
        ArgumentTypeError: A tensor is not flat, or of another dtype.
    """
    sha = sha256()
    for tensor in (parameters, *(buffers or ())):
        sha.update(f"{tensor.dtype} {tensor.numel()}\n".encode())
        sha.update(little_endian(tensor).data)
    return sha.hexdigest()


def _hash_block(sha: _Hash, events: Sequence[Event]) -> None:
    sha.update(bytes([_CODES.get(type(event), 0) for event in events]))
    groups = by_kind(events)
    for event, kind in FREQUENT.items():
        if event in groups:
            columns = list(zip(*groups[event], strict=True))
            for field in kind.fields:
                sha.update(_column(field.type, columns[field.place]))
    rare = [_timeless(event) for event in events if type(event) not in FREQUENT]
    if rare:
        sha.update(dumps(rare).encode())


def _column(kind: Any, values: Sequence[Any]) -> bytes:
    code = "d" if kind is float else "q" if kind is int else ""
    # Not numbers all have one name in a file, but many bit patterns in memory.
    if code and (code == "q" or all(map(isfinite, values))):
        try:
            numbers = array(code, values)
        except (OverflowError, TypeError):
            return dumps(values).encode()
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()
    return dumps(values).encode()


def _timeless(event: Event) -> dict[str, Any]:
    record = to_record(event)
    if isinstance(event, Noted):
        record["data"] = _without_wall_clock(event.data)
    return record


def _without_wall_clock(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_wall_clock(value) if isinstance(value, Mapping) else value
        for name, value in data.items()
        if not name.startswith("wall_")
    }
