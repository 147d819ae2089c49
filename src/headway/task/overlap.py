"""Groups side by side: on the streams of an accelerator, and one after the other on a CPU.

The code is the same on both. A CPU has stand-ins for streams, which do nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, final

import torch
from torch import Tensor

__all__ = ["Overlap", "moved"]

_UNDER_WAY: Final = 4
"""How many groups an accelerator may have under way."""
_PINNED: Final = frozenset({"cuda", "xpu"})
"""Where a copy goes on beside the host's work only if it comes from pinned memory."""

Item = TypeVar("Item")
Begun = TypeVar("Begun")


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait for the copy.

    What the same stream is given afterwards comes after the copy. A tensor that is there already
    is returned as it is.

    Args:
        tensor: Not written to before the copy has ended.
        device: Where to.

    Example:
        >>> here = torch.ones(3)
        >>> moved(here, torch.device("cpu")) is here
        True
    """
    if tensor.device.type == "cpu" and device.type in _PINNED:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@final
class Overlap:
    """Begins work on one stream after the other, and hands it on when it can be read.

    Nothing here waits on the host: only who reads a result does.

    Args:
        device: Where the work is done.
        streams: What has ``Stream``, ``stream`` and ``current_stream``; by default torch's own for
            this kind of device.

    Attributes:
        under_way: How many pieces of work may have begun and not be read.
    """

    def __init__(self, device: torch.device, *, streams: Any = None) -> None:
        found = streams or getattr(torch, device.type, None)
        has_streams = device.type != "cpu" and hasattr(found, "Stream")
        self._device = device
        self._streams: Any = found if streams or has_streams else torch.cpu
        self.under_way = _UNDER_WAY if streams or has_streams else 1
        self._made: list[Any] = []

    def through(self, items: Iterable[Item], begin: Callable[[Item], Begun]) -> Iterator[Begun]:
        """Begin each item, and yield what came of it, in order.

        What is yielded may be read on the caller's stream.

        Args:
            items: Taken one at a time; what they hold belongs to the caller's stream.
            begin: Queues the work of an item; it must not wait for the device.
        """
        waiting: deque[tuple[Any, Begun]] = deque()
        for number, item in enumerate(items):
            stream = self._stream(number % self.under_way)
            # Also so that memory, which the stream gets again, has been read.
            stream.wait_stream(self._streams.current_stream(self._device))
            with self._streams.stream(stream):
                waiting.append((stream, begin(item)))
            if len(waiting) == self.under_way:
                yield self._ready(*waiting.popleft())
        while waiting:
            yield self._ready(*waiting.popleft())

    def _stream(self, index: int) -> Any:
        while len(self._made) <= index:
            is_cpu = self._streams is torch.cpu
            self._made.append(self._streams.Stream(*(() if is_cpu else (self._device,))))
        return self._made[index]

    def _ready(self, stream: Any, begun: Begun) -> Begun:
        self._streams.current_stream(self._device).wait_stream(stream)
        return begun
