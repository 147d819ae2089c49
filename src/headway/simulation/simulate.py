"""The front door of the simulator: check the arguments, run, and put the result together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from headway.core import Algorithm, Bulk, Recording, Scheduler
from headway.observe import Observer, Point, Result, RunFolder, RunInfo, Snapshot
from headway.observe.journal import Journal, result_of, usual_warnings
from headway.observe.tally import Tally
from headway.simulation.engine import Engine
from headway.simulation.execution import Execution
from headway.simulation.interruption import interruptible
from headway.simulation.population import Population
from headway.simulation.resolve import describe, plain, resolve
from headway.simulation.resume import Checkpoints, Saved, begins_anew, find, reread
from headway.simulation.sampled import SimulatedStaleness
from headway.simulation.schedule import Every, as_every
from headway.simulation.serving import BusyServer
from headway.simulation.settings import Settings
from headway.simulation.stop import Progress, Stop
from headway.task import Objective

__all__ = ["about_run", "run_info", "simulate", "snapshot_of"]


def simulate(
    task: Objective,
    algorithm: Algorithm,
    *,
    stop: Stop,
    population: Population | None = None,
    concurrency: int | None = None,
    scheduler: Scheduler | None = None,
    server: BusyServer | None = None,
    execution: Execution | None = None,
    staleness: SimulatedStaleness | None = None,
    evaluate_every: Every | int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
    record: Recording = "events",
    folder: str | Path | RunFolder | None = None,
    observers: Sequence[Observer] = (),
    label: str | None = None,
    checkpoint_every: Every | int | None = None,
    resume: bool = False,
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
        scheduler: Who trains next; by default a uniformly random one of those who wait. All of them
            are in ``headway.schedulers``.
        server: How long the server takes for an update, and in which order it takes those that wait;
            by default it takes no time. See :class:`headway.BusyServer`.
        execution: How clients are trained: one by one or in groups, in one process or several; by
            default by the model's size. See :class:`headway.Execution`.
        staleness: Drawn instead of emerging, with one client at a time; see
            :class:`headway.SimulatedStaleness`. By default it emerges from the clients' times.
        evaluate_every: The distance between evaluations; a bare number counts arrived updates.
        seed: Of every random stream of the run; in [0, 2**63).
        device: Where models live and train.
        record: ``"nothing"``, ``"events"``, or ``"payloads"``, from which the run can be replayed.
        folder: A run folder to write, which must be new or empty; it holds a report too.
        observers: Told how the run goes on; see :class:`headway.observe.Observer`.
        label: What tables and figures call the run; by default the algorithm's name.
        checkpoint_every: The distance between checkpoints, which go into the folder, the last two
            kept; a bare number counts arrived updates. ``None``: none are written.
        resume: Go on with the run in the folder from its newest checkpoint. The arguments are those
            that it was begun with; observers, label and ``checkpoint_every`` may be others. The
            folder ends as that of a run that was never stopped: the same log hash, the same weights.
            Where there is no checkpoint yet, the run begins; where it has ended, its result is read.

    Returns:
        The history, the counts, the events and the final model. Ctrl-C ends the run after the
        present job, and the result says so; a second Ctrl-C is not caught. An exception in a client
        or an evaluation goes on to the caller, with a note that says where; the folder then holds
        what there is, with ``"failed: ..."`` as the reason of its end.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: An argument, or a combination of them, cannot be used.
        RunFolderError: The folder cannot be written. Nothing has been trained then.
        CheckpointError: A checkpoint cannot be written, or none that is there can be read.

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
    settings = resolve(
        task,
        algorithm,
        stop,
        population=population,
        concurrency=concurrency,
        scheduler=scheduler,
        server=server,
        execution=execution,
        staleness=staleness,
        evaluate_every=evaluate_every,
        seed=seed,
        device=device,
        record=record,
        observers=observers,
    )
    if checkpoint_every is not None:
        # Before the folder is made: what cannot be run leaves nothing behind.
        checkpoint_every = as_every(checkpoint_every, "checkpoint_every")
    saved = find(folder, settings) if resume else None
    if isinstance(saved, Result):
        return saved
    run_folder = _open(folder, settings, resume=resume, saved=saved)
    recorder = _Recorder(settings, run_folder, observers, label or algorithm.name)
    engine = recorder.engine(checkpoint_every, saved)
    try:
        recorder.started(engine, resumed=saved is not None)
        with interruptible() as ctrl_c, ctrl_c.told(engine.interrupt, recorder.interrupted):
            if saved is None:
                engine.begin()
            reason = engine.run()
    except Exception as error:
        recorder.failed(engine, error)
        raise
    except BaseException:
        recorder.broken_off(engine)
        raise
    finally:
        engine.choice.close()
    return recorder.finished(engine, reason)


def _open(
    folder: str | Path | RunFolder | None, settings: Settings, *, resume: bool, saved: Saved | None
) -> RunFolder | None:
    if folder is None or isinstance(folder, RunFolder):
        return folder
    if saved is not None:
        return RunFolder.reopen(folder, saved.mark)
    overwrite = resume and begins_anew(Path(folder), describe(settings))
    advice = (
        "choose another folder, or pass resume=True to go on with the run in it, or "
        "folder=headway.observe.RunFolder.create(..., overwrite=True) to replace it"
    )
    return RunFolder.create(folder, describe(settings), overwrite=overwrite, advice=advice)


class _Recorder:
    """Tells the journal what happens in the engine, and makes the result."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder | None,
        observers: Sequence[Observer],
        label: str,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._label = label
        self._journal = Journal(folder, observers, settings.record)
        self._checkpoints: Checkpoints | None = None

    def engine(self, checkpoint_every: Every | int | None, saved: Saved | None) -> Engine:
        """Make the engine, as it was saved; where that fails, nothing is left open."""
        settings, folder = self._settings, self._folder
        try:
            if checkpoint_every is not None:
                self._checkpoints = Checkpoints(folder, settings, checkpoint_every)
            settled = None if self._checkpoints is None else self.settled
            engine = Engine(
                settings, evaluated=self.evaluated, reported=self.reported, settled=settled
            )
            if saved is not None and folder is not None:
                self._go_on(engine, folder, saved)
        except BaseException:
            if folder is not None:
                folder.close()
            raise
        return engine

    def _go_on(self, engine: Engine, folder: RunFolder, saved: Saved) -> None:
        self._journal.events, self._journal.hash = reread(folder, saved)
        try:
            engine.load_state_dict(saved.engine)
        except BaseException:
            engine.choice.close()
            raise
        if self._checkpoints is not None:
            self._checkpoints.reached(engine)

    def settled(self, engine: Engine) -> None:
        """Write a checkpoint, if one is due."""
        checkpoints = self._checkpoints
        if checkpoints is not None and checkpoints.is_due(engine):
            self._take_events(engine)
            checkpoints.save(engine, self._journal.log_hash)

    def started(self, engine: Engine, *, resumed: bool) -> None:
        settings = self._settings
        info = run_info(settings, self._label)
        about = about_run(settings, self._label)
        self._journal.started(info, about, engine.server, resumed=resumed)

    def evaluated(self, engine: Engine, point: Point) -> None:
        self._take_events(engine)
        self._journal.evaluated(point)
        self.reported(engine)

    def reported(self, engine: Engine) -> None:
        if not self._journal.is_watched:
            return
        tally, progress = engine.tally, engine.progress
        in_flight, stop = engine.server.num_in_flight, self._settings.stop
        self._journal.progress(snapshot_of(progress, tally, in_flight, stop))

    def interrupted(self) -> None:
        """Tell those who want to know that the run ends after the present job."""
        self._journal.interrupted()

    def finished(self, engine: Engine, reason: str) -> Result:
        self._take_events(engine)
        return self._journal.finished(_result(engine, reason, self._label))

    def failed(self, engine: Engine, error: Exception) -> None:
        """Save what there is of a run that an exception ends, and tell the exception where."""
        reason = engine.fail(error)
        where = engine.failed_in or "the run"
        told = f"Headway: in {where}, after {engine.tally.updates:,} updates"
        if not engine.history:
            # The initial model could not even be measured, and torch says it in its own words.
            told += "; does the model take such inputs, and the loss such targets?"
        result = _result(engine, reason, self._label)
        self._journal.failed(result, engine.server.take_events(), error, told)

    def broken_off(self, engine: Engine) -> None:
        """Keep what there is of a run that is broken off."""
        self._journal.broken_off(engine.server.take_events())

    def _take_events(self, engine: Engine) -> None:
        self._journal.take(engine.server.take_events())


def run_info(settings: Settings, label: str) -> RunInfo:
    """What observers are told when a run begins.

    Args:
        settings: Of the run.
        label: What tables call it.
    """
    return RunInfo(
        label=label,
        algorithm=str(settings.algorithm),
        task=settings.task.name,
        seed=settings.seed,
        num_clients=settings.task.num_clients,
        concurrency=settings.scheduler.concurrency,
        stop=str(settings.stop),
    )


def snapshot_of(progress: Progress, tally: Tally, in_flight: int, stop: Stop) -> Snapshot:
    """How far a run is, for observers.

    Args:
        progress: It.
        tally: What was counted.
        in_flight: Jobs given out and not ended.
        stop: What ends the run.
    """
    return Snapshot(
        updates=progress.updates,
        versions=progress.versions,
        virtual_time_s=progress.virtual_time_s,
        wall_time_s=progress.wall_time_s,
        updates_per_s=progress.updates / max(progress.wall_time_s, 1e-9),
        mean_staleness=tally.recent_staleness,
        in_flight=in_flight,
        metrics=dict(progress.metrics),
        fraction_done=stop.fraction(progress),
    )


def about_run(settings: Settings, label: str) -> dict[str, Any]:
    """What is known of a result before the run has begun.

    Args:
        settings: Of the run.
        label: What tables call it.
    """
    return {
        "label": label,
        "algorithm": settings.algorithm.name,
        "settings": plain(settings.algorithm.settings),
        "task": settings.task.name,
        "seed": settings.seed,
        "synchronous": isinstance(settings.algorithm.gate, Bulk),
        "population": settings.population.describe(),
        "concurrency": settings.scheduler.concurrency,
        "num_clients": settings.task.num_clients,
        "simulated_staleness": _drawn(settings),
    }


def _drawn(settings: Settings) -> int | None:
    return None if settings.staleness is None else settings.staleness.max_staleness


def _result(engine: Engine, reason: str, label: str) -> Result:
    settings, tally, progress = engine.settings, engine.tally, engine.progress
    virtual_time_s = progress.virtual_time_s
    result = result_of(
        engine.server,
        tally,
        about_run(settings, label),
        history=engine.history,
        virtual_time_s=virtual_time_s,
        wall_time_s=progress.wall_time_s,
        idle_share=tally.idle_share(virtual_time_s),
        execution=engine.choice.describe(),
        server={} if engine.line is None else engine.line.describe(virtual_time_s),
        stop_reason=reason,
        interrupted=engine.interrupted,
        warnings=[*engine.warnings, *_warnings(engine, reason)],
    )
    if engine.attendance is not None:
        result.counts |= engine.attendance.counts()
    return result


def _warnings(engine: Engine, reason: str) -> list[str]:
    warnings = []
    if reason.startswith("failed"):
        where = f" in {engine.failed_in}" if engine.failed_in else ""
        warnings.append(f"the run did not finish, its numbers are those until it failed{where}")
    warnings += usual_warnings(engine.history, engine.tally)
    without = engine.settings.task.num_clients - len(engine.clients)
    gate = engine.settings.algorithm.gate
    able = _most_in_flight(engine)
    # Without over-selection a round larger than the concurrency is merely done in parts.
    if isinstance(gate, Bulk) and gate.num_started > max(able, gate.cohort):
        warnings.append(
            f"over_selection wants {gate.num_started:,} clients in a round of {gate.cohort:,}, and "
            f"at most {able:,} can train at the same time"
        )
    visits = None if engine.attendance is None else engine.attendance.visits
    if visits is not None and visits.num_missed:
        warnings.append(
            f"{visits.num_missed:,} of {visits.number:,} times when a client was to come, none could: "
            "fewer came than the rate says"
        )
    if without:
        warnings.append(f"{without} clients have no data and never train")
    return warnings


def _most_in_flight(engine: Engine) -> int:
    concurrency = engine.settings.scheduler.concurrency
    able = len(engine.clients)
    return able if concurrency is None else min(able, concurrency)
