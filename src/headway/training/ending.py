"""Ctrl-C and SIGTERM: the first ends what is under way in order, the second breaks it off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, final

__all__ = ["Ending", "ending"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@final
class Ending:
    """Whether the user, or whoever runs this process, wants it to end.

    Args:
        told: Called when it comes; ``None``: nobody.

    Attributes:
        reason: ``"interrupted"`` or ``"terminated"``; empty: nobody wants that.
    """

    def __init__(self, told: Callable[[], None] | None = None) -> None:
        self.reason = ""
        self._told = told

    def tell(self, told: Callable[[], None]) -> None:
        """Have this called when it comes, or now if it came before.

        Args:
            told: From the signal's handler: it must not wait. It may be called twice.
        """
        self._told = told
        if self.reason:
            told()

    def came(self, reason: str) -> None:
        """Note it, and tell of it.

        Args:
            reason: ``"interrupted"`` or ``"terminated"``.
        """
        self.reason = reason
        if self._told is not None:
            self._told()

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def ending(told: Callable[[], None] | None = None) -> Iterator[Ending]:
    """Catch the first of the two signals, as long as this lasts.

    Only in the main thread, and only where nobody else has taken the signal; elsewhere nothing is
    changed.

    Args:
        told: Called when it comes, from the signal's handler.
    """
    wanted = Ending(told)
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        wanted.came("interrupted" if number == signal.SIGINT else "terminated")

    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            before[number] = signal.signal(number, handle)
    try:
        yield wanted
    finally:
        restore()
