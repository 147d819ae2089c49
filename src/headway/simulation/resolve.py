"""From the arguments of a simulation to settings that are complete and fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from typing import Any, Final

import torch

from headway.algorithms.arguments import check_seed
from headway.algorithms.schedulers import SCHEDULERS
from headway.core import (
    Algorithm,
    Bulk,
    CancelStale,
    RandomOrder,
    Recording,
    Scheduler,
    StaleSynchronous,
)
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.observe import Observer
from headway.simulation.execution import Execution
from headway.simulation.population import Population, constant
from headway.simulation.reference import reference_for
from headway.simulation.sampled import SimulatedStaleness, imposed
from headway.simulation.schedule import Every, as_every
from headway.simulation.serving import BusyServer
from headway.simulation.settings import Settings
from headway.simulation.stop import Stop, Target
from headway.task import Objective

__all__ = [
    "check_arrival",
    "check_kind",
    "check_measured",
    "check_observers",
    "describe",
    "drawn",
    "plain",
    "resolve",
    "structured",
]

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
    "server": (
        BusyServer,
        "this does not say how long the server takes",
        "write server=headway.BusyServer(apply_s=0.01), or leave it out",
    ),
    "execution": (
        Execution,
        "this does not say how clients are trained",
        'write execution=headway.Execution(mode="groups"), or leave it out',
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
    *,
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
    observers: Sequence[Observer] = (),
    where: str = "simulate",
) -> Settings:
    """Check the arguments of ``simulate``, and fill in what was left out.

    With the arguments of a run, :func:`~headway.simulation.engine.server_for` of the settings is
    the server on which the run's log can be replayed.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: One, or a combination of them, cannot be used.
    """
    check_kind("task", task, where=where)
    check_kind("algorithm", algorithm, where=where)
    check_kind("stop", stop, where=where)
    if record not in _RECORDINGS:
        raise UnknownNameError.of(
            "recording", str(record), _RECORDINGS, where=f"{where}(record=...)"
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
            where=f"{where}(scheduler=..., concurrency=...)",
            help="put the number into the scheduler: RandomOrder(concurrency=...)",
        )
    check_observers(observers, where=where)
    if scheduler is None:
        # Where it is drawn, one job at a time is the only way.
        one = 1 if staleness is not None and concurrency is None else concurrency
        scheduler = RandomOrder(concurrency=one)
    _check_scheduler(scheduler, where)
    if staleness is not None:
        algorithm = drawn(algorithm, staleness, scheduler)
    check_arrival(algorithm, population)
    if server is not None:
        check_kind("server", server)
    if execution is not None:
        check_kind("execution", execution)
    _check_enough_clients(task, algorithm, scheduler, where)
    reference_for(task, algorithm, where=f"{where}(task=...)")
    return Settings(
        task=task,
        algorithm=algorithm,
        population=population,
        scheduler=scheduler,
        stop=stop,
        evaluate_every=as_every(evaluate_every),
        seed=check_seed(seed, where=f"{where}(seed=...)"),
        device=usable_device(device, where=f"{where}(device=...)"),
        record=record,
        server=server,
        execution=execution or Execution(),
        staleness=staleness,
    )


def check_kind(name: str, value: object, *, where: str = "simulate") -> None:
    """Refuse a task, algorithm, stop, population or server that is something else."""
    kind, message, advice = _KINDS[name]
    if not isinstance(value, kind):
        raise ArgumentTypeError(message, where=f"{where}({name}=...)", got=repr(value), help=advice)


def check_observers(observers: object, *, where: str = "simulate") -> None:
    """Refuse what is no sequence of observers."""
    where, advice = f"{where}(observers=...)", "pass a list of objects with the methods of Observer"
    if isinstance(observers, Observer) or not isinstance(observers, Sequence):
        advice = f"write observers=[{type(observers).__name__}(...)]"
        raise ArgumentTypeError(
            "the observers must be a list", where=where, got=repr(observers), help=advice
        )
    for observer in observers:
        # A class has the methods too, but nobody to call them on.
        if isinstance(observer, type) or not isinstance(observer, Observer):
            raise ArgumentTypeError(
                "this is not an observer",
                where=where,
                got=repr(observer),
                expected="started, progress, evaluated and finished",
                help=advice,
            )


def _check_scheduler(scheduler: object, where: str) -> None:
    methods = ("concurrency", "init", "add", "remove", "pick")
    if isinstance(scheduler, type) or not all(hasattr(scheduler, name) for name in methods):
        raise ArgumentTypeError(
            "this is not a scheduler",
            where=f"{where}(scheduler=...)",
            got=repr(scheduler),
            expected=", ".join(methods),
            help="make one, for example headway.schedulers.RoundRobin(concurrency=10)",
        )


def drawn(algorithm: Algorithm, staleness: SimulatedStaleness, scheduler: Scheduler) -> Algorithm:
    """The algorithm with simulated staleness, where that makes sense.

    Args:
        algorithm: Asynchronous, and it sends its present model.
        staleness: What is drawn.
        scheduler: Of the run.

    Raises:
        ArgumentTypeError: ``staleness`` is something else.
        ConfigurationError: It makes no sense for this algorithm, or with more jobs than one.
    """
    made = imposed(algorithm, staleness)
    if scheduler.concurrency != 1:
        raise ConfigurationError(
            "simulated staleness lets one client train at a time",
            where="simulate(staleness=...)",
            got=f"concurrency {scheduler.concurrency}",
            expected="1: with more, what emerges would be added to what is drawn",
            help="leave concurrency out, or leave staleness out and let it emerge",
        )
    return made


def check_arrival(algorithm: Algorithm, population: Population) -> None:
    """Refuse an algorithm that would wait for clients that come once.

    Args:
        algorithm: What an update is worth.
        population: Whose clients may come by themselves.

    Raises:
        ConfigurationError: It waits for its slowest worker.
    """
    gate = algorithm.gate.gate if isinstance(algorithm.gate, CancelStale) else algorithm.gate
    if population.arrival is not None and isinstance(gate, StaleSynchronous):
        raise ConfigurationError(
            f"`{algorithm.name}` waits for its slowest worker, and one that came once may not return",
            where="population.with_arrival",
            got=repr(gate),
            expected="an algorithm that waits for nobody in particular",
            help="take the arrival out of the population, or choose another algorithm",
        )


def describe(settings: Settings) -> dict[str, Any]:
    """What is run, as a plain tree for the run folder.

    It has the sections of a configuration, but says that it is none: a task or a population that
    was made in Python need not be one that a configuration can name.
    """
    algorithm, target = settings.algorithm, settings.stop.target
    stop = settings.stop.describe()
    if target is not None:
        stop["target"] = asdict(target)
    return {
        "made_by": "python",
        "seed": settings.seed,
        "task": structured(settings.task.describe()),
        "population": structured(settings.population.describe()),
        "run": {
            "device": str(settings.device),
            "record": settings.record,
            "concurrency": settings.scheduler.concurrency,
            "evaluate_every": structured(asdict(settings.evaluate_every)),
        },
        "execution": structured(asdict(settings.execution)),
        "scheduler": _scheduler(settings.scheduler),
        **_server(settings.server),
        **({} if settings.staleness is None else {"staleness": asdict(settings.staleness)}),
        "stop": structured(stop),
        "algorithm": {"name": algorithm.name, **structured(algorithm.settings)},
    }


def _scheduler(scheduler: Scheduler) -> dict[str, Any]:
    """As a configuration names it, if it can; the limit stands in the section of the run."""
    names = {made: name for name, made in SCHEDULERS.items()}
    described = structured(scheduler)
    described = described if isinstance(described, dict) else {"name": described}
    described.pop("concurrency", None)
    return {**described, "name": names.get(type(scheduler), described["name"])}


def _server(server: BusyServer | None) -> dict[str, Any]:
    """As a section of its own, where it takes time."""
    return {} if server is None else {"server": structured(asdict(server))}


def structured(value: Any) -> Any:
    """A value as TOML can hold it, taken apart where it can be, in words where it cannot.

    Args:
        value: Anything. A function with options, an optimizer say, becomes a table with its name
            and options, and so does a value such as a staleness weight.

    Example:
        >>> from functools import partial
        >>> structured({"server_optimizer": partial(torch.optim.SGD, lr=0.5), "bound": None})
        {'server_optimizer': {'name': 'SGD', 'lr': 0.5}}
    """
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): structured(item) for k, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [structured("none" if item is None else item) for item in value]
    if isinstance(value, partial) and not value.args:
        return {"name": _name_of(value.func), **structured(value.keywords)}
    if is_dataclass(value) and not isinstance(value, type):
        # Some have another name than their class: that of the function that makes them.
        name = repr(value).partition("(")[0]
        return {"name": name, **structured({f.name: getattr(value, f.name) for f in fields(value)})}
    return _name_of(value) if callable(value) else str(value)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as values that every file format knows; those that are not set are left out."""
    return {
        name: value if isinstance(value, bool | int | float | str | list) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def usable_device(
    device: str | torch.device, *, where: str = "simulate(device=...)"
) -> torch.device:
    """Find out before a run whether a device can be used.

    Args:
        device: Its name, or torch's own object.
        where: Where it stands, for the error.

    Raises:
        ConfigurationError: Torch does not know it, or it is not on this machine.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    # Torch has no error of its own for a device: an unknown name and a driver that fails are a
    # RuntimeError, and where CUDA was left out of the build it is an AssertionError.
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"the device `{device}` cannot be used here",
            where=where,
            got=str(error).splitlines()[0],
            help='use "cpu", or a torch that was built for this device',
        ) from error
    if found.type == "meta":
        raise ConfigurationError(
            "the device `meta` holds no numbers, so nothing trains there",
            where=where,
            got="meta",
            help='use "cpu", or the device of an accelerator',
        )
    return found


def _check_enough_clients(
    task: Objective, algorithm: Algorithm, scheduler: Scheduler, where: str
) -> None:
    able = sum(task.num_examples(client) > 0 for client in range(task.num_clients))
    wanted, needed = scheduler.concurrency, algorithm.needs.min_workers
    if isinstance(algorithm.gate, Bulk):
        needed = max(needed, algorithm.gate.cohort)
    if wanted is not None and wanted > able:
        raise ConfigurationError(
            "more clients in flight than there are",
            where=f"{where}(concurrency=...)",
            got=f"concurrency {wanted}",
            expected=f"at most {able}, the clients that have data",
            help=f"lower concurrency to {able}, or make a task with more clients",
        )
    if needed > able:
        raise ConfigurationError(
            f"`{algorithm.name}` needs more clients than there are",
            where=f"{where}(algorithm=...)",
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
