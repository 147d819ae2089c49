"""Who comes to a server and who goes, in lines for the log: not more than anybody reads."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, final

from headway.runtime.dismissals import row_text

if TYPE_CHECKING:
    from headway.runtime.members import Member

__all__ = ["COMINGS", "Guestbook"]

COMINGS: Final = "headway.workers"
"""The logger: who comes and goes at INFO, whose updates are rejected at WARNING."""
_LINES: Final = 20
"""So many at once; and then one a second."""
_REFUSALS: Final = 10
"""So many at once of workers that are not let in; and then one a minute: they may try for ever."""
_SERIOUS: Final = ("rejected", "told to stop")
_NAMED: Final = 5
"""So many workers are named where they are counted."""
_REMEMBERED: Final = 1024


class _Line(NamedTuple):
    """What is to be said."""

    level: int
    text: str


@final
class Guestbook:
    """Notes what happens to workers in the hub's thread, and says it in the one that waits.

    Of what is too much, only the counts are said.

    Args:
        clock: Seconds.

    Example:
        >>> from headway.runtime.members import Member
        >>> book, ada = Guestbook(lambda: 0.0), Member("ada", 0, "", None, 0.0, 0.0)
        >>> book.note(ada, "joined", 1); book.note(ada, "left", 0)
        >>> book.take()
        ['ada joined; 1 here', 'ada left, 0 updates; 0 here']
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = _Room(clock, _LINES, 1.0)
        # Strangers leave the others' lines as they are.
        self._door = _Room(clock, _REFUSALS, 1.0 / 60.0)
        self._lines: deque[_Line] = deque(maxlen=2 * (_LINES + _REFUSALS))
        self._left_out: Counter[str] = Counter()
        self._left_outside: Counter[str] = Counter()
        self._here = 0
        # Who left without asking for a job, and what was said of that; and how many are forgotten.
        self._idle: dict[str, str] = {}
        self._forgotten = 0
        self._lock = threading.Lock()

    def note(self, member: Member, what: str, num_here: int) -> None:
        """Something has happened. For the hub's thread.

        Args:
            member: To whom.
            what: See :attr:`headway.runtime.members.Members.noticed`.
            num_here: How many workers are here now.
        """
        with self._lock:
            self._here = num_here
            self._idle.pop(member.name, None)
            idle = what == "left" and member.came_for_nothing
            if idle:
                self._remember(member)
            if self._room.take():
                level = logging.WARNING if idle or what in _SERIOUS else logging.INFO
                self._lines.append(_Line(level, _words(member, what, num_here)))
            else:
                self._left_out[what] += 1

    def refused(self, code: str, text: str) -> None:
        """A worker was not let in. For any thread.

        Args:
            code: Why, one word.
            text: The same in a line.
        """
        with self._lock:
            if self._door.take():
                self._lines.append(_Line(logging.WARNING, text))
            else:
                self._left_outside[code] += 1

    @property
    def idle(self) -> str:
        """How many left without asking for a job, and the newest of them; empty: nobody did.

        For any thread.
        """
        with self._lock:
            told, count = list(self._idle.values()), len(self._idle) + self._forgotten
        if not count:
            return ""
        newest = ", ".join(reversed(told[-_NAMED:])) + ", ..." * (count > _NAMED)
        return f"{count:,} came and left without asking for a job: {newest}"

    def _remember(self, member: Member) -> None:
        self._idle[member.name] = member.name + (member.farewell and f" ({member.farewell})")
        while len(self._idle) > _REMEMBERED:
            del self._idle[next(iter(self._idle))]
            self._forgotten += 1

    def tell(self) -> None:
        """Say in the log what has happened. For any other thread."""
        log = logging.getLogger(COMINGS)
        for line in self._take():
            log.log(line.level, "Headway: %s", line.text)

    def take(self) -> list[str]:
        """What has happened since the last time, in lines."""
        return [line.text for line in self._take()]

    def _take(self) -> list[_Line]:
        with self._lock:
            lines = list(self._lines)
            self._lines.clear()
            if self._left_out and self._room.take():
                told = f"and more: {_summed(self._left_out)}; {self._here} here"
                lines.append(_Line(logging.INFO, told))
            if self._left_outside and self._door.take():
                told = f"and more were refused: {_summed(self._left_outside)}"
                lines.append(_Line(logging.WARNING, told))
        return lines


@final
class _Room:
    """For how many lines there is room.

    Args:
        clock: Seconds.
        most: How many at once.
        per_s: How many more in each second.
    """

    def __init__(self, clock: Callable[[], float], most: int, per_s: float) -> None:
        self._clock, self._most, self._per_s = clock, float(most), per_s
        self._left, self._seen_s = float(most), clock()

    def take(self) -> bool:
        """Whether there is room for one, which is taken."""
        now = self._clock()
        self._left = min(self._most, self._left + self._per_s * (now - self._seen_s))
        self._seen_s = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _summed(left_out: Counter[str]) -> str:
    """What was left out; the count begins anew."""
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(left_out.items()))
    left_out.clear()
    return counts


def _words(member: Member, what: str, num_here: int) -> str:
    name, counts = member.name, member.counts
    if what == "told to stop":
        return f"{name} was told to stop: {member.told}"
    if what == "rejected":
        return f"{name} is of no use at present: {row_text(member)}"
    if what == "joined":
        return f"{name} joined; {num_here} here"
    said = member.farewell if what == "left" else ""
    if what == "left" and member.came_for_nothing:
        why = said or "it did not say why"
        return f"{name} left without asking for a job: {why}; {num_here} here"
    did = f"{counts['updates']:,} update{'s' * (counts['updates'] != 1)}"
    if counts["rejected"]:
        did += f", {counts['rejected']:,} of them rejected"
    why = said and f" ({said})"
    return f"{name} {'is lost' if what == 'lost' else what}, {did}{why}; {num_here} here"
