"""Executors that train many jobs before their completion events.

What a job computes is known when it is dispatched, so all jobs in flight that are not yet trained
can be trained together as soon as the first of their results is needed. The others wait for their
events. Those that are needed first are trained first, so that a job that is cancelled has most
likely cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Protocol, final

from headway.core import tree
from headway.core.jobs import as_buffers, dump_buffers
from headway.simulation.executor import Given, assigned, told
from headway.task import Assignment, LocalResult

__all__ = ["LookAhead", "TrainMany"]


class TrainMany(Protocol):
    """Trains jobs together."""

    def __call__(self, assignments: Sequence[Assignment]) -> Sequence[LocalResult]:
        """Their results, in their order; those of other processes may be waited for later."""
        ...


@final
class LookAhead:
    """Trains up to ``group_size`` jobs in flight together when one of them is needed.

    Memory: a result per job that is trained and not yet due, at most one per job in flight.

    Args:
        train: Trains a group.
        group_size: How many at most, at least 1.

    Attributes:
        num_groups: How many groups were trained.
        num_trained: How many jobs.
    """

    def __init__(self, train: TrainMany, group_size: int) -> None:
        self._train = train
        self._group_size = group_size
        self._pending: dict[int, tuple[float, Assignment]] = {}
        self._ready: dict[int, tuple[Sequence[LocalResult], int]] = {}
        self.num_groups = 0
        self.num_trained = 0

    def begin(self, job: int, assignment: Assignment, due_s: float) -> None:
        """Remember what to do, and until when."""
        self._pending[job] = (due_s, assignment)

    def finish(self, job: int) -> LocalResult:
        """The result; trained now with others, unless it is there already."""
        if job not in self._ready:
            self._train_with(job)
        results, index = self._ready.pop(job)
        return results[index]

    def discard(self, job: int) -> None:
        """Forget it, trained or not."""
        self._pending.pop(job, None)
        self._ready.pop(job, None)

    def state_dict(self) -> dict[str, Any]:
        """What is still to be done, and the results that nobody has asked for yet."""
        pending = self._pending.items()
        return {
            "pending": [[job, due_s, told(assignment)] for job, (due_s, assignment) in pending],
            "ready": [[job, _dump(found[index])] for job, (found, index) in self._ready.items()],
            "num_groups": self.num_groups,
            "num_trained": self.num_trained,
        }

    def load_state_dict(self, state: dict[str, Any], given: Given) -> None:
        """Go on with the jobs that were saved.

        Args:
            state: From :meth:`state_dict`; of the same group size, if the same groups shall follow.
            given: What the jobs started from.
        """
        self._pending = {
            job: (due_s, assigned(job, about, given)) for job, due_s, about in state["pending"]
        }
        self._ready = {job: ([_load(result)], 0) for job, result in state["ready"]}
        self.num_groups, self.num_trained = state["num_groups"], state["num_trained"]

    def _train_with(self, job: int) -> None:
        pending = self._pending
        if job not in pending:
            raise KeyError(job)
        # Groups of about one size: a small one at the end would cost as much as a large one.
        size = ceil(len(pending) / ceil(len(pending) / self._group_size))
        chosen = sorted(pending, key=_due_in(pending))[:size]
        if job not in chosen:
            # It is due now, as are the others; the order of equal times is the queue's.
            chosen[-1] = job
        results = self._train([pending.pop(number)[1] for number in chosen])
        self._ready.update((number, (results, index)) for index, number in enumerate(chosen))
        self.num_groups += 1
        self.num_trained += len(chosen)


def _dump(result: LocalResult) -> list[Any]:
    # The payload is a row of a matrix; its device is not saved, only its name.
    payload, buffers = result.payload, dump_buffers(result.buffers)
    metrics = tree.dump(dict(result.metrics))
    return [str(payload.device), tree.dump(payload), *result[1:4], metrics, buffers]


def _load(saved: list[Any]) -> LocalResult:
    device, payload, examples, processed, steps, metrics, buffers = saved
    if buffers is not None:
        buffers = [buffer.to(device) for buffer in buffers]
    payload, metrics = payload.to(device), tree.copy(metrics)
    return LocalResult(payload, examples, processed, steps, metrics, as_buffers(buffers))


def _due_in(pending: dict[int, tuple[float, Assignment]]) -> Callable[[int], tuple[float, int]]:
    return lambda job: (pending[job][0], job)
