"""The asynchronous server as a state machine.

It has few doors: :meth:`Server.checkout`, :meth:`Server.submit`, :meth:`Server.lose` and
:meth:`Server.tick` (and :meth:`Server.register`, for shells that know their workers beforehand).
Each takes the time as an argument, appends one event, and returns a reply that may carry effects.
There is no thread, socket, file, clock or global random state in here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from headway.core import tree
from headway.core.algorithm import Algorithm, Keep
from headway.core.checks import find_fault, readable
from headway.core.context import Context
from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError
from headway.core.events import CheckedOut, Event, Lost, Registered, Submitted, Ticked, Waited
from headway.core.layout import Buffers, ParameterLayout
from headway.core.roster import WOKEN, Roster, Worker
from headway.core.scheduler import FirstCome, Scheduler
from headway.core.snapshots import Slot, SnapshotRing
from headway.core.table import WorkerTable
from headway.core.transform import Held, Pass, Ticking
from headway.core.update import Cancel, Checkout, Effect, Receipt, Timer, Update, Wait, WorkOrder

__all__ = ["Job", "Recording", "Reply", "Server"]

Recording = Literal["nothing", "events", "payloads"]

_AS_YOU_LIKE = WorkOrder()
_NO_EFFECTS: tuple[Effect, ...] = ()
# Jobs of one incarnation are counted in the low bits, so that ids stay exact in a JSON number.
_INCARNATION_SHIFT = 40
_JOBS_PER_WORKER = 2


@dataclass(slots=True)
class Job:
    """A piece of work that was given out and has not ended."""

    id: int
    worker: Worker
    version: int
    slot: Slot | None
    dispatched_at: float


class Reply(NamedTuple):
    """What ``register``, ``lose`` and ``tick`` answer: the version, and effects for the shell."""

    version: int
    effects: tuple[Effect, ...] = ()


class Server:
    """Holds the model, gives out work, and decides what each update is worth.

    Args:
        initial: The initial parameters, flat, shape ``[num_params]``; they are copied.
        algorithm: What an update is worth.
        layout: Names, shapes and fragments; by default one unnamed vector.
        scheduler: Who trains next; by default first come, first served, with no limit.
        buffers: The model's buffers, where it has any; they are copied.
        seed: Of the server's random streams.
        record: ``"nothing"``, ``"events"``, or ``"payloads"`` (events with copies of the payloads,
            so that the run can be replayed).
        reference_gradient: ``f(parameters) -> gradient`` on data that the server holds, for
            algorithms that need it.
        incarnation: Part of every job id. A server that is started again from a saved state takes
            the next one, so that it cannot give out an id that its predecessor gave out.

    Raises:
        ArgumentTypeError: ``initial`` is not a flat floating-point tensor.
        ConfigurationError: ``initial`` is not finite, or does not fit the layout.

    Memory: the parameters, a snapshot per distinct version in flight and one more, and what
    ``algorithm.needs`` declares. Nothing of the model's size is allocated per update.

    Example:
        >>> import torch
        >>> from headway import algorithms, core
        >>> server = core.Server(torch.zeros(2), algorithms.async_sgd(learning_rate=0.5))
        >>> ticket = server.checkout("worker-0", now=0.0)
        >>> receipt = server.submit(
        ...     core.Update(torch.ones(2), ticket.version, "worker-0", ticket.job), now=1.0)
        >>> receipt.status, receipt.staleness, receipt.version, server.parameters
        ('applied', 0, 1, tensor([-0.5000, -0.5000]))
    """

    def __init__(
        self,
        initial: Tensor,
        algorithm: Algorithm,
        *,
        layout: ParameterLayout | None = None,
        scheduler: Scheduler | None = None,
        buffers: Buffers | None = None,
        seed: int = 0,
        record: Recording = "events",
        reference_gradient: Callable[[Tensor], Tensor] | None = None,
        incarnation: int = 0,
    ) -> None:
        _check_initial(initial, layout)
        self.algorithm = algorithm
        self.events: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.incarnation = incarnation
        self.needs = needs = algorithm.needs
        self._record = record
        parameters = initial.detach().clone().contiguous()
        self._tables = {
            name: WorkerTable(parameters.numel(), parameters.dtype, parameters.device)
            for name in needs.tables
        }
        self._context = Context(
            parameters,
            layout=layout,
            payload=algorithm.payload,
            buffers=buffers.clone() if buffers is not None else None,
            tables=self._tables,
            reference_gradient=reference_gradient,
            seed=seed,
        )
        if needs.reference_gradient and reference_gradient is None:
            self._context.reference_gradient()
        self._roster = Roster(algorithm.gate, scheduler or FirstCome(), seed)
        self._ring = SnapshotRing(parameters, buffers)
        self._jobs: dict[int, Job] = {}
        self._num_jobs = 0
        self._timers: list[float] = []
        self._states = [transform.init(self._context) for transform in algorithm.chain]
        self._step_state = algorithm.step.init(self._context)
        self._stages = tuple(transform.apply for transform in algorithm.chain)
        self._ticking = tuple(
            (index, transform)
            for index, transform in enumerate(algorithm.chain)
            if isinstance(transform, Ticking)
        )

    @property
    def parameters(self) -> Tensor:
        """The current parameters, flat: the server's own tensor. Read only."""
        return self._context.parameters

    @property
    def buffers(self) -> Buffers | None:
        """The current buffers: the server's own. Read only."""
        return self._context.buffers

    @property
    def layout(self) -> ParameterLayout:
        """Names, shapes and fragments."""
        return self._context.layout

    @property
    def version(self) -> int:
        """Number of model changes applied so far."""
        return self._context.version

    @property
    def now(self) -> float:
        """The latest time that a door was called with, in seconds."""
        return self._context.now

    @property
    def num_in_flight(self) -> int:
        """Jobs given out and not ended."""
        return len(self._jobs)

    @property
    def num_workers(self) -> int:
        """Workers that ever joined."""
        return self._roster.num_workers

    @property
    def timers(self) -> tuple[float, ...]:
        """Times at which a tick is still due. A shell that loads a state sets them again."""
        return tuple(self._timers)

    @property
    def num_snapshots(self) -> int:
        """Snapshots that are live: at most one more than the jobs in flight."""
        return self._ring.num_live

    def register(self, workers: Iterable[str], now: float) -> Reply:
        """Announce workers, each as if it had asked for work and been told to wait.

        Args:
            workers: Names; those that are known already are passed over.
            now: The time, in seconds.
        """
        self._advance(now)
        names = tuple(workers)
        self._roster.register(names)
        if self._record != "nothing":
            self.events.append(Registered(self.now, names))
        return Reply(self.version, tuple(self._roster.wake()))

    def checkout(self, worker: str, now: float) -> Checkout | Wait:
        """Ask for work.

        Args:
            worker: Its name. One that is not known joins; one that was lost returns.
            now: The time, in seconds.

        Returns:
            A job, or ``Wait``: then the server emits ``Wake(worker)`` when its turn comes.
        """
        self._advance(now)
        roster = self._roster
        record = roster.join(worker)
        effects: list[Effect] = []
        if record.place != WOKEN:
            if len(record.jobs) >= _JOBS_PER_WORKER:
                return self._wait(worker, f"has {len(record.jobs)} jobs already", effects)
            roster.ask(record)
            effects.extend(wake for wake in roster.wake() if wake.worker != worker)
            if record.place != WOKEN:
                return self._wait(worker, roster.reason(record), effects)
        return self._give(record, effects)

    def submit(self, update: Update, now: float, *, again: bool = False) -> Receipt:
        """Hand in finished work.

        Args:
            update: It is checked, and rejected with a reason if anything is wrong with it.
            now: The time, in seconds.
            again: The worker asks for its next job in the same trip. If its turn has come, the
                effects hold ``Wake(worker)``, and a checkout gives it the job.

        Returns:
            The receipt. A job that is submitted twice gets its first receipt again, without
            effects, and changes nothing.
        """
        self._advance(now)
        update = readable(update)
        job = self._jobs.get(update.sequence)
        if job is None or job.worker.name != update.worker:
            return self._submit_unknown(update)
        del self._jobs[job.id]
        context = self._context
        context.dispatched_at = job.dispatched_at
        context.staleness = staleness = context.version - job.version
        context.worker = job.worker.index
        context.job = job.id
        roster = self._roster
        roster.finish(job.worker, job.id)
        effects: list[Effect] = []
        answer = None
        weight = 0.0
        stepped = False
        fault = find_fault(update, job.version, context)
        if fault is None:
            if self.needs.base_parameters:
                context.base = job.slot.shown if job.slot is not None else None
            self._count_workers()
            status, reason, weight, answer, stepped = self._run(update, 0, effects)
        else:
            status, reason = "rejected", fault
        taken = stepped or status != "rejected"
        reopened = roster.gate.finished(job.worker.index, roster.gate_state, taken=taken)
        reopened = self._settle(stepped, effects) or reopened
        if job.slot is not None:
            self._ring.release(job.slot)
        if answer is not None:
            # The worker goes on from its answer, which is as new as this version.
            job.worker.version = context.version
        if again:
            roster.ask(job.worker)
        if reopened:
            roster.reopen()
        effects.extend(roster.wake())
        receipt = Receipt(
            status, reason, staleness, weight, context.version, job.id, answer, tuple(effects)
        )
        job.worker.remember(receipt if not effects else receipt._replace(effects=_NO_EFFECTS))
        self._note_submitted(update, receipt, again)
        return receipt

    def lose(self, worker: str, now: float) -> Reply:
        """A worker is gone: its jobs are freed, and nobody waits for it.

        Args:
            worker: Its name; one that is not known, or is lost already, changes nothing.
            now: The time, in seconds.
        """
        self._advance(now)
        effects: list[Effect] = []
        record = self._roster.find(worker)
        jobs: tuple[int, ...] = ()
        if record is not None and not record.lost:
            jobs = tuple(record.jobs)
            for job_id in jobs:
                self._end(self._jobs.pop(job_id), "lost")
            self.counts["lost"] += len(jobs)
            reopened = self._roster.lose(record)
            reopened = self._tick(effects) or reopened
            if reopened:
                self._roster.reopen()
            effects.extend(self._roster.wake())
        if self._record != "nothing":
            self.events.append(Lost(self.now, worker, jobs, self.version, _cancelled(effects)))
        return Reply(self.version, tuple(effects))

    def tick(self, now: float, *, closing: bool = False) -> Reply:
        """Let time pass: what waits for a time, such as a grace window, is released.

        Args:
            now: The time, in seconds.
            closing: The run ends now: partial buffers are released or dropped, as they were told.
        """
        self._advance(now)
        self._timers = [at for at in self._timers if at > self.now]
        effects: list[Effect] = []
        self._context.closing = closing
        reopened = self._tick(effects)
        self._context.closing = False
        if reopened:
            self._roster.reopen()
        effects.extend(self._roster.wake())
        if self._record != "nothing":
            self.events.append(Ticked(self.now, self.version, closing, _cancelled(effects)))
        return Reply(self.version, tuple(effects))

    def take_events(self) -> list[Event]:
        """The events since the last call, for a shell that streams them."""
        events, self.events = self.events, []
        return events

    def state_dict(self) -> dict[str, Any]:
        """Everything that the server is, as a plain tree that shares no memory with it.

        Events are not in it: they are the log, and stay with the shell.
        """
        context = self._context
        slots, places = self._number_slots()
        return {
            "algorithm": self.algorithm.name,
            "incarnation": self.incarnation,
            "num_jobs": self._num_jobs,
            "timers": list(self._timers),
            "version": context.version,
            "now": context.now,
            "counts": dict(self.counts),
            "parameters": context.parameters.clone(),
            "buffers": _dump_buffers(context.buffers),
            "stream": tree.dump(context.stream_state()),
            "tables": {name: tree.dump(table) for name, table in self._tables.items()},
            "chain": [tree.dump(state) for state in self._states],
            "step": tree.dump(self._step_state),
            "roster": self._roster.state_dict(),
            "slots": [
                [slot.version, slot.shown.clone(), _dump_buffers(slot.buffers), slot.users]
                for slot in slots
            ],
            "newest": -1 if self._ring.newest is None else places[id(self._ring.newest)],
            "jobs": [
                [
                    job.id,
                    job.worker.name,
                    job.version,
                    -1 if job.slot is None else places[id(job.slot)],
                    job.dispatched_at,
                ]
                for job in self._jobs.values()
            ],
        }

    def load_state_dict(self, state: dict[str, Any], *, restarted: bool = False) -> None:
        """Become the server that was saved. Its jobs in flight are in flight again.

        Args:
            state: From :meth:`state_dict` of a server with the same algorithm and model size.
            restarted: The saved server may have gone on and given out jobs before it died: take
                the next incarnation, or this server's own if that is higher. A shell that may start
                from one state twice counts its starts, and passes ``incarnation``.

        Raises:
            StateError: The state is of another algorithm or another model.
        """
        self._check_state(state)
        context = self._context
        context.parameters.copy_(state["parameters"])
        _load_buffers(context.buffers, state["buffers"])
        context.version = state["version"]
        context.now = state["now"]
        stream = state["stream"]
        context.load_stream_state(None if stream is None else (stream[0], stream[1]))
        self.counts = Counter(state["counts"])
        previous = state["incarnation"]
        self.incarnation = max(self.incarnation, previous + 1) if restarted else previous
        self._num_jobs = 0 if restarted else state["num_jobs"]
        self._timers = list(state["timers"])
        for name, table in self._tables.items():
            tree.load(table, state["tables"][name])
        self._states = [
            tree.load(own, saved) for own, saved in zip(self._states, state["chain"], strict=True)
        ]
        self._step_state = tree.load(self._step_state, state["step"])
        self._roster.load_state_dict(state["roster"])
        self._load_jobs(state)

    def _advance(self, now: float) -> None:
        # A clock that stands or goes back (an NTP step, two threads) must not stop a server.
        if now > self._context.now and isfinite(now):
            self._context.now = now

    def _wait(self, worker: str, reason: str, effects: list[Effect]) -> Wait:
        if self._record != "nothing":
            self.events.append(Waited(self.now, worker, reason))
        return Wait(reason, None, tuple(effects))

    def _give(self, worker: Worker, effects: list[Effect]) -> Checkout:
        context, algorithm = self._context, self.algorithm
        self._num_jobs += 1
        job_id = (self.incarnation << _INCARNATION_SHIFT) | self._num_jobs
        context.worker = worker.index
        if algorithm.view is not None or algorithm.work is not None:
            self._count_workers()
            context.job, context.staleness, context.base = job_id, 0, None
            context.dispatched_at = context.now
        version = context.version
        vector: Tensor | None = None
        slot: Slot | None
        if algorithm.view is None:
            slot = self._ring.current(version, context.parameters, context.buffers)
            vector = slot.vector
        else:
            seen = algorithm.view(context, (*self._states, self._step_state))
            if isinstance(seen, Keep):
                slot, version = None, worker.version
            else:
                version = seen[1]
                slot = self._ring.own(version, seen[0], context.buffers)
                vector = slot.shown
        worker.version = version
        job = Job(job_id, worker, version, slot, context.now)
        self._jobs[job_id] = job
        self._roster.start(worker, job_id)
        order = _AS_YOU_LIKE if algorithm.work is None else algorithm.work(context)
        if self._record != "nothing":
            self.events.append(CheckedOut(context.now, worker.name, job_id, version, slot is None))
        buffers = None if slot is None else slot.buffers
        return Checkout(version, vector, job_id, order, buffers, tuple(effects))

    def _run(
        self, update: Update, stage: int, effects: list[Effect]
    ) -> tuple[Literal["applied", "buffered", "rejected"], str, float, Tensor | None, bool]:
        """Put an update through the chain from a stage on: status, reason, weight, answer, step."""
        context = self._context
        weight = update.weight
        for index in range(stage, len(self._stages)):
            outcome = self._stages[index](update, self._states[index], context)
            if isinstance(outcome, Pass):
                update = outcome.update
                if update.contributions is None:
                    weight = update.weight
            elif isinstance(outcome, Held):
                if outcome.timer is not None:
                    self._timers.append(outcome.timer)
                    effects.append(Timer(outcome.timer))
                return "buffered", outcome.reason, weight, None, False
            else:
                return "rejected", outcome.reason, 0.0, None, False
        if not update.weight > 0.0:
            # It reached the step and is worth nothing: neither model nor momentum may move.
            return "rejected", "zero_weight", 0.0, None, True
        answer = self.algorithm.step.apply(update, self._step_state, context)
        if update.buffers is not None and context.buffers is not None:
            share = min(1.0, update.weight * self.algorithm.step.mixing)
            context.buffers.floating.lerp_(update.buffers.floating, share)
            context.buffers.integer.copy_(update.buffers.integer)
        context.version += 1
        return "applied", "", weight, answer, True

    def _settle(self, stepped: bool, effects: list[Effect]) -> bool:
        """After the chain: tell the gate, cancel what it stops; True when it may be asked again."""
        if not stepped:
            return False
        gate, state = self.algorithm.gate, self._roster.gate_state
        reopened = gate.stepped(state)
        if not self._jobs:
            return reopened
        jobs: Collection[Job] = self._jobs.values()
        if self.algorithm.view is not None:
            # Jobs stand in the order they were given out; a view may have sent an older version.
            jobs = sorted(jobs, key=_version_of)
        for job_id in gate.stop(jobs, self._context.version, state):
            job = self._jobs.pop(job_id)
            reopened = self._roster.abandon(job.worker, job_id) or reopened
            self._end(job, "cancelled")
            self.counts["cancelled"] += 1
            effects.append(Cancel(job_id, job.worker.name))
            # It is there and has nothing to do: it waits with the others, without asking.
            self._roster.ask(job.worker)
        return reopened

    def _tick(self, effects: list[Effect]) -> bool:
        if not self._ticking:
            return False
        context = self._context
        context.worker = context.job = -1
        context.staleness = 0
        context.dispatched_at = context.now
        context.base = None
        self._count_workers()
        reopened = False
        for index, transform in self._ticking:
            while (outcome := transform.tick(self._states[index], context)) is not None:
                stepped = self._run(outcome.update, index + 1, effects)[4]
                reopened = self._settle(stepped, effects) or reopened
        return reopened

    def _submit_unknown(self, update: Update) -> Receipt:
        worker = self._roster.find(update.worker)
        reason = "unknown_worker" if worker is None else "unknown_job"
        for receipt in worker.receipts if worker is not None else ():
            if receipt.job == update.sequence:
                self.counts["duplicates"] += 1
                self._note_submitted(update, receipt, False, duplicate=True)
                return receipt
        receipt = Receipt("rejected", reason, 0, 0.0, self.version, update.sequence)
        self._note_submitted(update, receipt, False)
        return receipt

    def _end(self, job: Job, reason: str) -> None:
        if job.slot is not None:
            self._ring.release(job.slot)
        staleness = self.version - job.version
        job.worker.remember(Receipt("rejected", reason, staleness, 0.0, self.version, job.id))

    def _count_workers(self) -> None:
        context, roster = self._context, self._roster
        context.num_workers = len(roster.names)
        context.num_active = context.num_workers - roster.num_lost
        context.num_in_flight = len(self._jobs)

    def _note_submitted(
        self, update: Update, receipt: Receipt, again: bool, *, duplicate: bool = False
    ) -> None:
        if not duplicate:
            self.counts[receipt.status] += 1
        if self._record == "nothing":
            return
        payload, buffers = None, None
        # Not so where :func:`readable` found something else, which cannot be kept.
        is_tensor = isinstance(update.payload, Tensor)
        if self._record == "payloads" and is_tensor:
            payload = update.payload.clone()
        if self._record == "payloads" and update.buffers is not None:
            buffers = update.buffers.clone()
        self.events.append(
            Submitted(
                self.now,
                update.worker,
                update.sequence,
                receipt.status,
                "duplicate" if duplicate else receipt.reason,
                receipt.staleness,
                receipt.weight,
                receipt.version,
                update.base_version,
                update.num_examples,
                update.num_steps,
                dict(update.metrics),
                _cancelled(receipt.effects),
                again,
                update.weight,
                update.fragment,
                update.payload.nbytes if is_tensor else 0,
                payload,
                buffers,
            )
        )

    def _number_slots(self) -> tuple[list[Slot], dict[int, int]]:
        slots = [job.slot for job in self._jobs.values() if job.slot is not None]
        if self._ring.newest is not None:
            slots.append(self._ring.newest)
        unique = list({id(slot): slot for slot in slots}.values())
        return unique, {id(slot): place for place, slot in enumerate(unique)}

    def _check_state(self, state: dict[str, Any]) -> None:
        got = _likeness(state.get("algorithm"), state.get("parameters"), state.get("buffers"))
        expected = _likeness(self.algorithm.name, self.parameters, self.buffers)
        if got != expected:
            raise StateError("the saved server is not like this one", got=got, expected=expected)

    def _load_jobs(self, state: dict[str, Any]) -> None:
        self._ring = SnapshotRing(self.parameters, self.buffers)
        slots = [
            self._ring.restore(version, vector, _as_buffers(buffers), users)
            for version, vector, buffers, users in state["slots"]
        ]
        self._ring.adopt(None if state["newest"] < 0 else slots[state["newest"]])
        self._jobs = {}
        for job_id, name, version, place, dispatched_at in state["jobs"]:
            worker = self._roster.find(name)
            if worker is None:
                raise StateError("a saved job belongs to an unknown worker", got=name)
            slot = None if place < 0 else slots[place]
            self._jobs[job_id] = Job(job_id, worker, version, slot, dispatched_at)


def _check_initial(initial: Any, layout: ParameterLayout | None) -> None:
    if not isinstance(initial, Tensor) or initial.dim() != 1 or not initial.is_floating_point():
        raise ArgumentTypeError(
            "the initial parameters must be one flat floating-point tensor",
            got=f"{type(initial).__name__} {tuple(getattr(initial, 'shape', ()))}",
            help="flatten a module with ParameterLayout.of(module).flatten(module)",
        )
    if layout is not None and layout.num_params != initial.numel():
        raise ConfigurationError(
            "the initial parameters do not fit the layout",
            got=f"{initial.numel()} values",
            expected=f"{layout.num_params} values",
        )
    if not bool(torch.isfinite(initial).all()):
        raise ConfigurationError(
            "the initial parameters contain NaN or infinity", help="check how they were made"
        )


def _version_of(job: Job) -> int:
    return job.version


def _likeness(name: Any, parameters: Any, buffers: Any) -> str:
    sizes = [] if buffers is None else [buffer.numel() for buffer in buffers]
    if not isinstance(parameters, Tensor):
        return f"{name} without parameters"
    return f"{name}, {parameters.numel()} parameters of {parameters.dtype}, buffers {sizes}"


def _cancelled(effects: Iterable[Effect]) -> tuple[int, ...]:
    return tuple(effect.job for effect in effects if type(effect) is Cancel)


def _dump_buffers(buffers: Buffers | None) -> list[Tensor] | None:
    return None if buffers is None else [buffers.floating.clone(), buffers.integer.clone()]


def _as_buffers(saved: list[Tensor] | None) -> Buffers | None:
    return None if saved is None else Buffers(saved[0], saved[1])


def _load_buffers(target: Buffers | None, saved: list[Tensor] | None) -> None:
    if target is not None and saved is not None:
        target.floating.copy_(saved[0])
        target.integer.copy_(saved[1])
