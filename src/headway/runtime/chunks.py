"""How vectors travel over a network: inside their message where they are small, else in chunks.

A chunk is the message of ``wire/headway.proto``, written and read without a protobuf object, because
that copies the payload twice more. ``ToServer`` and ``ToWorker`` have it under the same number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, final

from headway.core import Buffers
from headway.core.errors import ProtocolError
from headway.runtime.rooms import CHUNK_BYTES, Filler, Room, Sizes, pieces, spans

if TYPE_CHECKING:
    from torch import Tensor

    from headway.runtime.wire import Vectors

__all__ = [
    "INLINE_BYTES",
    "MESSAGE_BYTES",
    "Rooms",
    "as_chunk",
    "check_vectors",
    "chunk_data",
    "fill",
    "inline",
    "keep_memory",
]

INLINE_BYTES: Final = 64 << 10
"""Vectors up to this size travel inside their message."""

MESSAGE_BYTES: Final = CHUNK_BYTES + (64 << 10)
"""The largest message: a chunk, or a header with what it says of a large model."""

_KEPT_BYTES: Final = 8 << 20
_CHUNK: Final = (15 << 3) | 2
_DATA: Final = (1 << 3) | 2


def keep_memory() -> None:
    """Have this process keep the memory of a chunk that has gone, for the next one.

    glibc's malloc gives what is larger than a threshold back to the system, and to get it again
    costs a fault for each page: more than all copies of a chunk. The threshold becomes what was
    given back last, if that was more. Other allocators notice nothing.

    Memory: none by itself. Up to 16 MiB more than before may stay with each of malloc's arenas.

    Source:
        mallopt(3), M_MMAP_THRESHOLD: the dynamic threshold.
    """
    bytes(_KEPT_BYTES)


def as_chunk(piece: memoryview) -> bytes:
    """A message with one chunk in it.

    Args:
        piece: Its data: the one copy that is made.

    Example:
        >>> from headway.runtime.wire import ToServer
        >>> ToServer.FromString(as_chunk(memoryview(b"abc"))).chunk.data
        b'abc'
    """
    inner = bytes((_DATA,)) + _varint(len(piece))
    return b"".join((bytes((_CHUNK,)), _varint(len(inner) + len(piece)), inner, piece))


def chunk_data(message: bytes) -> memoryview | None:
    """The data of a message that is a chunk, without a copy; ``None``: it is another message.

    Args:
        message: As it came.

    Raises:
        ProtocolError: It begins like a chunk, and is none.

    Example:
        >>> bytes(chunk_data(as_chunk(memoryview(b"abc"))))
        b'abc'
    """
    if not message or message[0] != _CHUNK:
        return None
    try:
        size, start = _read_varint(message, 1)
        if start + size == len(message) and message[start] == _DATA:
            size, start = _read_varint(message, start + 1)
            if start + size == len(message):
                return memoryview(message)[start:]
    except IndexError:
        pass
    raise ProtocolError("a chunk cannot be read", got=f"{len(message)} bytes")


def inline(
    vectors: Vectors, vector: Tensor, buffers: Buffers | None, limit: int = INLINE_BYTES
) -> Iterator[memoryview]:
    """Say how a vector travels, and put it into its message where it is small.

    Args:
        vectors: Completed here.
        vector: Contiguous, on the CPU.
        buffers: The buffers with it.
        limit: What is small, in bytes.

    Returns:
        The pieces that follow in chunks: none, or all.
    """
    vectors.num_values, vectors.buffers = vector.numel(), buffers is not None
    parts = spans(vector, buffers)
    if sum(map(len, parts)) > limit:
        return pieces(vector, buffers)
    vectors.inline = b"".join(parts)
    return iter(())


def check_vectors(vectors: Vectors, sizes: Sizes) -> None:
    """Refuse vectors that the model has no place for, before there is memory for them.

    Args:
        vectors: What the other side says.
        sizes: Of the model.

    Raises:
        ProtocolError: They do not fit.
    """
    if vectors.num_values > sizes.num_params:
        raise ProtocolError(
            "a vector is larger than the model",
            got=f"{vectors.num_values} values",
            expected=f"at most {sizes.num_params}",
        )
    if vectors.buffers and not (sizes.has_buffers and vectors.num_values):
        raise ProtocolError("buffers without a vector, or of a model that has none")
    size = len(vectors.inline)
    expected = sizes.num_bytes(vectors.num_values, buffers=vectors.buffers)
    if size and size != expected:
        raise ProtocolError(
            "a vector has another size than was said",
            got=f"{size} bytes",
            expected=f"{expected}",
        )


def fill(
    room: Room, vectors: Vectors, more: Callable[[], bytes]
) -> tuple[Tensor | None, Buffers | None]:
    """Receive a vector into a room.

    Args:
        room: Where to. What arrives is written there as it comes.
        vectors: What the other side said, checked.
        more: Waits for the next message.

    Raises:
        ProtocolError: Something else came, or too much.
    """
    filler = Filler(room, vectors.num_values, buffers=vectors.buffers)
    if vectors.inline:
        filler.feed(memoryview(vectors.inline))
    while filler.missing:
        data = chunk_data(more())
        if not data or len(data) > filler.missing:
            raise ProtocolError(
                "a vector is not complete, and something else follows"
                if data is None
                else "a chunk has another size than is missing",
                got=None if data is None else f"{len(data)} bytes",
                expected=f"chunks with {filler.missing} bytes more",
            )
        filler.feed(data)
    return room.vector[: vectors.num_values], room.buffers if vectors.buffers else None


@final
class Rooms:
    """Rooms for what arrives, used again and again. For any thread.

    Args:
        sizes: Of the model.
        keep: How many to keep that nobody uses, so that idle workers cost no memory.

    Attributes:
        num_out: How many are in use now.
        num_made: How many were ever made.
    """

    def __init__(self, sizes: Sizes, *, keep: int = 4) -> None:
        self.sizes = sizes
        self.num_out = self.num_made = 0
        self._keep = keep
        self._free: list[Room] = []
        self._lock = threading.Lock()

    def take(self) -> Room:
        """A room; its values do not matter."""
        with self._lock:
            self.num_out += 1
            if self._free:
                return self._free.pop()
            self.num_made += 1
        return self.sizes.room()

    def give(self, room: Room) -> None:
        """Give one back.

        Args:
            room: One of these, whose values are no longer needed.
        """
        with self._lock:
            self.num_out -= 1
            if len(self._free) < self._keep:
                self._free.append(room)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise IndexError("no message is so long")
