"""The asynchronous server as a state machine.

It has few doors: :meth:`Server.checkout`, :meth:`Server.submit`, :meth:`Server.lose` and
:meth:`Server.tick` (and :meth:`Server.register`, for shells that know their workers beforehand).
Each takes the time as an argument, appends one event, and returns a reply that may carry effects.
There is no thread, socket, file, clock or global random state in here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headway.core import tree
from headway.core.algorithm import Algorithm, Keep
from headway.core.chain import Chain
from headway.core.checks import find_fault, readable
from headway.core.context import Context
from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError
from headway.core.events import Event
from headway.core.jobs import Job, JobBook, as_buffers, dump_buffers
from headway.core.layout import Buffers, ParameterLayout
from headway.core.recording import Recorder, Recording
from headway.core.roster import WOKEN, Roster, Worker
from headway.core.scheduler import FirstCome, Scheduler
from headway.core.snapshots import Slot
from headway.core.table import WorkerTable
from headway.core.update import Cancel, Checkout, Effect, Receipt, Update, Wait, WorkOrder

__all__ = ["Reply", "Server"]

_AS_YOU_LIKE = WorkOrder()
_JOBS_PER_WORKER = 2


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
        self.counts: Counter[str] = Counter()
        self.needs = needs = algorithm.needs
        self._recorder = Recorder(record)
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
        self._jobs = JobBook(parameters, buffers, incarnation)
        self._chain = Chain(algorithm, self._context)

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
        return len(self._jobs.by_id)

    @property
    def incarnation(self) -> int:
        """Which life of the server this is; part of every job id."""
        return self._jobs.incarnation

    @property
    def events(self) -> list[Event]:
        """The events since they were last taken. A shell may append its own notes."""
        return self._recorder.events

    @property
    def num_workers(self) -> int:
        """Workers that ever joined."""
        return self._roster.num_workers

    @property
    def timers(self) -> tuple[float, ...]:
        """Times at which a tick is still due. A shell that loads a state sets them again."""
        return tuple(self._chain.timers)

    @property
    def num_snapshots(self) -> int:
        """Snapshots that are live: at most one more than the jobs in flight."""
        return self._jobs.ring.num_live

    def register(self, workers: Iterable[str], now: float) -> Reply:
        """Announce workers, each as if it had asked for work and been told to wait.

        Args:
            workers: Names; those that are known already are passed over.
            now: The time, in seconds.
        """
        self._advance(now)
        names = tuple(workers)
        self._roster.register(names)
        self._recorder.registered(self.now, names)
        effects: list[Effect] = []
        self._roster.wake(effects)
        return Reply(self.version, tuple(effects))

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
            roster.wake(effects, but=worker)
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
        jobs, context, roster = self._jobs, self._context, self._roster
        job = jobs.by_id.get(update.sequence)
        if job is None or job.worker.name != update.worker:
            return self._submit_unknown(update)
        worker = job.worker
        del jobs.by_id[job.id]
        context.dispatched_at = job.dispatched_at
        context.staleness = staleness = context.version - job.version
        context.worker = worker.index
        context.job = job.id
        roster.finish(worker, job.id)
        effects: list[Effect] = []
        answer = None
        weight = 0.0
        stepped = False
        fault = find_fault(update, job.version, context)
        if fault is None:
            if self.needs.base_parameters:
                context.base = job.slot.shown if job.slot is not None else None
            self._count_workers()
            status, reason, weight, answer, stepped = self._chain.run(update, effects)
        else:
            status, reason = "rejected", fault
        taken = stepped or status != "rejected"
        reopened = roster.gate.finished(worker.index, roster.gate_state, taken=taken)
        if stepped:
            reopened = self._settle(effects) or reopened
        if job.slot is not None:
            jobs.ring.release(job.slot)
        if answer is not None:
            # The worker goes on from its answer, which is as new as this version.
            worker.version = context.version
        if again:
            roster.ask(worker)
        if reopened:
            roster.reopen()
        roster.wake(effects)
        # Straight through `tuple`, as for the events: it runs for every update.
        values: Any = (
            status,
            reason,
            staleness,
            weight,
            context.version,
            job.id,
            answer,
            tuple(effects),
        )
        receipt = tuple.__new__(Receipt, values)
        worker.remember(receipt)
        self.counts[status] += 1
        self._recorder.submitted(context.now, update, receipt, again)
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
        ended: tuple[int, ...] = ()
        if record is not None and not record.lost:
            ended = record.jobs
            for job_id in ended:
                self._jobs.end(job_id, "lost", self.version)
            self.counts["lost"] += len(ended)
            reopened = self._roster.lose(record)
            self._let_pass(effects, reopened)
        self._recorder.lost(self.now, worker, ended, self.version, effects)
        return Reply(self.version, tuple(effects))

    def tick(self, now: float, *, closing: bool = False) -> Reply:
        """Let time pass: what waits for a time, such as a grace window, is released.

        Args:
            now: The time, in seconds.
            closing: The run ends now: partial buffers are released or dropped, as they were told.
        """
        self._advance(now)
        self._chain.expire(self.now)
        effects: list[Effect] = []
        self._context.closing = closing
        self._let_pass(effects, False)
        self._context.closing = False
        self._recorder.ticked(self.now, self.version, closing, effects)
        return Reply(self.version, tuple(effects))

    def take_events(self) -> list[Event]:
        """The events since the last call, for a shell that streams them."""
        return self._recorder.take()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the server is, as a plain tree that shares no memory with it.

        Events are not in it: they are the log, and stay with the shell.
        """
        context = self._context
        return {
            "algorithm": self.algorithm.name,
            "version": context.version,
            "now": context.now,
            "counts": dict(self.counts),
            "parameters": context.parameters.clone(),
            "buffers": dump_buffers(context.buffers),
            "stream": tree.dump(context.stream_state()),
            "tables": {name: tree.dump(table) for name, table in self._tables.items()},
            "roster": self._roster.state_dict(),
            **self._chain.state_dict(),
            **self._jobs.state_dict(),
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
        buffers = as_buffers(state["buffers"])
        if context.buffers is not None and buffers is not None:
            context.buffers.floating.copy_(buffers.floating)
            context.buffers.integer.copy_(buffers.integer)
        context.version = state["version"]
        context.now = state["now"]
        stream = state["stream"]
        context.load_stream_state(None if stream is None else (stream[0], stream[1]))
        self.counts = Counter(state["counts"])
        for name, table in self._tables.items():
            tree.load(table, state["tables"][name])
        self._chain.load_state_dict(state)
        self._roster.load_state_dict(state["roster"])
        self._jobs.load_state_dict(state, self._roster, restarted=restarted)

    def _advance(self, now: float) -> None:
        # A clock that stands or goes back (an NTP step, two threads) must not stop a server.
        if now > self._context.now and isfinite(now):
            self._context.now = now

    def _wait(self, worker: str, reason: str, effects: list[Effect]) -> Wait:
        self._recorder.waited(self.now, worker, reason)
        return Wait(reason, None, tuple(effects))

    def _give(self, worker: Worker, effects: list[Effect]) -> Checkout:
        context, algorithm, jobs = self._context, self.algorithm, self._jobs
        job_id = jobs.next_id()
        context.worker = worker.index
        if algorithm.view is not None or algorithm.work is not None:
            self._count_workers()
            context.job, context.staleness, context.base = job_id, 0, None
            context.dispatched_at = context.now
        slot: Slot | None
        if algorithm.view is None:
            version = context.version
            slot = jobs.ring.current(version, context.parameters, context.buffers)
        else:
            slot, version = self._view(worker)
        worker.version = version
        jobs.by_id[job_id] = Job(job_id, worker, version, slot, context.now)
        self._roster.start(worker, job_id)
        order = _AS_YOU_LIKE if algorithm.work is None else algorithm.work(context)
        self._recorder.checked_out(context.now, worker.name, job_id, version, slot is None)
        if slot is None:
            return Checkout(version, None, job_id, order, None, tuple(effects))
        return Checkout(version, slot.shown, job_id, order, slot.buffers, tuple(effects))

    def _view(self, worker: Worker) -> tuple[Slot | None, int]:
        """What the algorithm's view sends: a slot of its own, or nothing."""
        context, view = self._context, self.algorithm.view
        seen = view(context, self._chain.states) if view is not None else Keep.KEEP
        if isinstance(seen, Keep):
            return None, worker.version
        return self._jobs.ring.own(seen[1], seen[0], context.buffers), seen[1]

    def _settle(self, effects: list[Effect]) -> bool:
        """After the step: tell the gate, cancel what it stops; True when it may be asked again."""
        gate, state = self.algorithm.gate, self._roster.gate_state
        reopened = gate.stepped(state)
        jobs = self._jobs
        if not jobs.by_id:
            return reopened
        in_order = jobs.by_version(sort=self.algorithm.view is not None)
        for job_id in gate.stop(in_order, self.version, state):
            job = jobs.end(job_id, "cancelled", self.version)
            reopened = self._roster.abandon(job.worker, job_id) or reopened
            self.counts["cancelled"] += 1
            effects.append(Cancel(job_id, job.worker.name))
            # It is there and has nothing to do: it waits with the others, without asking.
            self._roster.ask(job.worker)
        return reopened

    def _let_pass(self, effects: list[Effect], reopened: bool) -> None:
        """Release what is due, and wake whom that lets start."""
        context, chain = self._context, self._chain
        if chain.ticks:
            context.worker = context.job = -1
            context.staleness = 0
            context.dispatched_at = context.now
            context.base = None
            self._count_workers()
            while (due := chain.due()) is not None:
                if chain.run(due[1], effects, due[0])[4]:
                    reopened = self._settle(effects) or reopened
        if reopened:
            self._roster.reopen()
        self._roster.wake(effects)

    def _submit_unknown(self, update: Update) -> Receipt:
        worker = self._roster.find(update.worker)
        reason = "unknown_worker" if worker is None else "unknown_job"
        for receipt in worker.receipts if worker is not None else ():
            if receipt.job == update.sequence:
                # Its effects were carried out when it was first given.
                again = receipt._replace(effects=())
                self.counts["duplicates"] += 1
                self._recorder.submitted(self.now, update, again, False, duplicate=True)
                return again
        receipt = Receipt("rejected", reason, 0, 0.0, self.version, update.sequence)
        self.counts["rejected"] += 1
        self._recorder.submitted(self.now, update, receipt, False)
        return receipt

    def _count_workers(self) -> None:
        context, roster = self._context, self._roster
        context.num_workers = len(roster.names)
        context.num_active = context.num_workers - roster.num_lost
        context.num_in_flight = len(self._jobs.by_id)

    def _check_state(self, state: dict[str, Any]) -> None:
        got = _likeness(state.get("algorithm"), state.get("parameters"), state.get("buffers"))
        expected = _likeness(self.algorithm.name, self.parameters, self.buffers)
        if got != expected:
            raise StateError("the saved server is not like this one", got=got, expected=expected)


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


def _likeness(name: Any, parameters: Any, buffers: Any) -> str:
    sizes = [] if buffers is None else [buffer.numel() for buffer in buffers]
    if not isinstance(parameters, Tensor):
        return f"{name} without parameters"
    return f"{name}, {parameters.numel()} parameters of {parameters.dtype}, buffers {sizes}"
