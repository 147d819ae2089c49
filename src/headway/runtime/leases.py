"""Who is silent for too long, and how large a piece a link carries in time.

Time comes in as an argument. Seconds of any steady clock will do.
"""

from __future__ import annotations

from typing import Final, final

from headway.runtime.rooms import CHUNK_BYTES

__all__ = ["LEAST_BYTES", "Lease", "Pace", "RoundTrip"]

LEAST_BYTES: Final = 4 << 10
_FIRST_BYTES: Final = 8 << 10
_HEAVY: Final = 4.0
_SHARE: Final = 0.125
_VARIES: Final = 0.25


@final
class RoundTrip:
    """The usual round trip, and how much it varies, from those that were measured.

    ``mean += (x - mean) / 8``, ``spread += (|x - mean| - spread) / 4``, slack ``mean + 4 spread``.

    Example:
        >>> trip = RoundTrip()
        >>> trip.slack_s
        0.0
        >>> trip.measured(0.2)
        >>> trip.slack_s
        0.6

    Source:
        RFC 6298, section 2: the retransmission timer of TCP; the clock's granularity left out.
    """

    __slots__ = ("_mean_s", "_spread_s")

    def __init__(self) -> None:
        self._mean_s = -1.0
        self._spread_s = 0.0

    @property
    def slack_s(self) -> float:
        """How much longer than usual a silence may be, in seconds."""
        return max(0.0, self._mean_s) + _HEAVY * self._spread_s

    def measured(self, took_s: float) -> None:
        """Take a measurement in.

        Args:
            took_s: From a message to its answer, in seconds.
        """
        if self._mean_s < 0.0:
            self._mean_s, self._spread_s = took_s, took_s / 2.0
            return
        self._spread_s += _VARIES * (abs(took_s - self._mean_s) - self._spread_s)
        self._mean_s += _SHARE * (took_s - self._mean_s)


@final
class Lease:
    """How long the other side may still be silent.

    It holds from :meth:`begin` on. Who looks at it says when, and if that is later than it should
    be, this side was not there to hear: that time does not count, and nobody is taken for lost
    because this machine slept.

    Args:
        lease_s: How long it lasts, in seconds, above 0.
        max_slack_s: How much longer measurements may make it, in seconds.
        look_s: How often it is looked at, in seconds, above 0.

    Example:
        >>> lease = Lease(2.0, max_slack_s=10.0, look_s=0.5)
        >>> lease.begin(0.0)
        >>> [lease.is_over(now) for now in (0.5, 1.0, 1.5, 1.9, 2.1)]
        [False, False, False, False, True]
    """

    __slots__ = (
        "_begun",
        "_heard_s",
        "_lease_s",
        "_look_s",
        "_looked_s",
        "_max_slack_s",
        "_slack_s",
    )

    def __init__(self, lease_s: float, *, max_slack_s: float, look_s: float) -> None:
        self._lease_s = lease_s
        self._max_slack_s = max_slack_s
        self._look_s = look_s
        self._slack_s = 0.0
        self._heard_s = self._looked_s = 0.0
        self._begun = False

    @property
    def lasts_s(self) -> float:
        """How long a silence may be now, in seconds."""
        return self._lease_s + self._slack_s

    def begin(self, now: float) -> None:
        """From now on it holds; once begun, this is :meth:`heard`.

        Args:
            now: The time.
        """
        if not self._begun:
            self._looked_s = now
            self._begun = True
        self._heard_s = now

    def heard(self, now: float) -> None:
        """Something came. For any thread.

        Args:
            now: The time.
        """
        self._heard_s = now

    def allow(self, slack_s: float) -> None:
        """Make it longer, or as long as it was.

        Args:
            slack_s: By how much, in seconds; what makes no sense is nothing.
        """
        self._slack_s = min(slack_s, self._max_slack_s) if slack_s > 0.0 else 0.0

    def is_over(self, now: float) -> bool:
        """Whether the silence is too long. To be asked every ``look_s``, by one thread.

        Args:
            now: The time.
        """
        late_s = now - self._looked_s - (2.0 * self._look_s + _SHARE * self._lease_s)
        self._looked_s = now
        if not self._begun:
            return False
        if late_s > 0.0:
            # Busy machines are late again and again: a lease that began anew each time, would hold
            # for ever.
            self._heard_s = min(now, self._heard_s + late_s)
        return now - self._heard_s > self.lasts_s


@final
class Pace:
    """How large the next chunk is, so that each takes a link about as long.

    It begins small, doubles while chunks go quickly, and becomes what the link carries in
    ``within_s`` where they do not.

    Args:
        within_s: How long a chunk may take, in seconds, above 0.
        largest: The most, in bytes.

    Attributes:
        num_bytes: The size of the next chunk.

    Example:
        >>> pace = Pace(0.5)
        >>> pace.sent(8192, 0.001)
        >>> pace.num_bytes
        16384
        >>> pace.sent(16384, 2.0)
        >>> pace.num_bytes
        4096
    """

    __slots__ = ("_largest", "_within_s", "num_bytes")

    def __init__(self, within_s: float, largest: int = CHUNK_BYTES) -> None:
        self._within_s = within_s
        self._largest = largest
        self.num_bytes = min(_FIRST_BYTES, largest)

    def sent(self, num_bytes: int, took_s: float) -> None:
        """A chunk was sent.

        Args:
            num_bytes: Its size.
            took_s: How long that took, in seconds.
        """
        if took_s <= 0.5 * self._within_s:
            # A last piece that is smaller says nothing of larger ones.
            if num_bytes >= self.num_bytes:
                self.num_bytes = min(self._largest, 2 * self.num_bytes)
        elif took_s > self._within_s:
            fits = int(num_bytes * self._within_s / took_s) // LEAST_BYTES * LEAST_BYTES
            self.num_bytes = min(max(LEAST_BYTES, fits), self._largest)
