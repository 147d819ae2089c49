"""From the arguments of a simulation to settings that are complete and fit each other."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Final

import torch

from headway.core import Algorithm, Bulk, RandomOrder, Recording, Scheduler
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation.engine import Settings
from headway.simulation.population import Population, constant
from headway.simulation.schedule import Every, as_every
from headway.simulation.stop import Stop, Target
from headway.task import Objective

__all__ = ["check_kind", "check_measured", "check_seed", "describe", "plain", "resolve"]

_RECORDINGS: Final[tuple[Recording, ...]] = ("nothing", "events", "payloads")

_KINDS: Final[Mapping[str, tuple[type, str, str]]] = {
    "task": (
        Objective,
        "this is not a task",
        "make one with headway.Task(...) or headway.tasks.quadratic()",
    ),
    "algorithm": (
        Algorithm,
        "this is not an algorithm",
        "call one, for example headway.algorithms.fedbuff(buffer_size=10)",
    ),
    "stop": (
        Stop,
        "this does not say when the run ends",
        "write stop=headway.until(updates=1000)",
    ),
    "population": (
        Population,
        "this is not a population",
        "make one, for example headway.population.constant(50)",
    ),
}


def resolve(
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
    """Check the arguments of ``simulate``, and fill in what was left out.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: One, or a combination of them, cannot be used.
    """
    check_kind("task", task)
    check_kind("algorithm", algorithm)
    check_kind("stop", stop)
    if record not in _RECORDINGS:
        raise UnknownNameError.of(
            "recording", str(record), _RECORDINGS, where="simulate(record=...)"
        )
    if population is None:
        population = constant(task.num_clients)
    check_kind("population", population)
    if population.num_clients != task.num_clients:
        raise ConfigurationError(
            "the task and the population do not have the same number of clients",
            where="simulate(population=...)",
            got=f"a task with {task.num_clients}, a population with {population.num_clients}",
            help=f"make the population with num_clients={task.num_clients}",
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
        seed=check_seed(seed),
        device=_usable(device),
        record=record,
    )


def check_kind(name: str, value: object, *, where: str = "simulate") -> None:
    """Refuse a task, algorithm, stop or population that is something else."""
    kind, message, advice = _KINDS[name]
    if not isinstance(value, kind):
        raise ArgumentTypeError(message, where=f"{where}({name}=...)", got=repr(value), help=advice)


def check_seed(seed: object, *, where: str = "simulate(seed=...)") -> int:
    """Refuse what is not an int in [0, 2**63), which is what every generator takes."""
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError as error:
        raise ArgumentTypeError(
            "a seed is a whole number", where=where, got=repr(seed), help="write seed=0"
        ) from error
    if not 0 <= number < 1 << 63:
        raise ConfigurationError(
            "a seed is out of range",
            where=where,
            got=number,
            expected="an int in [0, 2**63)",
            help="choose another; neighbouring seeds have nothing in common",
        )
    return number


def describe(settings: Settings) -> dict[str, Any]:
    """What is run, as a plain tree for the run folder."""
    algorithm = settings.algorithm
    return {
        "task": settings.task.describe(),
        "algorithm": {"name": algorithm.name, **plain(algorithm.settings)},
        "population": settings.population.describe(),
        "run": {
            "stop": plain(settings.stop.describe()),
            "evaluate_every": str(settings.evaluate_every),
            "scheduler": str(settings.scheduler),
            "seed": settings.seed,
            "device": str(settings.device),
            "record": settings.record,
        },
    }


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as values that every file format knows; those that are not set are left out."""
    return {
        name: value if isinstance(value, bool | int | float | str | list) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    # Without CUDA in its build, torch raises an AssertionError.
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ConfigurationError(
            "this device cannot be used here",
            where="simulate(device=...)",
            got=f"{device!r}: {str(error).splitlines()[0]}",
            help='leave it out for "cpu"',
        ) from error
    return found


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


def check_measured(
    goal: Target,
    task: Objective,
    seed: int,
    device: str | torch.device,
    *,
    where: str = "compare(target=...)",
) -> None:
    """Find out now, and not after hours of training, that a target's metric is never measured.

    Args:
        goal: The target.
        task: What would be trained.
        seed: Of the initial model that is measured here.
        device: Where it is measured.
        where: Where the target stands, for the error.

    Raises:
        UnknownNameError: The task has no such metric.
    """
    start = task.start(seed, torch.device(device))
    metrics = task.evaluate(start.parameters, start.buffers)
    if goal.metric not in metrics:
        raise UnknownNameError.of("metric", goal.metric, metrics, where=where)
