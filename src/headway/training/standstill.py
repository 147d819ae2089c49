"""A server whose model stands still for want of workers, and how that is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from headway.runtime import wire

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.runtime.hub import Hub
    from headway.runtime.members import Member

__all__ = ["Standstill"]

_NOTES: Final = logging.getLogger("headway")
_USUAL_S: Final = 3.0
"""Workers that are started together do not come at the same moment."""
_COUNTS: Final = ("clients_per_round", "num_workers", "num_buffers", "min_workers")
"""What algorithms call the number of workers that they need."""


@final
class Standstill:
    """Sees when all workers that are here wait for others, or work in vain without them.

    It says so to those that wait, once in the log, and at the end.

    Args:
        algorithm: The server's.
        clock: Seconds.

    Attributes:
        told: What is waited for; empty: somebody works, or something else will go on. For any
            thread.
    """

    def __init__(self, algorithm: Algorithm, clock: Callable[[], float] = time.monotonic) -> None:
        self.told = ""
        self._clock = clock
        self._since_s = 0.0
        self._warned = False
        self._name = algorithm.name
        gate: Any = algorithm.gate
        while hasattr(gate, "gate"):
            gate = gate.gate
        cohort: int | None = getattr(gate, "cohort", None)
        self._needed = algorithm.needs.min_workers
        self._cohort = cohort or (self._needed if self._needed > 1 else None)
        # Where a gate counts, those who are here wait before long.
        self._goes_on = cohort is None and self._needed > 1
        self._count = next((name for name in _COUNTS if name in algorithm.settings), "")

    def look(self, hub: Hub) -> None:
        """See how it is now. For the hub's thread.

        Args:
            hub: Whose server.
        """
        waiting = _waiting(hub)
        told = self._words(len(waiting)) if waiting else ""
        if not told and self._goes_on and not hub.server.version:
            told = self._in_vain(hub)
        if told == self.told:
            return
        if not self.told:
            self._since_s = self._clock()
        self.told = told
        for member in waiting:
            if member.session is not None:
                reason = f"the server {told}"
                member.session.send(wire.ToWorker(wait=wire.Wait(reason=reason)))

    def warn(self) -> None:
        """Say it in the log, once, if it has lasted. For the thread that waits for workers."""
        told = self.told
        if not told or self._warned or self._clock() - self._since_s < _USUAL_S:
            return
        self._warned = True
        _NOTES.warning("Headway: the server %s%s", told, self._hint())

    def nothing(self, hub: Hub) -> list[str]:
        """The warning that the model is what it was; empty: it is not, or nobody sent anything.

        Args:
            hub: Whose server.
        """
        tally, counts = hub.tally, hub.server.counts
        if hub.server.version or not tally.updates:
            return []
        kinds = ("buffered", "rejected")
        became = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds if counts[kind])
        if tally.reasons:
            became += f" ({', '.join(sorted(tally.reasons))})"
        told = f"the model is as it was: of {tally.updates:,} updates none was applied, {became}"
        if counts["buffered"] and self._needed > 1:
            told += f"; `{self._name}` needs {self._needed} workers, {hub.members.num_names} came"
            told += self._hint()
        return [told]

    def _hint(self) -> str:
        if not self._count:
            return ""
        return f"; update_rule=headway.algorithms.{self._name}({self._count}=...) sets it"

    def _in_vain(self, hub: Hub) -> str:
        here = sum(member.works for member in hub.members.here.values())
        if not 0 < here < self._needed or not hub.server.counts["buffered"]:
            return ""
        are = "is" if here == 1 else "are"
        return f"has applied nothing yet: `{self._name}` needs {self._needed} workers, {here} {are} here"

    def _words(self, here: int) -> str:
        are = "is" if here == 1 else "are"
        if self._cohort is None or here >= self._cohort:
            return f"waits: {here} {are} here, and none may start"
        workers = "worker" if self._cohort == 1 else "workers"
        return f"waits for {self._cohort} {workers}, {here} {are} here"


def _waiting(hub: Hub) -> list[Member]:
    """All that work here, if every one of them waits and nothing comes; else nobody."""
    server = hub.server
    if server.num_in_flight or hub.state != "running" or hub.returning.due_s is not None:
        return []
    here = [member for member in hub.members.here.values() if member.works]
    if not all(member.asking for member in here) or server.woken or server.timers:
        return []
    return here
