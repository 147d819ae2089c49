"""Clients that come and go during a run, between the server's effects and the queue of events.

A client that is woken while it may not start leaves the server, which makes room for the next, and
an event brings it back. Nobody is looked at who is not woken, so a million clients cost nothing.
Where clients come by themselves, they are not announced to the server: each joins when it comes,
does one job, and is gone. How often a job was too late is counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, Final, final

from headway.core import Effect, Reply, Server, Wake
from headway.simulation.arrival import Visits
from headway.simulation.clients import JobTimes, client_index, client_name
from headway.simulation.flight import LATE, LEFT, RETURNS
from headway.simulation.queue import ARRIVAL, RETURN, EventQueue

__all__ = ["Attendance"]

_JOB_BITS: Final = 0xFFFFFFFF


@final
class Attendance:
    """Turns away who may not start, brings back who may, and lets in who comes.

    Args:
        times: Of the population.
        server: Of the run.
        queue: Of the run.
        visits: Where clients come by themselves.

    Attributes:
        num_late: How many jobs took longer than the server waits.
    """

    __slots__ = ("_queue", "_server", "_times", "num_late", "visits")

    def __init__(
        self,
        times: JobTimes,
        server: Server,
        queue: EventQueue[int],
        visits: Visits | None = None,
    ) -> None:
        self._times: Final = times
        self._server: Final = server
        self._queue: Final = queue
        self.visits: Final = visits
        self.num_late = 0

    @classmethod
    def of(
        cls,
        times: JobTimes,
        server: Server,
        queue: EventQueue[int],
        clients: Sequence[int],
        seed: int,
    ) -> Attendance | None:
        """One, or ``None`` where all clients are there all the time and the server waits for ever.

        Args:
            times: Of the population.
            server: Of the run.
            queue: Of the run.
            clients: Those who have data.
            seed: Of the run.
        """
        visits = None
        if times.arrival is not None:
            visits = Visits(times.arrival, seed, clients, times.opens_s)
        changing = (times.opens_s, times.away_s, times.timeout_s, visits)
        return None if changing == (None,) * 4 else cls(times, server, queue, visits)

    @property
    def is_awaited(self) -> bool:
        """Whether a client will come, or come back."""
        if self._queue.holds(RETURN):
            return True
        return self.visits is not None and not self.visits.is_full and self._queue.holds(ARRIVAL)

    def begin(self) -> None:
        """Let the first one come."""
        if self.visits is not None:
            self._await_next(self.visits, 0.0, missed=False)

    def happens(self, priority: int, item: int, now: float) -> tuple[Effect, ...]:
        """What follows from an event: a client comes, or comes back.

        Args:
            priority: ``ARRIVAL`` or ``RETURN``.
            item: The client that is back.
            now: The time.

        Returns:
            It asks for work, as if it had been woken. Where clients come by themselves, one that
            is back does not: it may be the next that comes.
        """
        if self.visits is None:
            return (Wake(client_name(item)),)
        if priority == RETURN:
            self.visits.back(item)
            return ()
        client = self.visits.come(now)
        self._await_next(self.visits, now, missed=client is None)
        return () if client is None else (Wake(client_name(client)),)

    def admitted(self, effects: Iterable[Effect], now: float) -> Iterator[Effect]:
        """The effects without the wakes of those who may not start, with what came of these."""
        more = list(effects)
        # It grows while it is read: who is turned away makes room for the next.
        for effect in more:
            if type(effect) is Wake and self._turned_away(effect.worker, now, more):
                continue
            yield effect

    def due(self, client: int, now: float, due_s: float, fate: int) -> tuple[float, int]:
        """When a job ends and how: lost where its client leaves before, or it takes too long.

        Args:
            client: Its index.
            now: The time.
            due_s: When the job would come back.
            fate: ``RETURNS`` or ``DROPPED``.
        """
        closes_s, timeout_s = self._times.closes_s, self._times.timeout_s
        if timeout_s is not None and now + timeout_s < due_s:
            # A job that was dropped is missed then at the latest.
            due_s, fate = now + timeout_s, LATE if fate == RETURNS else fate
        closing = inf if closes_s is None else closes_s(client, now)
        return (closing, LEFT) if closing < due_s else (due_s, fate)

    def left(self, client: int) -> None:
        """A client has handed in its job; one that came by itself is gone."""
        if self.visits is not None:
            self.visits.leave(client)

    def lose(self, client: int, job: int, now: float, fate: int) -> Reply:
        """A job is lost. Its client stays away for a while, is gone, or asks again at once.

        Args:
            client: Its index.
            job: The job's id.
            now: The time.
            fate: How it was lost: ``DROPPED``, ``LEFT`` or ``LATE``.
        """
        self.num_late += fate == LATE
        self.left(client)
        # Who is late is there, and only slow.
        away_s = None if fate == LATE else self._times.away_s
        name = client_name(client)
        if away_s is None and self.visits is None:
            return self._server.lose(name, now, again=True)
        reply = self._server.lose(name, now)
        if away_s is not None:
            self._return_at(client, now + away_s(client, job & _JOB_BITS))
        return reply

    def counts(self) -> dict[str, int]:
        """What is counted here, for the counts of a result."""
        counts = {} if self._times.timeout_s is None else {"lost:timed_out": self.num_late}
        if self.visits is not None:
            counts |= {"arrived": self.visits.num_arrived, "missed": self.visits.num_missed}
        return counts

    def state_dict(self) -> dict[str, Any]:
        """The counts, and who came; who is away otherwise is known by the queue and the server."""
        visits = self.visits
        return {
            "num_late": self.num_late,
            "visits": None if visits is None else visits.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved.

        Args:
            state: From :meth:`state_dict`.
        """
        self.num_late = int(state["num_late"])
        if self.visits is not None:
            self.visits.load_state_dict(state["visits"])

    def _await_next(self, visits: Visits, now: float, *, missed: bool) -> None:
        comes_s = visits.comes_s(now, missed=missed)
        if comes_s < inf:
            self._queue.push(comes_s, ARRIVAL, 0)

    def _turned_away(self, name: str, now: float, effects: list[Effect]) -> bool:
        opens_s = self._times.opens_s
        if opens_s is None:
            return False
        client = client_index(name)
        opening = opens_s(client, now)
        if opening <= now:
            return False
        effects.extend(self._server.lose(name, now).effects)
        if self.visits is None:
            self._return_at(client, opening)
        else:
            self.visits.leave(client)
        return True

    def _return_at(self, client: int, time_s: float) -> None:
        if self.visits is not None:
            self.visits.go_away(client)
        if time_s < inf:
            self._queue.push(time_s, RETURN, client)
