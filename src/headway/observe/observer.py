"""The seam for whoever watches a run: a progress display, a log, a recorder of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from headway.observe.points import Point
from headway.observe.result import Result

__all__ = ["Interruptible", "Observer", "RunInfo", "Snapshot"]


class RunInfo(NamedTuple):
    """What is known of a run before it starts.

    Attributes:
        label: What tables and figures call it.
        algorithm: The algorithm's name.
        task: The task's name.
        seed: The run's seed.
        num_clients: How many clients there are.
        concurrency: How many jobs can be in flight, ``None`` for no limit.
        stop: What will end it, in words.
        is_real: Whether workers train it, so that its times are not virtual.
    """

    label: str
    algorithm: str
    task: str
    seed: int
    num_clients: int
    concurrency: int | None
    stop: str
    is_real: bool = False


class Snapshot(NamedTuple):
    """How far a run is.

    Attributes:
        updates: Updates that reached the server.
        versions: Changes of the model.
        virtual_time_s: Virtual seconds.
        wall_time_s: Real seconds since the start.
        updates_per_s: Updates per real second.
        mean_staleness: Mean staleness of the updates that were taken, in versions.
        in_flight: Jobs given out and not ended.
        metrics: What the newest evaluation measured; empty before the first.
        fraction_done: How much of the nearest limit is used up, in [0, 1]; ``None`` where that
            cannot be told.
    """

    updates: int
    versions: int
    virtual_time_s: float
    wall_time_s: float
    updates_per_s: float
    mean_staleness: float
    in_flight: int
    metrics: Mapping[str, float]
    fraction_done: float | None


@runtime_checkable
class Observer(Protocol):
    """Watches runs. It sees everything and changes nothing: a run is the same with and without.

    The calls for one run are ``started``, then ``progress`` and ``evaluated`` in any order, then
    ``finished``, which is called for an interrupted run too, but not for one that fails. An observer
    that has a method ``interrupted()`` as well is told of the first Ctrl-C at once, while the present
    job goes on; it is called from the signal handler, so it should do little.
    """

    def started(self, info: RunInfo) -> None:
        """A run begins."""

    def progress(self, snapshot: Snapshot) -> None:
        """The run goes on; called a few times per second of real time."""

    def evaluated(self, point: Point) -> None:
        """The model was evaluated."""

    def finished(self, result: Result) -> None:
        """The run has ended."""


@runtime_checkable
class Interruptible(Protocol):
    """An observer that wants to know of the first Ctrl-C."""

    def interrupted(self) -> None:
        """The run ends after the present job."""
