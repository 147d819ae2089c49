"""A job on its way through virtual time."""

from __future__ import annotations

from typing import Final, NamedTuple

from headway.core import WorkOrder

__all__ = ["DROPPED", "LATE", "LEFT", "RETURNS", "Flight"]

RETURNS: Final = 0
"""The fate of a job that comes back."""

DROPPED: Final = 1
"""Its client drops it."""

LEFT: Final = 2
"""Its client's window closes before."""

LATE: Final = 3
"""It takes longer than the server waits for it."""


class Flight(NamedTuple):
    """A job on its way: who has it, since when, where it stands in the queue, and how it ends."""

    client: int
    name: str
    version: int
    work: WorkOrder
    dispatched_at: float
    duration_s: float
    handle: int
    fate: int
