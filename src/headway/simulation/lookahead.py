"""Executors that train many jobs before their completion events.

What a job computes is known when it is dispatched, so all jobs in flight that are not yet trained
can be trained together as soon as the first of their results is needed. The others wait for their
events. Those that are needed first are trained first, and where jobs are cancelled after they were
trained, groups get smaller: what is cancelled costs little, and what is dropped early nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Protocol, final

from headway.core import tree
from headway.core.jobs import as_buffers, dump_buffers
from headway.simulation.executor import Given, assigned, told
from headway.task import Assignment, LocalResult

__all__ = ["LookAhead", "TrainMany"]

_WASTE: Final = 0.5
"""Results thrown away for each one used, above which groups get smaller."""
_ROOM: Final = 1.25
"""How many times as many as were used the next group trains then."""
_GROWTH: Final = 1.1
_MEMORY: Final = 0.5


class TrainMany(Protocol):
    """Trains jobs together."""

    def __call__(self, assignments: Sequence[Assignment]) -> Sequence[LocalResult]:
        """Their results, in their order; those of other processes may be waited for later."""
        ...


@final
class _Group:
    """The results of jobs that were trained together, as long as one of them is wanted.

    They are rows of one matrix. When half of them are gone the others move out, so that one job
    that is due late does not hold all of it.
    """

    __slots__ = ("_kept", "_left", "_results", "_size")

    def __init__(self, results: Sequence[LocalResult], size: int) -> None:
        self._results: Sequence[LocalResult] | None = results
        self._left = dict.fromkeys(range(size))
        self._kept: dict[int, LocalResult] = {}
        self._size = size

    def look(self, index: int) -> LocalResult:
        """One of the results."""
        return self._kept[index] if self._results is None else self._results[index]

    def take(self, index: int) -> LocalResult:
        """One of the results, which nobody wants again."""
        result = self.look(index)
        self.drop(index)
        return result

    def drop(self, index: int) -> None:
        """Nobody wants this result."""
        del self._left[index]
        self._kept.pop(index, None)
        if self._results is not None and 2 * len(self._left) <= self._size:
            self._kept = {index: _own(self._results[index]) for index in self._left}
            self._results = None


@dataclass(slots=True)
class _Appetite:
    """How many jobs the next group may hold, from what became of the groups before it.

    It depends on the run's events alone, never on a time, so that a run can be had again.
    """

    size: float
    used: float = 0.0
    wasted: float = 0.0
    groups: float = 0.0

    def next(self, most: int) -> int:
        """A group is about to be trained."""
        if self.wasted > _WASTE * self.used and self.groups:
            self.size = max(1.0, _ROOM * self.used / self.groups)
        else:
            self.size = min(float(most), self.size * _GROWTH)
        self.used, self.wasted = self.used * _MEMORY, self.wasted * _MEMORY
        self.groups = self.groups * _MEMORY + 1.0
        return ceil(self.size)


@final
class LookAhead:
    """Trains up to ``group_size`` jobs in flight together when one of them is needed.

    Memory: at most two results per job that is trained and not yet due, and the group at hand.

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
        self._ready: dict[int, tuple[_Group, int]] = {}
        self._appetite = _Appetite(float(group_size))
        self.num_groups = 0
        self.num_trained = 0

    def begin(self, job: int, assignment: Assignment, due_s: float) -> None:
        """Remember what to do, and until when."""
        self._pending[job] = (due_s, assignment)

    def finish(self, job: int) -> LocalResult:
        """The result; trained now with others, unless it is there already."""
        if job not in self._ready:
            self._train_with(job)
        group, index = self._ready.pop(job)
        self._appetite.used += 1.0
        return group.take(index)

    def discard(self, job: int) -> None:
        """Forget it, trained or not."""
        self._pending.pop(job, None)
        if job in self._ready:
            group, index = self._ready.pop(job)
            self._appetite.wasted += 1.0
            group.drop(index)

    def state_dict(self) -> dict[str, Any]:
        """What is still to be done, and the results that nobody has asked for yet."""
        pending = self._pending.items()
        return {
            "pending": [[job, due_s, told(assignment)] for job, (due_s, assignment) in pending],
            "ready": [[job, _dump(group.look(i))] for job, (group, i) in self._ready.items()],
            "appetite": tree.dump(self._appetite),
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
        self._ready = {job: (_Group([_load(result)], 1), 0) for job, result in state["ready"]}
        self._appetite = tree.load(self._appetite, state["appetite"])
        self.num_groups, self.num_trained = state["num_groups"], state["num_trained"]

    def _train_with(self, job: int) -> None:
        pending = self._pending
        if job not in pending:
            raise KeyError(job)
        # Groups of about one size: a small one at the end would cost as much as a large one.
        most = self._appetite.next(self._group_size)
        size = ceil(len(pending) / ceil(len(pending) / most))
        chosen = sorted(pending, key=_due_in(pending))[:size]
        if job not in chosen:
            # It is due now, as are the others; the order of equal times is the queue's.
            chosen[-1] = job
        results = self._train([pending.pop(number)[1] for number in chosen])
        group = _Group(results, len(chosen))
        self._ready.update((number, (group, index)) for index, number in enumerate(chosen))
        self.num_groups += 1
        self.num_trained += len(chosen)


def _own(result: LocalResult) -> LocalResult:
    """A result that shares no memory with others."""
    buffers = result.buffers
    return result._replace(
        payload=result.payload.clone(), buffers=None if buffers is None else buffers.clone()
    )


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
