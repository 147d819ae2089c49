"""Who is known, who waits, and whose turn it is: gate and scheduler put together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headway.core import tree
from headway.core.errors import StateError
from headway.core.gate import Gate
from headway.core.scheduler import Observing, Scheduler
from headway.core.update import Effect, Wake
from headway.core.worker import (
    AWAY,
    REFUSED,
    WAITING,
    WOKEN,
    Worker,
    dump_workers,
    load_workers,
    without,
)

__all__ = ["WOKEN", "Roster", "Worker"]


class Roster:
    """The workers, and the rule by which they start.

    A worker that asks goes into the scheduler's hands. While there is room, the scheduler picks;
    who is picked and may start is *woken*: a place in flight is kept for it until it checks out.
    Whom the gate refuses stands aside until the gate says that something changed.
    """

    def __init__(self, gate: Gate, scheduler: Scheduler, seed: int) -> None:
        self.gate = gate
        self.scheduler = scheduler
        # Looked up once: it is asked for every update.
        self.observe = scheduler.observe if isinstance(scheduler, Observing) else None
        self.gate_state: Any = gate.init()
        self.scheduler_state: Any = scheduler.init(seed)
        self.names: list[str] = []
        self.num_lost = 0
        self.num_running = 0
        self.num_woken = 0
        self._index: dict[str, int] = {}
        self._workers: dict[int, Worker] = {}
        self._refused: dict[int, None] = {}

    def find(self, name: str) -> Worker | None:
        """The worker of this name, if it has joined."""
        index = self._index.get(name)
        if index is None:
            return None
        worker = self._workers.get(index)
        if worker is None:
            # Registered, and not heard of since: it waits in the scheduler's hands.
            worker = self._workers[index] = Worker(index, name, WAITING)
        return worker

    def join(self, name: str) -> Worker:
        """The worker of this name, new or returning."""
        worker = self.find(name)
        if worker is None:
            index = self._index[name] = len(self.names)
            self.names.append(name)
            worker = self._workers[index] = Worker(index, name)
        elif worker.lost:
            worker.lost = False
            self.num_lost -= 1
        return worker

    def register(self, names: Iterable[str]) -> None:
        """Announce workers, each as if it had asked and been told to wait."""
        for name in names:
            if name not in self._index:
                index = self._index[name] = len(self.names)
                self.names.append(name)
                self.scheduler.add(index, self.scheduler_state)

    @property
    def num_workers(self) -> int:
        """Workers that ever joined."""
        return len(self.names)

    @property
    def woken(self) -> tuple[str, ...]:
        """Those for whom a place in flight is kept."""
        return tuple([w.name for w in self._workers.values() if w.place == WOKEN])

    def is_active(self, index: int) -> bool:
        """Whether the worker of this index has joined and is not lost."""
        worker = self._workers.get(index)
        return 0 <= index < len(self.names) if worker is None else not worker.lost

    def ask(self, worker: Worker) -> None:
        """The worker wants a job."""
        if worker.place == AWAY:
            self._put(worker)

    def _put(self, worker: Worker) -> None:
        if self.gate.refusal(worker.index, self.gate_state) is None:
            worker.place = WAITING
            self.scheduler.add(worker.index, self.scheduler_state)
        else:
            worker.place = REFUSED
            self._refused[worker.index] = None

    def reason(self, worker: Worker) -> str:
        """Why a worker that waits was not woken."""
        if worker.place == REFUSED:
            return self.gate.refusal(worker.index, self.gate_state) or "waits for its turn"
        limit = self.scheduler.concurrency
        if limit is not None and self.num_running + self.num_woken >= limit:
            return f"{limit} jobs are in flight, the most allowed"
        return "waits for its turn"

    def reopen(self) -> None:
        """The gate changed: those who were refused may wait again."""
        for index in list(self._refused):
            if self.gate.refusal(index, self.gate_state) is None:
                del self._refused[index]
                worker = self._workers[index]
                worker.place = WAITING
                self.scheduler.add(index, self.scheduler_state)

    def wake(self, effects: list[Effect], *, but: str | None = None) -> None:
        """Pick as many as there is room for, and say so in ``effects``, except of ``but``."""
        gate, state, scheduler = self.gate, self.gate_state, self.scheduler
        limit = scheduler.concurrency
        while limit is None or self.num_running + self.num_woken < limit:
            if gate.full(state):
                break
            index = scheduler.pick(self.scheduler_state)
            if index is None:
                break
            worker = self._workers.get(index)
            if worker is None:
                worker = self._workers[index] = Worker(index, self.names[index])
            if gate.refusal(index, state) is not None:
                worker.place = REFUSED
                self._refused[index] = None
                continue
            worker.place = WOKEN
            self.num_woken += 1
            gate.started(index, state)
            if worker.name != but:
                effects.append(Wake(worker.name))

    def start(self, worker: Worker, job: int) -> None:
        """A woken worker has its job."""
        worker.place = AWAY
        self.num_woken -= 1
        self.num_running += 1
        worker.jobs = (*worker.jobs, job)

    def ask_if_idle(self, worker: Worker, effects: list[Effect]) -> None:
        """A worker whose message was late asks, unless it has a job or a place already."""
        if not worker.jobs and worker.place == AWAY:
            self.join(worker.name)
            self._put(worker)
            self.wake(effects)

    def finish(self, worker: Worker, job: int) -> None:
        """The worker's update arrived."""
        worker.jobs = without(worker.jobs, job)
        self.num_running -= 1

    def abandon(self, worker: Worker, job: int) -> bool:
        """The worker's job ended without an update, and the worker is still there."""
        worker.jobs = without(worker.jobs, job)
        self.num_running -= 1
        return self.gate.left(worker.index, self.gate_state, gone=False)

    def lose(self, worker: Worker) -> bool:
        """The worker is gone, with its jobs and its place."""
        if worker.place == WAITING:
            self.scheduler.remove(worker.index, self.scheduler_state)
        elif worker.place == REFUSED:
            del self._refused[worker.index]
        elif worker.place == WOKEN:
            self.num_woken -= 1
        worker.place = AWAY
        self.num_running -= len(worker.jobs)
        worker.jobs = ()
        worker.lost = True
        self.num_lost += 1
        return self.gate.left(worker.index, self.gate_state, gone=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as a plain tree."""
        return {
            "names": list(self.names),
            "workers": dump_workers(self._workers.values()),
            "refused": list(self._refused),
            "gate": tree.dump(self.gate_state),
            "scheduler": tree.dump(self.scheduler_state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace everything."""
        self.names = list(state["names"])
        self._index = {name: index for index, name in enumerate(self.names)}
        self._workers = {}
        for worker in load_workers(state["workers"], self.names):
            self._workers[worker.index] = worker
        self._refused = dict.fromkeys(state["refused"])
        if any(self._workers[index].place != REFUSED for index in self._refused):
            raise StateError("the saved workers do not fit each other", got=f"{self._refused}")
        everyone = self._workers.values()
        self.num_lost = sum(worker.lost for worker in everyone)
        self.num_running = sum(len(worker.jobs) for worker in everyone)
        self.num_woken = sum(worker.place == WOKEN for worker in everyone)
        self.gate_state = tree.load(self.gate.init(), state["gate"])
        self.scheduler_state = tree.load(self.scheduler_state, state["scheduler"])
