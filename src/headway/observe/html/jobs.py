"""Jobs, read back from the events of a run: who worked when, on which version, to what end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from headway.core.events import CheckedOut, Event, Lost, Submitted, Ticked

__all__ = ["Job", "Log", "in_flight", "read_jobs"]


class Job(NamedTuple):
    """One job from its checkout to its end.

    Attributes:
        id: The job's number.
        worker: Who had it.
        start: When it was checked out, in seconds.
        end: When it ended, or the log did.
        version: The version that it started from.
        status: ``applied``, ``buffered``, ``rejected``, ``cancelled``, ``lost``, or ``unfinished``.
        staleness: Of its update, ``None`` where none arrived.
        reason: Why, as its receipt says.
    """

    id: int
    worker: str
    start: float
    end: float
    version: int
    status: str = "unfinished"
    staleness: int | None = None
    reason: str = ""


class Log(NamedTuple):
    """What a timeline shows of a run.

    Attributes:
        jobs: In the order of their start.
        versions: When the model changed.
        start: The time of the first event.
        end: The time of the last one.
    """

    jobs: list[Job]
    versions: list[float]
    start: float
    end: float


def read_jobs(events: Iterable[Event]) -> Log:
    """Pair each checkout with what became of it.

    Example:
        >>> log = read_jobs([CheckedOut(0.0, "worker-0", 7, 3, False), Lost(2.0, "worker-0", (7,), 3, ())])
        >>> log.jobs[0].status, log.jobs[0].end
        ('lost', 2.0)
    """
    jobs: dict[int, Job] = {}
    versions: list[float] = []
    newest, start, end = 0, float("inf"), float("-inf")
    for event in events:
        start, end = min(start, event.time), max(end, event.time)
        match event:
            case CheckedOut(time=time, worker=worker, job=number, version=version):
                jobs[number] = Job(number, worker, time, time, version)
            case Submitted(worker=worker, job=number) if _is_of(jobs, number, worker):
                _finish(jobs, number, event.time, event.status, event.staleness, event.reason)
            case Lost():
                for number in event.jobs:
                    _finish(jobs, number, event.time, "lost")
        if isinstance(event, Submitted | Lost | Ticked):
            for number in event.cancelled:
                _finish(jobs, number, event.time, "cancelled")
            if event.version > newest:
                newest = event.version
                versions.append(event.time)
    if end < start:
        return Log([], [], 0.0, 0.0)
    done = [job._replace(end=end) if job.status == "unfinished" else job for job in jobs.values()]
    return Log(done, versions, start, end)


def in_flight(jobs: Sequence[Job], start: float, end: float) -> list[tuple[float, int]]:
    """How many jobs were in flight from which time on, within a window.

    Example:
        >>> in_flight([Job(0, "a", 0.0, 2.0, 0, "lost"), Job(1, "b", 1.0, 3.0, 0)], 0.0, 3.0)
        [(0.0, 1), (1.0, 2), (2.0, 1)]
    """
    changes: dict[float, int] = {start: 0}
    for job in jobs:
        if job.end < start or job.start > end:
            continue
        first = max(job.start, start)
        changes[first] = changes.get(first, 0) + 1
        if job.status != "unfinished" and job.end <= end:
            changes[job.end] = changes.get(job.end, 0) - 1
    level, levels = 0, []
    for time in sorted(changes):
        level += changes[time]
        levels.append((time, level))
    return levels


def _is_of(jobs: Mapping[int, Job], number: int, worker: str) -> bool:
    return number in jobs and jobs[number].worker == worker


def _finish(
    jobs: dict[int, Job],
    number: int,
    time: float,
    status: str,
    staleness: int | None = None,
    reason: str = "",
) -> None:
    job = jobs.get(number)
    # What arrives after a job has ended, such as its update for a second time, changes nothing.
    if job is not None and job.status == "unfinished":
        jobs[number] = job._replace(end=time, status=status, staleness=staleness, reason=reason)
