"""How far a hub is in its life, and how long it still waits for workers when it ends."""

from __future__ import annotations

from typing import Literal, final

__all__ = ["Life", "State"]

State = Literal["new", "running", "stopping", "ended"]


@final
class Life:
    """The states of a hub, one after the other. For the hub's thread; others may look.

    Attributes:
        state: The present one.
        drains: Whether, while it stops, work that is nearly done is wanted.
        ends_at: When it ends, whoever is still here, in the server's seconds; while it stops.

    Example:
        >>> life = Life()
        >>> life.begin(), life.stop(10.0, drain=True, within_s=5.0), life.stop(11.0, within_s=1.0)
        (None, True, False)
        >>> life.takes_pushes, life.is_over(2, 11.5), life.is_over(2, 12.0), life.is_over(0, 11.5)
        (True, False, True, True)
    """

    def __init__(self) -> None:
        self.state: State = "new"
        self.drains = False
        self.ends_at = 0.0

    @property
    def runs(self) -> bool:
        """Whether workers are let in, and given work."""
        return self.state == "running"

    @property
    def stops(self) -> bool:
        """Whether workers were told to leave, and are waited for."""
        return self.state == "stopping"

    @property
    def takes_pushes(self) -> bool:
        """Whether what workers hand in is taken."""
        return self.runs or self.drains

    def begin(self) -> None:
        """It runs."""
        self.state = "running"

    def stop(self, now: float, *, drain: bool = False, within_s: float) -> bool:
        """It begins to stop: whether this is the first time that it was told so.

        Args:
            now: The server's time.
            drain: Whether work that is nearly done is wanted.
            within_s: How long to wait for workers, in seconds; of several, what ends first.
        """
        if self.state == "ended":
            return False
        if self.stops:
            self.ends_at = min(self.ends_at, now + within_s)
            return False
        self.state, self.drains, self.ends_at = "stopping", drain, now + within_s
        return True

    def is_over(self, num_here: int, now: float) -> bool:
        """Whether it need not wait any longer.

        Args:
            num_here: How many workers are still here.
            now: The server's time.
        """
        return self.stops and (not num_here or now >= self.ends_at)

    def end(self) -> None:
        """It has ended."""
        self.state = "ended"
