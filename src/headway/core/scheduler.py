"""Schedulers: who among the waiting trains next, and how many may be in flight.

The server tells a scheduler who waits; the scheduler says whose turn it is. It never sees a job.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from headway.core.errors import ArgumentTypeError, ConfigurationError

if TYPE_CHECKING:
    from headway.core.update import Update

__all__ = [
    "FirstCome",
    "LeastRecentlyUsed",
    "Observing",
    "RandomOrder",
    "RoundRobin",
    "Scheduler",
    "check_concurrency",
    "first_counter",
]

_MASK = (1 << 64) - 1
_INDEX_BITS = 32
_INDEX = (1 << _INDEX_BITS) - 1


class Scheduler(Protocol):
    """Chooses the next worker among those that wait."""

    @property
    def concurrency(self) -> int | None:
        """How many jobs may be in flight; ``None``: as many as ask."""
        ...

    def init(self, seed: int) -> Any:
        """Make the state."""
        ...

    def add(self, worker: int, state: Any) -> None:
        """This worker waits. It is not waiting already."""
        ...

    def remove(self, worker: int, state: Any) -> None:
        """This worker waits no longer."""
        ...

    def pick(self, state: Any) -> int | None:
        """Take the next worker out of the waiting; ``None`` when nobody waits."""
        ...


@runtime_checkable
class Observing(Protocol):
    """A scheduler that learns from what workers did."""

    def observe(
        self, worker: int, update: Update, staleness: int, delay_s: float, state: Any
    ) -> None:
        """A sound update of this worker has arrived.

        Called before the worker asks again.

        Args:
            worker: Its index.
            update: What it sent; the payload must not be kept.
            staleness: In versions.
            delay_s: How long the job took, from checkout to arrival, in seconds.
            state: The scheduler's.
        """
        ...


def check_concurrency(concurrency: int | None) -> None:
    """Refuse a limit that lets nobody start.

    Args:
        concurrency: How many jobs may be in flight; ``None`` for no limit.

    Raises:
        ArgumentTypeError: It is no whole number.
        ConfigurationError: It is below 1.
    """
    if concurrency is None:
        return
    about = {
        "where": "concurrency=...",
        "got": repr(concurrency),
        "expected": "a whole number of at least 1, or None for no limit",
        "help": "say how many jobs may be in flight at the same time, such as concurrency=10",
    }
    # Python takes a boolean for a number, and NaN is neither below 1 nor above.
    if isinstance(concurrency, bool) or not hasattr(concurrency, "__index__"):
        raise ArgumentTypeError("concurrency must be a whole number", **about)
    if concurrency < 1:
        raise ConfigurationError("concurrency must be at least 1", **about)


@dataclass(slots=True)
class _Line:
    waiting: deque[int] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCome:
    """First come, first served: what a parameter server does.

    Args:
        concurrency: How many jobs may be in flight; ``None``: as many as ask.
    """

    concurrency: int | None = None

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)

    def init(self, seed: int) -> _Line:
        """An empty line."""
        return _Line()

    def add(self, worker: int, state: _Line) -> None:
        """To the end of the line."""
        state.waiting.append(worker)

    def remove(self, worker: int, state: _Line) -> None:
        """Out of the line."""
        if worker in state.waiting:
            state.waiting.remove(worker)

    def pick(self, state: _Line) -> int | None:
        """The head of the line."""
        return state.waiting.popleft() if state.waiting else None


@dataclass(slots=True)
class _Circle:
    position: int = -1
    ahead: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin:
    """In a circle, in the order in which workers joined: nobody who waits is overtaken twice.

    The turn goes on from the worker picked last to the next one that waits; who does not wait when
    its turn comes is passed over until the next time round. A pick takes logarithmic time.

    Args:
        concurrency: How many jobs may be in flight; ``None``: as many as ask.

    Example:
        >>> scheduler = RoundRobin()
        >>> state = scheduler.init(seed=0)
        >>> for worker in (2, 0, 1):
        ...     scheduler.add(worker, state)
        >>> [scheduler.pick(state) for _ in range(4)]
        [0, 1, 2, None]
    """

    concurrency: int | None = None

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)

    def init(self, seed: int) -> _Circle:
        """An empty circle."""
        return _Circle()

    def add(self, worker: int, state: _Circle) -> None:
        """Into this time round, if its turn is still to come, or into the next."""
        if worker in state.gone:
            # Its entry is still there, and where it belongs: the turn cannot have passed it.
            state.gone.discard(worker)
        else:
            heappush(state.ahead if worker > state.position else state.behind, worker)

    def remove(self, worker: int, state: _Circle) -> None:
        """Out of the circle: its entry is skipped when its turn comes."""
        state.gone.add(worker)

    def pick(self, state: _Circle) -> int | None:
        """The next one that waits."""
        while state.ahead or state.behind:
            if not state.ahead:
                state.ahead, state.behind = state.behind, []
            state.position = worker = heappop(state.ahead)
            if worker not in state.gone:
                return worker
            state.gone.discard(worker)
        return None


@dataclass(slots=True)
class _Idle:
    picks: int = 0
    waiting: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    last_pick: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRecentlyUsed:
    """The one whose last turn is longest ago; who never had one comes first, in order of joining.

    Unlike with :class:`FirstCome`, who was busy for long is the next one as soon as it is back. A
    pick takes logarithmic time.

    Args:
        concurrency: How many jobs may be in flight; ``None``: as many as ask.

    Example:
        >>> scheduler = LeastRecentlyUsed()
        >>> state = scheduler.init(seed=0)
        >>> for worker in (0, 1):
        ...     scheduler.add(worker, state)
        >>> slow, fast = scheduler.pick(state), scheduler.pick(state)
        >>> for worker in (fast, slow):
        ...     scheduler.add(worker, state)
        >>> scheduler.pick(state) == slow
        True
    """

    concurrency: int | None = None

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)

    def init(self, seed: int) -> _Idle:
        """Nobody waits, and nobody ever had a turn."""
        return _Idle()

    def add(self, worker: int, state: _Idle) -> None:
        """Among those who waited since an older or a newer turn."""
        if worker in state.gone:
            state.gone.discard(worker)
        else:
            # The last turn and the index in one number, which compares faster than a pair.
            turn = state.last_pick.get(worker, 0)
            heappush(state.waiting, turn << _INDEX_BITS | worker)

    def remove(self, worker: int, state: _Idle) -> None:
        """Out of those who wait: its entry is skipped when its turn comes."""
        state.gone.add(worker)

    def pick(self, state: _Idle) -> int | None:
        """The one that was picked longest ago."""
        while state.waiting:
            worker = heappop(state.waiting) & _INDEX
            if worker not in state.gone:
                state.picks += 1
                state.last_pick[worker] = state.picks
                return worker
            state.gone.discard(worker)
        return None


@dataclass(slots=True)
class _Pool:
    counter: int
    waiting: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomOrder:
    """A uniformly random one of those who wait: client sampling without replacement.

    Each pick takes constant time at any population size. The stream belongs to the server's seed.

    Args:
        concurrency: How many jobs may be in flight; ``None``: as many as ask.
    """

    concurrency: int | None = None

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)

    def init(self, seed: int) -> _Pool:
        """An empty pool."""
        return _Pool(counter=first_counter(seed))

    def add(self, worker: int, state: _Pool) -> None:
        """Into the pool."""
        if worker in state.gone:
            state.gone.discard(worker)
        else:
            state.waiting.append(worker)

    def remove(self, worker: int, state: _Pool) -> None:
        """Out of the pool: its entry is skipped when it is drawn."""
        state.gone.add(worker)

    def pick(self, state: _Pool) -> int | None:
        """A random one; the last takes its place in the list."""
        waiting = state.waiting
        while waiting:
            state.counter = counter = (state.counter + 0x9E3779B97F4A7C15) & _MASK
            counter = ((counter ^ (counter >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            counter = ((counter ^ (counter >> 27)) * 0x94D049BB133111EB) & _MASK
            # Multiply and shift maps 53 random bits to [0, n) without a division.
            index = ((counter >> 11) * len(waiting)) >> 53
            worker = waiting[index]
            last = waiting.pop()
            if index < len(waiting):
                waiting[index] = last
            if worker not in state.gone:
                return worker
            state.gone.discard(worker)
        return None


def first_counter(seed: int) -> int:
    """Where a scheduler's stream of random numbers begins.

    Args:
        seed: The server's.

    Returns:
        64 bits, others for each seed, to be counted on and mixed for each number.
    """
    # Each pick mixes the counter, so this needs no more than to be different for each seed.
    start = (seed + 1) * 0xD1342543DE82EF95 - 0x9E3779B97F4A7C15
    start ^= (start >> 31) & (_MASK >> 1)
    return (start * 0xBF58476D1CE4E5B9) & (_MASK >> 1)
