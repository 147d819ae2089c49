"""A task trained by real workers: the same arguments as in the simulator, and the same result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch

from headway.algorithms.arguments import check_count
from headway.core import Algorithm, Recording, Scheduler
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.observe import Observer, Result, RunFolder
from headway.observe.folder import CONFIG, ENVIRONMENT
from headway.observe.saving import EVENTS, POINTS
from headway.runtime.kinds import FILE, TEXT, Kind, check_kinds
from headway.runtime.processes import Processes
from headway.simulation.interruption import interruptible
from headway.simulation.resolve import check_kind, describe, resolve
from headway.simulation.schedule import Every, as_every
from headway.simulation.settings import Settings
from headway.simulation.stop import Stop
from headway.task import Objective
from headway.training.ending import ending
from headway.training.going_on import Saved, free_part
from headway.training.live import Live, keeps_clients

__all__ = ["CONSISTENCIES", "Consistency", "run"]

Consistency = Literal["snapshot", "hogwild"]

CONSISTENCIES: Final = ("snapshot", "hogwild")
"""What a worker may be given."""

_FOLDER: Final = Kind((*FILE.types, RunFolder), "a path or a RunFolder", FILE.example).or_none()


def run(
    task: Objective,
    algorithm: Algorithm,
    *,
    runtime: Processes,
    stop: Stop,
    concurrency: int | None = None,
    scheduler: Scheduler | None = None,
    evaluate_every: Every | int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
    consistency: Consistency = "snapshot",
    record: Recording = "events",
    folder: str | Path | RunFolder | None = None,
    observers: Sequence[Observer] = (),
    label: str | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_frequency: int = 1000,
) -> Result:
    """Train with real workers: a server in this process, and worker processes beside it.

    A worker does the job of whichever client's turn it is. A job is what it is in the simulator:
    the same client, model, order and seed give the same update. The order in which updates arrive
    is the machine's, so two runs differ; the log of one can be replayed.

    Times are real seconds on the server's clock, which starts when all workers are ready; the
    ``virtual_time_s`` of points and of the result is that too, so that reports have one time axis.

    Args:
        task: What is trained. It goes to other processes, so its functions and classes are to be
            defined at the top level of a module.
        algorithm: What an update is worth.
        runtime: The workers; see :class:`headway.Processes`.
        stop: When it ends; see :func:`headway.until`. There is no virtual time to end it by.
        concurrency: How many clients have a turn at the same time, at most; by default as many as
            the workers can have jobs. Where clients keep something in their worker's process
            (``easgd``, the DiLoCo family, error feedback), all of them: each waits for its own process.
        scheduler: Who trains next; by default a uniformly random one of those who wait.
        evaluate_every: The distance between evaluations; a bare number counts arrived updates.
            They are made of a snapshot, while training goes on. One that would come while two
            others wait is left out, and the result says so.
        seed: Of every random stream of the run; in [0, 2**63).
        device: Where workers train and models are judged. The server's model is in the memory of
            the CPU, which the workers share.
        consistency: ``"snapshot"``: a worker gets one version of the model. ``"hogwild"``: it reads
            the server's own vector, without a copy, while others may change it.
        record: ``"nothing"``, ``"events"``, or ``"payloads"``, from which the run can be replayed.
        folder: A run folder to write, which must be new or empty; it holds a report too.
        observers: Told how the run goes on; see :class:`headway.observe.Observer`.
        label: What tables and figures call the run; by default the algorithm's name.
        checkpoint_dir: Where checkpoints are written; a run that is started on a folder that has
            some goes on from the newest, with the same task, algorithm and seed. Updates that came
            after it are not in it. Its time goes on too, and so do counts and history; a
            ``folder`` that is in use is left as it is, and ``<folder>-2`` written. What clients
            keep between their jobs is with the workers, and begins anew. ``None``: none are written.
        checkpoint_frequency: The distance between checkpoints in versions, at least 1. At the end
            there is one, too.

    Returns:
        The history, the counts, the events and the final model. Ctrl-C or SIGTERM, here or to all
        workers, ends the run: workers hand in what they are doing if it is done within seconds, and
        a checkpoint is written. A second one is not caught. A worker process that dies, or says
        nothing for too long, is noticed, its jobs are given to others, and the result has a warning.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: An argument, or a combination of them, cannot be used; or the task
            cannot be sent to another process.
        RunFolderError: The folder cannot be written. Nothing has been trained then.
        CheckpointError: A checkpoint cannot be written, none that is there can be read, or another
            run writes there.
        HeadwayError: All worker processes have died.
        Exception: What a client's job or an evaluation raised, with a note that says where.

    Example::

        result = headway.run(
            task,
            headway.algorithms.fedbuff(buffer_size=4),
            runtime=headway.Processes(num_workers=4, slowdown={0: 5.0}),
            stop=headway.until(target=("accuracy", 0.9), wall_time_s=60),
        )
    """
    check_kind("task", task, where="run")
    check_kind("algorithm", algorithm, where="run")
    check_kinds(
        "run",
        folder=(folder, _FOLDER),
        label=(label, TEXT.or_none()),
        checkpoint_dir=(checkpoint_dir, FILE.or_none()),
    )
    every = as_every(evaluate_every)
    _check(runtime, stop, every, consistency)
    if scheduler is None and concurrency is None:
        able = sum(task.num_examples(client) > 0 for client in range(task.num_clients))
        # A turn of a client whose process is busy would keep another client from working.
        concurrency = max(able, 1)
        if not keeps_clients(algorithm):
            concurrency = min(concurrency, runtime.num_jobs)
    settings = resolve(
        task,
        algorithm,
        stop,
        concurrency=concurrency,
        scheduler=scheduler,
        evaluate_every=every,
        seed=seed,
        device=device,
        record=record,
        observers=observers,
        where="run",
    )
    check_count("checkpoint_frequency", checkpoint_frequency)
    saved = None if checkpoint_dir is None else Saved(Path(checkpoint_dir), checkpoint_frequency)
    if folder is not None and not isinstance(folder, RunFolder):
        folder = Path(folder) if saved is None else free_part(Path(folder))
        advice = (
            "choose another folder, or pass folder=headway.observe.RunFolder.create(..., "
            "overwrite=True) to replace the run in it; one that has a checkpoint_dir goes on from "
            "there, and writes <folder>-2"
        )
        about = _described(settings, runtime, consistency)
        folder = RunFolder.create(folder, about, advice=advice)
    # From before the first process: who is told to end while workers start, ends in order too.
    with interruptible() as ctrl_c, ending() as wanted:
        try:
            live = Live(
                settings,
                runtime,
                folder,
                observers,
                label or algorithm.name,
                consistency,
                saved,
                is_unwanted=lambda: ctrl_c.requested or bool(wanted),
            )
        except BaseException:
            if folder is not None:
                _leave(folder)
            raise
        with live, ctrl_c.told(live.interrupt):
            wanted.tell(partial(live.interrupt, "terminated"))
            return live.run()


def _leave(folder: RunFolder) -> None:
    """Take a folder away that no run has begun in."""
    folder.close()
    for name in (CONFIG, ENVIRONMENT, EVENTS, POINTS):
        (folder.path / name).unlink(missing_ok=True)
    # What else is in it is not the run's.
    with suppress(OSError):
        folder.path.rmdir()


def _described(settings: Settings, runtime: Processes, consistency: str) -> dict[str, Any]:
    """What is run, as a plain tree for the run folder."""
    tree = describe(settings)
    for name in ("population", "execution"):
        del tree[name]
    tree["runtime"] = runtime.describe()
    tree["run"]["consistency"] = consistency
    return tree


def _check(runtime: object, stop: Stop, every: Every, consistency: str) -> None:
    if not isinstance(runtime, Processes):
        raise ArgumentTypeError(
            "this does not say which workers train",
            where="run(runtime=...)",
            got=repr(runtime),
            help="write runtime=headway.Processes(num_workers=4)",
        )
    if consistency not in CONSISTENCIES:
        raise UnknownNameError.of(
            "consistency", str(consistency), CONSISTENCIES, where="run(consistency=...)"
        )
    check_kind("stop", stop, where="run")
    if stop.virtual_time_s is not None:
        raise ConfigurationError(
            "a run with real workers has no virtual time",
            where="run(stop=...)",
            got=str(stop),
            help="end it by wall_time_s, updates, versions or a target",
        )
    if every.virtual_time_s is not None:
        raise ConfigurationError(
            "a run with real workers has no virtual time",
            where="run(evaluate_every=...)",
            got=str(every),
            help="evaluate after so many updates or versions",
        )
