"""The payload file: bit for bit back, or a named record."""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core import Buffers
from headway.core.errors import ArgumentTypeError, LogDamagedError, RunFolderError
from headway.observe import PayloadReader, PayloadWriter, Record

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
# Bits of every kind: NaN with payload bits, infinities, denormals, negative zero.
bits = st.binary(max_size=160)


def tensor_of(raw: bytes, dtype: torch.dtype) -> torch.Tensor:
    size = dtype.itemsize
    whole = np.frombuffer(raw[: len(raw) // size * size], dtype=np.uint8).copy()
    # Torch has no view of an empty tensor as one of wider elements.
    return torch.from_numpy(whole).view(dtype) if whole.size else torch.empty(0, dtype=dtype)


def raw_of(tensor: torch.Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def write(path: Path, *payloads: torch.Tensor) -> Path:
    with PayloadWriter(path) as writer:
        for job, payload in enumerate(payloads):
            assert writer.append(payload, meta={"kind": "update", "job": job}) == job
    return path


@given(st.lists(st.tuples(bits, st.sampled_from(DTYPES), st.none() | bits), max_size=4))
def test_every_bit_comes_back(given: list[tuple[bytes, torch.dtype, bytes | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sent: list[tuple[torch.Tensor, Buffers | None]] = []
        with PayloadWriter(Path(folder) / "payloads.bin") as writer:
            for job, (raw, dtype, extra) in enumerate(given):
                payload, buffers = tensor_of(raw, dtype), None
                if extra is not None:
                    buffers = Buffers(tensor_of(extra, dtype), tensor_of(extra, torch.int64))
                sent.append((payload, buffers))
                assert writer.append(payload, buffers, meta={"job": job}) == job
        with PayloadReader(writer.path) as reader:
            found = list(reader.records())
            # In any order, too.
            again = [reader.read(number) for number in reversed(range(len(sent)))][::-1]
        for records in (found, again):
            assert len(records) == len(sent)
            for number, (record, (payload, buffers)) in enumerate(zip(records, sent, strict=True)):
                assert record.meta["job"] == number
                assert_same(record, payload, buffers)


def assert_same(record: Record, payload: torch.Tensor, buffers: Buffers | None) -> None:
    assert record.tensors["payload"].dtype is payload.dtype
    assert raw_of(record.tensors["payload"]) == raw_of(payload)
    assert (record.buffers is None) == (buffers is None)
    if record.buffers is not None and buffers is not None:
        assert raw_of(record.buffers.floating) == raw_of(buffers.floating)
        assert raw_of(record.buffers.integer) == raw_of(buffers.integer)


def test_the_file_is_what_its_documentation_says(tmp_path: Path) -> None:
    path = write(tmp_path / "payloads.bin", torch.tensor([1.0, -2.5]))
    data = path.read_bytes()
    assert data[:12] == b"\x89HWPAY\r\n" + struct.pack("<I", 1)
    mark, number, meta_bytes, data_bytes, crc = struct.unpack("<4sIIQI", data[12:36])
    assert (mark, number, data_bytes) == (b"HREC", 0, 8)
    assert crc == zlib.crc32(data[12:32])
    meta = json.loads(data[36 : 36 + meta_bytes])
    assert meta == {"kind": "update", "job": 0, "tensors": [["payload", "float32", 2]]}
    body = data[36 + meta_bytes :]
    assert struct.unpack("<ff", body[:8]) == (1.0, -2.5)
    assert struct.unpack("<I", body[8:]) == (zlib.crc32(data[12:-4]),)


@given(st.data())
def test_no_flipped_byte_gives_wrong_data_or_another_failure(data: st.DataObject) -> None:
    sent = [torch.arange(3.0), torch.tensor([], dtype=torch.bfloat16), torch.arange(4)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "payloads.bin", *sent)
        damaged = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] ^= data.draw(st.integers(1, 255))
        changed = bytes(damaged) != path.read_bytes()
        path.write_bytes(damaged)
        got: list[Record] = []
        expected = (
            pytest.raises(LogDamagedError, match=r"payloads\.bin") if changed else nullcontext()
        )
        with expected, PayloadReader(path) as reader:
            got.extend(reader.records())
        for record, payload in zip(got, sent, strict=False):
            assert_same(record, payload, None)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(raw: bytes, headed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payloads.bin"
        path.write_bytes((b"\x89HWPAY\r\n\x01\0\0\0" if headed else b"") + raw)
        if headed and not raw:
            with PayloadReader(path) as reader:
                assert list(reader.records()) == []
            return
        with pytest.raises(LogDamagedError, match=r"payloads\.bin"), PayloadReader(path) as reader:
            list(reader.records())


def test_a_file_cut_anywhere_gives_its_whole_records_and_names_the_next(tmp_path: Path) -> None:
    path = write(tmp_path / "payloads.bin", torch.arange(3.0), torch.arange(5.0))
    whole = path.read_bytes()
    second = whole.rindex(b"HREC")
    for stop in range(second, len(whole)):
        path.write_bytes(whole[:stop])
        with PayloadReader(path) as reader:
            assert torch.equal(reader.read(0).tensors["payload"], torch.arange(3.0))
            with pytest.raises(LogDamagedError, match=r"record 1: the file ends"):
                reader.read(1)


def forged(meta: bytes, data: bytes, *, told: int | None = None, number: int = 0) -> bytes:
    """A file whose checksums are all right, and whose content need not be."""
    told = len(data) if told is None else told
    lengths = struct.pack("<4sIIQ", b"HREC", number, len(meta), told)
    record = lengths + struct.pack("<I", zlib.crc32(lengths)) + meta + data
    return b"\x89HWPAY\r\n\x01\0\0\0" + record + struct.pack("<I", zlib.crc32(record))


@pytest.mark.parametrize(
    ("meta", "data", "told", "number", "said"),
    [
        (
            b'{"tensors":[["payload","float32",4611686018427387904]]}',
            b"",
            None,
            0,
            "fit its length",
        ),
        (b'{"tensors":[["payload","float32",-1]]}', b"", None, 0, "does not fit"),
        (b'{"tensors":[["payload","float32",1.0]]}', b"1234", None, 0, "does not fit"),
        (b'{"tensors":[["payload","float32",true]]}', b"1234", None, 0, "does not fit"),
        (b'{"tensors":[["payload","float31",1]]}', b"1234", None, 0, "does not parse"),
        (b'{"tensors":[["payload",[],1]]}', b"1234", None, 0, "does not parse"),
        (b'{"tensors":7}', b"", None, 0, "does not parse"),
        (b"[]", b"", None, 0, "does not parse"),
        (b"\xff", b"", None, 0, "does not parse"),
        (b"[" * 100_000, b"", None, 0, "does not parse"),
        (b'{"tensors":[]}', b"", 2**63, 0, "the file ends within it"),
        (b'{"tensors":[]}', b"", None, 5, "says that it is record 5"),
    ],
)
def test_no_description_makes_the_reader_allocate_or_fail_otherwise(
    tmp_path: Path, meta: bytes, data: bytes, told: int | None, number: int, said: str
) -> None:
    path = tmp_path / "payloads.bin"
    path.write_bytes(forged(meta, data, told=told, number=number))
    with PayloadReader(path) as reader, pytest.raises(LogDamagedError, match=said):
        reader.read(0)


def test_a_forged_record_that_is_sound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "payloads.bin"
    path.write_bytes(forged(b'{"tensors":[["payload","float32",1]]}', b"\0\0\x80?"))
    with PayloadReader(path) as reader:
        assert reader.read(0).tensors["payload"].tolist() == [1.0]
        for number in (-1, 1, 100):
            with pytest.raises(LogDamagedError, match=f"record {number}|record 1:"):
                reader.read(number)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "payloads.bin"
    path.write_bytes(b"\x89HWPAY\r\n\x02\0\0\0")
    with pytest.raises(LogDamagedError, match="version that this Headway cannot read"):
        PayloadReader(path)


def test_strided_and_required_grad_tensors_are_written_as_they_read(tmp_path: Path) -> None:
    strided = torch.arange(10.0, requires_grad=True)[::3]
    path = write(tmp_path / "payloads.bin", strided)
    with PayloadReader(path) as reader:
        record = reader.read(0)
    assert record.tensors["payload"].tolist() == [0.0, 3.0, 6.0, 9.0]
    # Its memory is its own and may be written to.
    record.tensors["payload"].zero_()


@pytest.mark.parametrize("payload", [torch.zeros(2, 2), torch.zeros(()), torch.zeros(2).cfloat()])
def test_what_is_no_payload_is_refused_and_leaves_no_trace(
    tmp_path: Path, payload: torch.Tensor
) -> None:
    writer = PayloadWriter(tmp_path / "payloads.bin")
    writer.append(torch.ones(2), meta={})
    with pytest.raises(ArgumentTypeError, match=r"flat|dtype"):
        writer.append(payload, meta={})
    writer.append(torch.ones(3), meta={})
    writer.close()
    with PayloadReader(writer.path) as reader:
        assert [len(record.tensors["payload"]) for record in reader.records()] == [2, 3]


def test_half_a_record_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PayloadWriter(tmp_path / "payloads.bin")
    writer.append(torch.ones(2), meta={})
    crc32 = zlib.crc32

    def interrupted(data: bytes, crc: int = 0) -> int:
        if crc:
            raise KeyboardInterrupt
        return crc32(data)

    with monkeypatch.context() as patch:
        patch.setattr("headway.observe.payloads.zlib.crc32", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.append(torch.ones(5), meta={})
    assert writer.append(torch.ones(3), meta={}) == 1
    writer.flush()
    with PayloadReader(writer.path) as reader:
        assert [len(record.tensors["payload"]) for record in reader.records()] == [2, 3]
    writer.close()
    writer.close()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read"):
        PayloadReader(tmp_path / "absent.bin")
    with pytest.raises(RunFolderError, match="cannot write"):
        PayloadWriter(tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        {"payload": {"dtype": "nothing", "shape": [3], "kept": True}},
        {"payload": {"dtype": "int32", "shape": [3], "kept": True}},
        {"payload": {"dtype": "uint8", "shape": [2, 2], "kept": True}},
        {"payload": {"dtype": "uint8"}},
        {"payload": 3},
    ],
)
def test_a_description_that_does_not_fit_its_tensor_is_damage(tmp_path: Path, odd: Any) -> None:
    with PayloadWriter(tmp_path / "payloads.bin") as writer:
        writer.append(torch.zeros(3, dtype=torch.uint8), meta={"kind": "update", "odd": odd})
    with PayloadReader(tmp_path / "payloads.bin") as reader, pytest.raises(LogDamagedError):
        reader.read(0)
