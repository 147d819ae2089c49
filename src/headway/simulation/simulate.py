"""The front door of the simulator: check the arguments, run, and put the result together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

from headway.core import Algorithm, Bulk, Event, RandomOrder, Recording, Scheduler, Submitted
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.observe import (
    LogHash,
    Observer,
    Point,
    Result,
    RunFolder,
    RunInfo,
    Snapshot,
    weights_hash,
)
from headway.simulation.engine import Engine, Settings
from headway.simulation.population import Population, constant
from headway.simulation.schedule import Every, as_every
from headway.simulation.stop import Stop
from headway.task import Objective

__all__ = ["simulate"]

_RECORDINGS: Final[tuple[Recording, ...]] = ("nothing", "events", "payloads")


def simulate(
    task: Objective,
    algorithm: Algorithm,
    *,
    stop: Stop,
    population: Population | None = None,
    concurrency: int | None = None,
    scheduler: Scheduler | None = None,
    evaluate_every: Every | int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
    record: Recording = "events",
    folder: str | Path | RunFolder | None = None,
    observers: Sequence[Observer] = (),
    label: str | None = None,
) -> Result:
    """Train in virtual time: the clients really train, and the clock is computed.

    The same task, algorithm, population, settings and seed give the same event log and the same
    weights, to the bit, on the same machine with the same number of threads.

    Args:
        task: What is trained, such as :class:`headway.Task` or ``headway.tasks.quadratic()``.
        algorithm: What an update is worth.
        stop: When it ends; see :func:`headway.until`.
        population: How long the clients take; by default every job takes one virtual second.
        concurrency: How many clients train at the same time, at most; by default all of them.
        scheduler: Who trains next; by default a uniformly random one of those who wait.
        evaluate_every: The distance between evaluations; a bare number counts arrived updates.
        seed: Of every random stream of the run.
        device: Where models live and train.
        record: ``"nothing"``, ``"events"``, or ``"payloads"``, from which the run can be replayed.
        folder: A run folder to write, which must be new or empty.
        observers: Told how the run goes on.
        label: What tables and figures call the run; by default the algorithm's name.

    Returns:
        The history, the counts, the events and the final model. Ctrl-C ends the run after the
        present job, and the result says so; a second Ctrl-C is not caught.

    Raises:
        ConfigurationError: An argument, or a combination of them, cannot be used.
        RunFolderError: The folder cannot be written. Nothing has been trained then.

    Example:
        >>> import headway as hw
        >>> result = hw.simulate(
        ...     hw.tasks.quadratic(dim=10, num_clients=8),
        ...     hw.algorithms.fedbuff(buffer_size=4),
        ...     population=hw.population.lognormal(8, median_s=2.0, sigma=0.5),
        ...     stop=hw.until(updates=200),
        ... )
        >>> result.updates, result.versions, result.final("loss") < result.history[0].metrics["loss"]
        (200, 50, True)
    """
    settings = _resolve(
        task,
        algorithm,
        stop,
        population,
        concurrency,
        scheduler,
        evaluate_every,
        seed,
        device,
        record,
    )
    run_folder = _open(folder, settings)
    recorder = _Recorder(settings, run_folder, observers, label or algorithm.name)
    engine = Engine(settings, evaluated=recorder.evaluated, reported=recorder.reported)
    try:
        recorder.started(engine)
        with _interruptible(engine):
            engine.begin()
            reason = engine.run()
    except BaseException:
        recorder.broken_off(engine)
        raise
    return recorder.finished(engine, reason)


def _resolve(
    task: Objective,
    algorithm: Algorithm,
    stop: Stop,
    population: Population | None,
    concurrency: int | None,
    scheduler: Scheduler | None,
    evaluate_every: Every | int,
    seed: int,
    device: str | torch.device,
    record: Recording,
) -> Settings:
    if not isinstance(algorithm, Algorithm):
        raise ArgumentTypeError(
            "this is not an algorithm",
            where="simulate(algorithm=...)",
            got=repr(algorithm),
            help="call one, for example headway.algorithms.fedbuff(buffer_size=10)",
        )
    if not isinstance(stop, Stop):
        raise ArgumentTypeError(
            "this does not say when the run ends",
            where="simulate(stop=...)",
            got=repr(stop),
            help="write stop=headway.until(updates=1000)",
        )
    if record not in _RECORDINGS:
        raise UnknownNameError.of(
            "recording", str(record), _RECORDINGS, where="simulate(record=...)"
        )
    num_clients = task.num_clients
    if population is None:
        population = constant(num_clients)
    elif population.num_clients != num_clients:
        raise ConfigurationError(
            "the task and the population do not have the same number of clients",
            where="simulate(population=...)",
            got=f"a task with {num_clients}, a population with {population.num_clients}",
            help=f"make the population with num_clients={num_clients}",
        )
    if scheduler is not None and concurrency is not None:
        raise ConfigurationError(
            "give either a scheduler or a concurrency",
            where="simulate(scheduler=..., concurrency=...)",
            help="put the number into the scheduler: RandomOrder(concurrency=...)",
        )
    scheduler = scheduler or RandomOrder(concurrency=concurrency)
    _check_enough_clients(task, algorithm, scheduler)
    return Settings(
        task=task,
        algorithm=algorithm,
        population=population,
        scheduler=scheduler,
        stop=stop,
        evaluate_every=as_every(evaluate_every),
        seed=seed,
        device=torch.device(device),
        record=record,
    )


def _check_enough_clients(task: Objective, algorithm: Algorithm, scheduler: Scheduler) -> None:
    able = sum(task.num_examples(client) > 0 for client in range(task.num_clients))
    wanted, needed = scheduler.concurrency, algorithm.needs.min_workers
    if isinstance(algorithm.gate, Bulk):
        needed = max(needed, algorithm.gate.cohort)
    if wanted is not None and wanted > able:
        raise ConfigurationError(
            "more clients in flight than there are",
            where="simulate(concurrency=...)",
            got=f"concurrency {wanted}",
            expected=f"at most {able}, the clients that have data",
            help=f"lower concurrency to {able}, or make a task with more clients",
        )
    if needed > able:
        raise ConfigurationError(
            f"`{algorithm.name}` needs more clients than there are",
            where="simulate(algorithm=...)",
            got=f"{able} clients with data",
            expected=f"at least {needed}",
            help="make its rounds smaller, or the task larger",
        )


def _open(folder: str | Path | RunFolder | None, settings: Settings) -> RunFolder | None:
    if folder is None or isinstance(folder, RunFolder):
        return folder
    return RunFolder.create(folder, _describe(settings))


def _describe(settings: Settings) -> dict[str, Any]:
    algorithm = settings.algorithm
    return {
        "task": settings.task.describe(),
        "algorithm": {"name": algorithm.name, **_plain(algorithm.settings)},
        "population": settings.population.describe(),
        "run": {
            "stop": _plain(settings.stop.describe()),
            "evaluate_every": str(settings.evaluate_every),
            "scheduler": str(settings.scheduler),
            "seed": settings.seed,
            "device": str(settings.device),
            "record": settings.record,
        },
    }


def _plain(settings: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, bool | int | float | str | list) else str(value)
        for name, value in settings.items()
        if value is not None
    }


@contextmanager
def _interruptible(engine: Engine) -> Iterator[None]:
    """Let the first Ctrl-C end the run in order, and the second one break it off."""
    usable = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not usable:
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        engine.interrupt()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Recorder:
    """Tells the folder and the observers what happens, and makes the result."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder | None,
        observers: Sequence[Observer],
        label: str,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._observers = tuple(observers)
        self._label = label
        self._events: list[Event] = []
        self._hash = LogHash()

    def started(self, engine: Engine) -> None:
        settings = self._settings
        if self._folder is not None and settings.record == "payloads":
            self._folder.append_initial(engine.server.parameters, engine.server.buffers)
        info = RunInfo(
            label=self._label,
            algorithm=str(settings.algorithm),
            task=settings.task.name,
            seed=settings.seed,
            num_clients=settings.task.num_clients,
            concurrency=settings.scheduler.concurrency,
            stop=str(settings.stop),
        )
        for observer in self._observers:
            observer.started(info)

    def evaluated(self, engine: Engine, point: Point) -> None:
        self._take_events(engine)
        if self._folder is not None:
            self._folder.append_point(point)
        for observer in self._observers:
            observer.evaluated(point)
        self.reported(engine)

    def reported(self, engine: Engine) -> None:
        if not self._observers:
            return
        progress = engine.progress
        snapshot = Snapshot(
            updates=progress.updates,
            versions=progress.versions,
            virtual_time_s=progress.virtual_time_s,
            wall_time_s=progress.wall_time_s,
            updates_per_s=progress.updates / max(progress.wall_time_s, 1e-9),
            mean_staleness=engine.tally.recent_staleness,
            in_flight=engine.server.num_in_flight,
            metrics=dict(progress.metrics),
            fraction_done=self._settings.stop.fraction(progress),
        )
        for observer in self._observers:
            observer.progress(snapshot)

    def finished(self, engine: Engine, reason: str) -> Result:
        self._take_events(engine)
        result = _result(engine, reason, self._label)
        result.events = self._events
        result.log_hash = self._hash.hexdigest() if self._events else ""
        if self._folder is not None:
            self._folder.close(result)
        for observer in self._observers:
            observer.finished(result)
        return result

    def broken_off(self, engine: Engine) -> None:
        """Keep what there is of a run that ends with an exception."""
        if self._folder is not None:
            self._take_events(engine)
            self._folder.close()

    def _take_events(self, engine: Engine) -> None:
        events = engine.server.take_events()
        self._hash.extend(events)
        if self._folder is not None:
            self._folder.append_events(events)
        if self._folder is not None and self._settings.record == "payloads":
            # The payloads are in the folder; in memory they would soon be too many.
            events = [
                event._replace(payload=None, buffers=None) if type(event) is Submitted else event
                for event in events
            ]
        self._events.extend(events)


def _result(engine: Engine, reason: str, label: str) -> Result:
    settings, tally, server = engine.settings, engine.tally, engine.server
    return Result(
        label=label,
        algorithm=settings.algorithm.name,
        settings=_plain(settings.algorithm.settings),
        task=settings.task.name,
        seed=settings.seed,
        synchronous=isinstance(settings.algorithm.gate, Bulk),
        population=settings.population.describe(),
        concurrency=settings.scheduler.concurrency,
        num_clients=settings.task.num_clients,
        history=engine.history,
        staleness=dict(sorted(tally.staleness.items())),
        counts=_counts(engine),
        clients=tally.per_client(),
        updates=tally.updates,
        versions=server.version,
        examples=tally.examples,
        discarded_examples=tally.discarded_examples,
        bytes_up=tally.bytes_up,
        bytes_down=tally.bytes_down,
        virtual_time_s=engine.progress.virtual_time_s,
        wall_time_s=engine.progress.wall_time_s,
        idle_share=tally.idle_share(engine.progress.virtual_time_s),
        stop_reason=reason,
        interrupted=engine.interrupted,
        warnings=[*engine.warnings, *_warnings(engine)],
        parameters=server.parameters.clone(),
        layout=server.layout,
        buffers=None if server.buffers is None else server.buffers.clone(),
        log_hash="",
        weights_hash=weights_hash(server.parameters, server.buffers),
    )


def _counts(engine: Engine) -> dict[str, int]:
    counts, reasons = engine.server.counts, engine.tally.reasons
    names = ("applied", "buffered", "rejected", "cancelled", "lost", "duplicates")
    return {
        "updates": engine.tally.updates,
        **{name: counts[name] for name in names},
        **{f"rejected:{reason}": count for reason, count in sorted(reasons.items())},
    }


def _warnings(engine: Engine) -> list[str]:
    warnings = []
    bad = engine.tally.reasons["not_finite"]
    if bad:
        warnings.append(
            f"{bad} of {engine.tally.updates} updates were rejected because they were not finite; "
            "the workers' learning rate is probably too high"
        )
    without = engine.settings.task.num_clients - len(engine.clients)
    if without:
        warnings.append(f"{without} clients have no data and never train")
    return warnings
