"""Ctrl-C: the first ends what is under way in order, the second breaks it off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "interruptible"]


class Interruption:
    """Whether Ctrl-C was pressed, and who wants to know at once."""

    def __init__(self) -> None:
        self.requested = False
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask all that is under way to end."""
        self.requested = True
        for listener in self._listeners:
            listener()

    @contextmanager
    def told(self, *listeners: Callable[[], None]) -> Iterator[None]:
        """Call these when Ctrl-C is pressed, or now if it was pressed before."""
        self._listeners.extend(listeners)
        if self.requested:
            for listener in listeners:
                listener()
        try:
            yield
        finally:
            for listener in listeners:
                self._listeners.remove(listener)


_outermost: Interruption | None = None


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch the first Ctrl-C, here and in everything that is called from here.

    Only in the main thread, and only where nobody else has taken SIGINT; elsewhere nothing is
    changed. Within another ``interruptible`` it is that one: a comparison is interrupted as a
    whole, also between two of its runs.
    """
    global _outermost
    if _outermost is not None and threading.current_thread() is threading.main_thread():
        yield _outermost
        return
    interruption = Interruption()
    if not _is_free():
        yield interruption
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interruption.request()

    signal.signal(signal.SIGINT, stop)
    _outermost = interruption
    try:
        yield interruption
    finally:
        _outermost = None
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_free() -> bool:
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
