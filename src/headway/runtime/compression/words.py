"""The difference of two vectors bit by bit: nothing is lost, and what did not change costs little.

A body is a row of pieces, one for each 65,536 elements. A piece begins with how many of its
elements changed, the form of their indices and the length of these (:mod:`.indices`; form 0: all).
Then come the bits that changed (exclusive or), byte by byte: first the lowest byte of each element,
then the next. Each such row is a mode and its bytes: 0 all zero, 1 a bitmap of those that are not
zero and then these, 2 all of them.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ProtocolError
from headway.runtime.compression.indices import choose_form, read_indices, write_indices
from headway.runtime.compression.message import Bytes

__all__ = ["add_difference", "difference"]

_PIECE: Final = 1 << 16
_HEAD: Final = struct.Struct("<IBI")
_ALL: Final = 0
_ZERO, _SPARSE, _DENSE = 0, 1, 2
_MOSTLY: Final = 0.9
_SIGNED: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def difference(new: Tensor, old: Tensor, limit: int) -> list[bytes] | None:
    """Write how to make one vector of another.

    Args:
        new: Flat, on the CPU.
        old: Of the same length and dtype.
        limit: In bytes.

    Returns:
        The body in pieces; ``None``: it would not be shorter than the limit.
    """
    wanted, had = _words(new), _words(old)
    temporary = np.empty(min(_PIECE, len(wanted)), wanted.dtype)
    parts: list[bytes] = []
    length = 0
    for start in range(0, len(wanted), _PIECE):
        stop = min(start + _PIECE, len(wanted))
        bits = np.bitwise_xor(wanted[start:stop], had[start:stop], out=temporary[: stop - start])
        piece = _write_piece(bits)
        length += sum(map(len, piece))
        if length >= limit:
            return None
        parts += piece
    return parts


def add_difference(body: Bytes, target: Tensor) -> None:
    """Make the new vector of the old one, in place.

    Args:
        body: What :func:`difference` wrote, or anything else.
        target: The old vector. After an error it is neither.

    Raises:
        ProtocolError: It is no difference of vectors of this length and dtype.
    """
    words = _words(target)
    reader = _Reader(body)
    for start in range(0, len(words), _PIECE):
        here = words[start : start + _PIECE]
        count, form, index_bytes = _HEAD.unpack(reader.take(_HEAD.size).data)
        if count > len(here) or (form == _ALL and (count != len(here) or index_bytes)):
            raise ProtocolError("a difference has the wrong number of elements", got=count)
        section = reader.take(index_bytes)
        if form == _ALL:
            here ^= _read_words(reader, count, words.dtype)
            continue
        found = list(read_indices(form, section, count, len(here)))
        bits = _read_words(reader, count, words.dtype)
        if found:
            here[np.concatenate(found)] ^= bits
    reader.end()


def _words(vector: Tensor) -> NDArray[Any]:
    signed = vector.view(_SIGNED[vector.element_size()]).numpy()
    return signed.view(f"u{vector.element_size()}")


def _write_piece(bits: NDArray[Any]) -> list[bytes]:
    changed = np.flatnonzero(bits)
    if len(changed) >= _MOSTLY * len(bits):
        return [_HEAD.pack(len(bits), _ALL, 0), *_write_words(bits)]
    form, index_bytes = choose_form(changed, len(bits))
    section = np.empty(index_bytes, np.uint8)
    write_indices(form, changed, len(bits), section)
    head = _HEAD.pack(len(changed), form, index_bytes)
    return [head, section.tobytes(), *_write_words(bits[changed])]


def _write_words(words: NDArray[Any]) -> list[bytes]:
    size = words.dtype.itemsize
    # Lowest byte first on every machine.
    table = words.astype(f"<u{size}", copy=False).view(np.uint8).reshape(-1, size)
    parts: list[bytes] = []
    for number in range(size):
        row = np.ascontiguousarray(table[:, number])
        flags = row != 0
        count = int(np.count_nonzero(flags))
        if not count:
            parts.append(bytes([_ZERO]))
        elif -(-len(row) // 8) + count < len(row):
            packed = np.packbits(flags, bitorder="little")
            parts += [bytes([_SPARSE]), packed.tobytes(), row[flags].tobytes()]
        else:
            parts += [bytes([_DENSE]), row.tobytes()]
    return parts


def _read_words(reader: _Reader, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = dtype.itemsize
    table = np.zeros((count, size), np.uint8)
    for number in range(size):
        (mode,) = reader.take(1).tolist()
        if mode == _DENSE:
            table[:, number] = reader.take(count)
        elif mode == _SPARSE:
            packed = reader.take(-(-count // 8))
            flags = np.unpackbits(packed, bitorder="little")
            if flags[count:].any():
                raise ProtocolError("a difference has more bytes than elements", got=count)
            where = np.flatnonzero(flags)
            table[where, number] = reader.take(len(where))
        elif mode != _ZERO:
            raise ProtocolError("a difference has an unknown mode", got=mode, expected="0, 1 or 2")
    return table.reshape(-1).view(f"<u{size}").astype(dtype, copy=False)


class _Reader:
    """Bytes one after the other."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: Bytes) -> None:
        self._body = body
        self._position = 0

    def take(self, length: int) -> Bytes:
        stop = self._position + length
        if stop > len(self._body):
            raise ProtocolError(
                "a difference ends too soon",
                got=f"{len(self._body)} bytes",
                expected=f"at least {stop}",
            )
        taken = self._body[self._position : stop]
        self._position = stop
        return taken

    def end(self) -> None:
        if self._position != len(self._body):
            raise ProtocolError(
                "a difference goes on after its end",
                got=f"{len(self._body)} bytes",
                expected=str(self._position),
            )
