"""Files of our own that two processes of one machine have mapped, to share vectors.

Not :mod:`multiprocessing.shared_memory`: its tracker, in a process that has nothing to do with the
owner, removes the memory when that process ends. A segment's file lies in a folder that only this
user can enter. A folder whose owner was killed is removed by the next server that starts.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, final

import torch
from torch import Tensor

from headway.core import Buffers, ParameterLayout
from headway.core.errors import HeadwayError
from headway.core.snapshots import ORDINARY
from headway.runtime.rooms import Room, Sizes

__all__ = ["Mapping", "Segment", "Segments", "SharedMemory", "machine"]

_LOG: Final = logging.getLogger("headway")
_PREFIX: Final = "headway-"
_LOCK: Final = "lock"
_ATTEMPTS: Final = 100
_NAMES: Final = re.compile(rf"({_PREFIX}[A-Za-z0-9_]+)/([1-9][0-9]*)")


def machine() -> str:
    """What tells this machine, and this user on it, from others: 32 hex digits; or nothing.

    Two processes with the same answer can open each other's segments. Containers that share a
    kernel have different ones, unless they share the folder for segments too.
    """
    folder = _folder()
    try:
        about = folder.stat()
        boot = Path("/proc/sys/kernel/random/boot_id")
        name = boot.read_text() if boot.exists() else os.uname().nodename
    except OSError:
        return ""
    told = f"{name} {os.getuid()} {folder} {about.st_dev} {about.st_ino}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]


@final
class Segment:
    """One mapped file.

    Attributes:
        index: Its number, from 1.
        path: The file.
        memory: Its bytes, uint8.
    """

    __slots__ = ("index", "memory", "path")

    def __init__(self, index: int, path: Path, memory: Tensor) -> None:
        self.index = index
        self.path = path
        self.memory = memory


@final
class Segments:
    """The segments of one server. They live until it is closed, or its process has ended."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock: IO[bytes] | None = None
        self._by_address: dict[int, Segment] = {}
        self._by_index: dict[int, Segment] = {}
        self._count = 0
        self._is_told = False

    def create(self, num_bytes: int) -> Segment:
        """Make a segment.

        Args:
            num_bytes: Its size, at least 1.

        Raises:
            HeadwayError: There is no room for it.
        """
        folder = self._open()
        path = folder / f"{self._count + 1}"
        free = shutil.disk_usage(folder).free
        # To write where there is no room would end the process, without an error to catch.
        if free < num_bytes:
            raise _no_room(folder, num_bytes, free)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _reserve(descriptor, num_bytes)
                memory = mmap.mmap(descriptor, num_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _no_room(folder, num_bytes, free) from error
        self._count += 1
        segment = Segment(self._count, path, torch.frombuffer(memory, dtype=torch.uint8))
        self._by_index[segment.index] = segment
        self._by_address[segment.memory.data_ptr()] = segment
        return segment

    def lacking(self, error: HeadwayError) -> None:
        """Say, once, that vectors go without shared memory, because there is no room for it.

        Args:
            error: What :meth:`create` raised.
        """
        if not self._is_told:
            self._is_told = True
            _LOG.warning("Headway: vectors travel without shared memory: %s", error)

    def remove(self, segment: Segment) -> None:
        """Give a segment back; who has mapped it keeps it until it lets go.

        Args:
            segment: One of these.
        """
        self._by_index.pop(segment.index, None)
        self._by_address.pop(segment.memory.data_ptr(), None)
        segment.path.unlink(missing_ok=True)

    def holding(self, vector: Tensor) -> Segment | None:
        """The segment that begins with this vector; ``None``: it lies elsewhere."""
        return self._by_address.get(vector.data_ptr())

    def close(self) -> None:
        """Remove all files. May be called twice."""
        self._by_index.clear()
        self._by_address.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._folder = self._lock = None

    def _open(self) -> Path:
        if self._folder is None:
            _remove_orphans()
            self._folder, self._lock = _own_folder()
        return self._folder


@final
class SharedMemory:
    """Where a server's parameters and snapshots lie if workers of this machine shall read them.

    Args:
        segments: Where to make them.
        layout: Of the model.
        consistent: Whether a job is given a copy, or the server's own vector.
        strict: Whether it is an error that there is no room. Else they lie in memory of this
            process alone, and workers are sent them as from any other machine.
    """

    def __init__(
        self,
        segments: Segments,
        layout: ParameterLayout,
        *,
        consistent: bool = True,
        strict: bool = False,
    ) -> None:
        self.consistent = consistent
        self._strict = strict
        self._segments = segments
        self._sizes = Sizes(layout)

    def make(self, parameters: Tensor, buffers: Buffers | None) -> tuple[Tensor, Buffers | None]:
        """Make room for one model.

        Args:
            parameters: A pattern.
            buffers: Likewise.

        Raises:
            HeadwayError: There is no room, and nothing else will do.
        """
        if parameters.device.type != "cpu":
            empty = None if buffers is None else buffers.clone()
            return torch.empty_like(parameters), empty
        try:
            segment = self._segments.create(self._sizes.segment_bytes)
        except HeadwayError as error:
            if self._strict:
                raise
            self._segments.lacking(error)
            return ORDINARY.make(parameters, buffers)
        room = self._sizes.room_in(segment.memory)
        return room.vector, room.buffers


@final
class Mapping:
    """Segments as a worker sees them: opened by path, once each.

    The server may be hostile: nothing is opened that is not a segment of this user.

    Args:
        layout: Of the model.
    """

    def __init__(self, layout: ParameterLayout) -> None:
        self._sizes = Sizes(layout)
        self._rooms: dict[int, Room] = {}

    def open(self, index: int, path: str, num_bytes: int, *, writable: bool = False) -> Room:
        """Map a segment, or find it again.

        Args:
            index: Its number.
            path: Its file; not needed for one that is mapped already.
            num_bytes: Its size.
            writable: Whether to write to it.

        Raises:
            OSError: There is no such segment here, or it is of another size.
        """
        room = self._rooms.get(index)
        if room is None:
            room = self._rooms[index] = self._map(path, num_bytes, writable=writable)
        return room

    def _map(self, path: str, num_bytes: int, *, writable: bool) -> Room:
        descriptor = _open_segment(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size != num_bytes or num_bytes < self._sizes.segment_bytes:
                raise OSError(f"{path} has {size} bytes, and was said to have {num_bytes}")
            # Torch has no tensor that cannot be written to. A private mapping shows what others
            # write, and keeps what is written here by mistake away from them.
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
            memory = mmap.mmap(descriptor, num_bytes, access=access)
        finally:
            os.close(descriptor)
        return self._sizes.room_in(torch.frombuffer(memory, dtype=torch.uint8))


def _folder() -> Path:
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def _open_segment(path: str, flags: int) -> int:
    """A descriptor of a server's segment; OSError where a path names anything else."""
    outer = str(_folder())
    names = _NAMES.fullmatch(path.removeprefix(f"{outer}/"))
    if names is None or not path.startswith(f"{outer}/"):
        raise OSError(f"{path!r} is no segment of a server")
    # From descriptor to descriptor: what was looked at is what is opened.
    folder = os.open(f"{outer}/{names[1]}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        about = os.fstat(folder)
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise OSError(f"{path!r} lies in a folder that others can enter")
        # A pipe of that name would keep who opens it.
        descriptor = os.open(names[2], flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
        os.close(descriptor)
        raise OSError(f"{path!r} is no segment of this user")
    return descriptor


def _reserve(descriptor: int, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.ftruncate(descriptor, num_bytes)


def _own_folder() -> tuple[Path, IO[bytes]]:
    """A new folder, and its lock, which is held."""
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_folder()))
        # Until its lock is held, a server that starts now takes it for what a killed one has left.
        with suppress(FileNotFoundError):
            lock = (folder / _LOCK).open("wb")
            if _try_lock(lock) and (folder / _LOCK).exists():
                return folder, lock
            lock.close()
        shutil.rmtree(folder, ignore_errors=True)
    raise HeadwayError(
        "a folder for memory that processes share cannot be locked",
        where=str(_folder()),
        help="give shared_memory=False, or use a file system that has locks",
    )


def _remove_orphans() -> None:
    for folder in _folder().glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("r+b") as lock:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open here; False if another process has it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _no_room(folder: Path, num_bytes: int, free: int) -> HeadwayError:
    return HeadwayError(
        "there is no room for memory that processes share",
        where=str(folder),
        got=f"{free:,} bytes free",
        expected=f"{num_bytes:,}",
        help="make the file system larger (mount -o remount,size=...), or use fewer workers",
    )
