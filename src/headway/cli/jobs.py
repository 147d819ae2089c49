"""What a configuration asks for, as runs that are ready to start.

Everything that can be wrong is found here, before the first file is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from headway import config
from headway.checkpoint import CheckpointStore
from headway.config import Resolved
from headway.config.model import Runtime
from headway.config.problems import relocated
from headway.core import Algorithm, Scheduler
from headway.core.errors import ConfigurationError
from headway.data import Federated
from headway.observe import Comparison, Observer, Result, RunFolder
from headway.observe.folder import CHECKPOINTS
from headway.simulation import simulate
from headway.simulation.reference import reference_for
from headway.simulation.resolve import check_arrival, check_measured, drawn, usable_device
from headway.simulation.resume import begins_anew, ended
from headway.task import Objective
from headway.training.going_on import free_part
from headway.training.run import run as run_for_real

__all__ = ["Job", "gather", "open_comparison", "plan", "plans"]

_REPLACE: Final = "choose another folder, or pass --overwrite to replace the run in it"
_GO_ON: Final = "choose another folder, or pass --resume to go on with the run in it, or --overwrite to replace it"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Args:
        label: What tables call it.
        seed: Its seed.
        task: What is trained.
        algorithm: What an update is worth.
        scheduler: Who trains next, and how many at the same time.
        options: Further arguments of what trains.
        tree: The configuration of this run, complete.
        train: ``simulate``, or ``run`` for real workers.
    """

    label: str
    seed: int
    task: Objective
    algorithm: Algorithm
    scheduler: Scheduler
    options: Mapping[str, Any]
    tree: Mapping[str, Any]
    train: Callable[..., Result] = simulate

    def run(
        self,
        folder: Path,
        observers: Sequence[Observer],
        *,
        overwrite: bool,
        resume: bool = False,
    ) -> Result:
        """Do it.

        Args:
            folder: The run folder to write.
            observers: Who watches.
            overwrite: Whether a run that is in the folder is replaced.
            resume: Whether a run that is in the folder goes on.
        """
        if resume and CheckpointStore(folder / CHECKPOINTS).numbers():
            return self._train(folder, observers, resume=True)
        result = ended(folder, self.tree) if resume else None
        if result is not None:
            return result
        # Without a checkpoint a run begins again, if it is this one.
        overwrite = begins_anew(folder, self.tree) if resume else overwrite
        if self.options.get("checkpoint_dir") is not None and not overwrite:
            folder = free_part(folder)
        advice = _REPLACE if self.train is not simulate else _GO_ON
        with RunFolder.create(folder, self.tree, overwrite=overwrite, advice=advice) as run_folder:
            return self._train(run_folder, observers)

    def _train(
        self, folder: Path | RunFolder, observers: Sequence[Observer], **options: Any
    ) -> Result:
        return self.train(
            self.task,
            self.algorithm,
            scheduler=self.scheduler,
            seed=self.seed,
            folder=folder,
            observers=observers,
            label=self.label,
            **options,
            **self.options,
        )


def plan(resolved: Resolved, *, real: bool = False) -> Job:
    """The run that ``headway simulate`` makes, or ``headway run``.

    Args:
        resolved: The configuration.
        real: With real workers.
    """
    algorithm = config.make_algorithm(resolved)
    data = config.make_data(resolved)
    job = _job(resolved, algorithm, config.make_task(resolved, data), real=real)
    _check_targets(resolved, job)
    return job


def plans(resolved: Resolved, *, real: bool = False) -> list[Job]:
    """The runs that ``headway compare`` makes, or ``headway run``, seed after seed.

    Args:
        resolved: The configuration.
        real: With real workers.
    """
    labels = list(resolved.config.algorithms)
    if not labels:
        raise ConfigurationError(
            "there is nothing to compare",
            where=resolved.name,
            expected="a section [algorithms.<label>] for each algorithm",
            help="use `headway simulate` for a single [algorithm]",
        )
    algorithms = {label: config.make_algorithm(resolved, label=label) for label in labels}
    data = config.make_data(resolved)
    tasks = {label: _task(resolved, data, label) for label in labels}
    jobs = [
        _job(resolved, algorithms[label], tasks[label], label=label, seed=seed, real=real)
        for seed in resolved.config.seeds
        for label in labels
    ]
    _check_targets(resolved, jobs[0])
    return jobs


def open_comparison(folder: Path, resolved: Resolved, *, overwrite: bool) -> None:
    """Make the folder of a comparison, and write its configuration.

    Args:
        folder: Where.
        resolved: The configuration.
        overwrite: Whether the comparison that is in the folder is replaced.

    Raises:
        RunFolderError: It cannot be written, or is not empty.
    """
    RunFolder.create(folder, resolved.tree, overwrite=overwrite, advice=_REPLACE).close()
    for name in ("events.jsonl", "metrics.jsonl"):
        # Those lie in the folders of the runs.
        (folder / name).unlink(missing_ok=True)


def gather(results: Sequence[Result], resolved: Resolved, folder: Path) -> Comparison:
    """Put the runs of a comparison together, and save what they make.

    Args:
        results: The runs.
        resolved: The configuration.
        folder: Of the comparison.
    """
    goal = resolved.config.target or resolved.config.stop.target
    comparison = Comparison(
        results=list(results),
        target=None if goal is None else (goal.metric, goal.value),
        direction=None if goal is None else goal.direction,
    )
    comparison.save(folder)
    return comparison


def _check_targets(resolved: Resolved, job: Job) -> None:
    """Find out before the first file is written that a target's metric is never measured."""
    places = {("target",): resolved.config.target, ("stop", "target"): resolved.config.stop.target}
    for place, section in places.items():
        goal = config.make_target(section)
        if goal is not None:
            device, where = job.options["device"], resolved.place(place)
            check_measured(goal, job.task, job.seed, device, where=where)


def _task(resolved: Resolved, data: Federated | None, label: str) -> Objective:
    return config.make_task(resolved, data, label=label)


def _job(
    resolved: Resolved,
    algorithm: Algorithm,
    task: Objective,
    *,
    label: str | None = None,
    seed: int | None = None,
    real: bool = False,
) -> Job:
    run = resolved.config.run
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    options = {
        **(_real(resolved) if real else _simulated(resolved, task)),
        "stop": config.make_stop(resolved),
        "evaluate_every": config.make_every(resolved),
        "device": usable_device(run.device, where=resolved.place(("run", "device"))),
        "record": run.record,
    }
    place: tuple[str, ...] = ("algorithm",) if label is None else ("algorithms", label)
    reference_for(task, algorithm, where=resolved.place(place))
    concurrency = config.check_clients(resolved, task, algorithm, label=label)
    tree = resolved.tree_of(label, seed)
    if real and concurrency is None:
        able = sum(task.num_examples(client) > 0 for client in range(task.num_clients))
        concurrency = min(max(able, 1), options["runtime"].num_jobs)
    if real and label is not None and options["checkpoint_dir"] is not None:
        number = resolved.config.seed if seed is None else seed
        options["checkpoint_dir"] /= f"{label}-seed{number}"
    if real:
        # To replay the log takes the same scheduler.
        tree["run"] = {**tree["run"], "concurrency": concurrency}
    scheduler = config.make_scheduler(resolved, concurrency, label=label)
    if not real:
        _check_conditions(resolved, algorithm, scheduler, options)
    return Job(
        label=label or algorithm.name,
        seed=resolved.config.seed if seed is None else seed,
        task=task,
        algorithm=algorithm,
        scheduler=scheduler,
        options=options,
        tree=tree,
        train=run_for_real if real else simulate,
    )


def _simulated(resolved: Resolved, task: Objective) -> dict[str, Any]:
    """What only a simulation is told."""
    return {
        "population": config.make_population(resolved, task.num_clients),
        "server": config.make_server(resolved),
        "execution": config.make_execution(resolved),
        "staleness": config.make_staleness(resolved),
        "checkpoint_every": config.make_checkpoint_every(resolved),
    }


def _real(resolved: Resolved) -> dict[str, Any]:
    """What only a run with real workers is told; what it cannot do is refused."""
    asked = resolved.config
    virtual = "a run with real workers has no virtual time"
    refused: list[tuple[tuple[str, ...], object, str, str]] = [
        (
            ("stop", "virtual_time_s"),
            asked.stop.virtual_time_s,
            virtual,
            "--set stop.virtual_time_s= --set stop.wall_time_s=60",
        ),
        (
            ("run", "evaluate_every", "virtual_time_s"),
            asked.run.evaluate_every.virtual_time_s,
            virtual,
            "--set run.evaluate_every=100",
        ),
        (
            ("staleness",),
            asked.staleness,
            "the staleness of real workers is not drawn",
            "--set staleness=",
        ),
        (
            ("run", "checkpoint_every"),
            asked.run.checkpoint_every,
            "a run with real workers writes no checkpoints into its folder",
            "--checkpoint-dir FOLDER and --set run.checkpoint_every=",
        ),
    ]
    for path, value, message, instead in refused:
        if value is not None:
            raise ConfigurationError(
                message, where=resolved.place(path), got=str(value), help=f"pass {instead}"
            )
    told = asked.runtime or Runtime()
    return {
        "runtime": config.make_runtime(resolved),
        "consistency": told.consistency,
        "checkpoint_frequency": told.checkpoint_frequency,
        "checkpoint_dir": None if told.checkpoint_dir is None else Path(told.checkpoint_dir),
    }


def _check_conditions(
    resolved: Resolved, algorithm: Algorithm, scheduler: Scheduler, options: Mapping[str, Any]
) -> None:
    """Find out whether an algorithm can run under what surrounds it."""
    staleness = options["staleness"]
    if staleness is not None:
        with relocated(("staleness",), {}, resolved.place):
            drawn(algorithm, staleness, scheduler)
    with relocated(("population", "arrival"), {}, resolved.place):
        check_arrival(algorithm, options["population"])
