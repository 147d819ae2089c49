"""Which jobs are out, with whom; and where workers are mere executors, who takes whose turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, final

from headway.runtime.homes import Homes
from headway.task.streams import Purpose, job_bits, stream_key

if TYPE_CHECKING:
    from headway.core import Checkout
    from headway.observe.tally import Tally
    from headway.runtime.members import Member

__all__ = ["Deals", "Given", "training_key"]


def training_key(seed: int, incarnation: int) -> int:
    """The key of a server's random streams for jobs.

    Args:
        seed: Of the run.
        incarnation: Of a server that goes on after jobs whose numbers nobody knows any more: its
            jobs get streams of their own. 0: it has them all.
    """
    key = stream_key(seed, Purpose.TRAINING)
    return key if incarnation == 0 else job_bits(key, 2**32 - 1, incarnation)


class Given(NamedTuple):
    """A job that is out.

    Attributes:
        job: Its id.
        name: Whose work it is, as the server knows it.
        number: Of that worker or client.
        member: Who does it.
        since_s: Since when, in the server's seconds.
    """

    job: int
    name: str
    number: int
    member: Member
    since_s: float


@final
class Deals:
    """The jobs that are out.

    Args:
        clients: The clients that executors work for, with the number of each, which is its place
            where none is given; ``None``: each worker works for itself.
        pinned: Where a client stays with the executor that did its first job: how many executors
            will come, over which clients are then spread (see :class:`Homes`). 0: whoever is free
            takes whose turn it is.

    Attributes:
        clients: Their names.
        in_flight: The jobs, by their ids.
        due_s: When to :meth:`pair` even if nobody asks, in the server's seconds; ``None``: never.
    """

    def __init__(self, clients: Mapping[str, int] | Iterable[str] | None, *, pinned: int) -> None:
        if clients is not None and not isinstance(clients, Mapping):
            clients = {name: place for place, name in enumerate(clients)}
        self.clients = None if clients is None else tuple(clients)
        self.in_flight: dict[int, Given] = {}
        self._index: dict[str, int] = dict(clients or {})
        self._homes = Homes(len(self._index), pinned) if pinned else None
        # Whose turn it is, with the number of the turn: who has no home, and who has one, by home.
        self._ready: dict[str, int] = {}
        self._at_home: dict[Member, dict[str, int]] = {}
        self._num_turns = 0
        self._idle: list[Member] = []
        self.due_s: float | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether somebody would work, and nobody's turn it is: nothing is out, and nothing comes."""
        if not self._idle or self._ready or self.in_flight:
            return False
        return not any(self._at_home.values())

    def index(self, name: str) -> int:
        """The number of a client."""
        return self._index[name]

    def begin(self, given: Given) -> None:
        """A job is out."""
        self.in_flight[given.job] = given

    def end(self, job: int) -> Given | None:
        """It no longer is; ``None``: it was not."""
        return self.in_flight.pop(job, None)

    def give(
        self, ticket: Checkout, member: Member, name: str | None, tally: Tally, now: float
    ) -> tuple[int, int]:
        """A job goes to a worker: whose number it is, and which job of theirs.

        Args:
            ticket: The server's.
            member: Who does it.
            name: The client that it is done for; ``None``: the worker itself.
            tally: Where it is counted.
            now: The server's time.
        """
        index = member.index if name is None else self.index(name)
        number = tally.dispatch(index)
        self.begin(Given(ticket.job, name or member.name, index, member, now))
        member.asking, member.waits = max(0, member.asking - 1), ""
        member.jobs.add(ticket.job)
        tally.peak_in_flight = max(tally.peak_in_flight, len(self.in_flight))
        if ticket.parameters is not None:
            tally.send(ticket.parameters, ticket.buffers)
        return index, number

    def given(self, job: int, member: Member) -> Given | None:
        """A job in flight; ``None``: it is none, or nobody hands in what others were given.

        Args:
            job: Its id.
            member: Who hands it in.
        """
        given = self.in_flight.get(job)
        return given if given is not None and given.member is member else None

    def lose(self, member: Member, tally: Tally, now: float) -> list[Given]:
        """A worker's jobs are over, and never came back.

        Args:
            member: Whose.
            tally: Where they are counted.
            now: The server's time.
        """
        jobs = [given for job in sorted(member.jobs) if (given := self.end(job))]
        member.jobs = set()
        member.counts["lost"] += len(jobs)
        for given in jobs:
            tally.lose(given.number, 0, now - given.since_s)
        return jobs

    def cancel(self, job: int, tally: Tally, now: float) -> Given | None:
        """A job is not wanted any more; ``None``: it was not out.

        Args:
            job: Its id.
            tally: Where it is counted.
            now: The server's time.
        """
        given = self.end(job)
        if given is not None:
            given.member.jobs.discard(job)
            given.member.counts["cancelled"] += 1
            tally.cancel(given.number, 0, now - given.since_s)
        return given

    def leave(self, tally: Tally, now: float) -> None:
        """The run ends while these are out.

        Args:
            tally: Where their time is counted.
            now: The server's time.
        """
        for given in self.in_flight.values():
            tally.leave(given.number, now - given.since_s)

    def ready(self, name: str) -> None:
        """It is this client's turn."""
        queue = self._ready
        if self._homes is not None and (home := self._homes.of(name)) is not None:
            queue = self._at_home.setdefault(home, {})
        self._num_turns += 1
        queue.setdefault(name, self._num_turns)

    def asked(self, member: Member) -> None:
        """This executor has nothing to do, or will soon have nothing: it may ask twice."""
        self._idle.append(member)
        if self._homes is not None:
            self._homes.asked(member)

    def asks_again(self, member: Member) -> None:
        """It wants another job, in the same trip as something else.

        Args:
            member: Who.
        """
        member.asking += 1
        if self.clients is not None:
            self.asked(member)

    def pair(self, clock: Callable[[], float]) -> tuple[str, Member] | None:
        """The next client and who works for it now; both are then no longer free.

        Args:
            clock: The server's time.
        """
        self.due_s = None
        if not self._idle:
            return None
        if self._homes is not None:
            return self._pair_at_home(self._homes, clock)
        if not self._ready:
            return None
        name = next(iter(self._ready))
        del self._ready[name]
        return name, self._idle.pop(0)

    def left(self, member: Member, jobs: list[Given]) -> Iterator[tuple[str, bool]]:
        """Whom the server has lost with a worker, and whether they ask again.

        Args:
            member: Who is gone.
            jobs: Its jobs.

        Yields:
            Names as the server knows them; a client itself is still there.
        """
        if self.clients is None:
            yield member.name, False
            return
        self._idle = [idle for idle in self._idle if idle is not member]
        if self._homes is not None:
            member.counts["homeless"] += self._homes.left(member)
            turns = self._ready | self._at_home.pop(member, {})
            self._ready = dict(sorted(turns.items(), key=lambda turn: turn[1]))
            # Who waits for this one's room waits in vain, though nobody asks.
            self.due_s = 0.0 if self._idle and self._ready else None
        for given in jobs:
            yield given.name, True

    def _pair_at_home(self, homes: Homes, clock: Callable[[], float]) -> tuple[str, Member] | None:
        member, queue, first = None, self._ready, 0
        for idle in self._idle:
            own = self._at_home.get(idle)
            if own and (member is None or _turn(own) < first):
                member, queue, first = idle, own, _turn(own)
        if self._ready and (member is None or _turn(self._ready) < first):
            host = homes.host(self._idle, clock)
            if host is not None:
                member, queue = host, self._ready
            else:
                self.due_s = homes.due_s
        if member is None:
            return None
        name = next(iter(queue))
        del queue[name]
        self._idle.remove(member)
        if queue is self._ready:
            homes.settle(name, member)
        return name, member


def _turn(queue: dict[str, int]) -> int:
    return next(iter(queue.values()))
