"""A run folder that never ends the run that it is of: what the disk refuses is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from headway.core import Submitted
from headway.core.errors import HeadwayError
from headway.observe import LogHash
from headway.observe.folder import REPORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.core import Event
    from headway.observe import Point, Result, RunFolder

__all__ = ["Record"]

_LOG: Final = logging.getLogger("headway")
_AGAIN_S: Final = 1.0
_BLOCK: Final = 1024
_MOST: Final = 50_000
_REFUSED: Final = (HeadwayError, OSError)


@final
class Record:
    """Writes the events and points of a server, and keeps what cannot be written until it can.

    Of the events that wait, and of the points, fifty thousand are kept; events that come then are counted and left out.
    Payloads do not wait: when something could not be written, none is kept from then on.

    Args:
        folder: A new run folder.
        clock: Seconds.

    Attributes:
        problem: Why it cannot be written now; ``None``: it can.
    """

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._hash = LogHash()
        self._events: list[Event] = []
        self._points: list[Point] = []
        self._num_left_out = 0
        self._not_before_s = 0.0
        self._troubles: list[str] = []
        self._drops_payloads = False
        self._num_dropped = 0
        self.problem: Exception | None = None

    @property
    def log_hash(self) -> str:
        """Of the events that were written."""
        return self._hash.hexdigest()

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        told = list(self._troubles)
        if self._num_dropped:
            told.append(
                f"the payloads of {self._num_dropped:,} updates were not kept, because the run folder "
                "could not be written: the run cannot be replayed"
            )
        if self._num_left_out:
            count = f"{self._num_left_out:,}"
            told.append(f"{count} events are not in the run folder, which could not be written")
        return told

    def take(self, events: Sequence[Event], point: Point | None = None) -> None:
        """Write events and a point, or keep them until that can be done.

        Args:
            events: What happened since the last call.
            point: What was measured after them.
        """
        room = _MOST - len(self._events)
        self._events += map(self._lighter, events[:room]) if self._drops_payloads else events[:room]
        self._num_left_out += max(0, len(events) - room)
        if point is not None and len(self._points) < _MOST:
            self._points.append(point)
        if self.problem is None or self._clock() >= self._not_before_s:
            self._try()

    def finish(self, make_result: Callable[[], Result]) -> Result:
        """Write all that waits, and what the run came to.

        Args:
            make_result: Makes it, with the warnings and the hash as they are when it is called.

        Returns:
            It. What could not be written is in its warnings.
        """
        self._try()
        self.close()
        self._num_left_out += len(self._events)
        self._events = []
        result = make_result()
        try:
            self._folder.close(result)
            result.report(self._folder.path / REPORT)
        except _REFUSED as error:
            self._trouble(error)
            result.warnings[:] = dict.fromkeys([*result.warnings, *self._troubles])
        return result

    def close(self) -> None:
        """Write no more. May be called twice."""
        try:
            self._folder.close()
        except _REFUSED as error:
            self._trouble(error)

    def _try(self) -> None:
        try:
            while self._events:
                block = self._events[:_BLOCK]
                if any(map(_has_payload, block)):
                    # One by one, so that none is in it twice when this is tried again.
                    block = block[:1]
                self._folder.append_events(block)
                self._hash.extend(block)
                del self._events[: len(block)]
            written = bool(self._points) or self.problem is not None
            while self._points:
                self._folder.append_point(self._points[0], flush=False)
                del self._points[0]
            if written:
                self._folder.flush()
        except _REFUSED as error:
            self._not_before_s = self._clock() + _AGAIN_S
            self._drops_payloads = True
            self._events = list(map(self._lighter, self._events))
            self._trouble(error)
            return
        if self.problem is not None:
            self.problem = None
            _LOG.warning("Headway: the run folder can be written again")

    def _lighter(self, event: Event) -> Event:
        if type(event) is not Submitted or event.payload is None:
            return event
        self._num_dropped += 1
        return event._replace(payload=None, buffers=None)

    def _trouble(self, error: Exception) -> None:
        if self.problem is None:
            _LOG.error("Headway: the run folder cannot be written, the server goes on: %s", error)
        self.problem = error
        told = f"the run folder could not be written: {error}"
        if told not in self._troubles:
            self._troubles.append(told)


def _has_payload(event: Event) -> bool:
    return type(event) is Submitted and event.payload is not None
