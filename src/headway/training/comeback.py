"""How a worker finds its way back to a server that it has lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Final, final

from headway.core.errors import ExchangeError, ProtocolError, RefusedError, ServerLostError
from headway.runtime.timeouts import Retry

if TYPE_CHECKING:
    from headway.runtime.exchange import Exchange, Invitation
    from headway.runtime.parcel import WorkerLink

__all__ = ["Comeback", "go_on"]

_LOG: Final = logging.getLogger("headway")
_LOOK_EVERY_S: Final = 0.25
_FOR_GOOD: Final = "failed"
_PASSING: Final = ("full", "name_taken", "stopping")
"""Refusals that another attempt may not meet."""
_GO_ON: Final = (
    "what has a receipt is in the server's model, and safe when the server ended in order, or was killed "
    'with durability="log"; with checkpoints alone it is safe up to the newest. Start the server again '
    "with its checkpoint_dir, and train again: this worker's model and history are as they were. To be "
    "patient for longer: AsyncWorker(retry=headway.Retry(give_up_s=...))"
)


@final
class Comeback:
    """Tries to reach a lost server, again and again, with longer and longer waits between.

    Args:
        retry: How; ``None``: never.
        resume: One attempt. It raises an ``ExchangeError`` where it fails.
        wanted: Whether the user wants this to end.
        stream: What draws the waits.
        done: Says how much is done, for the error when this gives up; ``None``: nothing is said.
        clock: In seconds.
        wait: Waits for so many seconds.

    Attributes:
        count: How often it came back.
    """

    def __init__(
        self,
        retry: Retry | None,
        resume: Callable[[], object],
        *,
        wanted: Callable[[], bool],
        stream: Random,
        done: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._retry = retry
        self._resume = resume
        self._wanted = wanted
        self._stream = stream
        self._done = done
        self._clock = clock
        self._wait = wait
        self._error: ExchangeError | None = None
        self._waits: Iterator[float] = iter(())
        self._first = ""
        self._since_s = self._next_s = 0.0
        self.count = 0

    @property
    def is_lost(self) -> bool:
        """Whether the server is lost, and was not found again."""
        return self._error is not None

    def lost(self, error: ExchangeError) -> None:
        """The server is lost.

        Args:
            error: What said so.

        Raises:
            ExchangeError: It, where the server will not be found again.
        """
        if self._retry is None or error.code == _FOR_GOOD or self._wanted():
            raise error
        if self._error is None:
            self._since_s, self._first = self._clock(), error.message
            self._waits = self._retry.waits(self._stream)
            _LOG.warning("Headway: %s; trying to reach the server again", error.message)
        self._error = error
        self._next_s = self._clock() + next(self._waits)

    def attempt(self) -> bool:
        """Try once, if it is time for that, without waiting: whether the server is there.

        Raises:
            ExchangeError: It will not be found again.
        """
        if self._error is None:
            return True
        if self._clock() < self._next_s:
            return False
        try:
            self._resume()
        except ServerLostError as error:
            self._failed(error)
        except RefusedError as error:
            if error.code not in _PASSING:
                raise
            self._failed(error)
        else:
            self._error = None
            self.count += 1
            _LOG.warning("Headway: the server is there again")
        return self._error is None

    def come_back(self) -> None:
        """Try until the server is there.

        Raises:
            ExchangeError: It was not found in time, or the user wants this to end.
        """
        while not self.attempt():
            assert self._error is not None
            if self._wanted():
                raise self._error
            left_s = self._next_s - self._clock()
            if left_s > 0.0:
                self._wait(min(left_s, _LOOK_EVERY_S))

    def _failed(self, error: ExchangeError) -> None:
        assert self._retry is not None
        tried_s = self._clock() - self._since_s
        if tried_s < self._retry.give_up_s:
            self.lost(error)
            return
        after = f" after {self._done()}" if self._done is not None else ""
        lost = f"the connection to the server was lost{after}"
        tried = f"tried again for {tried_s:.3g} seconds"
        if not isinstance(error, ServerLostError):
            error.add_note(f"Headway: {lost}; {tried}")
            raise error
        reason = error.message if error.got is None else f"{error.message} ({error.got})"
        raise ServerLostError(
            f"{lost}; {tried}, and the server is not there",
            where=error.where,
            got=f"{self._first}; at the last attempt: {reason}",
            help=_GO_ON,
        ) from error


def go_on(
    exchange: Exchange, link: WorkerLink, before: Invitation, *, is_named: bool
) -> Invitation:
    """Go on over a new connection, with the server that was there before.

    Args:
        exchange: The worker's.
        link: The connection; it is closed where this fails.
        before: What the server said when it was joined first.
        is_named: Whether the user chose the worker's name.

    Raises:
        RefusedError: The server does not let this worker in.
        ServerLostError: It has gone again.
        ProtocolError: It is another than before.
    """
    try:
        now = exchange.resume(link)
        if now.layout.describe() == before.layout.describe() and (
            now.instructions == before.instructions
        ):
            return now
        raise ProtocolError(
            "the server has come back as another: its model or its algorithm differs",
            help="start this worker anew",
        )
    except BaseException as error:
        if getattr(error, "code", "") == "name_taken" and not is_named:
            # A server that has forgotten its workers has given the name to another.
            exchange.forget_name()
        link.close()
        raise
