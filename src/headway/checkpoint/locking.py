"""A folder that one process uses at a time."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from headway.core.errors import CheckpointError

__all__ = ["lock_folder", "try_lock"]


def lock_folder(folder: Path) -> IO[bytes]:
    """Keep other processes out of a folder; the system lets them in again when this one ends.

    Args:
        folder: It is made if it is not there.

    Returns:
        What to close in the end.

    Raises:
        CheckpointError: Another process has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except OSError as error:
        raise CheckpointError(
            "the folder cannot be written",
            where=str(folder),
            got=error.strerror or repr(error),
            help="check the path, its permissions and the free space",
        ) from error
    if not try_lock(file):
        file.close()
        raise CheckpointError(
            "another server uses this folder",
            where=str(folder),
            help="stop it first, or use another folder",
        )
    return file


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open here; False if somebody else has it.

    Args:
        file: An open one.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks; there it is for the user to start one server only.
        return True
    return True
