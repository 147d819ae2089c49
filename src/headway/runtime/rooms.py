"""One model's worth of memory, and its bytes in the order in which they travel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from headway.core import Buffers, ParameterLayout

__all__ = ["CHUNK_BYTES", "Filler", "Room", "Sizes", "pieces"]

CHUNK_BYTES: Final = 1 << 20
_ALIGNED: Final = 64


class Room(NamedTuple):
    """A flat vector, and the buffers where the model has any.

    Attributes:
        vector: Flat ``[num_params]``, on the CPU.
        buffers: The model's buffers.
    """

    vector: Tensor
    buffers: Buffers | None


@final
class Sizes:
    """How large one model is, as bytes.

    Args:
        layout: Of the model.

    Attributes:
        num_params: Length of the flat vector.
        dtype: Of its values.
        segment_bytes: What a room takes in one piece, its parts aligned to 64 bytes.
    """

    def __init__(self, layout: ParameterLayout) -> None:
        self.num_params = layout.num_params
        self.dtype = layout.dtype
        self._item = layout.dtype.itemsize
        self._floating = layout.floating_buffers[-1].stop if layout.floating_buffers else 0
        self._integer = layout.integer_buffers[-1].stop if layout.integer_buffers else 0
        self.has_buffers = bool(layout.floating_buffers or layout.integer_buffers)
        self._at_floating = _aligned(self.num_params * self._item)
        self._at_integer = _aligned(self._at_floating + self._floating * self._item)
        self.segment_bytes = _aligned(self._at_integer + self._integer * 8)

    def num_bytes(self, num_values: int, *, buffers: bool) -> int:
        """What travels for so many values.

        Args:
            num_values: Parameters, or those of a fragment.
            buffers: Whether the buffers travel too.
        """
        extra = self._floating * self._item + self._integer * 8 if buffers else 0
        return num_values * self._item + extra

    def room(self) -> Room:
        """Memory of this process for one model; its values do not matter."""
        return self.room_in(torch.empty(self.segment_bytes, dtype=torch.uint8))

    def room_in(self, memory: Tensor) -> Room:
        """A room in a given piece of memory.

        Args:
            memory: Bytes, uint8, ``[segment_bytes]``.
        """
        vector = memory[: self.num_params * self._item].view(self.dtype)
        if not self.has_buffers:
            return Room(vector, None)
        stop = self._at_floating + self._floating * self._item
        floating = memory[self._at_floating : stop].view(self.dtype)
        integer = memory[self._at_integer : self._at_integer + self._integer * 8].view(torch.int64)
        return Room(vector, Buffers(floating, integer))


def spans(vector: Tensor | None, buffers: Buffers | None) -> list[memoryview]:
    """The bytes of a vector and buffers, in the order in which they travel, without a copy.

    Args:
        vector: Contiguous, on the CPU; ``None``: there is none.
        buffers: Likewise.
    """
    tensors = [] if vector is None else [vector]
    if buffers is not None:
        tensors += [buffers.floating, buffers.integer]
    # NumPy knows no bfloat16, and knows bytes.
    return [t.detach().view(torch.uint8).numpy().data for t in tensors if t.numel()]


def pieces(
    vector: Tensor | None, buffers: Buffers | None, size: int = CHUNK_BYTES
) -> Iterator[memoryview]:
    """Cut what travels into pieces.

    Args:
        vector: Contiguous, on the CPU.
        buffers: Likewise.
        size: Bytes in a piece, at most.

    Yields:
        Views of the tensors' own memory.
    """
    for span in spans(vector, buffers):
        for start in range(0, len(span), size):
            yield span[start : start + size]


@final
class Filler:
    """Writes pieces, as they arrive, into a room.

    Args:
        room: Where to.
        num_values: How many values of the vector are expected, at most ``num_params``.
        buffers: Whether buffers follow.

    Example:
        >>> room = Room(torch.zeros(3), None)
        >>> filler = Filler(room, 3, buffers=False)
        >>> for piece in pieces(torch.tensor([1.0, 2.0, 3.0]), None, size=5):
        ...     filler.feed(piece)
        >>> filler.missing, room.vector
        (0, tensor([1., 2., 3.]))
    """

    def __init__(self, room: Room, num_values: int, *, buffers: bool) -> None:
        held = room.buffers if buffers else None
        self._spans = spans(room.vector[:num_values], held)
        self.missing = sum(len(span) for span in self._spans)

    def feed(self, piece: memoryview) -> None:
        """Take the next piece.

        Args:
            piece: Bytes, at most ``missing`` of them.

        Raises:
            ValueError: There are more than are missing.
        """
        if len(piece) > self.missing:
            raise ValueError(f"{len(piece)} bytes where {self.missing} were missing")
        self.missing -= len(piece)
        while len(piece):
            span = self._spans[0]
            part = piece[: len(span)]
            span[: len(part)] = part
            piece = piece[len(part) :]
            if len(part) == len(span):
                del self._spans[0]
            else:
                self._spans[0] = span[len(part) :]


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNED) * _ALIGNED
