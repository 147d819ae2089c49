"""How the fields of the frequent events lie, so that many events can be written at once.

A long run has millions of events of three kinds. Column by column they are written and hashed
several times faster than one by one; everything here follows from the types in
:mod:`headway.core.events`, so that a new field needs no change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, get_type_hints

from headway.core.events import CheckedOut, Event, Submitted, Waited, to_record

__all__ = ["FREQUENT", "Field", "Kind", "by_kind"]


class Field(NamedTuple):
    """One field of an event: its name, its place in the tuple, and its type."""

    name: str
    place: int
    type: Any


class Kind(NamedTuple):
    """One kind of event: its name in a record, and the fields that are in its record."""

    name: str
    fields: tuple[Field, ...]


def _kind_of(event: type[Any]) -> Kind:
    # Of a record made of anything, the keys tell which fields are written, and in which order.
    record = to_record(event(*({} for _ in event._fields)))
    types = get_type_hints(event)
    names = [name for name in record if name != "event"]
    fields = (Field(name, event._fields.index(name), types[name]) for name in names)
    return Kind(record["event"], tuple(fields))


FREQUENT: Final[dict[type[Any], Kind]] = {
    event: _kind_of(event) for event in (CheckedOut, Submitted, Waited)
}
"""The kinds whose records hold their fields as they are, and of which a run has most."""


def by_kind(events: Iterable[Event]) -> dict[type[Any], list[Event]]:
    """The events of each kind, in their order."""
    found: dict[type[Any], list[Event]] = {}
    for event in events:
        kind = type(event)
        if kind in found:
            found[kind].append(event)
        else:
            found[kind] = [event]
    return found
