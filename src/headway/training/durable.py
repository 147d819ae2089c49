"""A parameter server whose every acknowledged update survives: its log, and when it is shortened."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from headway.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Journal,
    LoggedServer,
    recover,
    save_checkpoint,
)
from headway.core import Server
from headway.core.errors import CheckpointError, UsageError
from headway.training.home import LOG, Durability, Home
from headway.training.saving import Keeper, catch_up, restore_tally

if TYPE_CHECKING:
    import os

    from headway.core import Algorithm, ParameterLayout
    from headway.runtime.hub import Hub

__all__ = ["LogKeeper", "keeper_at", "kept"]

_NOTES: Final = logging.getLogger("headway")
_REPLAY_S: Final = 2.0
"""How long making the calls of the log again may take; the start, and reading the checkpoint, come
on top of it."""
_CALL_S: Final = 60e-6
_BYTES_A_SECOND: Final = 250e6
_AGAIN_S: Final = 1.0
_KEEP: Final = 2


@final
class LogKeeper:
    """Keeps a server's log, and writes checkpoints so that a restart stays short.

    A checkpoint is due every so many versions, or as soon as making the calls since the last one
    again is estimated to take two seconds: the time that the server's doors took, and that of
    reading so many calls and bytes. Likewise after a disk that failed, because the log goes on only
    with one.

    Args:
        home: Where.
        every: The distance between checkpoints, in versions, at least 1.

    Attributes:
        error: Why the newest checkpoint could not be written; ``None``: it could.
        resumed_from: The checkpoint that the server went on from; ``None``: it began anew.
        logged: The server's doors, once it is open.
        recovery_s: How long it took to open it, in seconds.
        num_replayed: How many calls were made again.
    """

    def __init__(self, home: Home, every: int) -> None:
        self._home = home
        self._store = CheckpointStore(home.folder, keep_last=_KEEP)
        self._journal = Journal(home.folder / LOG)
        self._every = every
        self._writer = ThreadPoolExecutor(1, "headway-checkpoint")
        self._writing: Future[None] | None = None
        self._found: Checkpoint | None = None
        self._is_missing = False
        self._problem: CheckpointError | None = None
        self._saved = 0
        self._busy_s = 0.0
        self._not_before_s = 0.0
        self.error: Exception | None = None
        self.resumed_from: Path | None = None
        self.logged: LoggedServer | None = None
        self.recovery_s = 0.0
        self.num_replayed = 0

    def open(self, make_server: Callable[[int], Server]) -> Server:
        """The server to go on with: new, or as it was at the last call in the log.

        Args:
            make_server: Makes one, whose incarnation is at least this.

        Raises:
            CheckpointError: An acknowledged call is damaged or missing, the folder cannot be
                written, or another server uses it.
            ConfigurationError: It is of another model or another algorithm.
            ReplayMismatchError: The calls do not fit the server: another seed or configuration.
        """
        began = time.monotonic()
        starts = self._home.enter()
        server = recover(
            self._store,
            self._journal,
            lambda: make_server(starts),
            found=self._look_at,
            beside=self._home.beside(None),
        )
        self.logged = LoggedServer(server, self._journal)
        self.recovery_s = time.monotonic() - began
        # The last of them is that of this start.
        self.num_replayed = max(0, self._journal.calls_since_checkpoint - 1)
        self._busy_s = -self.recovery_s
        self._saved = server.version
        if self._is_missing:
            _NOTES.warning(
                "Headway: going on from version %s, %s; there is no log in %s, and updates that came "
                "after that version, if any, are lost, also those that were acknowledged",
                f"{server.version:,}",
                self.resumed_from,
                self._journal.folder,
            )
        elif self.resumed_from is not None:
            _NOTES.warning(
                "Headway: going on from version %s, every update that was acknowledged; %s and "
                "%s calls after it, %.2f s",
                f"{server.version:,}",
                self.resumed_from,
                f"{self.num_replayed:,}",
                self.recovery_s,
            )
        return server

    def restore(self, hub: Hub) -> Mapping[str, Any] | None:
        """Make a hub that has not run go on, too: its workers are expected back, with their jobs.

        Args:
            hub: Of the server that was opened.

        Returns:
            ``None``: it is new; else the ``"server"``'s state, whether it had ``"ended"`` in order,
            and how many updates are ``"uncounted"``, but for their number.

        Raises:
            StateError: The state does not fit.
        """
        found, self._found = self._found, None
        if found is None:
            return None
        names = restore_tally(hub, found.tree, found.path)
        state = hub.server.state_dict()
        roster = state["roster"]
        jobs: dict[str, list[int]] = {name: [] for name in (*names, *roster["names"])}
        for job, name, *_ in state["jobs"]:
            jobs[name].append(job)
        known = zip(roster["workers"]["index"].tolist(), roster["workers"]["lost"], strict=True)
        here = {roster["names"][index] for index, lost in known if not lost}
        hub.returning.expect(jobs, here, hub.server.now)
        for name in here:
            # Who had left by the checkpoint may have come again since.
            hub.members.by_name[name].left = "lost"
        ended, before = found.tree.get("ended", False), found.tree["server"]["counts"]
        return {"server": state, "ended": ended, "uncounted": catch_up(hub, before)}

    def settled(self, hub: Hub) -> None:
        """Save, if it is due and the last one is written. For the hub's thread.

        Args:
            hub: Whose server.
        """
        self._tell(hub)
        if self._writing is not None:
            if not self._writing.done():
                return
            self._note()
        if not self._is_due(hub) or time.monotonic() < self._not_before_s:
            return
        try:
            self._writing = self._writer.submit(self._begin(hub))
        except Exception as error:  # noqa: BLE001 (told in the status: it must not end the server)
            self._failed(error)

    def finish(self, hub: Hub) -> None:
        """Save the server as it is at the end. When this returns, it is on the disk.

        Args:
            hub: One that has ended.

        Raises:
            CheckpointError: It cannot be written; what was acknowledged is in the log.
        """
        self._writer.shutdown(wait=True)
        self._note()
        try:
            self._begin(hub)()
        except CheckpointError as error:
            raise CheckpointError(
                "the last checkpoint cannot be written; every update that was acknowledged is in the "
                "log",
                where=error.where,
                got=" ".join(str(error.got or error.message).split()),
                help="free some space; the next start reads the log",
            ) from error

    def close(self) -> None:
        """Write no more. May be called twice."""
        self._writer.shutdown(wait=True)
        with suppress(CheckpointError):
            self._journal.close()
        self._home.leave()

    def describe(self, hub: Hub) -> dict[str, Any]:
        """How it is, in plain values.

        Args:
            hub: Whose server.
        """
        journal, problem = self._journal, hub.patience.problem or hub.outbox.problem
        return {
            "durability": "log",
            "log": {
                "error": None if problem is None else str(problem),
                "calls": journal.sequence,
                "durable": journal.durable,
                "calls_since_checkpoint": journal.calls_since_checkpoint,
                "bytes_since_checkpoint": journal.bytes_since_checkpoint,
                "replay_s": round(self._replay_s(), 3),
                "syncs": hub.outbox.num_syncs,
                "waiting": hub.patience.num_waiting + hub.outbox.num_waiting,
                "recovery_s": round(self.recovery_s, 3),
                "replayed": self.num_replayed,
            },
        }

    def _look_at(self, found: Checkpoint) -> None:
        self._home.check(found.tree, found.path)
        self._found, self.resumed_from = found, found.path
        # A log has a segment before there is a checkpoint of it.
        self._is_missing = not any(self._journal.folder.glob("log-*.hwlog"))

    def _replay_s(self) -> float:
        assert self.logged is not None
        journal = self._journal
        reading_s = journal.calls_since_checkpoint * _CALL_S
        reading_s += journal.bytes_since_checkpoint / _BYTES_A_SECOND
        return self.logged.busy_s - self._busy_s + reading_s

    def _is_due(self, hub: Hub) -> bool:
        if hub.server.version - self._saved >= self._every or self._journal.failure is not None:
            return True
        # It may be the log itself that fills the disk, and a checkpoint shortens it.
        if _lacks_space(hub.patience.problem) and self._journal.calls_since_checkpoint > 0:
            return True
        return self._replay_s() >= _REPLAY_S and self._journal.calls_since_checkpoint > 0

    def _begin(self, hub: Hub) -> Callable[[], None]:
        if self.logged is None:
            raise UsageError("the log has not been opened", where="LogKeeper")
        beside = self._home.beside(hub)
        write = save_checkpoint(self._store, self._journal, hub.server, beside)
        self._saved, self._busy_s = hub.server.version, self.logged.busy_s
        return write

    def _tell(self, hub: Hub) -> None:
        """Say, once, that the log cannot be written; and that it can be again."""
        before, self._problem = self._problem, hub.patience.problem or hub.outbox.problem
        if before is None and self._problem is not None:
            _NOTES.error("Headway: nothing is taken until it can be logged: %s", self._problem)
        elif before is not None and self._problem is None:
            _NOTES.warning("Headway: the log can be written again")

    def _note(self) -> None:
        """Remember whether the checkpoint before could be written."""
        if self._writing is not None and self._writing.done():
            error = self._writing.exception()
            self._writing, before = None, self.error
            if isinstance(error, Exception):
                self._failed(error)
            else:
                self.error = None
                if before is not None:
                    _NOTES.warning("Headway: checkpoints can be written again")

    def _failed(self, error: Exception) -> None:
        if self.error is None:
            _NOTES.error("Headway: a checkpoint could not be written: %s", error)
        self.error = error
        # It is due until there is one: its log is as long as it was.
        self._saved -= self._every
        self._not_before_s = time.monotonic() + _AGAIN_S


def keeper_at(
    folder: str | os.PathLike[str] | None,
    every: int,
    algorithm: Algorithm,
    layout: ParameterLayout,
    durability: Durability,
) -> Keeper | LogKeeper | None:
    """What keeps a server that workers connect to; ``None``: nothing does.

    Args:
        folder: Its home; ``None``: it has none.
        every: The distance between checkpoints, in versions, at least 1.
        algorithm: The server's.
        layout: Of its model, as the server has it.
        durability: What survives.
    """
    if folder is None:
        return None
    home = Home(folder, algorithm, layout, durability)
    return LogKeeper(home, every) if durability == "log" else Keeper(home, every)


def kept(keeper: Keeper | LogKeeper | None, hub: Hub) -> dict[str, Any]:
    """How well a server is kept, in plain values.

    Args:
        keeper: What keeps it.
        hub: Whose server.
    """
    if keeper is None:
        return {"resumed_from": None, "checkpoint_error": None, "durability": None}
    path, error = keeper.resumed_from, keeper.error
    return {
        "resumed_from": None if path is None else str(path),
        "checkpoint_error": None if error is None else str(error),
        **keeper.describe(hub),
    }


def _lacks_space(problem: CheckpointError | None) -> bool:
    cause = None if problem is None else problem.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
