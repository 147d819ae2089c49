"""One thread that waits for files, and for what other threads want done."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar, final

__all__ = ["SPIN_S", "Loop", "give_way"]

_T = TypeVar("_T")
_LOOK_EVERY_S: Final = 0.5
SPIN_S: Final = 1e-3
"""For how long who has a core to spare looks for a message: most steps of small models are shorter."""


@final
class Loop:
    """What one thread has to do, in the order in which it came.

    :meth:`post` and :meth:`call` are for any thread; the others for the loop's own.

    Attributes:
        spin_s: For how long it looks again and again before it sleeps, in seconds. Who sleeps has
            to be woken, and that can take longer than the work; who does not sleep takes a core.
    """

    def __init__(self) -> None:
        self.spin_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._posted: deque[Callable[[], object]] = deque()
        self._ear, self._bell = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._bell, False)
        self._selector.register(self._ear, selectors.EVENT_READ, self._hear)
        self._owner: threading.Thread | None = None
        self._closed = threading.Event()
        self._ringing = threading.Lock()
        # Whether the bell was rung and not heard: who comes then, is seen with who rang.
        self._rings = False

    def own(self) -> None:
        """The calling thread is the loop's from now on."""
        self._owner = threading.current_thread()

    def is_own(self) -> bool:
        """Whether the calling thread is the loop's, or it has none."""
        return self._owner in (None, threading.current_thread())

    def post(self, action: Callable[[], object]) -> None:
        """Have something done, soon.

        Args:
            action: It.
        """
        if not self._closed.is_set():
            self._posted.append(action)
        if self._rings or self._owner is threading.current_thread():
            return
        # The number of a closed pipe may be another file's by now.
        with self._ringing:
            if not self._closed.is_set():
                self._rings = True
                os.write(self._bell, b"!")

    def call(self, function: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Have a function called, and wait for its value.

        Args:
            function: Without arguments.
            timeout_s: How long to wait, in seconds; ``None``: for ever.

        Returns:
            Its value. Where the loop has no thread, or has ended, it is called here.

        Raises:
            TimeoutError: There was no value in time.
            Exception: What the function raised.
        """
        if self.is_own() or self._closed.is_set():
            return function()
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 (it is raised where it was called)
                future.set_exception(error)

        self.post(run)
        while not future.done():
            with suppress(TimeoutError):
                return future.result(_LOOK_EVERY_S if timeout_s is None else timeout_s)
            if timeout_s is not None:
                future.cancel()
                raise TimeoutError(f"the server did not answer within {timeout_s} seconds")
            if self._closed.is_set() and future.cancel():
                return function()
        return future.result()

    def watch(self, file: Any, ready: Callable[[], object]) -> None:
        """Call a function whenever a file can be read.

        Args:
            file: It, or its descriptor.
            ready: What reads it.
        """
        self._selector.register(file, selectors.EVENT_READ, ready)

    def unwatch(self, file: Any) -> None:
        """No longer.

        Args:
            file: One that is watched, or not.
        """
        with suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def turn(self, patience_s: float) -> None:
        """Do all that there is to do; wait for it if there is nothing.

        Args:
            patience_s: How long, in seconds.
        """
        for key, _ in self._select(0.0 if self._posted else patience_s):
            key.data()
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def _select(self, patience_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.spin_s:
            return self._selector.select(patience_s)
        found = self._selector.select(0.0)
        until = time.perf_counter() + min(self.spin_s, patience_s)
        while not (found or self._posted) and time.perf_counter() < until:
            give_way()
            found = self._selector.select(0.0)
        if found or self._posted or not patience_s:
            return found
        return self._selector.select(patience_s)

    def close(self) -> None:
        """Nothing is waited for any more. What was posted is done first."""
        with self._ringing:
            self._closed.set()
        while self._posted:
            self._posted.popleft()()
        if self._selector.get_map() is not None:
            self._selector.close()
            os.close(self._ear)
            os.close(self._bell)

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._ear, 4096)
        # Only now: until here nobody rings, and what came meanwhile is done in this turn.
        self._rings = False


def give_way() -> None:
    """Let others have this core for a moment, if there are any who want it."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
