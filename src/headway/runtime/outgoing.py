"""What a worker's stream has yet to send."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import final

__all__ = ["Outgoing"]


@final
class Outgoing:
    """Messages in their order, of which few wait. Filled by any thread, emptied by one.

    Not :class:`queue.Queue`: whoever waits for that one is woken twice, and it cannot be ended while
    it is full.

    Args:
        most: How many may wait, at least 1.

    Example:
        >>> outgoing = Outgoing(1)
        >>> outgoing.put(b"first"), outgoing.put(b"second")
        (True, False)
        >>> outgoing.finish(); list(outgoing)
        [b'first']
    """

    def __init__(self, most: int) -> None:
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = threading.Semaphore(most)

    def put(self, message: bytes, timeout_s: float = 0.0) -> bool:
        """Have a message sent: False where there was no room for it in time.

        Args:
            message: It.
            timeout_s: How long to wait, in seconds.
        """
        if not self._room.acquire(timeout=timeout_s):
            return False
        self._messages.put(message)
        return True

    def finish(self) -> None:
        """Nothing more comes. Does not wait; may be called twice."""
        self._messages.put(None)

    def __iter__(self) -> Iterator[bytes]:
        while (message := self._messages.get()) is not None:
            self._room.release()
            yield message
