"""From a checked configuration to the values that ``simulate`` and ``compare`` take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headway.config import values
from headway.config.factories import Factory, find
from headway.config.lines import Path
from headway.config.model import Choice, Runtime, Serving
from headway.config.problems import dotted, relocated, wrong
from headway.config.resolve import LOCAL, Resolved, overridden
from headway.core import Algorithm, Scheduler
from headway.core.errors import ConfigurationError, UsageError
from headway.data import Dataset, Federated, Partitioner, federated
from headway.models import ModelFactory
from headway.runtime.processes import Processes
from headway.simulation import (
    BusyServer,
    Every,
    Execution,
    Population,
    SimulatedStaleness,
    Stop,
    every,
    until,
)
from headway.simulation.population import (
    with_arrival,
    with_diurnal,
    with_dropout,
    with_link,
    with_slowdown,
    with_timeout,
    with_windows,
)
from headway.simulation.stop import Target
from headway.task import LocalTraining, Objective
from headway.training.policies import USUAL_FACTOR

__all__ = [
    "check_clients",
    "make_algorithm",
    "make_checkpoint_every",
    "make_data",
    "make_every",
    "make_execution",
    "make_population",
    "make_runtime",
    "make_scheduler",
    "make_server",
    "make_staleness",
    "make_stop",
    "make_target",
    "make_task",
    "make_terms",
]


def make_data(resolved: Resolved) -> Federated | None:
    """Load the data and divide them; ``None`` for a task without data.

    Args:
        resolved: The configuration.

    Raises:
        MissingExtraError: A package that carries the data is not installed.
        DataError: The data are absent or damaged, or a client has none.
        ConfigurationError: An option is outside its range.
    """
    data = resolved.config.data
    if data is None:
        return None
    factory = find("data", data.name)
    dataset: Dataset = _call(resolved, ("data",), factory, data.options)
    test: Dataset | None = None
    if data.test_fraction is None and "part" in factory.options:
        options = {**data.options, "part": "test"}
        test = _call(resolved, ("data",), factory, options)
    kept = data.server_examples or 0
    if kept >= len(dataset):
        few = f"less than {len(dataset)}, the examples that there are"
        raise wrong(("data", "server_examples"), kept, few, resolved.place)
    partition = data.partition
    path = ("data", "partition")
    partitioner: Partitioner = _call(
        resolved, path, find("partitioners", partition.name), partition.options
    )
    with relocated(path, partition.options, resolved.place):
        return federated(
            dataset,
            partitioner,
            test_fraction=data.test_fraction or 0.2,
            test=test,
            server_examples=kept,
            seed=data.seed,
        )


def make_task(resolved: Resolved, data: Federated | None, *, label: str | None = None) -> Objective:
    """Make what is trained.

    Args:
        resolved: The configuration.
        data: From :func:`make_data`.
        label: The algorithm of a comparison, whose own ``local`` counts.

    Raises:
        ConfigurationError: An option is outside its range.
    """
    config = resolved.config
    given: dict[str, Any] = {}
    local = _local(resolved, label)
    if config.task.kind == "learning":
        assert data is not None, "a checked configuration has data for a model"
        given = {"model": _model(resolved, data), "train": data, "name": data.train.name}
    if local is not None:
        given["local"] = local
    options = config.task.options
    factory = find("tasks", config.task.kind)
    with relocated(("task",), options, resolved.place):
        task: Objective = factory.make(**_made(factory, options), **given)
        return task


def make_algorithm(resolved: Resolved, *, label: str | None = None) -> Algorithm:
    """Make the algorithm.

    Args:
        resolved: The configuration.
        label: Which one of a comparison; ``None``: that of ``[algorithm]``.

    Raises:
        ConfigurationError: There is none, or an option is outside its range.
    """
    config = resolved.config
    path: Path = ("algorithm",) if label is None else ("algorithms", label)
    choice: Choice | None = config.algorithm if label is None else config.algorithms[label]
    if choice is None:
        compares = "use `headway compare` for [algorithms], or " if config.algorithms else ""
        raise ConfigurationError(
            "no algorithm is chosen",
            where=resolved.name,
            expected="a section [algorithm] with a name",
            help=f"{compares}pass --set algorithm=fedbuff (see `headway list algorithms`)",
        )
    algorithm: Algorithm = _call(resolved, path, find("algorithms", choice.name), choice.options)
    return algorithm


def make_population(resolved: Resolved, num_clients: int) -> Population:
    """Make the clients' speeds.

    Args:
        resolved: The configuration.
        num_clients: How many the task has.

    Raises:
        ConfigurationError: An option is outside its range, or says another number of clients.
    """
    chosen, path = resolved.config.population, ("population",)
    factory, options = find("populations", chosen.name), chosen.options
    stated = options.get("num_clients", num_clients)
    if stated != num_clients:
        raise ConfigurationError(
            "the task and the population do not have the same number of clients",
            where=resolved.place((*path, "num_clients")),
            got=f"a task with {num_clients}, a population with {stated}",
            help="take num_clients out of [population]; the task's number counts",
        )
    if "num_clients" in factory.options:
        options["num_clients"] = num_clients
    population: Population = _call(resolved, path, factory, options)
    with relocated(path, {"dropout": chosen.dropout}, resolved.place):
        if chosen.dropout or chosen.away_s is not None:
            population = with_dropout(population, chosen.dropout, away_s=chosen.away_s)
    with relocated((*path, "slowdown"), {}, resolved.place):
        if chosen.slowdown:
            population = with_slowdown(population, _slowdown(chosen.slowdown))
    return _surrounded(population, resolved)


def _surrounded(population: Population, resolved: Resolved) -> Population:
    """With the network, the hours, the patience and the arrivals that its tables say."""
    chosen = resolved.config.population
    if chosen.windows is not None and chosen.diurnal is not None:
        raise ConfigurationError(
            "clients have windows or daily hours, and not both",
            where=resolved.place(("population", "diurnal")),
            help="take out [population.windows] or [population.diurnal]",
        )
    tables: list[tuple[str, Callable[..., Population]]] = [
        ("link", with_link),
        ("windows", _with_spans),
        ("diurnal", with_diurnal),
        ("arrival", with_arrival),
    ]
    for name, surround in tables:
        section = getattr(chosen, name)
        if section is not None:
            with relocated(("population", name), section.model_dump(), resolved.place):
                population = surround(population, **section.model_dump())
    if chosen.timeout_s is not None:
        population = with_timeout(population, chosen.timeout_s)
    return population


def _with_spans(population: Population, *, spans: Any, **options: Any) -> Population:
    return with_windows(population, spans, **options)


def check_clients(
    resolved: Resolved, task: Objective, algorithm: Algorithm, *, label: str | None = None
) -> int | None:
    """Find out whether there are clients enough, before anything is written or trained.

    Args:
        resolved: The configuration.
        task: What is trained.
        algorithm: What an update is worth.
        label: Which algorithm of a comparison.

    Returns:
        How many clients train at the same time; ``None`` for all.

    Raises:
        ConfigurationError: There are not.
    """
    able = sum(task.num_examples(client) > 0 for client in range(task.num_clients))
    path: Path = ("run", "concurrency")
    wanted = resolved.config.run.concurrency
    if label is not None and (own := resolved.config.algorithms[label].concurrency) is not None:
        path, wanted = ("algorithms", label, "concurrency"), own
    if wanted is not None and wanted > able:
        raise ConfigurationError(
            "more clients in flight than there are",
            where=resolved.place(path),
            got=f"concurrency = {wanted}",
            expected=f"at most {able}, the clients that have data",
            help=f"lower {dotted(path)} to {able}, or divide the data among more clients",
        )
    if (needed := algorithm.needs.min_workers) > able:
        raise ConfigurationError(
            f"`{algorithm.name}` needs more clients than there are",
            where=resolved.place(("algorithm",) if label is None else ("algorithms", label)),
            got=f"{able} clients with data",
            expected=f"at least {needed}",
            help="make its rounds smaller, or divide the data among more clients",
        )
    return wanted


def make_scheduler(
    resolved: Resolved, concurrency: int | None, *, label: str | None = None
) -> Scheduler:
    """Make who trains next.

    Args:
        resolved: The configuration.
        concurrency: How many clients train at the same time; ``None`` for all.
        label: An algorithm of a comparison, whose own scheduler counts.

    Raises:
        ConfigurationError: An option is outside its range.
    """
    path: Path = ("scheduler",)
    choice = resolved.config.scheduler
    if resolved.config.staleness is not None and concurrency is None:
        # Where it is drawn, one job at a time is the only way.
        concurrency = 1
    if label is not None and (own := resolved.config.algorithms[label].scheduler) is not None:
        path, choice = ("algorithms", label, "scheduler"), own
    factory = find("schedulers", choice.name)
    with relocated(path, choice.options, resolved.place):
        scheduler: Scheduler = factory.make(
            concurrency=concurrency, **_made(factory, choice.options)
        )
        return scheduler


def make_server(resolved: Resolved) -> BusyServer | None:
    """Make a server that takes time; ``None`` if it takes none.

    Args:
        resolved: The configuration.
    """
    server = resolved.config.server
    return BusyServer(apply_s=server.apply_s, inbox=server.inbox) if server.apply_s else None


def make_execution(resolved: Resolved) -> Execution:
    """Make how clients are trained.

    Args:
        resolved: The configuration.
    """
    asked = resolved.config.execution
    return Execution(
        mode=asked.mode,
        group_size=asked.group_size,
        processes=asked.processes,
        compile=asked.compile,
    )


def make_runtime(resolved: Resolved) -> Processes:
    """Make the workers of a real run.

    Args:
        resolved: The configuration.

    Raises:
        ConfigurationError: There is no such worker to slow down.
    """
    asked = resolved.config.runtime or Runtime()
    with relocated(("runtime",), {}, resolved.place):
        return Processes(
            asked.num_workers,
            slowdown=_slowdown(asked.slowdown),
            prefetch=asked.prefetch,
            start_method=asked.start_method,
        )


def make_terms(resolved: Resolved) -> dict[str, Any]:
    """Make what a server that workers connect to does about stale updates.

    Args:
        resolved: The configuration.

    Returns:
        The arguments of :func:`headway.training.choose_algorithm`, by name.
    """
    terms = resolved.config.serving or Serving()
    factor = terms.staleness_lr_factor
    return {
        "staleness_policy": terms.staleness_policy or "none",
        "staleness_lr_factor": USUAL_FACTOR if factor is None else factor,
        "max_staleness": terms.max_staleness,
    }


def make_staleness(resolved: Resolved) -> SimulatedStaleness | None:
    """Make how staleness is drawn; ``None`` if it emerges.

    Args:
        resolved: The configuration.
    """
    drawn = resolved.config.staleness
    return None if drawn is None else SimulatedStaleness(max_staleness=drawn.max_staleness)


def make_stop(resolved: Resolved) -> Stop:
    """Make what ends a run.

    Args:
        resolved: The configuration.

    Raises:
        ConfigurationError: Nothing would.
    """
    stop = resolved.config.stop
    limits = stop.model_dump(exclude_none=True, exclude={"target"})
    with relocated(("stop",), limits, resolved.place):
        return until(**limits, target=make_target(stop.target))


def make_target(section: Any) -> Target | None:
    """Make a target.

    Args:
        section: ``[target]`` or ``stop.target``.
    """
    return None if section is None else Target(section.metric, section.value, section.direction)


def make_every(resolved: Resolved) -> Every:
    """Make the distance between evaluations.

    Args:
        resolved: The configuration.

    Raises:
        ConfigurationError: It is not exactly one.
    """
    chosen = resolved.config.run.evaluate_every.model_dump(exclude_none=True)
    with relocated(("run", "evaluate_every"), {}, resolved.place):
        return every(**chosen)


def make_checkpoint_every(resolved: Resolved) -> Every | None:
    """Make the distance between checkpoints; ``None``: none are written.

    Args:
        resolved: The configuration.

    Raises:
        ConfigurationError: It is not exactly one.
    """
    chosen = resolved.config.run.checkpoint_every
    if chosen is None:
        return None
    with relocated(("run", "checkpoint_every"), {}, resolved.place):
        return every(**chosen.model_dump(exclude_none=True))


def _model(resolved: Resolved, data: Federated) -> ModelFactory:
    choice = resolved.config.model
    assert choice is not None, "a checked configuration has a model"
    factory = find("models", choice.name)
    train = data.train
    shape = train.image_shape
    implied = {"inputs": train.inputs[0].numel(), "classes": train.num_classes}
    implied |= {"vocabulary": train.num_classes, "length": train.inputs.shape[-1]}
    if shape is not None:
        implied |= {"channels": shape[0], "height": shape[1], "width": shape[2]}
    taken = {name: value for name, value in implied.items() if name in factory.options}
    for name, value in choice.options.items():
        if taken.get(name, value) != value:
            raise ConfigurationError(
                f"the model does not fit the data set `{train.name}`",
                where=resolved.place(("model", name)),
                got=f"{name} = {value}",
                expected=f"{name} = {taken[name]}",
                help=f"take {name} out of [model]; it follows from the data",
            )
    model: ModelFactory = _call(resolved, ("model",), factory, {**taken, **choice.options})
    return model


def _local(resolved: Resolved, label: str | None) -> LocalTraining | None:
    common, path = resolved.tree.get("local"), ("local",)
    own = {} if label is None else resolved.config.algorithms[label].local
    if common is None and not own:
        return None
    merged = overridden(common or {}, own)
    place = path if not own else ("algorithms", label or "", "local")
    local: LocalTraining = _call(resolved, place, LOCAL, merged)
    return local


def _call(resolved: Resolved, path: Path, factory: Factory, options: Mapping[str, Any]) -> Any:
    with relocated(path, options, resolved.place):
        return factory.make(**_made(factory, options))


def _made(factory: Factory, options: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in options.items():
        try:
            made[name] = values.make(factory.options[name].annotation, value)
        except UsageError as error:
            # The place is found by the option's name, which these errors cannot know.
            error.where = f"{name}: {error.where or ''}"
            raise
    return made


def _slowdown(factors: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for client, factor in factors.items():
        if not client.isdecimal():
            raise ConfigurationError(
                "slowdown is given for something that is no client",
                got=f'"{client}"',
                expected='a client\'s number in quotes, such as { "0" = 5.0 }',
            )
        found[int(client)] = factor
    return found
