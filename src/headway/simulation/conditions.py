"""What surrounds clients: networks, hours at which they may start, jobs and clients that get lost.

Each function takes a population and returns another. Not here: how fast they train.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.simulation.arguments import check_number, check_positive, is_list
from headway.simulation.arrival import Arrival, Process
from headway.simulation.availability import Diurnal, Leaving, Windows
from headway.simulation.clients import Population, check_probability
from headway.simulation.laws import Constant, Law
from headway.simulation.links import Link

__all__ = [
    "with_arrival",
    "with_diurnal",
    "with_dropout",
    "with_link",
    "with_timeout",
    "with_windows",
]


def with_dropout(
    population: Population, probability: float, *, away_s: float | Law | None = None
) -> Population:
    """Let jobs get lost, each independently of all others, and their clients with them for a while.

    Args:
        population: The clients; unchanged.
        probability: That a job never returns, in [0, 1). With jobs that get lost already, a job
            returns if it escapes both.
        away_s: How long a client stays away after it dropped a job, in virtual seconds, or a law
            of it that is drawn per job; ``None`` or 0: it asks for the next job at once. The time
            that was given last counts.

    Returns:
        The less reliable population.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> from headway.simulation.population import constant
        >>> clients = with_dropout(constant(1000), 0.1)
        >>> 50 < sum(clients.drops(client, dispatch=0, seed=0) for client in range(1000)) < 150
        True
    """
    _check_population("with_dropout", population)
    added = check_probability("probability", probability, where="population.with_dropout")
    old = population.dropout
    away = population.away
    if away_s is not None:
        away = _absence(away_s)
    # Written so that a single dropout stays the number that was given, to the bit.
    return replace(population, dropout=added + old * (1.0 - added) if old else added, away=away)


def with_link(
    population: Population,
    *,
    down_bps: float | Sequence[float] | Law,
    up_bps: float | Sequence[float] | Law,
    latency_s: float | Sequence[float] | Law = 0.0,
) -> Population:
    """Let what a job moves take time: the model down, and the update up.

    One way takes ``latency_s + 8 * num_bytes / bits_per_second``; both are added to a job's time.
    The bytes are those that a result counts as ``bytes_down`` and ``bytes_up``.

    Args:
        population: The clients; unchanged. An earlier link is replaced.
        down_bps: Bandwidth to the client, in bits per second, above 0: one for all, one for each
            client, or a law that is drawn once for each client (its seconds are bits per second).
        up_bps: Bandwidth from the client, likewise.
        latency_s: What each way takes on top, in virtual seconds, 0 or above, likewise.

    Returns:
        The connected population.

    Raises:
        ConfigurationError: If a value is outside its range, or there is not one for each client.

    Example:
        >>> from headway.simulation.population import constant
        >>> clients = with_link(constant(4), down_bps=8e6, up_bps=1e6, latency_s=0.05)
        >>> clients.link.transfer_s(0, 1_000_000, 125_000, seed=0)
        2.1
    """
    _check_population("with_link", population)
    link = Link(_tuple(down_bps), _tuple(up_bps), _tuple(latency_s))
    for length in link.lengths:
        _check_length("with_link", length, population)
    return replace(population, link=link)


def with_timeout(population: Population, timeout_s: float) -> Population:
    """Let the server give up jobs that take too long.

    A job that is not back ``timeout_s`` after it was given out is lost then, and never trained. Its
    client is there, and only slow: it asks for the next job at once. A job that comes back exactly
    then still counts. What an update waits at a busy server does not count, what it travels does.

    Args:
        population: The clients; unchanged. An earlier timeout is replaced.
        timeout_s: How long the server waits, in virtual seconds, above 0.

    Returns:
        The population that is waited for so long. A job that its client drops is missed after
        ``timeout_s`` at the latest.

    Raises:
        ConfigurationError: If the value is outside its range.

    Example:
        >>> import headway as hw
        >>> clients = hw.population.from_times([1.0, 9.0])
        >>> result = hw.simulate(
        ...     hw.tasks.quadratic(num_clients=2), hw.algorithms.fedasync(),
        ...     population=with_timeout(clients, 5.0), stop=hw.until(virtual_time_s=20.0))
        >>> result.counts["updates"], result.counts["lost:timed_out"]
        (20, 4)
    """
    _check_population("with_timeout", population)
    checked = check_positive("timeout_s", timeout_s, where="population.with_timeout")
    return replace(population, timeout_s=checked)


def with_arrival(
    population: Population, *, rate_per_s: float, process: Process = "poisson"
) -> Population:
    """Let clients come by themselves, each for one job, instead of being asked for.

    Whoever comes is a random one of those who are neither here nor away and may start now. One that
    comes while ``concurrency`` jobs are in flight waits its turn; without a limit all start at once.
    A job that the server cancels is begun anew by its client.

    Args:
        population: The clients; unchanged. An earlier arrival is replaced.
        rate_per_s: How many come in a virtual second on average, above 0.
        process: ``"poisson"``: the times between them are exponential. ``"regular"``: one comes
            every ``1 / rate_per_s`` seconds, the first after the first interval.

    Returns:
        The population that comes by itself. With ``m`` seconds for a job on average,
        ``rate_per_s * m`` jobs are in flight on average, as long as there are clients enough.

    Raises:
        ConfigurationError: If the rate is outside its range.

    Example:
        >>> import headway as hw
        >>> clients = with_arrival(hw.population.constant(8), rate_per_s=2.0, process="regular")
        >>> result = hw.simulate(
        ...     hw.tasks.quadratic(num_clients=8), hw.algorithms.fedasync(), population=clients,
        ...     stop=hw.until(virtual_time_s=10.0))
        >>> result.counts["arrived"], result.updates  # each takes one second
        (20, 18)
    """
    _check_population("with_arrival", population)
    return replace(population, arrival=Arrival(rate_per_s=rate_per_s, process=process))


def with_windows(
    population: Population,
    windows: Iterable[Iterable[Iterable[float]]],
    *,
    period_s: float | Sequence[float] | None = None,
    leaving: Leaving = "finish",
) -> Population:
    """Let each client start only inside its own windows.

    Args:
        population: The clients; unchanged. An earlier availability is replaced.
        windows: For each client its ``[start, end]`` pairs in virtual seconds, from a start up to
            but without an end. A client without one never starts.
        period_s: After which they repeat, one for all or one for each client; ``None``: they come
            once, and nobody starts afterwards.
        leaving: What becomes of a job that outlasts its window: ``"finish"``, it ends, or
            ``"lose"``, it is lost when the window closes.

    Returns:
        The population that comes and goes.

    Raises:
        ConfigurationError: If a window cannot be used, or there is not a list for each client.

    Example:
        >>> from headway.simulation.population import constant
        >>> days = with_windows(constant(2), [[[0, 8]], [[12, 24]]], period_s=24)
        >>> days.availability.opens_s(1, 3.0, seed=0)
        12.0
    """
    _check_population("with_windows", population)
    if not is_list(windows):
        raise ArgumentTypeError(
            "the windows must be a list with an entry for each client",
            where="population.with_windows",
            got=repr(windows),
            help="write [[[start, end], ...], ...], [] for a client that never starts",
        )
    # Windows makes tuples of whatever is given, and says which client's cannot be used.
    availability = Windows(tuple(windows), _tuple(period_s), leaving)  # type: ignore[arg-type]
    _check_length("with_windows", len(availability.spans), population)
    return replace(population, availability=availability)


def with_diurnal(
    population: Population,
    *,
    open_s: float,
    period_s: float = 86_400.0,
    spread: float = 1.0,
    leaving: Leaving = "finish",
) -> Population:
    """Let each client start only during some hours of the day, its own by the seed.

    Args:
        population: The clients; unchanged. An earlier availability is replaced.
        open_s: How long a client is available each day, in virtual seconds, in (0, period_s].
        period_s: Length of a day, in virtual seconds, above 0.
        spread: Over which share of the day the beginnings lie, in [0, 1]. With 1 the share that is
            available is always ``open_s / period_s``; with 0 all come and go together.
        leaving: What becomes of a job that outlasts the client's hours: ``"finish"``, it ends, or
            ``"lose"``, it is lost when they end.

    Returns:
        The population that comes and goes.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> from headway.simulation.population import constant
        >>> nights = with_diurnal(constant(4), open_s=8 * 3600, spread=0.0)
        >>> nights.availability.opens_s(0, 9 * 3600, seed=0)
        86400.0
    """
    _check_population("with_diurnal", population)
    return replace(population, availability=Diurnal(open_s, period_s, spread, leaving))


def _absence(away_s: float | Law) -> Law | None:
    if hasattr(away_s, "draw_s"):
        return away_s  # type: ignore[return-value]
    seconds = check_number("away_s", away_s, where="population.with_dropout", minimum=0)
    return Constant(seconds) if seconds else None


def _tuple(value: float | Sequence[float] | Law) -> float | tuple[float, ...] | Law:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return tuple(value) if is_list else value  # type: ignore[arg-type,return-value]


def _check_population(function: str, population: object) -> None:
    if not isinstance(population, Population):
        raise ArgumentTypeError(
            "this is no population",
            where=f"population.{function}",
            got=repr(population),
            help="make one with headway.population.constant(num_clients), for example",
        )


def _check_length(function: str, given: int, population: Population) -> None:
    if given != population.num_clients:
        raise ConfigurationError(
            "there must be one entry for each client",
            where=f"population.{function}",
            got=f"{given} entries, {population.num_clients} clients",
            help="give as many as there are clients, in their order",
        )
