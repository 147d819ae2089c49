"""The threads that say that one side lives, and notice that the other no longer does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, final

from headway.runtime.leases import Lease, Pace, RoundTrip
from headway.runtime.timeouts import Timeouts
from headway.runtime.wire import Beat

__all__ = ["LOOK_EVERY_S", "Heart", "Ticker", "Vital", "paced"]

LOOK_EVERY_S: Final = 0.1
"""How often a server looks at its workers' leases."""

_USUAL: Final = Timeouts()


@final
class Ticker:
    """Calls a function again and again, in a thread of its own.

    Args:
        function: What to call.
        every_s: How often, in seconds.
        name: Of the thread.
    """

    def __init__(self, function: Callable[[], object], every_s: float, name: str) -> None:
        self._function = function
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more. May be called twice, and by the function itself."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            self._function()


@final
class Heart:
    """A worker's heartbeats, and what it makes of the answers.

    Args:
        heartbeat_s: How often :meth:`beat` is called, in seconds.
        lease_s: How long the server may be silent, in seconds.
        send: Sends a beat, without waiting: whether it could.
        lost: Called when the server was silent for too long.
        clock: In seconds.
    """

    def __init__(
        self,
        heartbeat_s: float,
        lease_s: float,
        *,
        send: Callable[[Beat], bool],
        lost: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._lost = lost
        self._clock = clock
        self._trip = RoundTrip()
        self._lease = Lease(lease_s, max_slack_s=_USUAL.slack_s, look_s=heartbeat_s)
        self._lease.begin(clock())
        self._number = 0
        # Only one beat is measured at a time.
        self._measured: tuple[int, float] | None = None

    def beat(self) -> None:
        """Say that this worker lives, unless the server no longer does."""
        now = self._clock()
        if self._lease.is_over(now):
            self._lost()
            return
        self._number += 1
        number = self._number
        measures = self._measured is None
        if measures:
            self._measured = number, now
        # A link that is too busy to take it says the same.
        if not self._send(Beat(number=number, slack_s=self._trip.slack_s)) and measures:
            self._measured = None

    def heard(self) -> None:
        """Something came from the server."""
        self._lease.heard(self._clock())

    def answered(self, beat: Beat) -> None:
        """A beat came back.

        Args:
            beat: It.
        """
        measured = self._measured
        if measured is not None and measured[0] == beat.number:
            self._measured = None
            self._trip.measured(self._clock() - measured[1])
            self._lease.allow(self._trip.slack_s)


@final
class Vital:
    """What a server knows of whether a worker lives. Without a heartbeat, only stalling counts.

    Args:
        timeouts: When it is lost.
        clock: In seconds.

    Attributes:
        in_message: Whether a message has begun and is not complete.
    """

    def __init__(self, timeouts: Timeouts, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lease = Lease(timeouts.lease_s, max_slack_s=timeouts.slack_s, look_s=LOOK_EVERY_S)
        self._stall = Lease(timeouts.stall_s, max_slack_s=0.0, look_s=LOOK_EVERY_S)
        self.in_message = False

    def heard(self) -> None:
        """Something came."""
        now = self._clock()
        self._lease.heard(now)
        self._stall.begin(now)

    def beat(self, slack_s: float) -> None:
        """A heartbeat came.

        Args:
            slack_s: What its link needs, as the worker says.
        """
        self._lease.allow(slack_s)
        self._lease.begin(self._clock())

    def is_lost(self) -> bool:
        """Whether it is to be taken for lost. To be asked every ``LOOK_EVERY_S``, by one thread."""
        now = self._clock()
        # Both are looked at each time: a lease that is not, believes that this machine slept.
        stalls, silent = self._stall.is_over(now), self._lease.is_over(now)
        return silent or (stalls and self.in_message)


def paced(
    pieces: Iterator[memoryview], pace: Pace, clock: Callable[[], float] = time.monotonic
) -> Iterator[memoryview]:
    """Cut pieces further, so that each takes the link as long as it should.

    Args:
        pieces: As they are in memory.
        pace: How large each shall be.
        clock: In seconds.

    Yields:
        Views of the same memory; the time until the next is asked for is the time that one took.
    """
    for piece in pieces:
        left = piece
        while len(left):
            part = left[: pace.num_bytes]
            began_s = clock()
            yield part
            pace.sent(len(part), clock() - began_s)
            left = left[len(part) :]
