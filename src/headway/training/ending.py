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

    Attributes:
        reason: ``"interrupted"`` or ``"terminated"``; empty: nobody wants that.
    """

    def __init__(self) -> None:
        self.reason = ""

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
    wanted = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def handle(number: int, frame: FrameType | None) -> None:
        wanted.reason = "interrupted" if number == signal.SIGINT else "terminated"
        restore()
        if told is not None:
            told()

    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            before[number] = signal.signal(number, handle)
    try:
        yield wanted
    finally:
        restore()
