r"""Segments of the durable log: files of calls, each with its checksum.

::

    segment = "\x89HWLOG\r\n"  u32 form  u32 salt  u64 first  u64 durable  u32 crc    then records
    record  = header  meta  data  u32 crc             little endian throughout
    header  = "HLOG"  u32 len(meta)  u64 sequence  u64 durable  u64 len(data)  u32 crc of these
    meta    = JSON: {"door": ..., "version": ..., "with": {...}, "tensors": [[name, dtype, numel]]}
    data    = the tensors' bytes, one after the other

Records are numbered through all segments, from 1, and ``first`` is the number of a segment's first.
``durable`` is how far the log was on the disk when the record was written: what tells a record that
was never acknowledged from one that was, and is damaged. A checksum is CRC-32 as in zlib; those of
records begin with the segment's salt, a random number, so that nothing inside a worker's payload can
be taken for a record. A reader believes no length before its checksum, and allocates nothing that
the file could not fill.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, final

from headway.checkpoint.calls import Call
from headway.observe import blocks, files, strict
from headway.observe.appender import Appender, Block
from headway.observe.closing import Closing

__all__ = ["BadRecordError", "Entry", "Segment", "SegmentReader", "num_bytes_of"]

_MAGIC: Final = b"\x89HWLOG\r\n"
_FORM: Final = 1
_FILE: Final = Struct("<8sIIQQ")
_MARK: Final = b"HLOG"
_HEAD: Final = Struct("<4sIQQQ")
_CRC: Final = Struct("<I")
_FILE_BYTES: Final = _FILE.size + _CRC.size
_HEAD_BYTES: Final = _HEAD.size + _CRC.size
_CHUNK: Final = 1 << 20

Working = Callable[[Path], AbstractContextManager[None]]


class BadRecordError(Exception):
    """What is here is no record. Never seen outside this package.

    Args:
        what: In words.
        sequence: The number of the record that should be here.
        offset: Where in the file it begins.
    """

    def __init__(self, what: str, sequence: int, offset: int) -> None:
        super().__init__(what)
        self.what = what
        self.sequence = sequence
        self.offset = offset


class Entry(NamedTuple):
    """A record that was read.

    Attributes:
        sequence: Its number.
        version: The server's version before the call.
        call: What was called.
        num_bytes: How long the record is.
    """

    sequence: int
    version: int
    call: Call
    num_bytes: int


@final
class Segment(Appender):
    """A segment that is written. It is there whole, with its header, or not at all.

    Args:
        path: The file; one that is there is replaced.
        first: The number of its first record.
        durable: How far the log is on the disk.
        working: What turns an ``OSError`` into an error that names the file.
    """

    def __init__(self, path: Path, first: int, durable: int, working: Working) -> None:
        self.first = first
        self._salt = int.from_bytes(os.urandom(4), "little")
        head = _FILE.pack(_MAGIC, _FORM, self._salt, first, durable)
        temporary = path.with_name(f".{path.name}.writing")
        with working(path):
            try:
                temporary.write_bytes(head + _CRC.pack(zlib.crc32(head)))
                files.sync(temporary)
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            # Not every system can sync a folder.
            with suppress(OSError):
                files.sync(path.parent)
        super().__init__(path, "r+b", buffer_bytes=0, working=working)

    def append(self, sequence: int, durable: int, version: int, call: Call) -> int:
        """Append a record: how long it is, in bytes.

        Args:
            sequence: Its number.
            durable: How far the log is on the disk.
            version: The server's, before the call.
            call: What is called.
        """
        record = _encode(self._salt, sequence, durable, version, call)
        self.put(*record)
        return num_bytes_of(record)

    def sync(self) -> None:
        """Bring what was appended to the disk, and no more than is needed to read it again."""
        with self._working(self.path):
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())


def num_bytes_of(record: list[Block]) -> int:
    """How long a record of several blocks is.

    Args:
        record: Its blocks.
    """
    return sum(map(len, record))


def _encode(salt: int, sequence: int, durable: int, version: int, call: Call) -> list[Block]:
    shapes, data = blocks.describe(call.tensors)
    meta: dict[str, Any] = {"door": call.door, "version": version, "with": call.arguments}
    if shapes:
        meta["tensors"] = shapes
    told = strict.dumps(meta).encode()
    head = _HEAD.pack(_MARK, len(told), sequence, durable, sum(map(len, data)))
    head += _CRC.pack(zlib.crc32(head, salt)) + told
    crc = zlib.crc32(head, salt)
    for block in data:
        crc = zlib.crc32(block, crc)
    return [head, *data, _CRC.pack(crc)]


class SegmentReader(Closing):
    """Reads a segment from its beginning.

    Args:
        path: The file.

    Attributes:
        first: The number of its first record.
        durable: How far the log was on the disk when the segment was begun.

    Raises:
        BadRecordError: It is not a segment.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._salt, self.first, self.durable = self._file_header()
        except BaseException:
            self._file.close()
            raise

    def entries(self) -> Iterator[Entry]:
        """The records, in order.

        Raises:
            BadRecordError: What comes next is no record, or not the next one, or is cut off.
            OSError: The file cannot be read.
        """
        offset, sequence = _FILE_BYTES, self.first
        while offset < self._size:
            self._file.seek(offset)
            head, meta_bytes, data_bytes = self._head(offset, sequence)
            yield self._entry(offset, sequence, head, meta_bytes, data_bytes)
            offset += _HEAD_BYTES + meta_bytes + data_bytes + _CRC.size
            sequence += 1

    def claim(self, offset: int = 0) -> int:
        """How far the log was on the disk, by what was written in this segment.

        Args:
            offset: From where in the file on.

        Raises:
            OSError: The file cannot be read.
        """
        found, rest = self.durable, b""
        self._file.seek(offset)
        while chunk := self._file.read(_CHUNK):
            data = rest + chunk
            place = data.find(_MARK)
            while 0 <= place <= len(data) - _HEAD_BYTES:
                found = max(found, self._claim_at(data, place))
                place = data.find(_MARK, place + 1)
            # What may be the beginning of a header is looked at again with the next chunk.
            rest = data[1 - _HEAD_BYTES :]
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _file_header(self) -> tuple[int, int, int]:
        head = self._file.read(_FILE_BYTES)
        if len(head) < _FILE_BYTES or not head.startswith(_MAGIC):
            raise BadRecordError("it is not a segment of a log", 0, 0)
        _, form, salt, first, durable = _FILE.unpack_from(head)
        if head[_FILE.size :] != _CRC.pack(zlib.crc32(head[: _FILE.size])):
            raise BadRecordError("its first bytes fail the checksum", 0, 0)
        if form != _FORM:
            raise BadRecordError(f"it has form {form}, and this Headway reads form {_FORM}", 0, 0)
        return salt, first, durable

    def _head(self, offset: int, sequence: int) -> tuple[bytes, int, int]:
        head = self._file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            raise BadRecordError("the file ends within its header", sequence, offset)
        mark, meta_bytes, told, _, data_bytes = _HEAD.unpack_from(head)
        if mark != _MARK or head[_HEAD.size :] != self._crc_of(head[: _HEAD.size]):
            raise BadRecordError("its header fails the checksum", sequence, offset)
        if told != sequence:
            raise BadRecordError(f"it says that it is record {told}", sequence, offset)
        if meta_bytes + data_bytes + _CRC.size > self._size - offset - _HEAD_BYTES:
            raise BadRecordError("the file ends within it", sequence, offset)
        return head, meta_bytes, data_bytes

    def _entry(
        self, offset: int, sequence: int, head: bytes, meta_bytes: int, data_bytes: int
    ) -> Entry:
        raw = self._file.read(meta_bytes)
        try:
            meta = strict.loads(raw.decode())
            shapes = blocks.parse_shapes(meta.get("tensors", []))
            call = Call(str(meta["door"]), dict(meta["with"]))
            version = int(meta["version"])
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            crc = zlib.crc32(raw, zlib.crc32(head, self._salt))
            what = f"its description does not parse: {error!r}"
            if not self._ends_well(data_bytes, crc):
                what = "it fails the checksum"
            raise BadRecordError(what, sequence, offset) from error
        if not blocks.fit(shapes, data_bytes):
            raise BadRecordError("its description does not fit its length", sequence, offset)
        try:
            tensors, crc = blocks.read_tensors(
                self._file.readinto, shapes, zlib.crc32(raw, zlib.crc32(head, self._salt))
            )
        except EOFError:
            raise BadRecordError("the file ends within it", sequence, offset) from None
        if self._file.read(_CRC.size) != _CRC.pack(crc):
            raise BadRecordError("it fails the checksum", sequence, offset)
        size = _HEAD_BYTES + meta_bytes + data_bytes + _CRC.size
        return Entry(sequence, version, call._replace(tensors=tensors), size)

    def _ends_well(self, data_bytes: int, crc: int) -> bool:
        """Whether the checksum is right, of a record whose data come now."""
        while data_bytes > 0 and (chunk := self._file.read(min(_CHUNK, data_bytes))):
            crc = zlib.crc32(chunk, crc)
            data_bytes -= len(chunk)
        return self._file.read(_CRC.size) == _CRC.pack(crc)

    def _claim_at(self, data: bytes, place: int) -> int:
        head = data[place : place + _HEAD_BYTES]
        if head[_HEAD.size :] != self._crc_of(head[: _HEAD.size]):
            return 0
        return int(_HEAD.unpack_from(head)[3])

    def _crc_of(self, data: bytes) -> bytes:
        return _CRC.pack(zlib.crc32(data, self._salt))
