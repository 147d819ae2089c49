"""Jobs in flight, and the snapshots that they started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headway.core.errors import StateError
from headway.core.layout import Buffers
from headway.core.roster import Roster, Worker
from headway.core.snapshots import ORDINARY, Memory, Slot, SnapshotRing
from headway.core.update import Receipt

__all__ = ["Job", "JobBook", "as_buffers", "dump_buffers"]

# Jobs of one incarnation are counted in the low bits, so that ids stay exact in a JSON number.
_INCARNATION_SHIFT = 40


@dataclass(slots=True)
class Job:
    """A piece of work that was given out and has not ended."""

    id: int
    worker: Worker
    version: int
    slot: Slot | None
    dispatched_at: float


class JobBook:
    """The jobs in flight by id, in the order in which they were given out.

    Args:
        parameters: The server's, as a pattern for snapshots.
        buffers: The server's, where it has any.
        incarnation: Part of every id.
        memory: Where snapshots lie.
    """

    def __init__(
        self,
        parameters: Tensor,
        buffers: Buffers | None,
        incarnation: int,
        memory: Memory = ORDINARY,
    ) -> None:
        self.incarnation = incarnation
        self._memory = memory
        self.ring = SnapshotRing(parameters, buffers, memory)
        self.by_id: dict[int, Job] = {}
        self._num_given = 0
        self._parameters = parameters
        self._buffers = buffers

    @property
    def next_id(self) -> int:
        """The id of the next job: one that was never given out."""
        return (self.incarnation << _INCARNATION_SHIFT) | (self._num_given + 1)

    def add(self, job: Job) -> None:
        """A job with the next id is given out."""
        self.by_id[job.id] = job
        self._num_given += 1

    def end(self, job_id: int, reason: str, version: int) -> Job:
        """End a job without an update; whoever submits it later gets this reason."""
        job = self.by_id.pop(job_id)
        if job.slot is not None:
            self.ring.release(job.slot)
        staleness = version - job.version
        job.worker.remember(Receipt("rejected", reason, staleness, 0.0, version, job.id))
        job.worker.expect(job.id)
        return job

    def by_version(self, *, sort: bool) -> Collection[Job]:
        """The jobs, lowest version first. Without views that is the order they were given out in."""
        jobs: Collection[Job] = self.by_id.values()
        return sorted(jobs, key=_version_of) if sort else jobs

    def state_dict(self) -> dict[str, Any]:
        """All jobs and snapshots, as a plain tree."""
        slots, places = self._number_slots()
        newest = self.ring.newest
        return {
            "incarnation": self.incarnation,
            "num_jobs": self._num_given,
            "slots": [
                [slot.version, slot.shown.clone(), dump_buffers(slot.buffers), slot.users]
                for slot in slots
            ],
            "newest": -1 if newest is None else places[id(newest)],
            "jobs": [
                [
                    job.id,
                    job.worker.name,
                    job.version,
                    -1 if job.slot is None else places[id(job.slot)],
                    job.dispatched_at,
                ]
                for job in self.by_id.values()
            ],
        }

    def load_state_dict(self, state: dict[str, Any], roster: Roster, *, restarted: bool) -> None:
        """Bring all jobs back; the roster is loaded already."""
        previous = state["incarnation"]
        self.incarnation = max(self.incarnation, previous + 1) if restarted else previous
        self._num_given = 0 if restarted else state["num_jobs"]
        self.ring = SnapshotRing(self._parameters, self._buffers, self._memory)
        slots = [
            self.ring.restore(version, vector, as_buffers(buffers), users)
            for version, vector, buffers, users in state["slots"]
        ]
        self.ring.adopt(None if state["newest"] < 0 else slots[state["newest"]])
        self.by_id = {}
        for job_id, name, version, place, dispatched_at in state["jobs"]:
            worker = roster.find(name)
            if worker is None or job_id not in worker.jobs:
                raise StateError("a saved job is not one of its worker's", got=f"{name}: {job_id}")
            slot = None if place < 0 else slots[place]
            self.by_id[job_id] = Job(job_id, worker, version, slot, dispatched_at)
        users = Counter(place for _, _, _, place, _ in state["jobs"] if place >= 0)
        if len(self.by_id) != roster.num_running or any(
            slot.users != users[place] for place, slot in enumerate(slots)
        ):
            raise StateError(
                "the saved jobs and workers do not fit each other",
                got=f"{len(self.by_id)} jobs of workers who have {roster.num_running}",
            )

    def _number_slots(self) -> tuple[list[Slot], dict[int, int]]:
        slots = [job.slot for job in self.by_id.values() if job.slot is not None]
        if self.ring.newest is not None:
            slots.append(self.ring.newest)
        unique = list({id(slot): slot for slot in slots}.values())
        return unique, {id(slot): place for place, slot in enumerate(unique)}


def dump_buffers(buffers: Buffers | None) -> list[Tensor] | None:
    """Copies of buffers for a plain tree."""
    return None if buffers is None else [buffers.floating.clone(), buffers.integer.clone()]


def as_buffers(saved: list[Tensor] | None) -> Buffers | None:
    """Buffers of a plain tree."""
    return None if saved is None else Buffers(saved[0], saved[1])


def _version_of(job: Job) -> int:
    return job.version
