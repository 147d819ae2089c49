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
_SERIOUS: Final = ("rejected", "told to stop")


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
        self._clock = clock
        self._room = float(_LINES)
        self._seen_s = clock()
        self._lines: deque[_Line] = deque(maxlen=2 * _LINES)
        self._left_out: Counter[str] = Counter()
        self._here = 0
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
            if self._may_say():
                level = logging.WARNING if what in _SERIOUS else logging.INFO
                self._lines.append(_Line(level, _words(member, what, num_here)))
            else:
                self._left_out[what] += 1

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
            if self._left_out and self._may_say():
                counts = ", ".join(f"{n:,} {what}" for what, n in sorted(self._left_out.items()))
                self._left_out.clear()
                lines.append(_Line(logging.INFO, f"and more: {counts}; {self._here} here"))
        return lines

    def _may_say(self) -> bool:
        now = self._clock()
        self._room = min(float(_LINES), self._room + now - self._seen_s)
        self._seen_s = now
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True


def _words(member: Member, what: str, num_here: int) -> str:
    name, counts = member.name, member.counts
    if what == "told to stop":
        return f"{name} was told to stop: {member.told}"
    if what == "rejected":
        return f"{name} is of no use at present: {row_text(member)}"
    if what == "joined":
        return f"{name} joined; {num_here} here"
    did = f"{counts['updates']:,} update{'s' * (counts['updates'] != 1)}"
    if counts["rejected"]:
        did += f", {counts['rejected']:,} of them rejected"
    return f"{name} {'is lost' if what == 'lost' else what}, {did}; {num_here} here"
