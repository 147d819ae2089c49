"""The asynchronous server as a state machine.

It has few doors: :meth:`Server.checkout`, :meth:`Server.submit`, :meth:`Server.lose` and
:meth:`Server.tick` (and :meth:`Server.register`, for shells that know their workers beforehand).
Each takes the time as an argument, appends one event, and returns a reply that may carry effects.
There is no thread, socket, file, clock or global random state in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

from torch import Tensor

from headway.core.algorithm import Algorithm, Keep
from headway.core.checks import find_fault, readable
from headway.core.events import Event
from headway.core.jobs import Job
from headway.core.layout import Buffers, ParameterLayout
from headway.core.parts import Parts
from headway.core.recording import Recorder, Recording
from headway.core.roster import WOKEN, Worker
from headway.core.scheduler import FirstCome, Scheduler
from headway.core.snapshots import Memory, Slot
from headway.core.update import Cancel, Checkout, Effect, Receipt, Reply, Update, Wait, WorkOrder

__all__ = ["Server"]

_AS_YOU_LIKE = WorkOrder()
_JOBS_PER_WORKER = 2


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
        memory: Where parameters and snapshots lie; by default in memory of this process.

    Raises:
        ArgumentTypeError: ``initial`` is not a flat floating-point tensor.
        ConfigurationError: ``initial`` is not finite, or does not fit the layout in size or dtype.

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
        memory: Memory | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.needs = algorithm.needs
        self._recorder = Recorder(record)
        self._adopt(
            Parts(
                initial,
                algorithm,
                scheduler or FirstCome(),
                layout=layout,
                buffers=buffers,
                seed=seed,
                reference_gradient=reference_gradient,
                incarnation=incarnation,
                memory=memory,
            )
        )
        if self.needs.reference_gradient and reference_gradient is None:
            self._context.reference_gradient()

    def _adopt(self, parts: Parts) -> None:
        # Taken apart once: they are looked up for every update.
        self._parts = parts
        self.counts = parts.counts
        self._context, self._chain = parts.context, parts.chain
        self._roster, self._jobs = parts.roster, parts.jobs

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
    def woken(self) -> tuple[str, ...]:
        """Workers for whom a place is kept until they check out.

        A shell that loads a state, or to which a door has raised an error, wakes them again.
        """
        return self._roster.woken

    @property
    def num_snapshots(self) -> int:
        """Snapshots that are live: at most one more than the jobs in flight."""
        return self._jobs.ring.num_live

    def given(self, job: int) -> tuple[Tensor | None, Buffers | None]:
        """What a job in flight was given, for a shell that loads a state; ``None``: it kept its own.

        Args:
            job: Its id.
        """
        slot = self._jobs.by_id[job].slot
        return (None, None) if slot is None else (slot.shown, slot.buffers)

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
                effects hold ``Wake(worker)``, and a checkout gives it the job. Where the update is
                not of a job in flight, it asks only if it has no job in flight.

        Returns:
            The receipt. One of the last four jobs of a worker gets its first receipt again when it
            is submitted again, with no effect but a ``Wake``; an older one is ``"unknown_job"``.

        Raises:
            Exception: What a transform or the step raised. The job has ended by then, as
                ``"transform_failed"``, and the worker has not asked; what they changed stays.
        """
        self._advance(now)
        update = readable(update)
        jobs, context, roster = self._jobs, self._context, self._roster
        job = jobs.by_id.get(update.sequence)
        if job is None or job.worker.name != update.worker:
            return self._submit_unknown(update, again)
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
            try:
                status, reason, weight, answer, stepped = self._chain.run(update, effects)
            except BaseException:
                self._fail(update, job, again)
                raise
            if roster.observe is not None:
                delay_s = context.now - job.dispatched_at
                roster.observe(worker.index, update, staleness, delay_s, roster.scheduler_state)
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

    def lose(self, worker: str, now: float, *, again: bool = False) -> Reply:
        """A worker is gone: its jobs are freed, and nobody waits for it.

        Args:
            worker: Its name; one that is not known, or is lost already, changes nothing.
            now: The time, in seconds.
            again: Only its jobs are lost; the worker is there, and asks for its next job in the
                same trip, as in :meth:`submit`.
        """
        self._advance(now)
        effects: list[Effect] = []
        record = self._roster.find(worker)
        ended: tuple[int, ...] = ()
        applied, reopened = 0, False
        if record is not None and not record.lost:
            ended = record.jobs
            for job_id in ended:
                self._jobs.end(job_id, "lost", self.version)
                if again:
                    reopened = self._roster.abandon(record, job_id) or reopened
            self.counts["lost"] += len(ended)
            if again:
                self._roster.ask(record)
            else:
                reopened = self._roster.lose(record)
            applied = self._let_pass(effects, reopened)
        reply = Reply(self.version, tuple(effects), ended, applied)
        self._recorder.lost(self.now, worker, reply, again=again)
        return reply

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
        try:
            applied = self._let_pass(effects, False)
        finally:
            self._context.closing = False
        reply = Reply(self.version, tuple(effects), (), applied)
        self._recorder.ticked(self.now, reply, closing=closing)
        return reply

    def take_events(self) -> list[Event]:
        """The events since the last call, for a shell that streams them."""
        return self._recorder.take()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the server is, as a plain tree that shares no memory with it.

        Events are not in it: they are the log, and stay with the shell.
        """
        return self._parts.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, restarted: bool = False) -> None:
        """Become the server that was saved. Its jobs in flight are in flight again.

        Nothing changes unless all of it is loaded; meanwhile there are two models in memory.
        ``parameters`` is another tensor afterwards. Set the ``timers`` and wake the ``woken`` then:
        their effects may have been lost with the shell that had them.

        Args:
            state: From :meth:`state_dict` of a server with the same algorithm and model size.
            restarted: The saved server may have gone on and given out jobs before it died: take
                the next incarnation, or this server's own if that is higher. A shell that may start
                from one state twice counts its starts, and passes ``incarnation``.

        Raises:
            StateError: The state is of another algorithm or another model, or is damaged.
        """
        self._adopt(self._parts.loaded(state, restarted=restarted))

    def _advance(self, now: float) -> None:
        # A clock that stands or goes back (an NTP step, two threads) must not stop a server.
        if now > self._context.now and isfinite(now):
            self._context.now = now

    def _wait(self, worker: str, reason: str, effects: list[Effect]) -> Wait:
        self._recorder.waited(self.now, worker, reason)
        return Wait(reason, min(self._chain.timers, default=None), tuple(effects))

    def _give(self, worker: Worker, effects: list[Effect]) -> Checkout:
        context, algorithm, jobs = self._context, self.algorithm, self._jobs
        job_id = jobs.next_id
        context.worker = worker.index
        # First what may raise an error: the worker's place is kept then, and no job given out.
        order = _AS_YOU_LIKE
        if algorithm.view is not None or algorithm.work is not None:
            self._count_workers()
            context.job, context.staleness, context.base = job_id, 0, None
            context.dispatched_at = context.now
            if algorithm.work is not None:
                order = algorithm.work(context, self._chain.states)
        slot: Slot | None
        if algorithm.view is None:
            version = context.version
            slot = jobs.ring.current(version, context.parameters, context.buffers)
        else:
            slot, version = self._view(worker)
        worker.version = version
        jobs.add(Job(job_id, worker, version, slot, context.now))
        self._roster.start(worker, job_id)
        self._recorder.checked_out(context.now, worker.name, job_id, version, slot is None)
        if slot is None:
            return Checkout(version, None, job_id, order, None, tuple(effects))
        values: Any = (version, slot.shown, job_id, order, slot.buffers, tuple(effects))
        return tuple.__new__(Checkout, values)

    def _view(self, worker: Worker) -> tuple[Slot | None, int]:
        """What the algorithm's view sends: a slot of its own, or nothing."""
        seen = self._chain.look()
        if isinstance(seen, Keep):
            return None, worker.version
        return self._jobs.ring.own(seen[1], seen[0], self._context.buffers), seen[1]

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

    def _let_pass(self, effects: list[Effect], reopened: bool) -> int:
        """Release what is due, and wake whom that lets start: how often the model changed."""
        context, chain = self._context, self._chain
        before = context.version
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
        if context.version > before:
            self.counts["flushed"] += context.version - before
        return context.version - before

    def _submit_unknown(self, update: Update, again: bool) -> Receipt:
        """An update of no job in flight: a duplicate, one too late, or nobody's."""
        worker = self._roster.find(update.worker)
        reason = "unknown_worker" if worker is None else "unknown_job"
        receipt = Receipt("rejected", reason, 0, 0.0, self.version, update.sequence)
        duplicate = False
        effects: list[Effect] = []
        if worker is not None:
            for known in worker.receipts:
                if known.job == update.sequence:
                    duplicate = known.job not in worker.undelivered
                    # Its effects were carried out when it was first given.
                    receipt = known._replace(effects=())
                    if not duplicate:
                        receipt = worker.deliver(known, self.version)
            if again:
                self._roster.ask_if_idle(worker, effects)
        self.counts["duplicates" if duplicate else "rejected"] += 1
        self._recorder.submitted(self.now, update, receipt, again, duplicate=duplicate)
        return receipt._replace(effects=tuple(effects)) if effects else receipt

    def _fail(self, update: Update, job: Job, again: bool) -> None:
        """A transform or the step raised: the job ends, and nobody waits for it."""
        roster, worker = self._roster, job.worker
        if job.slot is not None:
            self._jobs.ring.release(job.slot)
        if roster.gate.finished(worker.index, roster.gate_state, taken=False):
            roster.reopen()
        staleness = self.version - job.version
        receipt = Receipt("rejected", "transform_failed", staleness, 0.0, self.version, job.id)
        worker.remember(receipt)
        self.counts["rejected"] += 1
        self._recorder.submitted(self.now, update, receipt, again)

    def _count_workers(self) -> None:
        context, roster = self._context, self._roster
        context.num_workers = len(roster.names)
        context.num_active = context.num_workers - roster.num_lost
        context.num_in_flight = len(self._jobs.by_id)
