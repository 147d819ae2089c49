"""Several algorithms and seeds on the same task."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, final

from headway.algorithms.arguments import check_seed
from headway.core import Algorithm, Scheduler
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.observe import Comparison, Result
from headway.simulation.interruption import interruptible
from headway.simulation.resolve import check_kind, check_measured, resolve
from headway.simulation.simulate import simulate
from headway.simulation.stop import Stop, Target, until
from headway.task import Objective

__all__ = ["Contender", "compare"]

_OPTIONS: Final = (
    "population",
    "concurrency",
    "scheduler",
    "server",
    "execution",
    "staleness",
    "evaluate_every",
    "device",
    "record",
    "observers",
)
"""Arguments of ``simulate`` that all runs of a comparison have in common."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An algorithm that is compared under conditions of its own; ``None``: the common ones.

    Args:
        algorithm: What an update is worth.
        task: Another task, such as one with another local learning rate.
        concurrency: Another number of clients in flight.
        scheduler: Another one, with its own concurrency.
    """

    algorithm: Algorithm
    task: Objective | None = None
    concurrency: int | None = None
    scheduler: Scheduler | None = None


def compare(
    task: Objective,
    algorithms: Mapping[str, Algorithm | Contender] | Sequence[Algorithm | Contender],
    *,
    stop: Stop,
    seeds: Sequence[int] = (0, 1, 2),
    target: Target | tuple[Any, ...] | list[Any] | None = None,
    folder: str | Path | None = None,
    begun: Callable[[str, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Run each algorithm with each seed, and compare the time and work that each one takes.

    All runs of one seed start from the same weights and have the same clients with the same
    speeds; work that was thrown away is counted.

    Args:
        task: What is trained.
        algorithms: By label; a sequence is labelled by its names.
        stop: When each run ends. A target is measured and ends no run, unless it stands in here.
        seeds: One run of each algorithm for each of them.
        target: ``(metric, value)`` to which time and work are measured, if there is one; by
            default that of ``stop``.
        folder: A folder for the comparison, with one run folder for each run.
        begun: Called with label and seed before each run.
        **options: As for :func:`simulate`: population, concurrency, scheduler, server,
            execution, staleness, evaluate_every, device, record, observers.

    Returns:
        The results, with a table of means and spreads as its text.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: There is nothing to compare, a label or a seed stands twice, or a
            contender cannot run under these conditions. Nothing has been trained then. When a run
            fails later, the finished ones are saved before its exception goes on.

    Example:
        >>> import headway as hw
        >>> comparison = hw.compare(
        ...     hw.tasks.quadratic(dim=10, num_clients=8),
        ...     [hw.algorithms.fedbuff(buffer_size=4), hw.algorithms.fedavg(clients_per_round=4)],
        ...     population=hw.population.exponential(8, mean_s=1.0),
        ...     stop=hw.until(updates=100), seeds=(0, 1))
        >>> sorted(comparison.groups), len(comparison.results)
        (['fedavg', 'fedbuff'], 4)
    """
    contenders = _label(algorithms)
    check_kind("task", task, where="compare")
    check_kind("stop", stop, where="compare")
    seeds = _check_seeds(seeds)
    if not contenders or not seeds:
        raise ConfigurationError(
            "there is nothing to compare",
            where="compare()",
            got=f"{len(contenders)} algorithms, {len(seeds)} seeds",
            help="give at least one algorithm and one seed",
        )
    _check_options(options)
    for contender in contenders.values():
        # All of them, before the first one trains: a mistake in the last may cost days.
        resolve(
            contender.task or task,
            contender.algorithm,
            stop,
            seed=seeds[0],
            **_options_of(contender, options),
        )
    goal = until(target=target).target if target is not None else stop.target
    if goal is not None:
        check_measured(goal, task, seeds[0], options.get("device", "cpu"))
    names = _folder_names(contenders)
    results: list[Result] = []
    with interruptible() as ctrl_c:
        for seed, label in product(seeds, contenders):
            if ctrl_c.requested and results:
                break
            contender = contenders[label]
            try:
                if begun is not None:
                    begun(label, seed)
                result = simulate(
                    contender.task or task,
                    contender.algorithm,
                    stop=stop,
                    seed=seed,
                    folder=None if folder is None else Path(folder) / f"{names[label]}-seed{seed}",
                    label=label,
                    **_options_of(contender, options),
                )
            except BaseException:
                if results and folder is not None:
                    _gather(results, goal, folder)
                raise
            results.append(result)
            if result.interrupted:
                break
        return _gather(results, goal, folder)


def _check_options(options: Mapping[str, Any]) -> None:
    where = "compare(**options)"
    instead = {
        "seed": "each algorithm runs with every seed: write seeds=(3,)",
        "label": 'label the algorithms: {"my label": fedbuff(buffer_size=10)}',
    }
    for name, value in options.items():
        if name in instead:
            raise ConfigurationError(
                f"a comparison takes no `{name}`",
                where=where,
                got=f"{name}={value!r}",
                help=instead[name],
            )
        if name not in _OPTIONS:
            known = [*_OPTIONS, "stop", "seeds", "target", "folder", "begun"]
            raise UnknownNameError.of("option", name, known, where=where, got=f"{name}={value!r}")


def _options_of(contender: Contender, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all, but with its own clients in flight."""
    own = {"concurrency": contender.concurrency, "scheduler": contender.scheduler}
    if contender.scheduler is None:
        del own["scheduler"]
        if contender.concurrency is None:
            del own["concurrency"]
    return {**options, **own}


def _folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A name for each label that every system takes and that no other label has."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        name = base = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:60] or "run"
        number = 1
        # Some systems ignore the case.
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        names[label] = name
    return names


def _gather(results: list[Result], goal: Target | None, folder: str | Path | None) -> Comparison:
    comparison = Comparison(
        results=results,
        target=None if goal is None else (goal.metric, goal.value),
        direction=None if goal is None else goal.direction,
    )
    if folder is not None:
        comparison.save(folder)
    return comparison


def _check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    where = "compare(seeds=...)"
    given: object = seeds
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentTypeError(
            "these are not seeds", where=where, got=repr(seeds), help="write seeds=(0, 1, 2)"
        )
    checked = tuple(check_seed(seed, where=where) for seed in seeds)
    if len(set(checked)) < len(checked):
        raise ConfigurationError(
            "a seed stands twice, and would give the same run twice",
            where=where,
            got=repr(checked),
            help="name each seed once",
        )
    return checked


def _label(
    algorithms: Mapping[str, Algorithm | Contender] | Sequence[Algorithm | Contender],
) -> dict[str, Contender]:
    if isinstance(algorithms, Mapping):
        return {label: _contender(value) for label, value in algorithms.items()}
    # One alone is compared over its seeds.
    several = [algorithms] if isinstance(algorithms, Algorithm | Contender) else algorithms
    contenders = [_contender(value) for value in several]
    labelled = {contender.algorithm.name: contender for contender in contenders}
    if len(labelled) != len(contenders):
        raise ConfigurationError(
            "two algorithms have the same name",
            where="compare(algorithms=...)",
            got=", ".join(contender.algorithm.name for contender in contenders),
            help='label them: {"K=5": fedbuff(buffer_size=5), "K=20": fedbuff(buffer_size=20)}',
        )
    return labelled


def _contender(value: Algorithm | Contender) -> Contender:
    contender = value if isinstance(value, Contender) else Contender(algorithm=value)
    check_kind("algorithm", contender.algorithm, where="compare")
    return contender
