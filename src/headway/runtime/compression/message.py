"""What every compressed vector begins with, and the contract of what writes and reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.checks import all_finite
from headway.core.errors import ArgumentTypeError, ConfigurationError, ProtocolError

__all__ = [
    "DTYPES",
    "HEADER_BYTES",
    "NOT_FINITE",
    "Bytes",
    "BytesLike",
    "Codec",
    "Header",
    "blank",
    "check_out",
    "check_vector",
    "lend",
    "open_message",
    "refuse_not_finite",
    "says_not_finite",
    "seal",
    "spans",
]

BytesLike: TypeAlias = bytes | bytearray | memoryview
Bytes: TypeAlias = NDArray[np.uint8]

_LAYOUT: Final = struct.Struct("<2sBBBBHQQ")
_MAGIC: Final = b"H1"
HEADER_BYTES: Final = _LAYOUT.size
"""24, a multiple of 8, so that what follows is aligned where the message is."""

NOT_FINITE: Final = 255
"""The form of a message without a body: the vector held NaN or infinity."""

DTYPES: Final = {torch.float32: 1, torch.float64: 2, torch.bfloat16: 3}
_SPAN_BYTES: Final = 512 * 1024


class Codec(Protocol):
    """A way to write a vector in fewer bytes. A value: it keeps nothing between calls."""

    @property
    def kind(self) -> str:
        """Its name in descriptions."""
        ...

    def describe(self) -> dict[str, Any]:
        """Itself in JSON, read back by :func:`~headway.compression.from_description`."""
        ...

    def max_bytes(self, num_params: int, dtype: torch.dtype) -> int:
        """The most bytes that a message can have; all have so many, unless the kind is `topk`.

        Args:
            num_params: The vector's length, at least 0.
            dtype: The vector's.
        """
        ...

    def encode(self, vector: Tensor) -> memoryview:
        """Write a vector into new memory.

        Args:
            vector: Flat and contiguous, on the CPU; float32, float64 or bfloat16. Not written to.
                If it holds NaN or infinity, the message says only so, and is read as NaN
                throughout, so that the server's own check refuses it by name.

        Returns:
            The message, at most :meth:`max_bytes` long.
        """
        ...

    def decode_into(self, message: BytesLike, out: Tensor) -> None:
        """Read a message, whoever wrote it.

        Args:
            message: What :meth:`encode` returned on the far side, or anything else.
            out: Overwritten; flat and contiguous, on the CPU, of the vector's length and dtype.

        Raises:
            ProtocolError: It is not a message of this codec for such a vector. What is then in
                ``out`` is not defined.
        """
        ...


class Header(NamedTuple):
    """The first 24 bytes of a message.

    Attributes:
        kind: Which codec, by number.
        dtype: Of the vector, by number.
        values: For a selection, the codec of its values, by number.
        form: For a selection, how its indices are written; :data:`NOT_FINITE`.
        block_size: How many values share a scale; 0 without scales.
        count: How many values there are.
        num_params: The vector's length.
    """

    kind: int
    dtype: int
    values: int
    form: int
    block_size: int
    count: int  # type: ignore[assignment]
    num_params: int


class _Lent:
    """Memory of another object, as NumPy's array interface describes it."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, array: Bytes) -> None:
        self.owner = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def lend(array: Bytes) -> Tensor:
    """A tensor on the same memory, which only this package reads: torch knows no read-only tensors.

    Args:
        array: Flat, uint8. Copied if its memory does not begin at a multiple of 8.
    """
    if not array.size:
        return torch.empty(0, dtype=torch.uint8)
    if array.ctypes.data % 8:
        return torch.from_numpy(array.copy())
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.asarray(_Lent(array)))


def check_vector(vector: object) -> None:
    """Check what is to be written.

    Args:
        vector: The caller's.

    Raises:
        ArgumentTypeError: It is not a flat, contiguous tensor of a known dtype on the CPU.
    """
    expected = "a flat, contiguous tensor of float32, float64 or bfloat16 on the CPU"
    if not isinstance(vector, Tensor):
        raise ArgumentTypeError("this is no vector", got=type(vector).__name__, expected=expected)
    flat = vector.dim() == 1 and vector.is_contiguous() and vector.device.type == "cpu"
    if not flat or vector.dtype not in DTYPES:
        got = f"{list(vector.shape)}, {vector.dtype}, {vector.device}"
        raise ArgumentTypeError("this vector cannot be compressed", got=got, expected=expected)


def check_out(out: Tensor) -> None:
    """Check where a vector is to be read into; errors as :func:`check_vector`.

    Args:
        out: The caller's.
    """
    check_vector(out)
    if out.requires_grad:
        raise ConfigurationError(
            "a message cannot be read into a tensor that autograd tracks", help="detach it first"
        )


def blank(length: int, header: Header) -> Tensor:
    """New memory for a message, its header written.

    Args:
        length: In bytes.
        header: Its beginning.
    """
    memory = torch.empty(length, dtype=torch.uint8)
    _LAYOUT.pack_into(memory.numpy().data, 0, _MAGIC, *header)
    return memory


def seal(memory: Tensor) -> memoryview:
    """A message as bytes.

    Args:
        memory: Flat, uint8.
    """
    return memory.numpy().data


def refuse_not_finite(vector: Tensor, header: Header) -> memoryview | None:
    """The message that says that a vector is not finite; ``None``: it is.

    Args:
        vector: What is to be written.
        header: What its message would begin with.
    """
    if all_finite(vector):
        return None
    told = header._replace(form=NOT_FINITE, count=0)
    return seal(blank(HEADER_BYTES, told))


def says_not_finite(message: BytesLike) -> bool:
    """Whether a message that was written here says that its vector was not finite.

    Args:
        message: From :meth:`Codec.encode`.
    """
    return Header(*_LAYOUT.unpack_from(message)[1:]).form == NOT_FINITE


def open_message(
    message: BytesLike, out: Tensor, codec: Codec, expected: Header
) -> tuple[Header, Tensor]:
    """Check the length and the header of a message, before any memory is taken for it.

    Args:
        message: What came.
        out: Where it goes.
        codec: Which reads it.
        expected: What the header must be; its ``form`` and ``count`` are not looked at.

    Returns:
        The header and the body, uint8. A message without a body has filled ``out`` already.

    Raises:
        ProtocolError: Too short, too long, or for another vector or codec.
    """
    check_out(out)
    try:
        array = np.frombuffer(message, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ProtocolError("this is no compressed vector", got=repr(error)) from error
    limit = codec.max_bytes(out.numel(), out.dtype)
    if not HEADER_BYTES <= array.size <= limit:
        raise ProtocolError(
            "a compressed vector has the wrong length",
            got=f"{array.size} bytes",
            expected=f"{HEADER_BYTES} to {limit} bytes",
        )
    magic, *fields = _LAYOUT.unpack_from(array.data)
    header = Header(*fields)
    if magic != _MAGIC:
        raise ProtocolError("this is no compressed vector", got=magic, expected=repr(_MAGIC))
    if header._replace(form=0, count=0) != expected._replace(form=0, count=0):
        raise ProtocolError(
            "a compressed vector is not the one that was agreed upon",
            got=str(header),
            expected=str(expected),
        )
    if header.form == NOT_FINITE:
        if array.size != HEADER_BYTES or header.count:
            raise ProtocolError(
                "a vector that is not finite has no body", got=f"{array.size} bytes"
            )
        out.fill_(float("nan"))
    return header, lend(array[HEADER_BYTES:])


def spans(count: int, element_bytes: int, *, multiple: int = 1) -> Iterator[slice]:
    """Cut a length into spans of about 512 KiB, so that temporaries stay in the cache.

    Args:
        count: How many elements.
        element_bytes: Of the temporary.
        multiple: Every span but the last is a multiple of this.
    """
    length = max(1, _SPAN_BYTES // element_bytes // multiple) * multiple
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))
