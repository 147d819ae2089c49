"""Files that grow by whole records, and stay whole when the disk is full."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final, Literal

from headway.observe import files
from headway.observe.closing import Closing

__all__ = ["Appender"]

_JOINED_BYTES: Final = 1 << 16

Block = bytes | bytearray | memoryview


class Appender(Closing):
    """Appends records to a file: each is in it whole or not at all, whatever the disk says.

    A base for files of records; the subclasses say what a record is. A record that cannot be written
    is refused, the file is cut back to the end of the one before, and the next is tried anew: so a
    full disk heals when space returns. What was appended outlives the process after :meth:`flush`,
    and the machine after :meth:`mark`.

    Args:
        path: The file.
        mode: ``"ab"`` goes on with a file or makes one, ``"r+b"`` goes on with one, ``"wb"`` makes a
            new one.
        buffer_bytes: How much is held back before it is handed to the operating system; 0: nothing.
        working: What turns an ``OSError`` into an error that names the file.

    Raises:
        RunFolderError: It cannot be written; or what ``working`` says.
    """

    def __init__(
        self,
        path: Path,
        mode: Literal["ab", "r+b", "wb"] = "ab",
        *,
        buffer_bytes: int = 1 << 20,
        working: Callable[[Path], AbstractContextManager[None]] = files.working_on,
    ) -> None:
        self.path = path
        self._working = working
        self._buffer_bytes = buffer_bytes
        self._held = bytearray()
        with working(path):
            self._file = path.open(mode, buffering=0)
            # What is written and whole.
            self._written = self._file.seek(0, os.SEEK_END)

    @property
    def num_bytes(self) -> int:
        """How long the file is, with what is held back."""
        return self._written + len(self._held)

    def put(self, *blocks: Block) -> None:
        """Append one record.

        Args:
            blocks: Its bytes, one block after the other; they are not needed after this.

        Raises:
            RunFolderError: The file cannot be written; the record is not in it.
        """
        size = sum(map(len, blocks))
        with self._working(self.path):
            if len(self._held) + size > self._buffer_bytes:
                self._drain()
            if size > self._buffer_bytes:
                self._write(*blocks)
            else:
                self._hold(*blocks)

    def flush(self) -> None:
        """Hand everything to the operating system: it outlives this process.

        Raises:
            RunFolderError: The file cannot be written; what is held back is still held.
        """
        with self._working(self.path):
            self._drain()

    def mark(self) -> int:
        """Bring everything to the disk: how long the file is now, in bytes.

        Raises:
            RunFolderError: The file cannot be written.
        """
        with self._working(self.path):
            self._drain()
            os.fsync(self._file.fileno())
            return self._written

    def close(self) -> None:
        """Bring everything to the disk, and close the file. May be called twice.

        Raises:
            RunFolderError: The file cannot be written; it is closed all the same.
        """
        if not self._file.closed:
            try:
                self.mark()
            finally:
                self._file.close()

    def _hold(self, *blocks: Block) -> None:
        start = len(self._held)
        try:
            for block in blocks:
                self._held += block
        except BaseException:
            # Half a record, from Ctrl-C, would spoil all that follow it.
            del self._held[start:]
            raise

    def _drain(self) -> None:
        if self._held:
            self._write(bytes(self._held))
            self._held.clear()

    def _write(self, *blocks: Block) -> None:
        """Write whole records, or nothing."""
        size = sum(map(len, blocks))
        # One call of the system where copying is cheaper than another one.
        parts = (b"".join(blocks),) if size <= _JOINED_BYTES else blocks
        try:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._written)
            # Where even that failed, the next record is written over the rest of this one.
            with suppress(OSError):
                self._file.seek(self._written)
            raise
        self._written += size
