"""Waiting for what other threads and processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

WAIT_S: Final = 60.0
"""Longer than anything takes that tests wait for, on a busy machine too."""


def until(condition: Callable[[], Any], what: str = "", *, within_s: float = WAIT_S) -> None:
    """Wait until something is so.

    Args:
        condition: Whether it is; asked a hundred times a second.
        what: What is waited for, in words.
        within_s: How long it may take, in seconds, and more where to ask takes long.
    """
    pause = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"it never became so: {what}" if what else "it never became so")
