"""Increasing indices in few bytes: as gaps of variable length, or as one bit for each element.

A gap is the distance to the index before it, at least 1 (the first one's to -1), and takes a byte
for each seven of its bits, the lowest first; every byte but the last has its high bit set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import ProtocolError
from headway.runtime.compression.message import Bytes

__all__ = [
    "BITMAP",
    "GAPS",
    "Indices",
    "choose_form",
    "max_index_bytes",
    "read_indices",
    "write_indices",
]

Indices: TypeAlias = NDArray[np.int64]

GAPS: Final = 1
BITMAP: Final = 2
_PIECE: Final = 1 << 16
_MAX_GAP_BYTES: Final = 6


def max_index_bytes(count: int, num_params: int) -> int:
    """The most bytes that so many indices of a vector can take.

    Args:
        count: How many.
        num_params: The vector's length.
    """
    # The gaps add up to at most the length: so few can need a second byte, fewer a third one.
    gaps = count + sum(min(count, num_params >> 7 * j) for j in range(1, _MAX_GAP_BYTES))
    return min(gaps, -(-num_params // 8))


def choose_form(indices: Indices, num_params: int) -> tuple[int, int]:
    """The shorter form, and its length in bytes.

    Args:
        indices: Increasing.
        num_params: The vector's length.
    """
    bitmap = -(-num_params // 8)
    if len(indices) >= bitmap:
        return BITMAP, bitmap
    gaps = np.diff(indices, prepend=-1)
    length = len(indices)
    for j in range(1, _MAX_GAP_BYTES):
        more = int(np.count_nonzero(gaps >= 1 << 7 * j))
        if not more:
            break
        length += more
    return (GAPS, length) if length < bitmap else (BITMAP, bitmap)


def write_indices(form: int, indices: Indices, num_params: int, section: Bytes) -> None:
    """Write indices into a section of the length that :func:`choose_form` gave.

    Args:
        form: The one that it chose.
        indices: Increasing.
        num_params: The vector's length.
        section: Overwritten.
    """
    if form == GAPS:
        _write_gaps(indices, section)
    else:
        _write_bitmap(indices, num_params, section)


def read_indices(form: int, section: Bytes, count: int, num_params: int) -> Iterator[Indices]:
    """Read a section piece by piece, so that little memory is needed.

    Args:
        form: As the message says.
        section: The whole section.
        count: How many indices there must be.
        num_params: The vector's length.

    Yields:
        Increasing indices from 0 to ``num_params - 1``, a part of them at a time.

    Raises:
        ProtocolError: The section is none of this form, length and range.
    """
    if form == GAPS:
        pieces = _read_gaps(section, num_params)
    elif form == BITMAP:
        pieces = _read_bitmap(section, num_params)
    else:
        raise _wrong("a selection has an unknown form", form)
    found = 0
    for piece in pieces:
        found += len(piece)
        if found > count:
            break
        yield piece
    if found != count:
        raise _wrong("a selection has another number of indices than it says", found)


def _write_gaps(indices: Indices, section: Bytes) -> None:
    position, before = 0, -1
    for start in range(0, len(indices), _PIECE):
        piece = indices[start : start + _PIECE]
        gaps = np.diff(piece, prepend=before)
        before = int(piece[-1])
        if int(gaps.max()) < 128:
            section[position : position + len(gaps)] = gaps
            position += len(gaps)
            continue
        lengths = np.ones(len(gaps), np.int64)
        for j in range(1, _MAX_GAP_BYTES):
            lengths += gaps >= 1 << 7 * j
        stops = np.cumsum(lengths) + position
        starts = stops - lengths
        for j in range(int(lengths.max())):
            long = np.flatnonzero(lengths > j)
            more = (lengths[long] > j + 1).astype(np.int64) << 7
            section[starts[long] + j] = gaps[long] >> 7 * j & 127 | more
        position = int(stops[-1])


def _write_bitmap(indices: Indices, num_params: int, section: Bytes) -> None:
    flags = np.zeros(min(num_params, _PIECE), np.bool_)
    edges = np.searchsorted(indices, np.arange(0, num_params + _PIECE, _PIECE))
    for number, start in enumerate(range(0, num_params, _PIECE)):
        here = flags[: min(_PIECE, num_params - start)]
        here[:] = False
        here[indices[edges[number] : edges[number + 1]] - start] = True
        packed = np.packbits(here, bitorder="little")
        section[start // 8 : start // 8 + len(packed)] = packed


def _read_gaps(section: Bytes, num_params: int) -> Iterator[Indices]:
    position, before = 0, -1
    while position < len(section):
        piece = section[position : position + _PIECE]
        ends = np.flatnonzero(piece < 128)
        if not len(ends):
            raise _wrong("a gap between indices does not end", len(piece))
        piece = piece[: int(ends[-1]) + 1]
        gaps = piece.astype(np.int64) if len(ends) == len(piece) else _long_gaps(piece, ends)
        if int(gaps.min()) < 1:
            raise _wrong("the indices of a selection do not increase", "a gap of 0")
        # As floats: the sum of gaps that a stranger wrote may not fit 64 bits.
        if float(gaps.sum(dtype=np.float64)) + before >= num_params:
            raise _wrong("an index is out of its range", f"above {num_params - 1}")
        indices = np.cumsum(gaps)
        indices += before
        before = int(indices[-1])
        position += len(piece)
        yield indices


def _long_gaps(piece: Bytes, ends: Indices) -> Indices:
    lengths = np.diff(ends, prepend=-1)
    most = int(lengths.max())
    if most > _MAX_GAP_BYTES:
        raise _wrong("a gap between indices is too long", f"{most} bytes")
    if bool(((piece[ends] == 0) & (lengths > 1)).any()):
        raise _wrong("a gap between indices is longer than it need be", "a last byte of 0")
    gaps: Indices = piece[ends].astype(np.int64) << 7 * (lengths - 1)
    for j in range(1, most):
        long = np.flatnonzero(lengths > j)
        low = (piece[ends[long] - j] & 127).astype(np.int64)
        gaps[long] |= low << 7 * (lengths[long] - 1 - j)
    return gaps


def _read_bitmap(section: Bytes, num_params: int) -> Iterator[Indices]:
    length = -(-num_params // 8)
    if len(section) != length:
        raise _wrong("a bitmap has the wrong length", f"{len(section)} bytes, not {length}")
    if num_params % 8 and int(section[-1]) >> num_params % 8:
        raise _wrong("an index is out of its range", f"above {num_params - 1}")
    for start in range(0, length, _PIECE // 8):
        flags = np.unpackbits(section[start : start + _PIECE // 8], bitorder="little")
        indices = np.flatnonzero(flags)
        if len(indices):
            indices += 8 * start
            yield indices


def _wrong(message: str, got: object) -> ProtocolError:
    return ProtocolError(message, got=got)
