"""The clients of a simulation as a value, and their times once the seed is known.

A :class:`Population` is a number of clients, a law of times, and how often a time is drawn. Nothing
is set up or stored per client, so a million clients cost nothing until they train. Every time is a
law's quantile of one uniform number that belongs to the client or to the job: with the same seed, a
client that is slow under one law is slow under every other.

The functions that make populations are in :mod:`headway.simulation.population`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, NamedTuple, final

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation.arguments import check_count, check_number, check_positive
from headway.simulation.arrival import Arrival
from headway.simulation.availability import Availability
from headway.simulation.laws import Law
from headway.simulation.links import Link
from headway.task.streams import Purpose, job_uniform, stream_key

__all__ = [
    "JobTimes",
    "Per",
    "Population",
    "Unit",
    "check_probability",
    "client_index",
    "client_name",
]

Per = Literal["client", "job"]
Unit = Literal["job", "step"]

_MAX_CLIENTS: Final = 1 << 32
_REMEMBERED_CLIENTS: Final = 1 << 16


class JobTimes(NamedTuple):
    """A population with its seed put in, for the inner loop of a simulation.

    Attributes:
        duration_s: ``(client, dispatch, num_steps) -> virtual seconds``.
        drops: ``(client, dispatch) -> whether the job never returns``.
        transfer_s: ``(client, bytes_down, bytes_up) -> virtual seconds``; ``None``: no links.
        away_s: ``(client, job) -> virtual seconds`` that a client stays away after it dropped this
            job, in [0, 2**32); ``None``: it asks again at once.
        opens_s: ``(client, now) -> when it may start``; ``None``: always.
        closes_s: ``(client, now) -> when it leaves and loses its job``; ``None``: never.
        timeout_s: How long the server waits for a job, in virtual seconds; ``None``: for ever.
        arrival: How clients come by themselves; ``None``: they are all there, and asked for.
    """

    duration_s: Callable[[int, int, int], float]
    drops: Callable[[int, int], bool]
    transfer_s: Callable[[int, int, int], float] | None = None
    away_s: Callable[[int, int], float] | None = None
    opens_s: Callable[[int, float], float] | None = None
    closes_s: Callable[[int, float], float] | None = None
    timeout_s: float | None = None
    arrival: Arrival | None = None


@final
@dataclass(frozen=True, slots=True, repr=False)
class Population:
    """The clients of a simulation; made by the functions of ``headway.population``.

    Args:
        law: How a uniform number becomes a time.
        num_clients: How many clients, in [1, 2**32]; they are numbered from 0.
        per: ``"client"`` draws each client's time once and keeps it; ``"job"`` draws anew for
            every job.
        unit: Whether the drawn time is that of a whole job or of one local step.
        slowdown: Factors by which the times of some clients are multiplied.
        dropout: Probability in [0, 1) that a job never returns.
        away: How long a client stays away after it dropped a job; ``None``: not at all.
        link: How long what a job moves travels; ``None``: no time.
        availability: When each client may start; ``None``: always.
        timeout_s: How long the server waits for a job, in virtual seconds; ``None``: for ever.
        arrival: How clients come by themselves; ``None``: they are all there, and asked for.

    Raises:
        ConfigurationError: If a value is outside its range.

    Example:
        >>> from headway.simulation.population import lognormal
        >>> clients = lognormal(1_000_000, median_s=2.0, sigma=0.8)
        >>> clients.duration_s(17, dispatch=0, seed=1) == clients.duration_s(17, 1, seed=1)
        True
        >>> clients
        lognormal(num_clients=1000000, median_s=2.0, sigma=0.8, per='client', unit='job')
    """

    law: Law
    num_clients: int
    per: Per = "client"
    unit: Unit = "job"
    slowdown: Mapping[int, float] = field(default_factory=dict, hash=False)
    dropout: float = 0.0
    away: Law | None = None
    link: Link | None = None
    availability: Availability | None = None
    timeout_s: float | None = None
    arrival: Arrival | None = None

    def __post_init__(self) -> None:
        where = f"population.{self.law.name}"
        count = check_count("num_clients", self.num_clients, where=where, maximum=_MAX_CLIENTS)
        object.__setattr__(self, "num_clients", count)
        _check_choice("per", self.per, ("client", "job"), where)
        _check_choice("unit", self.unit, ("job", "step"), where)
        factors = {
            self._known(_index(client, where)): check_positive(
                f"the slowdown of client {client}", factor, where=where
            )
            for client, factor in self.slowdown.items()
        }
        object.__setattr__(self, "slowdown", factors)
        if self.timeout_s is not None:
            timeout_s = check_positive("timeout_s", self.timeout_s, where=where)
            object.__setattr__(self, "timeout_s", timeout_s)
        dropout = check_probability("dropout", self.dropout, where=where)
        object.__setattr__(self, "dropout", dropout)

    def __repr__(self) -> str:
        options = self.describe()
        name = options.pop("name")
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"

    def duration_s(self, client: int, dispatch: int, seed: int, num_steps: int = 1) -> float:
        """How long one job takes to train, in virtual seconds; its link's time comes on top.

        Args:
            client: Index in [0, num_clients).
            dispatch: Number of the job, in [0, 2**32); two jobs of one client have different ones.
            seed: The seed of the run.
            num_steps: Local steps of the job; counts where ``unit`` is ``"step"``.

        Returns:
            A pure function of the arguments, positive and finite for at least one step.

        Raises:
            ConfigurationError: If there is no such client.
        """
        if self.per == "job":
            time_s = self._draw_s(stream_key(seed, Purpose.DURATION), self._known(client), dispatch)
        else:
            time_s = self._draw_s(stream_key(seed, Purpose.SPEED), self._known(client), 0)
        return time_s * num_steps if self.unit == "step" else time_s

    def drops(self, client: int, dispatch: int, seed: int) -> bool:
        """Whether a job never returns; its loss is noticed when it would have returned.

        Args:
            client: Index in [0, num_clients).
            dispatch: Number of the job, in [0, 2**32).
            seed: The seed of the run.

        Returns:
            A pure function of the arguments, independent of how long the job takes.

        Raises:
            ConfigurationError: If there is no such client.
        """
        u = job_uniform(stream_key(seed, Purpose.DROPOUT), self._known(client), dispatch)
        return u < self.dropout

    def job_times(self, seed: int) -> JobTimes:
        """Put the seed in: the numbers of the two methods, faster, with nothing checked.

        Args:
            seed: The seed of the run.

        Returns:
            Functions without a state. Where a time is drawn per client, up to 65,536 of them are
            remembered.

        Example:
            >>> from headway.simulation.population import exponential
            >>> clients = exponential(10, mean_s=1.0)
            >>> clients.job_times(0).duration_s(3, 5, 1) == clients.duration_s(3, 5, seed=0)
            True
        """
        draw = _per_job if self.per == "job" else _per_client
        times = JobTimes(
            draw(self, seed),
            _dropouts(self, seed),
            timeout_s=self.timeout_s,
            arrival=self.arrival,
        )
        if self.link is not None:
            times = times._replace(transfer_s=self.link.transfers(seed))
        if self.away is not None:
            times = times._replace(away_s=_absences(self.away, seed))
        if (availability := self.availability) is not None:
            times = times._replace(opens_s=_with_seed(availability.opens_s, seed))
            if availability.leaving == "lose":
                times = times._replace(closes_s=_with_seed(availability.closes_s, seed))
        return times

    def describe(self) -> dict[str, Any]:
        """The factory's name and arguments, and what wraps it, as a plain tree.

        Returns:
            ``name``, the factory's arguments, and where they are set ``slowdown``, ``dropout``,
            ``away``, ``link``, ``availability``, ``timeout_s`` and ``arrival``: without these,
            ``POPULATIONS[name](**arguments)`` is this population.

        Example:
            >>> from headway.simulation.population import constant, with_slowdown
            >>> with_slowdown(constant(4), {0: 5.0}).describe()["slowdown"]
            {'0': 5.0}
        """
        options = asdict(self.law)
        if "times_s" in options:
            tree: dict[str, Any] = {"name": self.law.name, "times_s": list(options["times_s"])}
        else:
            tree = {"name": self.law.name, "num_clients": self.num_clients, **options}
        if not self.law.fixed:
            tree["per"] = self.per
        tree["unit"] = self.unit
        if self.slowdown:
            tree["slowdown"] = {str(client): factor for client, factor in self.slowdown.items()}
        if self.dropout:
            tree["dropout"] = self.dropout
        if self.away is not None:
            tree["away"] = {"name": self.away.name, **asdict(self.away)}
        if self.link is not None:
            tree["link"] = self.link.describe()
        if self.availability is not None:
            tree["availability"] = self.availability.describe()
        if self.timeout_s is not None:
            tree["timeout_s"] = self.timeout_s
        if self.arrival is not None:
            tree["arrival"] = self.arrival.describe()
        return tree

    def _draw_s(self, key: int, client: int, dispatch: int) -> float:
        time_s = self.law.draw_s(client, job_uniform(key, client, dispatch))
        factor = self.slowdown.get(client)
        return time_s if factor is None else time_s * factor

    def _known(self, client: int) -> int:
        if 0 <= client < self.num_clients:
            return client
        raise ConfigurationError(
            "there is no such client",
            where=f"population.{self.law.name}",
            got=repr(client),
            expected=f"an int in [0, {self.num_clients})",
            help="clients are numbered from 0",
        )


def _per_job(population: Population, seed: int) -> Callable[[int, int, int], float]:
    key = stream_key(seed, Purpose.DURATION)
    per_step = population.unit == "step"
    # Without slowdowns the law is called straight away: this runs once a job.
    plain, draw_law, draw = not population.slowdown, population.law.draw_s, population._draw_s

    def duration_s(client: int, dispatch: int, num_steps: int) -> float:
        if plain:
            time_s = draw_law(client, job_uniform(key, client, dispatch))
        else:
            time_s = draw(key, client, dispatch)
        return time_s * num_steps if per_step else time_s

    return duration_s


def _per_client(population: Population, seed: int) -> Callable[[int, int, int], float]:
    key = stream_key(seed, Purpose.SPEED)
    per_step = population.unit == "step"
    draw = population._draw_s
    remembered: dict[int, float] = {}

    def duration_s(client: int, dispatch: int, num_steps: int) -> float:
        time_s = remembered.get(client)
        if time_s is None:
            if len(remembered) >= _REMEMBERED_CLIENTS:
                remembered.clear()
            remembered[client] = time_s = draw(key, client, 0)
        return time_s * num_steps if per_step else time_s

    return duration_s


def _dropouts(population: Population, seed: int) -> Callable[[int, int], bool]:
    dropout, key = population.dropout, stream_key(seed, Purpose.DROPOUT)

    def drops(client: int, dispatch: int) -> bool:
        return dropout > 0.0 and job_uniform(key, client, dispatch) < dropout

    return drops


def _absences(away: Law, seed: int) -> Callable[[int, int], float]:
    key = stream_key(seed, Purpose.AWAY)
    return lambda client, job: away.draw_s(client, job_uniform(key, client, job))


def _with_seed(
    answer: Callable[[int, float, int], float], seed: int
) -> Callable[[int, float], float]:
    return lambda client, now: answer(client, now, seed)


def client_name(client: int) -> str:
    """The worker id of a client.

    Args:
        client: Index, 0 or above.

    Returns:
        ``"client-17"`` for 17.

    Example:
        >>> client_name(17)
        'client-17'
    """
    return f"client-{client}"


def client_index(name: str) -> int:
    """The client behind a worker id: the inverse of :func:`client_name`.

    Args:
        name: A worker id.

    Returns:
        Its index.

    Raises:
        ConfigurationError: If it is not the name of a simulated client.

    Example:
        >>> client_index("client-17")
        17
    """
    digits = name[7:]
    if digits.isdecimal() and len(digits) < 20 and name == client_name(index := int(digits)):
        return index
    raise ConfigurationError(
        f"`{name}` is not the name of a simulated client",
        got=name,
        expected="client- and a number, such as client-17",
        help="simulated clients are named client-0, client-1, and so on",
    )


def check_probability(name: str, value: object, *, where: str) -> float:
    """Check a probability that a job gets lost.

    Args:
        name: What it is called.
        value: What was given.
        where: The function it was given to.

    Returns:
        It, as a float in [0, 1).

    Raises:
        ArgumentTypeError: If it is no number.
        ConfigurationError: If it is outside its range.

    Example:
        >>> check_probability("dropout", 0, where="with_dropout")
        0.0
    """
    probability = check_number(name, value, where=where)
    if 0.0 <= probability < 1.0:
        return probability
    raise ConfigurationError(
        f"{name} cannot be {value!r}",
        where=where,
        got=repr(value),
        expected="0 <= probability < 1",
        help="at 1 no update would ever arrive; use 0.1 to lose one job in ten",
    )


def _index(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ArgumentTypeError(
        "a slowdown belongs to a client",
        where=where,
        got=repr(value),
        expected="the index of a client, an int",
        help="write it as {3: 5.0}; client_index turns a client's name into its index",
    )


def _check_choice(name: str, value: object, known: tuple[str, ...], where: str) -> None:
    if value not in known:
        raise UnknownNameError.of(name, str(value), known, where=where)
