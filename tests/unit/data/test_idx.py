from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.core.errors import DataError
from headway.data import idx, read_idx


def encode(array: np.ndarray) -> bytes:
    """The format as its description says, independent of the reader."""
    header = struct.pack(">HBB", 0, 8, array.ndim)
    return header + b"".join(struct.pack(">I", size) for size in array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 28, 28), (2, 1, 1, 3)])
@pytest.mark.parametrize("name", ["values-idx", "values-idx.gz"])
def test_reads_what_was_encoded(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = encode(array)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(array))
    found += 1  # its own writable memory


IMAGES = encode(np.zeros((2, 3, 4), dtype=np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        IMAGES[:3],
        IMAGES[:9],
        IMAGES[:-1],
        IMAGES + b"\0",
        b"\1" + IMAGES[1:],
        IMAGES[:2] + b"\x0d" + IMAGES[3:],
        b"\0\0\x08\0",
        b"\0\0\x08\x01" + b"\xff" * 4,
        b"\0\0\x08\xff" + b"\xff" * 1020,
        gzip.compress(IMAGES, mtime=0),
    ],
    ids=[
        "empty",
        "part of the magic number",
        "part of the header",
        "one byte short",
        "one byte more",
        "wrong magic number",
        "floats",
        "no dimension",
        "four gigabytes announced",
        "255 huge dimensions",
        "gzipped without the name",
    ],
)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values-idx"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"no gzip", gzip.compress(IMAGES, mtime=0)[:-9]])
def test_a_file_that_cannot_be_unpacked_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "values-idx.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path)


def test_a_file_that_unpacks_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "_MAX_BYTES", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(DataError, match="too large"):
        read_idx(path)
