"""Workers of a server that was killed: what they had out stays theirs for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Final, final

from headway.core import Effect, Wake
from headway.runtime.deals import Deals, Given
from headway.runtime.members import Member, Members

if TYPE_CHECKING:
    from headway.observe.tally import Tally

__all__ = ["RETURN_S", "Returning"]

RETURN_S: Final = 15.0
"""How long workers have to come back, in seconds: many times the longest wait of a retry."""


def _nothing(*_: object) -> None:
    """Where a hub has ended, nobody is lost or woken any more."""


@final
class Returning:
    """Expects workers back. A worker that returns says which jobs it still holds.

    Those stay in flight, so that a push that was on its way when the server was killed is applied
    once; its others were lost on their way to it. Workers that do not return in time are lost.
    For the hub's thread.

    Args:
        members: The hub's.
        deals: The hub's.
        tally: The hub's.
        lose: Loses a worker or, if the second argument says so, its jobs: it then asks for another.
        carry: Does what effects say.
    """

    def __init__(
        self,
        members: Members,
        deals: Deals,
        tally: Tally,
        lose: Callable[[Member, bool], None],
        carry: Callable[[tuple[Effect, ...]], None],
    ) -> None:
        self._members = members
        self._deals = deals
        self._tally = tally
        self._lose = lose
        self._carry = carry
        self._expected: dict[str, Member] = {}
        self._astray: dict[str, set[int]] = {}
        self._turned_away: Counter[str] = Counter()
        self._empty_handed: set[str] = set()
        self.due_s: float | None = None

    def close(self) -> None:
        """Expect nobody any more, and let go of who is told of it."""
        self._lose = self._carry = _nothing
        self._expected, self.due_s = {}, None

    def expect(self, jobs: Mapping[str, Iterable[int]], here: Container[str], now: float) -> None:
        """Expect workers, before any has joined.

        Args:
            jobs: Of each worker by its name, in the order of their numbers: its jobs in flight.
            here: Those who were there; the others had left.
            now: The server's time.
        """
        for name, out in jobs.items():
            member = self._members.by_name.get(name)
            if member is None:
                member = self._members.restore(name, now)
            member.jobs = set(out)
            if name in here:
                self._expected[name] = member
            if member.jobs and member.index not in self._tally.clients:
                self._tally.dispatch(member.index)
            for job in member.jobs:
                self._deals.begin(Given(job, name, member.index, member, now))
        self.due_s = now + RETURN_S if self._expected else None

    def expects(self, name: str) -> bool:
        """Whether a worker may still come back.

        Args:
            name: Its name.
        """
        return name in self._expected

    def joined(self, member: Member, holds: Iterable[int]) -> None:
        """A worker has joined.

        Args:
            member: It.
            holds: The jobs that it says it still has.
        """
        if self._expected.pop(member.name, None) is None or not member.jobs:
            return
        astray = member.jobs.difference(holds)
        if astray == member.jobs:
            # It asks again for what it never got. Until then it has its place: a round that ended
            # now would end without it.
            self._empty_handed.add(member.name)
        elif astray:
            self._astray[member.name] = astray

    def asked(self, member: Member) -> bool:
        """A worker asks: whether that is seen to, because of jobs that it never had.

        Args:
            member: It.
        """
        if member.name in self._astray:
            # They are in its way until it has handed in what it has.
            self._turned_away[member.name] += 1
            self._members.asked(member)
            return True
        if member.name not in self._empty_handed:
            return False
        self._members.asked(member)
        self._renew(member)
        return True

    def pushed(self, member: Member, *, again: bool) -> None:
        """A worker has handed in a job: if only those are left that it never had, they are over.

        Args:
            member: It.
            again: Whether it asks for another.
        """
        if again and member.name in self._empty_handed:
            # It said again what the server has, and asks with that.
            self._renew(member)
            return
        astray = self._astray.get(member.name)
        if astray is not None and member.jobs <= astray:
            del self._astray[member.name]
            if member.jobs:
                self._lose(member, again)
            # It still waits for what it asked for, also where it asks for nothing more.
            for _ in range(self._turned_away.pop(member.name, 0)):
                self._carry((Wake(member.name),))

    def left(self, member: Member) -> None:
        """A worker is gone, with all its jobs.

        Args:
            member: It.
        """
        self._astray.pop(member.name, None)
        self._turned_away.pop(member.name, None)
        self._empty_handed.discard(member.name)

    def _renew(self, member: Member) -> None:
        """Give it another job in the place of those that it never had."""
        self._empty_handed.discard(member.name)
        self._lose(member, True)

    def expire(self, now: float) -> None:
        """Lose those who have not come back in time.

        Args:
            now: The server's time.
        """
        if self.due_s is None or now < self.due_s:
            return
        self.due_s = None
        for member in [*self._expected.values()]:
            del self._expected[member.name]
            self._lose(member, False)
