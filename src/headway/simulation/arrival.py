"""Clients that come by themselves, at a rate, instead of being asked for.

:class:`Arrival` is what a population says of it, :class:`Visits` what a run keeps of it: who is here
and who is away. When the next one comes, and who it is, belongs to the seed and the number of the
arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Any, Final, Literal, final, get_args

from headway.core.errors import UnknownNameError
from headway.simulation.arguments import check_positive
from headway.task.streams import Purpose, job_uniform, stream_key

__all__ = ["Arrival", "Process", "Visits"]

Process = Literal["poisson", "regular"]
"""How clients come: independently of each other, or one after each interval."""

_WHERE: Final = "population.with_arrival"
_TRIES: Final = 32


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How clients come.

    Args:
        rate_per_s: How many come in a virtual second on average, above 0.
        process: ``"poisson"`` or ``"regular"``.

    Raises:
        ConfigurationError: The rate is outside its range.
        UnknownNameError: There is no such process.

    Example:
        >>> Arrival(rate_per_s=4.0, process="regular").comes_s(3, after=0.75, seed=0)
        1.0
    """

    rate_per_s: float
    process: Process = "poisson"

    def __post_init__(self) -> None:
        rate = check_positive("rate_per_s", self.rate_per_s, where=_WHERE)
        object.__setattr__(self, "rate_per_s", rate)
        if self.process not in get_args(Process):
            known = get_args(Process)
            raise UnknownNameError.of("process", str(self.process), known, where=_WHERE)

    def comes_s(self, number: int, after: float, seed: int) -> float:
        """When someone comes.

        Args:
            number: Of the arrival, from 0.
            after: When the one before came, in virtual seconds; 0 for the first.
            seed: Of the run.

        Returns:
            ``(number + 1) / rate_per_s`` of a regular process; ``after`` plus an exponential
            time of (seed, number) of a Poisson process.
        """
        if self.process == "regular":
            return (number + 1) / self.rate_per_s
        u = job_uniform(stream_key(seed, Purpose.ARRIVAL), 0, number)
        return after - log(u) / self.rate_per_s

    def describe(self) -> dict[str, Any]:
        """It as a plain tree."""
        return {"rate_per_s": self.rate_per_s, "process": self.process}


@final
class Visits:
    """Who has come and not gone, and who comes next.

    Args:
        arrival: How clients come.
        seed: Of the run.
        clients: Those who may come.
        opens_s: ``(client, now) -> when it may start``; ``None``: always.

    Attributes:
        num_arrived: How many came.
        num_missed: How often one was due and nobody was there to come.
    """

    __slots__ = (
        "_arrival",
        "_away",
        "_clients",
        "_opens_s",
        "_present",
        "_seed",
        "num_arrived",
        "num_missed",
    )

    def __init__(
        self,
        arrival: Arrival,
        seed: int,
        clients: Sequence[int],
        opens_s: Callable[[int, float], float] | None,
    ) -> None:
        self._arrival: Final = arrival
        self._seed: Final = seed
        self._clients: Final = clients
        self._opens_s: Final = opens_s
        self._present: set[int] = set()
        self._away: set[int] = set()
        self.num_arrived = self.num_missed = 0

    @property
    def number(self) -> int:
        """Of the next arrival."""
        return self.num_arrived + self.num_missed

    @property
    def is_full(self) -> bool:
        """Whether everybody is here or away, so that nobody can come."""
        return len(self._present) + len(self._away) >= len(self._clients)

    def comes_s(self, now: float, *, missed: bool = False) -> float:
        """When the next one comes; inf where nobody will ever be able to.

        Args:
            now: When the last one came.
            missed: Whether nobody could come then: only in that case all of them are looked at.
        """
        opens_s = self._opens_s
        if missed and opens_s is not None and self._is_over(now, opens_s):
            return inf
        return self._arrival.comes_s(self.number, now, self._seed)

    def come(self, now: float) -> int | None:
        """The client that comes: each of those who can, with the same probability.

        Args:
            now: The time, in virtual seconds.

        Returns:
            The client, which is here from now on; ``None`` where nobody can come.
        """
        client = self._draw(now)
        if client is None:
            self.num_missed += 1
        else:
            self.num_arrived += 1
            self._present.add(client)
        return client

    def leave(self, client: int) -> None:
        """A client has done its job, or lost it, or does not wait for one any longer."""
        self._present.discard(client)

    def go_away(self, client: int) -> None:
        """A client cannot come until it is back."""
        self._away.add(client)

    def back(self, client: int) -> None:
        """A client can come again."""
        self._away.discard(client)

    def state_dict(self) -> dict[str, Any]:
        """Who is here and who is away, as a plain tree."""
        return {
            "present": sorted(self._present),
            "away": sorted(self._away),
            "num_arrived": self.num_arrived,
            "num_missed": self.num_missed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved.

        Args:
            state: From :meth:`state_dict`.
        """
        self._present, self._away = set(state["present"]), set(state["away"])
        self.num_arrived, self.num_missed = int(state["num_arrived"]), int(state["num_missed"])

    def _draw(self, now: float) -> int | None:
        key, number, clients = stream_key(self._seed, Purpose.COMER), self.number, self._clients
        if self.is_full:
            return None
        for attempt in range(_TRIES):
            client = _chosen(clients, job_uniform(key, attempt, number))
            if self._can_come(client, now):
                return client
        # Few can come: choose among them, with the number after those that found nobody.
        able = [client for client in clients if self._can_come(client, now)]
        return _chosen(able, job_uniform(key, _TRIES, number)) if able else None

    def _can_come(self, client: int, now: float) -> bool:
        if client in self._present or client in self._away:
            return False
        return self._opens_s is None or self._opens_s(client, now) <= now

    def _is_over(self, now: float, opens_s: Callable[[int, float], float]) -> bool:
        return not any(opens_s(client, now) < inf for client in self._clients)


def _chosen(clients: Sequence[int], u: float) -> int:
    return clients[int(u * len(clients))]
