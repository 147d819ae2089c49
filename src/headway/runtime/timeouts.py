"""How long is too long: values that a user may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import final

from headway.algorithms.arguments import check_number
from headway.core.errors import ConfigurationError

__all__ = ["Retry", "Timeouts"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """When a server takes a silent worker for lost, and a worker a silent server.

    Every byte that arrives begins a lease anew; so does a heartbeat, which comes from a thread of
    its own, so that a long batch is no silence. A worker's chunks become as small as its link is
    slow, to arrive in time. Where round trips are long or vary, as both sides measure, the lease is
    longer by as much. A worker that is killed is lost at once, because its connection ends.

    Args:
        heartbeat_s: How often a worker says that it lives, in seconds, above 0.
        lease_s: How long it may be silent, in seconds: at least three heartbeats.
        slack_s: By how much measured round trips may make that longer, in seconds, at least 0.
        join_s: How long a connection may be there before the worker has joined, in seconds, above 0.
        stall_s: How long a message that has begun may pause, in seconds, at least ``lease_s``;
            also for workers that send no heartbeats.

    Raises:
        ArgumentTypeError: One is not a number.
        ConfigurationError: One is out of its range, or they contradict each other.

    Example:
        >>> Timeouts(lease_s=10.0).heartbeat_s
        0.5
    """

    heartbeat_s: float = 0.5
    lease_s: float = 2.5
    slack_s: float = 20.0
    join_s: float = 10.0
    stall_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "lease_s", "join_s", "stall_s"):
            check_number(name, getattr(self, name), above=True)
        check_number("slack_s", self.slack_s)
        if self.lease_s < 3.0 * self.heartbeat_s:
            raise ConfigurationError(
                "a lease must outlive heartbeats that come late",
                where="Timeouts(lease_s=...)",
                got=f"heartbeat_s={self.heartbeat_s:g}, lease_s={self.lease_s:g}",
                expected="a lease of at least three heartbeats",
            )
        if self.stall_s < self.lease_s:
            raise ConfigurationError(
                "a message may pause at least as long as a lease",
                where="Timeouts(stall_s=...)",
                got=f"lease_s={self.lease_s:g}, stall_s={self.stall_s:g}",
            )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How a worker tries to reach a server that it has lost.

    Attempt ``n``, from 0, waits a time drawn evenly from 0 to ``min(max_s, first_s * factor**n)``:
    many workers that lost one server do not come back all at once.

    Args:
        first_s: The longest first wait, in seconds, above 0.
        factor: What it grows by, at least 1.
        max_s: The longest wait, in seconds, at least ``first_s``.
        give_up_s: How long to try in all, in seconds, at least 0; each loss begins anew.

    Raises:
        ArgumentTypeError: One is not a number.
        ConfigurationError: One is out of its range.

    Example:
        >>> from itertools import islice
        >>> from random import Random
        >>> bounds = [0.5, 1.0, 2.0, 2.0]
        >>> waits = islice(Retry(first_s=0.5, max_s=2.0).waits(Random(0)), 4)
        >>> all(0.0 <= wait <= bound for wait, bound in zip(waits, bounds))
        True

    Source:
        M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: "full jitter".
    """

    first_s: float = 0.2
    factor: float = 2.0
    max_s: float = 1.0
    give_up_s: float = 120.0

    def __post_init__(self) -> None:
        check_number("first_s", self.first_s, above=True)
        check_number("factor", self.factor, minimum=1.0)
        check_number("max_s", self.max_s, minimum=self.first_s)
        check_number("give_up_s", self.give_up_s)

    def waits(self, stream: Random) -> Iterator[float]:
        """How long to wait before each attempt.

        Args:
            stream: What draws.

        Yields:
            Seconds, without end.
        """
        bound = self.first_s
        while True:
            yield stream.uniform(0.0, bound)
            bound = min(self.max_s, bound * self.factor)
