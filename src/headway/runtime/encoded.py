"""Compressed vectors within the messages of a network link, and what travelled, in bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch

from headway.core.errors import ProtocolError
from headway.runtime.chunks import INLINE_BYTES, fill
from headway.runtime.compression import Codec, PullCoder, PullDecoder, from_description
from headway.runtime.compression.message import DTYPES, HEADER_BYTES
from headway.runtime.rooms import CHUNK_BYTES, Room, Sizes, spans
from headway.runtime.wire import ToServer, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Buffers

__all__ = [
    "CODEC",
    "DIFFERENCE",
    "PULL_BYTES",
    "SHARED",
    "Meeting",
    "Reading",
    "Traffic",
    "Writing",
    "as_text",
    "check_encoded",
    "enclose",
    "read_codec",
    "receive_encoded",
]

CODEC: Final = 1
DIFFERENCE: Final = 2
SHARED: Final = "none: shared memory"
PULL_BYTES: Final = 32
"""What a model that goes as a difference may be longer than as it is."""

_TEXT: Final = 256
_FASTEST_S: Final = 1e-4
"""The shortest time that is told from none."""
_PULL_COPIES: Final = 2


@dataclass(slots=True)
class Traffic:
    """What went over one connection, or over all of one worker's.

    Attributes:
        up_bytes: Messages from the worker, as they were handed to the network.
        up_raw_bytes: The vectors in them, before compression.
        down_bytes: Messages to it.
        down_raw_bytes: The vectors in them.
        encoding: How its pushes are written.
        pulls: How models come to it.
        bytes_per_s: Measured on the way to the worker; 0: not yet.
    """

    up_bytes: int = 0
    up_raw_bytes: int = 0
    down_bytes: int = 0
    down_raw_bytes: int = 0
    encoding: str = "none"
    pulls: str = "whole"
    bytes_per_s: float = 0.0

    def measure(self, num_bytes: int, duration_s: float) -> None:
        """The first model has come; later ones change nothing.

        Args:
            num_bytes: Of it.
            duration_s: How long it travelled, in seconds.
        """
        if not self.bytes_per_s:
            self.bytes_per_s = num_bytes / max(duration_s, _FASTEST_S)

    def add(self, before: Traffic) -> None:
        """Go on counting where another connection ended.

        Args:
            before: What was counted there.
        """
        self.up_bytes += before.up_bytes
        self.up_raw_bytes += before.up_raw_bytes
        self.down_bytes += before.down_bytes
        self.down_raw_bytes += before.down_raw_bytes

    def describe(self) -> dict[str, Any]:
        """All of it, as plain values for JSON."""
        return {
            "encoding": self.encoding,
            "pulls": self.pulls,
            "bytes_up": self.up_bytes,
            "bytes_up_raw": self.up_raw_bytes,
            "bytes_down": self.down_bytes,
            "bytes_down_raw": self.down_raw_bytes,
        }


@final
class Meeting:
    """How long the first words of a connection took: a link is measured on the first model.

    What a message takes that carries nothing is no part of the model's time.
    """

    def __init__(self) -> None:
        self._joined_s = self._asked_s = 0.0
        self._round_trip_s: float | None = None

    def said(self, header: ToServer) -> None:
        """The worker says something.

        Args:
            header: What.
        """
        if header.HasField("join"):
            self._joined_s = time.perf_counter()
        elif header.HasField("ask") and not self._asked_s:
            self._asked_s = time.perf_counter()

    def welcomed(self) -> None:
        """The server has answered."""
        self._round_trip_s = time.perf_counter() - self._joined_s

    def told_to_wait(self) -> None:
        """The first model's time is not only the link's."""
        self._round_trip_s = None

    def travelled_s(self) -> float | None:
        """How long the first model travelled, if it has come now; ``None``: that is not known."""
        if self._round_trip_s is None or not self._asked_s:
            return None
        return time.perf_counter() - self._asked_s - self._round_trip_s


def as_text(codec: Codec | None) -> str:
    """A codec as it is named on the wire.

    Args:
        codec: ``None``: exact differences.

    Example:
        >>> from headway import compression
        >>> as_text(compression.topk(0.1))
        '{"kind":"topk","fraction":0.1,"values":"none"}'
    """
    return json.dumps({} if codec is None else codec.describe(), separators=(",", ":"))


def read_codec(text: str, kinds: Collection[str]) -> Codec:
    """The codec that the other side names.

    Args:
        text: What it said.
        kinds: Which are read here.

    Raises:
        ProtocolError: It is none, or none of these.
    """
    try:
        described = json.loads(text[: _TEXT + 1])
        if len(text) > _TEXT or not isinstance(described, dict):
            raise ValueError(f"{len(text)} characters")
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the name of a compression cannot be read", got=str(error)) from error
    codec = from_description(described)
    if codec.kind not in kinds:
        raise ProtocolError(
            "this compression was not offered",
            got=codec.kind,
            expected=", ".join(sorted(kinds)) or "none",
        )
    return codec


def check_encoded(vectors: Vectors, limit: int, sizes: Sizes) -> None:
    """Refuse an encoded vector that cannot fit, before there is memory for it.

    Args:
        vectors: What the other side says.
        limit: The most bytes that its codec can write for so many values.
        sizes: Of the model.

    Raises:
        ProtocolError: It does not fit.
    """
    if not 0 < vectors.num_values <= sizes.num_params:
        raise ProtocolError(
            "an encoded vector has no place in the model",
            got=f"{vectors.num_values} values",
            expected=f"1 to {sizes.num_params}",
        )
    if vectors.HasField("place"):
        raise ProtocolError("an encoded vector in memory that is shared")
    if vectors.buffers and not sizes.has_buffers:
        raise ProtocolError("buffers of a model that has none")
    if not HEADER_BYTES <= vectors.encoded_bytes <= limit:
        raise ProtocolError(
            "an encoded vector has a length that it cannot have",
            got=f"{vectors.encoded_bytes} bytes",
            expected=f"{HEADER_BYTES} to {limit}",
        )
    size = len(vectors.inline)
    expected = vectors.encoded_bytes + sizes.num_bytes(0, buffers=vectors.buffers)
    if size and size != expected:
        raise ProtocolError(
            "a vector has another size than was said", got=f"{size} bytes", expected=f"{expected}"
        )


def receive_encoded(
    room: Room, vectors: Vectors, more: Callable[[], bytes]
) -> tuple[memoryview, Buffers | None]:
    """Receive the bytes of an encoded vector into memory of their own, and buffers into a room.

    Args:
        room: For the buffers.
        vectors: What the other side said, checked.
        more: Waits for the next message.

    Raises:
        ProtocolError: Something else came, or too much.
    """
    # It takes real memory only as bytes arrive.
    memory = torch.empty(vectors.encoded_bytes, dtype=torch.uint8)
    told = Vectors(num_values=vectors.encoded_bytes, buffers=vectors.buffers, inline=vectors.inline)
    _, buffers = fill(Room(memory, room.buffers), told, more)
    return memory.numpy().data, buffers


def enclose(
    vectors: Vectors,
    num_values: int,
    message: memoryview,
    buffers: Buffers | None,
    limit: int = INLINE_BYTES,
) -> Iterator[memoryview]:
    """Say how an encoded vector travels, and put it into its message where it is small.

    Args:
        vectors: Completed here; what encodes it, the caller says.
        num_values: How many values it stands for.
        message: The encoded vector.
        buffers: The buffers behind it, contiguous, on the CPU.
        limit: What is small, in bytes.

    Returns:
        The pieces that follow in chunks: none, or all.
    """
    vectors.num_values, vectors.buffers = num_values, buffers is not None
    vectors.encoded_bytes = len(message)
    parts = [message, *spans(None, buffers)]
    if sum(map(len, parts)) <= limit:
        vectors.inline = b"".join(parts)
        return iter(())
    starts = [(part, at) for part in parts for at in range(0, len(part), CHUNK_BYTES)]
    return (part[at : at + CHUNK_BYTES] for part, at in starts)


@final
class Writing:
    """Models on their way to one worker, as differences to what this stream carried before.

    A stream keeps the order, so that each side knows what the other has without a word.

    Args:
        sizes: Of the model.
        codec: Of the differences; ``None``: they are exact.

    Memory: two vectors, and a third while one is written.
    """

    def __init__(self, sizes: Sizes, codec: Codec | None) -> None:
        self._size = sizes.num_params
        self._coder = PullCoder(
            sizes.num_params, dtype=sizes.dtype, codec=codec, max_models=_PULL_COPIES
        )
        self._number = 0

    def fits(self, vector: Tensor) -> bool:
        """Whether a vector is a whole model.

        Args:
            vector: What is to be sent.
        """
        return vector.numel() == self._size

    def write(self, vector: Tensor) -> memoryview:
        """Write a model.

        Args:
            vector: Flat, on the CPU. It may change meanwhile, where its job has been ended.
        """
        number = self._number
        self._number += 1
        # The two readings of it must be of the same values.
        return self._coder.encode("", vector.clone(), version=number, has=number)


@final
class Reading:
    """The worker's side of :class:`Writing`.

    Args:
        sizes: Of the model.
        pulls: What the server said in its welcome.

    Memory: one vector, two with a codec, from the first model on that comes so.

    Raises:
        ProtocolError: The server's word cannot be read.
    """

    def __init__(self, sizes: Sizes, pulls: str) -> None:
        self._sizes = sizes
        self._codec = None
        if pulls not in ("", "{}"):
            self._codec = read_codec(pulls, ("bf16", "int8", "none", "topk"))
        self._known = bool(pulls) and sizes.dtype in DTYPES
        self._decoder: PullDecoder | None = None

    def check(self, vectors: Vectors) -> None:
        """Refuse what cannot be a model, before there is memory for it.

        Args:
            vectors: What the server says.

        Raises:
            ProtocolError: It does not fit.
        """
        sizes = self._sizes
        if not self._known or vectors.num_values != sizes.num_params:
            raise ProtocolError("a difference where none was agreed upon")
        whole = sizes.num_bytes(sizes.num_params, buffers=False)
        check_encoded(vectors, whole + PULL_BYTES, sizes)

    def read(self, message: memoryview, out: Tensor) -> None:
        """Read a model.

        Args:
            message: What came.
            out: Where it goes.

        Raises:
            ProtocolError: It is none, or the difference to another than was here.
        """
        if self._decoder is None:
            sizes = self._sizes
            self._decoder = PullDecoder(sizes.num_params, dtype=sizes.dtype, codec=self._codec)
        out.copy_(self._decoder.decode(message))
