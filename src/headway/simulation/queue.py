"""The order in which things happen in virtual time.

An event is a tuple ``(time, priority, sequence, item)``. The sequence is unique, so the order is
total: two events never tie, and items are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Final, Generic, NoReturn, TypeVar, final

from headway.core.errors import HeadwayError, StateError

__all__ = [
    "ARRIVAL",
    "COMPLETION",
    "EVALUATION",
    "LOSS",
    "RETURN",
    "SERVED",
    "TIMER",
    "EventQueue",
]

COMPLETION: Final = 0
"""A job comes back. First, so that an update which arrives exactly at a deadline still counts."""

SERVED: Final = 1
"""A busy server is done with an update. After completions, so that what arrives at this time may be
the next, and before what a deadline sees."""

LOSS: Final = 2
"""A job is known to be lost. After completions (a barrier that both could open is opened by an
update, not by its absence) and before timers (a deadline sees everything that happened by then)."""

TIMER: Final = 3
"""A time that the server asked for: a grace window closes, a lease ends."""

EVALUATION: Final = 4
"""The model is measured. Last, so that it is measured after all that happened at that time."""

RETURN: Final = 5
"""A client that was away may start again. After all that the server does at that time."""

ARRIVAL: Final = 6
"""A client comes by itself. Last: who comes back at this time may be the one that comes."""

T = TypeVar("T")

_SLACK: Final = 64
"""Cancelled events that may stay in the heap before a compaction is worth its cost."""


@final
class EventQueue(Generic[T]):
    """A priority queue over virtual time with a total order and cheap cancellation.

    Events at the same time come out by priority, and at the same priority in the order in which
    they went in. Time never runs backwards: an event before the last one taken is refused.

    Example:
        >>> queue = EventQueue[str]()
        >>> timer = queue.push(2.0, TIMER, "grace window closes")
        >>> done = queue.push(2.0, COMPLETION, "client-3 is back")
        >>> queue.pop()
        (2.0, 0, 1, 'client-3 is back')
        >>> queue.cancel(timer), len(queue)
        (True, 0)
    """

    __slots__ = ("_heap", "_next", "_now_s", "_pending")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, T]] = []
        self._pending: set[int] = set()
        self._next = 0
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def now_s(self) -> float:
        """Virtual time of the last event taken; 0 before the first."""
        return self._now_s

    @property
    def peek_time(self) -> float | None:
        """Virtual time of the next event, or None when there is none."""
        heap, pending = self._heap, self._pending
        while heap and heap[0][2] not in pending:
            heappop(heap)
        return heap[0][0] if heap else None

    def holds(self, priority: int) -> bool:
        """Whether an event of this priority is to come. Takes as long as finding the first."""
        pending = self._pending
        return any(event[1] == priority and event[2] in pending for event in self._heap)

    def push(self, time_s: float, priority: int, item: T) -> int:
        """Add an event.

        Args:
            time_s: When it happens; finite, and not before :attr:`now_s`.
            priority: Its place among events at the same time, the smallest first.
            item: What happens. A plain tree, if the queue is to be saved.

        Returns:
            Its handle, for :meth:`cancel`: the sequence number.

        Raises:
            HeadwayError: If the time is NaN, infinite or in the past.
        """
        if not self._now_s <= time_s < inf:
            _refuse(time_s, self._now_s)
        sequence = self._next
        self._next = sequence + 1
        self._pending.add(sequence)
        heappush(self._heap, (time_s, priority, sequence, item))
        return sequence

    def pop(self) -> tuple[float, int, int, T]:
        """Take the next event.

        Returns:
            ``(time_s, priority, sequence, item)``.

        Raises:
            IndexError: If there is none.
        """
        heap, pending = self._heap, self._pending
        while True:
            event = heappop(heap)
            if event[2] in pending:
                pending.remove(event[2])
                self._now_s = event[0]
                return event

    def cancel(self, handle: int) -> bool:
        """Take an event out before it happens.

        Its place in the heap is given up later, so this costs O(1) on average; cancelled events
        never outnumber the others by more than a constant.

        Args:
            handle: What :meth:`push` returned.

        Returns:
            Whether it was still to come.
        """
        if handle not in self._pending:
            return False
        self._pending.remove(handle)
        if len(self._heap) > 2 * len(self._pending) + _SLACK:
            self._heap = [event for event in self._heap if event[2] in self._pending]
            heapify(self._heap)
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that is still to come, as plain lists; what was cancelled is left out."""
        events = sorted(e for e in self._heap if e[2] in self._pending)
        return {
            "now_s": self._now_s,
            "next_sequence": self._next,
            "events": [list(event) for event in events],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the queue that was saved; handles keep their meaning.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            StateError: If it is not such a state. The queue is then unchanged.
        """
        try:
            now_s, following = float(state["now_s"]), int(state["next_sequence"])
            heap: list[tuple[float, int, int, T]] = [
                (float(time_s), int(priority), int(sequence), item)
                for time_s, priority, sequence, item in state["events"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(f"it cannot be read ({error!r})") from error
        pending = {event[2] for event in heap}
        if not 0.0 <= now_s < inf or not all(now_s <= event[0] < inf for event in heap):
            raise _damaged("a time is not finite or lies in the past")
        if len(pending) < len(heap) or not all(0 <= n < following for n in pending):
            raise _damaged("a sequence number is used twice or was never given out")
        heapify(heap)
        self._heap, self._pending, self._next, self._now_s = heap, pending, following, now_s


def _refuse(time_s: float, now_s: float) -> NoReturn:
    raise HeadwayError(
        "internal error: an event was put at a time that virtual time cannot reach",
        where="EventQueue.push",
        got=f"time_s = {time_s!r}",
        expected=f"a finite time, at or after now ({now_s!r} s)",
        help="this is a fault in Headway or in a custom population: a duration is NaN, infinite "
        "or negative; please report it with the run's configuration and seed",
    )


def _damaged(reason: str) -> StateError:
    return StateError(
        f"this is not a saved event queue: {reason}",
        where="EventQueue.load_state_dict",
        expected="now_s, next_sequence, and events as [time_s, priority, sequence, item]",
        help="load a state that EventQueue.state_dict returned, unchanged",
    )
