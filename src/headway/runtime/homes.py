"""Clients that keep something where they work: which executor each of them stays with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from headway.runtime.members import Member

__all__ = ["PATIENCE_S", "Homes"]

PATIENCE_S: Final = 5.0
"""For how long a client without a home waits for an executor that has room, in seconds."""


@final
class Homes:
    """Spreads clients over executors, as evenly as they come.

    With ``c[e]`` homes at executor ``e`` and ``R`` clients that have none, ``e`` takes another while

        sum(max(0, c[e] - c[i]) for each i that is here or is to come) < R

    so that all others can still get as many as it has. From the first client on, that is no more than
    ``ceil(clients / executors)`` for anybody, and with enough clients nobody has none. Whoever has room
    and does not come for ``PATIENCE_S`` after another one could have taken the client is left out until it
    asks: it may be slow, or may never have begun. That other one may work on its own clients meanwhile.

    Args:
        num_clients: How many clients there are.
        num_executors: How many executors will come at the beginning; those that come later, and those
            that leave, are counted as they do.

    Attributes:
        due_s: When a client that waits for an executor with room goes to another one, in the seconds
            of the clock given; ``None``: none waits.

    Example:
        >>> from headway.runtime.members import Member
        >>> ada, bob = (Member(name, 0, "", None, 0.0, 0.0) for name in ("ada", "bob"))
        >>> homes = Homes(3, 2)
        >>> homes.asked(ada)
        >>> for name in "ab":
        ...     homes.settle(name, ada)
        >>> print(homes.host([ada], lambda: 0.0))
        None
        >>> homes.asked(bob)
        >>> homes.host([ada, bob], lambda: 0.0).name
        'bob'
    """

    def __init__(self, num_clients: int, num_executors: int) -> None:
        self._num_clients = num_clients
        self._num_expected = num_executors
        self._met: set[str] = set()
        self._of: dict[str, Member] = {}
        self._counts: dict[Member, int] = {}
        self._late: set[Member] = set()
        self.due_s: float | None = None

    def of(self, name: str) -> Member | None:
        """Where a client lives; ``None``: nowhere yet.

        Args:
            name: The client.
        """
        return self._of.get(name)

    def asked(self, member: Member) -> None:
        """An executor is here, and would work.

        Args:
            member: Who.
        """
        if member not in self._counts:
            self._counts[member] = 0
            if len(self._met) < self._num_expected:
                self._met.add(member.name)
        self._late.discard(member)

    def host(self, idle: Collection[Member], clock: Callable[[], float]) -> Member | None:
        """Who takes a client that has no home; ``None``: it waits for one that has room.

        Args:
            idle: Who has nothing to do, first who asked first; at least one.
            clock: The time in seconds.
        """
        member = min(idle, key=self._counts.__getitem__)
        if not self._has_room(member):
            now = clock()
            if self.due_s is None:
                self.due_s = now + PATIENCE_S
            if now < self.due_s:
                return None
            self._leave_out(self._counts[member])
        self.due_s = None
        return member

    def settle(self, name: str, member: Member) -> None:
        """A client that has no home lives here from now on.

        Args:
            name: The client.
            member: Where.
        """
        self._of[name] = member
        self._counts[member] += 1

    def left(self, member: Member) -> int:
        """An executor is gone: how many clients have lost their home.

        Args:
            member: Who.
        """
        self._late.discard(member)
        count = self._counts.pop(member, 0)
        if count:
            self._of = {name: home for name, home in self._of.items() if home is not member}
        return count

    def _has_room(self, member: Member) -> bool:
        level = self._counts[member]
        behind = level * max(0, self._num_expected - len(self._met))
        for other, count in self._counts.items():
            if count < level and other not in self._late:
                behind += level - count
        return behind < self._num_clients - len(self._of)

    def _leave_out(self, level: int) -> None:
        """Count nobody who has had room for so long. Who has nothing to do has no less than this."""
        self._num_expected = 0
        self._late.update(member for member, count in self._counts.items() if count < level)
