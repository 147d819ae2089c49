"""The simulator: a server, a queue of events in virtual time, and an executor that trains.

The engine is a thin shell. It knows no algorithm: it carries out effects, and it hands every
finished job to the server at its time. Virtual time is never slept.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any, Final

import torch

from headway.core import Cancel, Checkout, Effect, Noted, Timer, Update, Wake
from headway.observe import Point
from headway.observe.tally import Tally
from headway.simulation import saving
from headway.simulation.attendance import Attendance
from headway.simulation.blame import failed_client
from headway.simulation.execution import choose
from headway.simulation.flight import DROPPED, RETURNS, Flight
from headway.simulation.links import moved_bytes
from headway.simulation.population import client_name
from headway.simulation.queue import COMPLETION, EVALUATION, LOSS, SERVED, TIMER, EventQueue
from headway.simulation.serving import Line
from headway.simulation.settings import Settings, server_for
from headway.simulation.stop import Progress, Stop
from headway.task import Assignment
from headway.task.replicas import Replicas
from headway.task.streams import Purpose, job_bits, stream_key

__all__ = ["Engine", "Settings", "server_for"]

_UNASKED: Final = tuple(Assignment._field_defaults[name] for name in ("is_cancelled", "room"))
_REPORT_EVERY_S: Final = 0.2
"""Real seconds between two reports."""

_PREFIX: Final = len("client-")

_HOPELESS: Final = 100
"""So many updates in a row that are not finite, and at least two per place in flight, end a run."""

_FORLORN: Final = 10_000
"""So many lost jobs in a row, and at least three per client, end a run: nothing comes back."""


class Engine:
    """One run, from the first dispatch to the last evaluation.

    Args:
        settings: What to run.
        evaluated: Called after each evaluation.
        reported: Called every so often while the run goes on.
        settled: Called after each event that does not end the run, and at an interruption: the
            state is whole then, and can be saved.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        evaluated: Callable[[Engine, Point], None],
        reported: Callable[[Engine], None],
        settled: Callable[[Engine], None] | None = None,
    ) -> None:
        self.settings = settings
        task, device = settings.task, settings.device
        self.server = server_for(settings)
        self.clients = [c for c in range(task.num_clients) if task.num_examples(c) > 0]
        self.trainer = task.trainer(settings.algorithm, device)
        self.choice = choose(
            settings.execution,
            task,
            settings.algorithm,
            self.trainer,
            num_params=self.server.parameters.numel(),
            device=device,
        )
        self.executor = self.choice.executor
        self.queue: EventQueue[int] = EventQueue()
        self.tally = Tally()
        self.progress = Progress()
        self.history: list[Point] = []
        self.warnings: list[str] = []
        self.interrupted = False
        self.failed_in = ""
        self._evaluated = evaluated
        self._reported = reported
        self._settled = settled
        self._times = settings.population.job_times(settings.seed)
        self.attendance = Attendance.of(
            self._times, self.server, self.queue, self.clients, settings.seed
        )
        # Clients that come by themselves do one job each, and do not ask for another.
        self._asks_again = settings.population.arrival is None
        self._training_key = stream_key(settings.seed, Purpose.TRAINING)
        self._flights: dict[int, Flight] = {}
        self._num_timers = 0
        self._can_drop = settings.population.dropout > 0.0
        self._tells_clients = bool(settings.algorithm.client)
        # Only a view of the algorithm's own can send less than the model, and only then are
        # replicas needed.
        self._replicas = (
            None
            if settings.algorithm.view is None or settings.staleness is not None
            else Replicas(
                self.server.parameters.clone(), self.server.layout, settings.algorithm.payload
            )
        )
        busy = settings.server
        self.line = None if busy is None or busy.apply_s == 0.0 else Line(busy)
        self._stop = _without_time(settings.stop)
        self._next_versions = settings.evaluate_every.versions or 0
        self._started_at = self._next_report_at = time.perf_counter()
        self._in_a_row = 0
        self._lost_in_a_row = 0
        self._ailing: set[int] = set()
        self._end: str | None = None

    def begin(self) -> None:
        """Measure the initial model, announce the clients, and dispatch the first jobs."""
        self.evaluate()
        if self._asks_again:
            self._carry_out(self.server.register(map(client_name, self.clients), 0.0).effects)
        elif self.attendance is not None:
            self.attendance.begin()
        period = self.settings.evaluate_every.virtual_time_s
        if period is not None:
            self.queue.push(period, EVALUATION, 1)

    def run(self) -> str:
        """Run from the first completion, or from what was loaded, to the end: why it ended."""
        with _calm_collector():
            self._loop()
        if self._end == "interrupted" and self._settled is not None:
            self._settled(self)
        return self._close(self._end or "interrupted")

    def _loop(self) -> None:
        server, queue, progress = self.server, self.queue, self.progress
        attendance = self.attendance
        settled = self._settled
        period = self.settings.evaluate_every.virtual_time_s
        limit = self.settings.stop.virtual_time_s or inf
        complete = self._complete if self.line is None else self._queue_up
        while self._end is None:
            # Whoever comes back may start, so a run has not stalled as long as one is awaited.
            awaited = self._flights or self._num_timers or (attendance and attendance.is_awaited)
            if not awaited:
                self._end = self._stalled()
                break
            when, priority, _, item = queue.pop()
            if when > limit:
                # Nothing after the limit happens; what is still in flight stays unfinished.
                progress.virtual_time_s = limit
                self._end = self.settings.stop.reason(progress)
                break
            progress.virtual_time_s = when
            if priority == COMPLETION:
                complete(item, when)
            elif priority == SERVED:
                self._end_service(when)
            elif priority == LOSS:
                self._lose(item, when)
            elif priority == TIMER:
                self._num_timers -= 1
                self._carry_out(server.tick(when).effects)
                self._look(arrived=False)
            elif priority == EVALUATION:
                self.evaluate()
                queue.push((item + 1) * (period or inf), EVALUATION, item + 1)
            elif attendance is not None:
                self._carry_out(attendance.happens(priority, item, when))
            if settled is not None and self._end is None:
                settled(self)

    def state_dict(self) -> dict[str, Any]:
        """Everything between two events, as a plain tree: see :mod:`headway.simulation.saving`."""
        return saving.dump(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the run that was saved, and :meth:`run` on; in place of :meth:`begin`.

        Args:
            state: From :meth:`state_dict` of an engine with the same settings.

        Raises:
            StateError: It is not such a state. The engine is of no use then.
        """
        saving.load(self, state)

    def interrupt(self) -> None:
        """End the run after the present job."""
        self.interrupted = True
        self._end = "interrupted"

    def fail(self, error: Exception) -> str:
        """Note an exception that ends the run, in its log: why it ended."""
        for flight in self._flights.values():
            self.tally.leave(flight.client, self.progress.virtual_time_s - flight.dispatched_at)
        self.tally.close(self.server.version)
        data = {"error": type(error).__name__, "message": str(error)}
        self._note("failed", {"worker": self.failed_in, **data})
        return f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")

    def evaluate(self) -> None:
        """Measure the model, and look whether that ends the run."""
        server, progress, tally = self.server, self.progress, self.tally
        progress.wall_time_s = time.perf_counter() - self._started_at
        progress.updates, progress.versions = tally.updates, server.version
        try:
            metrics = self.settings.task.evaluate(server.parameters, server.buffers)
        except Exception:
            self.failed_in = "evaluation"
            raise
        progress.metrics = metrics
        point = Point(
            tally.updates,
            server.version,
            tally.examples,
            tally.bytes_up + tally.bytes_down,
            progress.virtual_time_s,
            progress.wall_time_s,
            dict(metrics),
        )
        self.history.append(point)
        self._note("evaluated", {"updates": tally.updates, "metrics": dict(metrics)})
        self._evaluated(self, point)
        reason = None if self._stop is None else self._stop.reason(progress)
        if reason is None and not bool(torch.isfinite(server.parameters).all()):
            reason = "diverged: the model is not finite"
            self.warnings.append(f"{reason}; lower the server's or the workers' learning rate")
        # Not unconditionally: an interruption may set it at any moment.
        if reason is not None:
            self._end = self._end or reason

    def _queue_up(self, job: int, now: float) -> None:
        """A job comes back to a server that takes time."""
        assert self.line is not None, "only a busy server has a line"
        flight = self._flights[job]
        num_examples = self.settings.task.num_examples(flight.client)
        self.line.arrive(job, flight.name, flight.version, num_examples, now)
        self._begin_service(now)

    def _begin_service(self, now: float) -> None:
        assert self.line is not None, "only a busy server has a line"
        done_at = self.line.begin(now)
        if done_at is not None:
            self.queue.push(done_at, SERVED, 0)

    def _end_service(self, now: float) -> None:
        assert self.line is not None, "only a busy server has a line"
        job = self.line.end(now)
        if job is not None:
            self._complete(job, now)
        # Only now: the update that was just applied may have cancelled some of those that wait.
        self._begin_service(now)

    def _complete(self, job: int, now: float) -> None:
        flight = self._flights.pop(job)
        client = flight.client
        self._lost_in_a_row = 0
        try:
            result = self.executor.finish(job)
        except Exception as error:
            # Others may have been trained ahead with it.
            culprit = failed_client(error)
            self.failed_in = flight.name if culprit is None else client_name(culprit)
            raise
        if self._replicas is not None:
            result = self._replicas.train(client, result, flight.work.fragment)
        payload, num_examples, num_processed, num_steps, metrics, buffers = result
        # Straight through `tuple`, here and at a dispatch: it is half the time of a named tuple's
        # own constructor, and this is the inner loop.
        fields: Any = (
            payload,
            flight.version,
            flight.name,
            job,
            num_examples,
            num_steps,
            1.0,
            flight.work.fragment,
            buffers,
            metrics,
            None,
            None,
        )
        update = tuple.__new__(Update, fields)
        receipt = self.server.submit(update, now, again=self._asks_again)
        if self.attendance is not None:
            self.attendance.left(client)
        if self._tells_clients:
            self.trainer.receipt(client, receipt)
        if self._replicas is not None and receipt.answer is not None:
            self._replicas.answer(client, receipt.answer)
        tally = self.tally
        tally.arrive(client, update, receipt, num_processed, now - flight.dispatched_at)
        if receipt.reason == "not_finite":
            self._see_not_finite(client, update)
        elif receipt.status != "rejected":
            self._in_a_row = 0
        self._carry_out(receipt.effects)
        self._look(arrived=True)

    def _look(self, *, arrived: bool) -> None:
        """After what may have changed the model: is an evaluation, a report or the end due?"""
        progress, stop = self.progress, self._stop
        progress.updates, progress.versions = self.tally.updates, self.server.version
        every = self.settings.evaluate_every
        if every.updates is not None:
            if arrived and progress.updates % every.updates == 0:
                self.evaluate()
        elif every.versions is not None and progress.versions >= self._next_versions:
            self._next_versions = progress.versions + every.versions
            self.evaluate()
        clock = time.perf_counter()
        progress.wall_time_s = clock - self._started_at
        if clock >= self._next_report_at:
            self._next_report_at = clock + _REPORT_EVERY_S
            self._reported(self)
        if stop is not None and stop.is_due(progress):
            self._end = self._end or stop.reason(progress)

    def _lose(self, job: int, now: float) -> None:
        flight = self._flights.pop(job)
        name = flight.name
        self.tally.lose(flight.client, self._examples_done(flight, now), now - flight.dispatched_at)
        # The client has dropped this job, not out of the population: it asks again at once.
        if self.attendance is None:
            reply = self.server.lose(name, now, again=True)
        else:
            reply = self.attendance.lose(flight.client, job, now, flight.fate)
        self._carry_out(reply.effects)
        self._look(arrived=False)
        self._lost_in_a_row += 1
        # A loss asks for the next job: without an end of its own such a run has none.
        if self._lost_in_a_row >= max(_FORLORN, 3 * len(self.clients)) and self._end is None:
            self._end = f"stalled: the last {self._lost_in_a_row:,} jobs were all lost"
            self.warnings.append(
                f"{self._end}; allow more time or longer windows, or give the clients less to do"
            )

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        if self.attendance is not None:
            effects = self.attendance.admitted(effects, self.progress.virtual_time_s)
        for effect in effects:
            if type(effect) is Wake:
                self._check_out(effect.worker, self.progress.virtual_time_s)
            elif type(effect) is Cancel:
                self._cancel(effect.job)
            elif type(effect) is Timer:
                self._num_timers += 1
                self.queue.push(max(effect.at, self.progress.virtual_time_s), TIMER, 0)

    def _check_out(self, name: str, now: float) -> None:
        ticket = self.server.checkout(name, now)
        if type(ticket) is Checkout:
            self._dispatch(int(name[_PREFIX:]), name, ticket, now)
        if ticket.effects:
            self._carry_out(ticket.effects)

    def _dispatch(self, client: int, name: str, ticket: Checkout, now: float) -> None:
        tally = self.tally
        number = tally.dispatch(client)
        steps = self.trainer.num_steps(client, ticket.work)
        duration_s = self._times.duration_s(client, number, steps)
        if self._times.transfer_s is not None:
            moved = moved_bytes(ticket, self.server.parameters, self.server.layout)
            duration_s += self._times.transfer_s(client, *moved)
        job = ticket.job
        parameters = ticket.parameters
        if self._replicas is not None:
            parameters = self._replicas.receive(client, ticket)
        assert parameters is not None, "only a view can send nothing"
        seed = job_bits(self._training_key, client, number) >> 1
        fields: Any = (client, parameters, ticket.buffers, ticket.work, seed, *_UNASKED)
        if ticket.parameters is not None:
            tally.send(ticket.parameters, ticket.buffers)
        fate = DROPPED if self._can_drop and self._times.drops(client, number) else RETURNS
        due_s = now + duration_s
        if self.attendance is not None:
            due_s, fate = self.attendance.due(client, now, due_s, fate)
        if fate == RETURNS:
            # One that will be lost is never trained.
            self.executor.begin(job, tuple.__new__(Assignment, fields), due_s)
        handle = self.queue.push(due_s, COMPLETION if fate == RETURNS else LOSS, job)
        flight: Any = (client, name, ticket.version, ticket.work, now, duration_s, handle, fate)
        flights = self._flights
        flights[job] = tuple.__new__(Flight, flight)
        if len(flights) > tally.peak_in_flight:
            tally.peak_in_flight = len(flights)

    def _cancel(self, job: int) -> None:
        now = self.progress.virtual_time_s
        flight = self._flights.pop(job)
        self.queue.cancel(flight.handle)
        self.executor.discard(job)
        if self.line is not None:
            self.line.cancel(job)
        done = self._examples_done(flight, now)
        self.tally.cancel(flight.client, done, now - flight.dispatched_at)

    def _examples_done(self, flight: Flight, now: float) -> int:
        """The examples that a job which was not trained to its end has gone through by now."""
        if flight.duration_s <= 0.0:
            return 0
        share = min(1.0, (now - flight.dispatched_at) / flight.duration_s)
        return round(share * self.trainer.num_processed(flight.client, flight.work))

    def _see_not_finite(self, client: int, update: Update) -> None:
        self._in_a_row += 1
        if client not in self._ailing:
            self._ailing.add(client)
            metrics = dict(update.metrics)
            self._note("non_finite", {"worker": update.worker, "metrics": metrics})
        if self._in_a_row >= max(_HOPELESS, 2 * self.tally.peak_in_flight):
            self._end = f"diverged: the last {self._in_a_row} updates were not finite"

    def _stalled(self) -> str:
        reason = "stalled: nobody is training and nobody may start"
        why = "the algorithm waits for more workers than there are, or for a timer that never comes"
        if self._times.opens_s is not None:
            why += ", or the clients' windows of availability are over"
        self.warnings.append(f"{reason}; {why}")
        return reason

    def _close(self, reason: str) -> str:
        now = self.progress.virtual_time_s
        for flight in self._flights.values():
            self.tally.leave(flight.client, now - flight.dispatched_at)
        self.server.tick(now, closing=True)
        self.tally.close(self.server.version)
        last = self.history[-1]
        if (last.updates, last.versions) != (self.tally.updates, self.server.version):
            self.evaluate()
        self._note("interrupted" if self.interrupted else "stopped", {"reason": reason})
        return reason

    def _note(self, kind: str, data: dict[str, object]) -> None:
        if self.settings.record != "nothing":
            now = self.progress.virtual_time_s
            self.server.events.append(Noted(now, kind, data))


def _without_time(stop: Stop) -> Stop | None:
    """The criteria that end a run at once: at the virtual time limit, all that is due happens."""
    others: tuple[object, ...] = (stop.updates, stop.versions, stop.target, stop.wall_time_s)
    return None if others.count(None) == len(others) else replace(stop, virtual_time_s=None)


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Let the cyclic collector look at young objects only.

    A run makes hundreds of thousands of small records that stay, and none of them is in a cycle.
    With the usual thresholds they set off full collections, which walk through all of torch's
    objects too and cost more than the simulation itself.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 50, 10_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
