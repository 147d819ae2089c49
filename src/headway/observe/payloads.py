r"""Payloads: an append-only file of framed records with checksums, beside the event log.

::

    file    = "\x89HWPAY\r\n"  u32 version          then records
    record  = header  meta  data  u32 crc           little endian throughout
    header  = "HREC"  u32 number  u32 len(meta)  u64 len(data)  u32 crc of these
    meta    = JSON: {"kind": ..., "job": ..., "tensors": [[name, dtype, numel], ...]}, and "odd" of
              tensors that are not what they seem: see :mod:`headway.observe.odd`
    data    = the tensors' bytes, one after the other

A checksum is CRC-32 as in zlib; the last one is over header, meta and data. A reader believes no
length before its checksum, and allocates nothing that the file could not fill. Records are numbered
from 0. Record 0 holds the initial parameters, and each other one what came with an update.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, final

from torch import Tensor

from headway.core.errors import LogDamagedError
from headway.core.layout import Buffers
from headway.observe import blocks, files, odd, strict
from headway.observe.appender import Appender
from headway.observe.closing import Closing

__all__ = ["PayloadReader", "PayloadWriter", "Record"]

_MAGIC: Final = b"\x89HWPAY\r\n"
_VERSION: Final = 1
_FILE_HEADER: Final = Struct("<8sI")
_MARK: Final = b"HREC"
_LENGTHS: Final = Struct("<4sIIQ")
_CRC: Final = Struct("<I")
_HEADER_BYTES: Final = _LENGTHS.size + _CRC.size


class Record(NamedTuple):
    """One record of a payload file.

    Attributes:
        meta: What the record says of itself: ``"kind"``, ``"job"``, ``"tensors"``.
        tensors: The tensors by their names, in memory of their own; flat, but for those of a
            rejected update that were not.
    """

    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def buffers(self) -> Buffers | None:
        """The buffers, where the record holds any."""
        if "floating" not in self.tensors or "integer" not in self.tensors:
            return None
        return Buffers(self.tensors["floating"], self.tensors["integer"])


@final
class PayloadWriter(Appender):
    """Appends records to a file.

    Args:
        path: The file; one that is there is replaced, unless it holds the first records.
        num_records: How many whole records it holds that are to be followed by others.

    Raises:
        RunFolderError: It cannot be written.
    """

    def __init__(self, path: Path, *, num_records: int = 0) -> None:
        super().__init__(path, "r+b" if num_records else "wb")
        self.num_records = num_records
        if not num_records:
            self.put(_FILE_HEADER.pack(_MAGIC, _VERSION))

    def append(
        self, payload: Tensor, buffers: Buffers | None = None, *, meta: Mapping[str, Any]
    ) -> int:
        """Append one record, straight from the tensors' memory where they are on the CPU.

        Args:
            payload: Flat tensor; float64, float32, float16, bfloat16, int64 or uint8.
            buffers: What came with it.
            meta: Plain values to keep beside it.

        Returns:
            The record's number.

        Raises:
            ArgumentTypeError: A tensor is not flat, or of another dtype.
            RunFolderError: The file cannot be written; the record is not in it.
        """
        named = {"payload": payload}
        if buffers is not None:
            named |= {"floating": buffers.floating, "integer": buffers.integer}
        shapes, data = blocks.describe(named)
        head = strict.dumps({**meta, "tensors": shapes}).encode()
        lengths = _LENGTHS.pack(_MARK, self.num_records, len(head), sum(map(len, data)))
        head = lengths + _CRC.pack(zlib.crc32(lengths)) + head
        crc = zlib.crc32(head)
        for block in data:
            crc = zlib.crc32(block, crc)
        self.put(head, *data, _CRC.pack(crc))
        self.num_records += 1
        return self.num_records - 1


class PayloadReader(Closing):
    """Reads records by their numbers.

    Args:
        path: The file.

    Raises:
        RunFolderError: It cannot be read.
        LogDamagedError: It is not a payload file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.working_on(path, "read"):
            self._file: BufferedReader = path.open("rb")
            self._size = os.fstat(self._file.fileno()).st_size
        # Where the records begin, as far as their headers were read.
        self._starts = [_FILE_HEADER.size]
        try:
            self._check_file_header()
        except BaseException:
            self._file.close()
            raise

    def read(self, number: int) -> Record:
        """Read one record.

        Args:
            number: Counted from 0.

        Raises:
            RunFolderError: The file cannot be read.
            LogDamagedError: The record, or one before it, is damaged, cut off or not there.
        """
        with files.working_on(self.path, "read"):
            if number < 0:
                raise self._damaged(number, "there is no such record")
            head, meta_bytes, data_bytes = self._header(number)
            return self._body(number, head, meta_bytes, data_bytes)

    def records(self) -> Iterator[Record]:
        """All records, in order.

        Raises:
            RunFolderError: The file cannot be read.
            LogDamagedError: A record is damaged or cut off.
        """
        number = 0
        while self._start(number) < self._size:
            yield self.read(number)
            number += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_file_header(self) -> None:
        with files.working_on(self.path, "read"):
            head = self._file.read(_FILE_HEADER.size)
        if len(head) < _FILE_HEADER.size or not head.startswith(_MAGIC):
            raise LogDamagedError(
                f"{self.path.name} is not a payload file",
                where=str(self.path),
                got=repr(head),
                expected=f"{_MAGIC!r} at the start",
                help="restore the file, or read the events without their payloads",
            )
        _, version = _FILE_HEADER.unpack(head)
        if version != _VERSION:
            raise LogDamagedError(
                f"{self.path.name} is of a version that this Headway cannot read",
                where=str(self.path),
                got=version,
                expected=str(_VERSION),
                help="read it with the version of Headway that wrote it: see environment.json",
            )

    def _start(self, number: int) -> int:
        """Where a record begins, or would begin if the file went on."""
        while len(self._starts) <= number:
            last = len(self._starts) - 1
            with files.working_on(self.path, "read"):
                _, meta_bytes, data_bytes = self._header(last)
            size = _HEADER_BYTES + meta_bytes + data_bytes + _CRC.size
            self._starts.append(self._starts[last] + size)
        return self._starts[number]

    def _header(self, number: int) -> tuple[bytes, int, int]:
        """The header's bytes, and the two lengths, which the file can hold."""
        start = self._start(number)
        if start >= self._size:
            raise self._damaged(number, "the file ends before it")
        self._file.seek(start)
        head = self._file.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES:
            raise self._damaged(number, "the file ends within its header")
        mark, told, meta_bytes, data_bytes = _LENGTHS.unpack_from(head)
        (crc,) = _CRC.unpack_from(head, _LENGTHS.size)
        if mark != _MARK or crc != zlib.crc32(head[: _LENGTHS.size]):
            raise self._damaged(number, "its header fails the checksum")
        if told != number:
            raise self._damaged(number, f"it says that it is record {told}")
        if meta_bytes + data_bytes + _CRC.size > self._size - start - _HEADER_BYTES:
            raise self._damaged(number, "the file ends within it")
        return head, meta_bytes, data_bytes

    def _body(self, number: int, head: bytes, meta_bytes: int, data_bytes: int) -> Record:
        raw = self._file.read(meta_bytes)
        meta, shapes = self._meta(number, raw, data_bytes)
        try:
            tensors, crc = blocks.read_tensors(
                self._file.readinto, shapes, zlib.crc32(raw, zlib.crc32(head))
            )
        except EOFError:
            raise self._damaged(number, "the file ends within it") from None
        if self._file.read(_CRC.size) != _CRC.pack(crc):
            raise self._damaged(number, "it fails the checksum")
        for name, about in dict(meta.get("odd", {})).items():
            tensors[name] = odd.restore(tensors[name], about)
        return Record(meta, tensors)

    def _meta(
        self, number: int, raw: bytes, data_bytes: int
    ) -> tuple[dict[str, Any], list[blocks.Shape]]:
        # This is read before its checksum is known, so that the data need not be read twice.
        try:
            meta = strict.loads(raw.decode())
            shapes = blocks.parse_shapes(meta["tensors"])
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise self._damaged(number, f"its description does not parse: {error!r}") from error
        if not blocks.fit(shapes, data_bytes):
            raise self._damaged(number, "its description does not fit its length")
        return meta, shapes

    def _damaged(self, number: int, what: str) -> LogDamagedError:
        return LogDamagedError(
            f"{self.path.name}, record {number}: {what}",
            where=f"{self.path}, record {number}",
            got=what,
            help="restore the file, or read the events without their payloads",
        )
