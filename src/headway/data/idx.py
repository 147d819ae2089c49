"""The IDX format of the MNIST family: a magic number, the dimensions, then bytes.

::

    offset  size    what
    0       2       zero
    2       1       element type; 0x08 is an unsigned byte, the only one read here
    3       1       number of dimensions, D
    4       4 * D   the dimensions, big-endian
    4+4D    ...     the elements in C order, nothing after them
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError

__all__ = ["parse_idx", "read_content", "read_idx"]

_UNSIGNED_BYTE = 0x08
# More than any data set of this family needs, and a stop for a file that unpacks without end.
_MAX_BYTES = 1 << 31


def read_idx(path: str | Path) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in ``.gz``.

    Args:
        path: For instance ``train-images-idx3-ubyte.gz`` of MNIST, KMNIST or a set of your own.

    Returns:
        A uint8 tensor in the file's own shape: ``[N]`` for labels, ``[N, H, W]`` for images.

    Raises:
        DataError: The file is absent, damaged, of another element type, or not of the length that
            its dimensions say.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "labels-idx1-ubyte")
        ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     read_idx(file).tolist()
        [7, 8, 9]
    """
    return parse_idx(read_content(Path(path)), where=str(path))


def parse_idx(content: bytes, *, where: str) -> Tensor:
    """Parse the content of an IDX file; ``where`` names it in errors.

    Args:
        content: All of it, decompressed.
        where: Its name.

    Returns:
        A uint8 tensor of its own memory.

    Raises:
        DataError: As in :func:`read_idx`.
    """
    if len(content) < 4:
        raise _damaged(where, got=f"{len(content)} bytes", expected="a header of 4 bytes and more")
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != _UNSIGNED_BYTE or dimensions == 0:
        raise _damaged(
            where,
            got=f"magic number 0x{content[:4].hex()}",
            expected="0x000008 and the number of dimensions, 1 or more",
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise _damaged(where, got=f"{len(content)} bytes", expected=f"a header of {start} bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    length = math.prod(shape)
    if len(content) - start != length:
        raise _damaged(
            where,
            got=f"{len(content) - start} bytes after the header",
            expected=f"{length}, for {' x '.join(map(str, shape))}",
        )
    # The copy is writable memory of its own, which torch asks for.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def read_content(path: Path, *, help: str = "check the path, or fetch the file again") -> bytes:
    """The bytes of a file, decompressed if its name ends in ``.gz``.

    Args:
        path: The file.
        help: The next step that an error suggests.

    Raises:
        DataError: It is absent, cannot be read or decompressed, or is larger than 2 GiB.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            "a data file cannot be read",
            where=str(path),
            got=f"{type(error).__name__}: {error}",
            help=help,
        ) from error
    if len(content) > _MAX_BYTES:
        raise DataError("a data file is too large", where=str(path), expected="2 GiB at most")
    return content


def _damaged(where: str, *, got: str, expected: str) -> DataError:
    return DataError(
        "this is no IDX file, or a damaged one",
        where=where,
        got=got,
        expected=expected,
        help="fetch the file again",
    )
