"""A parameter server's checkpoints: when they are due, and how one is gone on with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from headway.checkpoint import CheckpointStore
from headway.core import Server
from headway.core.errors import CheckpointError, StateError

if TYPE_CHECKING:
    from headway.checkpoint import LoggedServer
    from headway.runtime.hub import Hub
    from headway.training.durable import LogKeeper
    from headway.training.home import Home

__all__ = ["Keeper", "Kept", "catch_up", "restore_tally", "save_last"]

_LOG: Final = logging.getLogger("headway")
_UNNAMED: Final = "before_the_restart"


class Kept(NamedTuple):
    """A checkpoint that a server goes on from.

    Attributes:
        version: Of its model.
        tree: All of it.
        path: Its folder.
    """

    version: int
    tree: dict[str, Any]
    path: Path


@final
class Keeper:
    """Saves a server every so many versions, beside its work, and finds what was saved.

    The state is copied by the hub's thread, between two updates, and written by another one. Where
    that takes longer than the distance between checkpoints, the one that is due waits for its turn
    and is then the newest.

    Args:
        home: Where.
        every: The distance, in versions, at least 1.
        beside: Makes what else is to be in a checkpoint, as plain values; called by the hub's thread.

    Attributes:
        error: Why the newest checkpoint could not be written; ``None``: it could.
        resumed_from: The checkpoint that the server went on from; ``None``: it began anew.
        logged: ``None``: it keeps no log.
    """

    def __init__(
        self,
        home: Home,
        every: int,
        beside: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._home = home
        self._beside = beside
        self._store = CheckpointStore(home.folder)
        self._every = every
        self._writer = ThreadPoolExecutor(1, "headway-checkpoint")
        self._writing: Future[Path] | None = None
        self._saved = 0
        self._kept: Kept | None = None
        self.error: Exception | None = None
        self.resumed_from: Path | None = None
        self.logged: LoggedServer | None = None

    def open(self, make_server: Callable[[int], Server]) -> Server:
        """The server to go on with: new, or what was saved.

        Args:
            make_server: Makes one, whose incarnation is at least this.

        Raises:
            CheckpointError: No checkpoint that is there can be read, the folder cannot be written,
                or another server uses it.
            ConfigurationError: It is of another model or another algorithm.
            StateError: The state does not fit.
        """
        starts = self._home.enter()
        found = self._store.load() if self._store.numbers() else None
        if found is not None:
            self._home.check(found.tree, found.path)
        server = make_server(starts)
        if found is None:
            return server
        try:
            server.load_state_dict(found.tree["server"], restarted=True)
        except LookupError as error:
            raise _no_checkpoint(found.path, error) from error
        self._saved, self.resumed_from = server.version, found.path
        self._kept = Kept(server.version, found.tree, found.path)
        after = "; the server had ended in order, and nothing came after it"
        if not self._home.ended_with(found.tree):
            after = "; updates that came after it are not in it"
            after += ' (durability="log" keeps them)' if self._home.is_for_all else ""
        _LOG.warning(
            "Headway: going on from version %s, %s%s", f"{server.version:,}", found.path, after
        )
        return server

    def restore(self, hub: Hub, *, clients: bool = False) -> Mapping[str, Any] | None:
        """Make a hub that has not run go on, too: its workers are lost, and may come back.

        Args:
            hub: Of the server that was opened.
            clients: Whether what the server calls its workers are clients, who are there whoever
                works for them: only their jobs are lost.

        Returns:
            The checkpoint; ``None``: there was none.

        Raises:
            StateError: The state does not fit.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        names = restore_tally(hub, kept.tree, kept.path)
        if clients:
            names = list(dict.fromkeys(name for _, name, *_ in kept.tree["server"]["jobs"]))
        for name in names:
            hub.server.lose(name, hub.server.now, again=clients)
        return kept.tree

    def settled(self, hub: Hub) -> None:
        """Save, if it is due and the last one is written. For the hub's thread.

        Args:
            hub: Whose server.
        """
        if hub.server.version - self._saved < self._every:
            return
        if self._writing is not None and not self._writing.done():
            return
        self._note()
        self._saved = hub.server.version
        try:
            tree = self._tree(hub)
        except Exception as error:  # noqa: BLE001 (told in the status)
            _LOG.exception("Headway: a checkpoint could not be made")
            self.error = error
            return
        self._writing = self._writer.submit(self._store.save, self._saved, tree)

    def finish(self, hub: Hub) -> Path:
        """Save the server as it is at the end. When this returns, it is on the disk.

        Args:
            hub: One that has ended.

        Raises:
            CheckpointError: It cannot be written.
        """
        self._writer.shutdown(wait=True)
        self._note()
        try:
            tree = self._tree(hub)
        except Exception as error:
            raise CheckpointError("a checkpoint could not be made", got=repr(error)) from error
        return self._store.save(hub.server.version, tree)

    def close(self) -> None:
        """Write no more; what is being written is finished. May be called twice."""
        self._writer.shutdown(wait=True)
        self._home.leave()

    def describe(self, hub: Hub) -> dict[str, Any]:
        """How it is, in plain values.

        Args:
            hub: Whose server.
        """
        return {"durability": "checkpoint", "unsaved_versions": hub.server.version - self._saved}

    def _tree(self, hub: Hub) -> dict[str, Any]:
        return {**self._home.beside(hub), **self._beside(), "server": hub.server.state_dict()}

    def _note(self) -> None:
        """Remember whether the checkpoint before could be written."""
        if self._writing is not None and self._writing.done():
            error, before = self._writing.exception(), self.error
            self.error = error if isinstance(error, Exception) else None
            self._writing = None
            if self.error is not None and before is None:
                _LOG.error("Headway: a checkpoint could not be written: %s", self.error)
            elif self.error is None and before is not None:
                _LOG.warning("Headway: checkpoints can be written again")


def save_last(keeper: Keeper | LogKeeper | None, hub: Hub) -> Exception | None:
    """Write the last checkpoint of a server, also of one that an error has ended.

    Args:
        keeper: The server's; ``None``: it has none.
        hub: One that has ended.

    Returns:
        Why it could not be written; ``None``: it was, or is not needed.
    """
    if keeper is None or (hub.error is not None and keeper.logged is not None):
        # The log has all that was acknowledged, and no half of a call that broke off.
        return None
    try:
        keeper.finish(hub)
    except Exception as error:  # noqa: BLE001 (whoever stops the server raises it)
        keeper.error = error
    else:
        keeper.error = None
    return keeper.error


def catch_up(hub: Hub, before: Mapping[str, int]) -> int:
    """Count the updates that a server has taken since its hub's counts were saved.

    Args:
        hub: Restored.
        before: The server's own counts, as they were then.

    Returns:
        How many updates were missing; nothing else is known of them.
    """
    names, counts = ("applied", "buffered", "rejected"), hub.server.counts
    missing = {name: counts[name] - before.get(name, 0) for name in names}
    hub.tally.updates += sum(missing.values())
    if missing["rejected"]:
        hub.tally.reasons[_UNNAMED] += missing["rejected"]
    return sum(missing.values())


def restore_tally(hub: Hub, tree: Any, path: Path) -> list[str]:
    """Bring a hub's counts and workers back, as they were saved: the workers' names.

    Args:
        hub: A new one.
        tree: A checkpoint.
        path: Its folder.

    Raises:
        StateError: It does not fit.
    """
    try:
        if tree["tally"] is not None:
            hub.tally.load_state_dict(tree["tally"])
        names = [str(name) for name in tree["workers"]]
        # Checkpoints from before workers could be forgotten number them by their places.
        numbers = tree.get("numbers", range(len(names)))
        left = set(tree.get("left", ()))
        for name, number in zip(names, numbers, strict=True):
            why = "left" if name in left else "lost"
            hub.members.restore(name, hub.server.now, int(number), left=why)
        return names
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _no_checkpoint(path, error) from error


def _no_checkpoint(path: Path, error: Exception) -> StateError:
    return StateError(
        "this is no checkpoint of a parameter server", where=str(path), got=repr(error)
    )
