"""Makers of populations: who trains, and how long each job takes in virtual time.

Each returns a :class:`Population`, a value. The options beyond ``num_clients`` are keywords and
carry their units; ``per`` says how often a time is drawn, ``unit`` what it is the time of.

Not here: who trains next (the scheduler), what is trained (the task).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from headway.simulation import laws
from headway.simulation.arguments import as_items
from headway.simulation.clients import (
    JobTimes,
    Per,
    Population,
    Unit,
    client_index,
    client_name,
)
from headway.simulation.conditions import (
    with_arrival,
    with_diurnal,
    with_dropout,
    with_link,
    with_timeout,
    with_windows,
)
from headway.simulation.traces import from_fedscale, from_file, from_table

__all__ = [
    "POPULATIONS",
    "JobTimes",
    "Population",
    "client_index",
    "client_name",
    "constant",
    "exponential",
    "from_fedscale",
    "from_file",
    "from_table",
    "from_times",
    "halfnormal",
    "lognormal",
    "pareto",
    "uniform",
    "with_arrival",
    "with_diurnal",
    "with_dropout",
    "with_link",
    "with_slowdown",
    "with_timeout",
    "with_windows",
]


def constant(num_clients: int, *, time_s: float = 1.0, unit: Unit = "job") -> Population:
    """Make clients that are all equally fast.

    Args:
        num_clients: How many, in [1, 2**32].
        time_s: The time of each job or step, in virtual seconds, above 0.
        unit: Whether ``time_s`` is that of a job or of a local step.

    Returns:
        The population.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> constant(4, time_s=2.0).duration_s(3, dispatch=0, seed=0)
        2.0
    """
    return Population(laws.Constant(time_s), num_clients, "client", unit)


def from_times(times_s: Iterable[float], *, unit: Unit = "job") -> Population:
    """Make clients whose times are given, one each.

    Args:
        times_s: The time of each client's jobs or steps, in virtual seconds, above 0.
        unit: Whether these are times of a job or of a local step.

    Returns:
        The population, with as many clients as there are times.

    Raises:
        ConfigurationError: If there is no time, or one is outside its range.

    Example:
        >>> from_times([1.0, 4.0]).duration_s(1, dispatch=0, seed=0)
        4.0
    """
    law = laws.Given(as_items("times_s", times_s, where="population.from_times"))
    return Population(law, len(law.times_s), "client", unit)


def uniform(
    num_clients: int, *, low_s: float, high_s: float, per: Per = "client", unit: Unit = "job"
) -> Population:
    """Make clients whose times lie evenly between two bounds.

    Args:
        num_clients: How many, in [1, 2**32].
        low_s: The lowest time, in virtual seconds, above 0.
        high_s: The highest, at least ``low_s``.
        per: Whether a time is drawn once for each client or anew for each job.
        unit: Whether it is the time of a job or of a local step.

    Returns:
        The population; its mean is ``(low_s + high_s) / 2``.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> 1.0 < uniform(10, low_s=1.0, high_s=3.0).duration_s(0, dispatch=0, seed=0) < 3.0
        True
    """
    return Population(laws.Uniform(low_s, high_s), num_clients, per, unit)


def lognormal(
    num_clients: int, *, median_s: float, sigma: float, per: Per = "client", unit: Unit = "job"
) -> Population:
    """Make clients with log-normal times ``median_s * exp(sigma * Z)``: a few very slow ones.

    Args:
        num_clients: How many, in [1, 2**32].
        median_s: The time that half of them stay below, in virtual seconds, above 0.
        sigma: Standard deviation of the logarithm, 0 or above; measured fleets have 0.5 to 1.5.
        per: Whether a time is drawn once for each client or anew for each job.
        unit: Whether it is the time of a job or of a local step.

    Returns:
        The population; its mean is ``median_s * exp(sigma**2 / 2)``.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> lognormal(10, median_s=2.0, sigma=0.0).duration_s(0, dispatch=0, seed=0)
        2.0
    """
    return Population(laws.LogNormal(median_s, sigma), num_clients, per, unit)


def halfnormal(
    num_clients: int,
    *,
    scale_s: float,
    minimum_s: float = 0.0,
    per: Per = "client",
    unit: Unit = "job",
) -> Population:
    """Make clients with half-normal times ``minimum_s + scale_s * |Z|``.

    Args:
        num_clients: How many, in [1, 2**32].
        scale_s: Standard deviation of the normal ``Z`` before it is folded, in virtual seconds,
            above 0.
        minimum_s: What every job or step takes at least, 0 or above.
        per: Whether a time is drawn once for each client or anew for each job.
        unit: Whether it is the time of a job or of a local step.

    Returns:
        The population; its mean is ``minimum_s + scale_s * sqrt(2 / pi)``.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> halfnormal(10, scale_s=1.0, minimum_s=0.5).duration_s(0, dispatch=0, seed=0) > 0.5
        True

    Source:
        The durations of FedBuff's experiments (Nguyen et al. 2022, arXiv 2106.06639).
    """
    return Population(laws.HalfNormal(scale_s, minimum_s), num_clients, per, unit)


def exponential(
    num_clients: int, *, mean_s: float, per: Per = "job", unit: Unit = "job"
) -> Population:
    """Make clients with exponential times; drawn per job, the memoryless clients of theory.

    Args:
        num_clients: How many, in [1, 2**32].
        mean_s: The mean time, in virtual seconds, above 0.
        per: Whether a time is drawn once for each client or anew for each job.
        unit: Whether it is the time of a job or of a local step.

    Returns:
        The population. With ``n`` clients at work the slowest of a round takes
        ``mean_s * (1 + 1/2 + ... + 1/n)`` on average.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> clients = exponential(10, mean_s=1.0)
        >>> clients.duration_s(0, dispatch=0, seed=0) == clients.duration_s(0, 1, seed=0)
        False
    """
    return Population(laws.Exponential(mean_s), num_clients, per, unit)


def pareto(
    num_clients: int, *, minimum_s: float, shape: float, per: Per = "client", unit: Unit = "job"
) -> Population:
    """Make clients with Pareto times ``minimum_s * (1 - U) ** (-1 / shape)``: a heavy tail.

    Args:
        num_clients: How many, in [1, 2**32].
        minimum_s: What every job or step takes at least, in virtual seconds, above 0.
        shape: How fast the tail falls, above 0: a time is above ``t`` with probability
            ``(minimum_s / t) ** shape``. Up to 1 the mean is infinite, up to 2 the variance.
        per: Whether a time is drawn once for each client or anew for each job.
        unit: Whether it is the time of a job or of a local step.

    Returns:
        The population; its mean is ``shape * minimum_s / (shape - 1)`` for a shape above 1, its
        median ``minimum_s * 2 ** (1 / shape)``.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> pareto(10, minimum_s=0.5, shape=2.0).duration_s(0, dispatch=0, seed=0) > 0.5
        True
    """
    return Population(laws.Pareto(minimum_s, shape), num_clients, per, unit)


POPULATIONS: Final[Mapping[str, Callable[..., Population]]] = MappingProxyType(
    {
        "constant": constant,
        "exponential": exponential,
        "from_fedscale": from_fedscale,
        "from_file": from_file,
        "from_table": from_table,
        "from_times": from_times,
        "halfnormal": halfnormal,
        "lognormal": lognormal,
        "pareto": pareto,
        "uniform": uniform,
    }
)
"""The factories by name, as the command line knows them."""


def with_slowdown(population: Population, factors: Mapping[int, float]) -> Population:
    """Multiply the times of some clients.

    Args:
        population: The clients; unchanged.
        factors: Client to factor, above 0: 5 makes it five times slower. A client that is slowed
            down already gets the product.

    Returns:
        The slowed population.

    Raises:
        ConfigurationError: If there is no such client, or a factor is outside its range.

    Example:
        >>> with_slowdown(constant(4), {0: 5.0}).duration_s(0, dispatch=0, seed=0)
        5.0
    """
    # The new factors on their own first, so that an unusable one is reported as it was given.
    new = replace(population, slowdown=factors).slowdown
    old = population.slowdown
    product = {client: factor * old.get(client, 1.0) for client, factor in new.items()}
    return replace(population, slowdown={**old, **product})
