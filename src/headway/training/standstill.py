"""A server at which everybody waits for workers who are not here, and how that is told."""

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


@final
class Standstill:
    """Sees when all workers that are here wait for others, and says so: to them, and once in the log.

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
        gate: Any = algorithm.gate
        while hasattr(gate, "gate"):
            gate = gate.gate
        self._cohort: int | None = getattr(gate, "cohort", None)
        self._rule = algorithm.name if "clients_per_round" in algorithm.settings else ""

    def look(self, hub: Hub) -> None:
        """See how it is now. For the hub's thread.

        Args:
            hub: Whose server.
        """
        waiting = _waiting(hub)
        told = self._words(len(waiting)) if waiting else ""
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
        hint = ""
        if self._rule:
            hint = f"; update_rule=headway.algorithms.{self._rule}(clients_per_round=...) sets it"
        _NOTES.warning("Headway: the server %s%s", told, hint)

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
