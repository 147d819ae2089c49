"""Counting what clients do: while a run goes on, and again from the log of one that was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

from headway.observe.points import ClientCount

__all__ = ["RunningCount", "idle_share", "per_client"]


@dataclass(slots=True)
class RunningCount:
    """A :class:`~headway.observe.ClientCount` that still changes; the same fields."""

    dispatched: int = 0
    accepted: int = 0
    rejected: int = 0
    cancelled: int = 0
    lost: int = 0
    examples: int = 0
    busy_s: float = 0.0


def per_client(clients: Mapping[int, RunningCount]) -> dict[int, ClientCount]:
    """The counts as they are now, by client.

    Args:
        clients: Of every client that ever trained.

    Example:
        >>> per_client({3: RunningCount(dispatched=1)})[3].dispatched
        1
    """
    return {client: ClientCount(*astuple(count)) for client, count in sorted(clients.items())}


def idle_share(clients: Mapping[int, RunningCount], places: int, time_s: float) -> float:
    """The share of the time in which a place in flight stood empty.

    Args:
        clients: How long each was busy.
        places: The most jobs that were ever in flight at once.
        time_s: How long the run took, in virtual seconds.

    Returns:
        In [0, 1]; 0 for a run that took no time.

    Example:
        >>> idle_share({0: RunningCount(busy_s=6.0)}, places=2, time_s=4.0)
        0.25
    """
    available_s = places * time_s
    busy_s = sum(count.busy_s for count in clients.values())
    return max(0.0, 1.0 - busy_s / available_s) if available_s > 0 else 0.0
