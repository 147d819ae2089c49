"""The durable log: every call of the server's doors, on the disk before its answer leaves."""

from __future__ import annotations

import errno
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Final, NamedTuple, final

from headway.checkpoint.calls import Call
from headway.checkpoint.locking import try_lock
from headway.checkpoint.segments import BadRecordError, Entry, Segment, SegmentReader
from headway.core.errors import CheckpointError
from headway.observe import files

__all__ = ["Journal", "LogCutWarning"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME: Final = re.compile(r"log-(\d{20})\.hwlog")


class LogCutWarning(UserWarning):
    """The end of a log is cut off, as a killed server leaves it; what stands before it is used.

    Nothing that is left says that what was cut off had been acknowledged. Given through
    :mod:`warnings`.
    """


class _Place(NamedTuple):
    """A segment's file, and the number of its first record."""

    first: int
    path: Path


@final
class Journal:
    """An append-only log of calls, in segments, each record with its checksum.

    A call is appended before the server sees it, and its answer leaves when :attr:`durable` has
    reached it. One :meth:`sync` serves all calls that were appended before it, and another thread
    may do it while more are appended. A checkpoint begins with :meth:`rotate`, which says what the
    checkpoint covers, and ends with :meth:`covered`, which removes the segments that nobody needs.

    A call that the disk has no room for is refused before the server has seen it, and leaves no
    trace: the same call is taken when there is room.

    First :meth:`read`, to the end, then :meth:`begin`; :func:`recover` does both.

    Args:
        folder: Where; made when it is first needed. One process uses it at a time.

    Example:
        >>> import tempfile
        >>> journal = Journal(tempfile.mkdtemp())
        >>> list(journal.read(after=0))
        []
        >>> journal.begin()
        >>> journal.append(Call("tick", {"now": 1.0, "closing": False}), version=0)
        1
        >>> journal.durable, journal.sync(), journal.durable
        (0, 1, 1)
        >>> journal.close()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._segment: Segment | None = None
        self._owned: IO[bytes] | None = None
        self._read = False
        self._after = self._covered = self._sequence = self._durable = self._synced = 0
        # Bytes in all, and at the places that checkpoints were begun at.
        self._num_bytes = self._covered_bytes = 0
        self._begun: dict[int, int] = {}
        # Why nothing can be appended. A system that failed to write forgets what it failed to
        # write, so that trying again proves nothing. Then: which checkpoint must come first.
        self._failure: str | None = None
        self._gap: int | None = None
        self._lock = threading.Lock()
        # Whoever has both takes this one first.
        self._syncing = threading.Lock()

    @property
    def sequence(self) -> int:
        """The number of the newest record; 0: there is none."""
        return self._sequence

    @property
    def durable(self) -> int:
        """All records up to this number survive whatever happens: they may be acknowledged."""
        return self._durable

    @property
    def bytes_since_checkpoint(self) -> int:
        """How much would have to be replayed, in bytes: what tells when a checkpoint is due."""
        return self._num_bytes - self._covered_bytes

    @property
    def calls_since_checkpoint(self) -> int:
        """Likewise, in calls: with a small model these are what takes the time."""
        return self._sequence - self._covered

    @property
    def failure(self) -> str | None:
        """What the disk said when it failed; nothing is appended then until a checkpoint is begun."""
        return self._failure

    def read(self, after: int) -> Iterator[Entry]:
        """Read what a killed server left, once; at the end of it, a torn end is cut off.

        Args:
            after: The number of the last record that the checkpoint covers.

        Raises:
            CheckpointError: A record that was acknowledged is damaged or missing, a file cannot be
                read, or another process uses the log.
        """
        try:
            self._own()
            yield from self._read_on(after)
            self._durable = self._synced = self._sequence
            self._read = True
        finally:
            if not self._read:
                self._disown()

    def begin(self) -> None:
        """Begin to append, in a new segment.

        Raises:
            CheckpointError: It cannot be written.
        """
        if not self._read or self._segment is not None:
            raise CheckpointError(
                "a log is read to its end before it goes on, and begun once",
                where=str(self.folder),
                help="use recover(store, journal, make_server), which does both",
            )
        with _logging(self.folder):
            for left in self.folder.glob(".log-*.writing"):
                left.unlink()
        self._segment = self._new_segment()

    def append(self, call: Call, *, version: int) -> int:
        """Append a call that is about to be made: its number.

        Args:
            call: What is about to be called.
            version: The server's, before the call.

        Raises:
            CheckpointError: It cannot be written, and must not be made; the log is as it was.
        """
        with self._lock:
            segment = self._usable()
            size = segment.append(self._sequence + 1, self._durable, version, call)
            self._num_bytes += size
            self._sequence += 1
            return self._sequence

    def sync(self) -> int:
        """Bring all that was appended to the disk: up to which record everything is durable.

        Any thread may call it; meanwhile others go on appending.

        Raises:
            CheckpointError: The disk failed. What it holds is not known then, so nothing more is
                appended until a checkpoint is begun.
        """
        with self._syncing:
            with self._lock:
                segment, target = self._usable(), self._sequence
            if target > self._synced:
                try:
                    segment.sync()
                except CheckpointError as error:
                    self._failure = str(error.got)
                    raise
                with self._lock:
                    self._reach(target)
            return self._durable

    def rotate(self) -> int:
        """Begin a new segment: the number of the last record before it.

        A checkpoint of the server as it is now covers the records up to that number. After a disk
        that failed, nothing is durable until this checkpoint is: see :meth:`covered`.

        Raises:
            CheckpointError: It cannot be written; the log goes on as it was.
        """
        with self._syncing, self._lock:
            segment = self._begun_segment()
            if self._failure is None and segment.first > self._sequence:
                return self._remember()
            if self._failure is None:
                try:
                    segment.sync()
                    self._reach(self._sequence)
                except CheckpointError as error:
                    self._failure = str(error.got)
            self._segment = self._new_segment()
            if self._failure is not None:
                self._gap, self._failure = self._sequence, None
            with suppress(CheckpointError):
                segment.close()
            return self._remember()

    def covered(self, number: int, *, oldest: int | None = None) -> None:
        """A checkpoint is on the disk.

        Args:
            number: What :meth:`rotate` said when it was begun.
            oldest: The number of the oldest checkpoint that is kept; by default this one.
        """
        with self._lock:
            self._durable = max(self._durable, number)
            self._covered = max(self._covered, number)
            if self._gap is not None and number >= self._gap:
                self._gap = None
                self._durable = max(self._durable, self._synced)
            self._covered_bytes = max(self._covered_bytes, self._begun.pop(number, 0))
            self._begun = {n: size for n, size in self._begun.items() if n > number}
        kept = number if oldest is None else min(number, oldest)
        # What cannot be removed now is removed with the next one.
        with suppress(OSError):
            for place, following in pairwise(self._places()):
                if following.first <= kept + 1:
                    place.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Bring everything to the disk, and close the log. May be called twice.

        Raises:
            CheckpointError: The disk failed.
        """
        with self._syncing, self._lock:
            segment, self._segment = self._segment, None
            try:
                if segment is not None:
                    segment.close()
                    if self._failure is None:
                        self._reach(self._sequence)
            finally:
                self._disown()

    def _own(self) -> None:
        """Keep other processes out; the system lets them in again when this one ends."""
        with _logging(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owned = (self.folder / ".lock").open("ab")
        if not try_lock(self._owned):
            self._disown()
            raise CheckpointError(
                "another server uses this log",
                where=str(self.folder),
                help="stop it first, or use another folder",
            )

    def _disown(self) -> None:
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def _begun_segment(self) -> Segment:
        if self._segment is None:
            raise CheckpointError(
                "this log is not open",
                where=str(self.folder),
                help="read() it to the end and begin(); after close(), make another one",
            )
        return self._segment

    def _usable(self) -> Segment:
        segment = self._begun_segment()
        if self._failure is not None:
            raise CheckpointError(
                "the disk has failed, and nothing can be logged until there is a checkpoint",
                where=str(segment.path),
                got=self._failure,
                help="look after the disk; a checkpoint begins the log anew",
            )
        return segment

    def _reach(self, target: int) -> None:
        self._synced = target
        if self._gap is None:
            self._durable = max(self._durable, target)

    def _remember(self) -> int:
        self._begun[self._sequence] = self._num_bytes
        return self._sequence

    def _new_segment(self) -> Segment:
        first = self._sequence + 1
        return Segment(self.folder / f"log-{first:020d}.hwlog", first, self._durable, _logging)

    def _places(self) -> list[_Place]:
        if not self.folder.is_dir():
            return []
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted(_Place(int(match[1]), path) for match, path in found if match)

    def _read_on(self, after: int) -> Iterator[Entry]:
        with _reading(self.folder):
            self._sequence = self._covered = self._after = after
            places = self._needed()
            for index, place in enumerate(places):
                try:
                    with SegmentReader(place.path) as reader:
                        self._check(place, reader)
                        for entry in reader.entries():
                            self._sequence = entry.sequence
                            self._num_bytes += entry.num_bytes
                            yield entry
                    # A killed process leaves what the system still has to write.
                    files.sync(place.path)
                except BadRecordError as bad:
                    self._cut(places[index:], bad)
                    break

    def _needed(self) -> list[_Place]:
        """The segments that hold what comes after the checkpoint."""
        places = self._places()
        needed = [place for place in places if place.first > self._after]
        # It is there before the checkpoint is, so that a log without it has lost something.
        if places and (not needed or needed[0].first != self._after + 1):
            raise self._damaged(self._after + 1, self.folder, "its segment is not there")
        return needed

    def _check(self, place: _Place, reader: SegmentReader) -> None:
        expected = self._sequence + 1
        if reader.first != place.first or place.first < expected:
            raise self._damaged(
                place.first, place.path, f"the file begins with record {reader.first}"
            )
        if place.first > expected:
            raise BadRecordError("it is not there", expected, 0)

    def _cut(self, places: list[_Place], bad: BadRecordError) -> None:
        """Cut off what is not known to be acknowledged; an error where it is."""
        claim = 0
        for place in places:
            try:
                with SegmentReader(place.path) as reader:
                    claim = max(claim, reader.claim(bad.offset if place is places[0] else 0))
            except BadRecordError as worse:
                raise self._damaged(max(place.first, bad.sequence), place.path, worse.what) from bad
        if bad.sequence <= claim:
            raise self._damaged(bad.sequence, places[0].path, bad.what)
        warnings.warn(
            f"{places[0].path.name}: the log is used up to record {bad.sequence - 1}, and what "
            f"follows is cut off ({bad.what}); it is not known to have been acknowledged",
            LogCutWarning,
            stacklevel=4,
        )
        # The newest first: a log that is cut off anywhere is one that can be cut off again.
        for place in reversed(places[1:]):
            place.path.unlink()
        if bad.offset:
            files.cut(places[0].path, bad.offset)
            files.sync(places[0].path)
        else:
            places[0].path.unlink()

    def _damaged(self, sequence: int, path: Path, what: str) -> CheckpointError:
        return CheckpointError(
            f"record {sequence} of the log was acknowledged, and is damaged or missing",
            where=str(path),
            got=what,
            expected=f"record {sequence}; checkpoint {self._after} and the "
            f"{max(0, sequence - 1 - self._after)} records after it are sound",
            help=f"restore the file; or move {self.folder.name} away, and the server goes on from "
            f"checkpoint {self._after}, without the updates that came after it",
        )


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Say what became of a call that could not be logged."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        full = error.errno in _FULL
        raise CheckpointError(
            "the disk is full, and the log cannot grow" if full else "the log cannot be written",
            where=str(path),
            got=error.strerror or repr(error),
            help="nothing was applied and nothing is lost; "
            + ("free some space" if full else "check the disk and its permissions")
            + ", and the same call is taken",
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            "the log cannot be read",
            where=str(path),
            got=error.strerror or repr(error),
            help="check the path, its permissions and the free space",
        ) from error
