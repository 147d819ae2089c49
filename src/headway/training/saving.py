"""A parameter server's checkpoints: when they are due, what is in them, and how one is gone on with."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from headway import __version__
from headway.checkpoint import CheckpointStore
from headway.core import ParameterLayout
from headway.core.errors import CheckpointError, ConfigurationError, StateError
from headway.observe import files
from headway.runtime.members import Member

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.runtime.hub import Hub

__all__ = ["Keeper", "Kept"]

_FORM: Final = 1
_STARTS: Final = "starts.json"


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
        folder: Where.
        every: The distance, in versions, at least 1.
        algorithm: The server's.
        layout: Of its model, as the server has it.

    Attributes:
        starts: How many servers were started on this folder before this one.
        error: Why the newest checkpoint could not be written; ``None``: it could.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int,
        algorithm: Algorithm,
        layout: ParameterLayout,
    ) -> None:
        self._store = CheckpointStore(folder)
        self._every = every
        self._algorithm = algorithm
        self._layout = layout
        self._writer = ThreadPoolExecutor(1, "headway-checkpoint")
        self._writing: Future[Path] | None = None
        self._saved = 0
        self._at = Path(folder) / _STARTS
        self.starts = 0
        self.error: Exception | None = None

    def find(self) -> Kept | None:
        """The newest sound checkpoint; ``None``: there is none. Counts this start.

        Raises:
            CheckpointError: None that is there can be read, or the folder cannot be written.
            ConfigurationError: It is of another model or another algorithm.
        """
        kept = None
        if self._store.numbers():
            found = self._store.load()
            self._check(found.tree, found.path)
            kept = Kept(int(found.tree["server"]["version"]), found.tree, found.path)
            self._saved = kept.version
        self.starts = self._count_start()
        return kept

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
        self._writing = self._writer.submit(self._store.save, self._saved, self._tree(hub))

    def finish(self, hub: Hub) -> Path:
        """Save the server as it is at the end. When this returns, it is on the disk.

        Args:
            hub: One that has ended.

        Raises:
            CheckpointError: It cannot be written.
        """
        self._writer.shutdown(wait=True)
        self._note()
        return self._store.save(hub.server.version, self._tree(hub))

    def close(self) -> None:
        """Write no more; what is being written is finished."""
        self._writer.shutdown(wait=True)

    def restore(self, hub: Hub, kept: Kept) -> None:
        """Make a server that has not run go on from a checkpoint.

        Workers that were there are lost, and nobody waits for them; they come back under their
        names. (A server that hands jobs back to their workers would do so here.)

        Args:
            hub: A new one.
            kept: From :meth:`find`.

        Raises:
            StateError: The state does not fit.
        """
        try:
            hub.server.load_state_dict(kept.tree["server"], restarted=True)
            hub.tally.load_state_dict(kept.tree["tally"])
            names = [str(name) for name in kept.tree["workers"]]
        except (LookupError, TypeError) as error:
            raise StateError(
                "this is no checkpoint of a parameter server",
                where=str(kept.path),
                got=repr(error),
            ) from error
        now = hub.server.now
        for index, name in enumerate(names):
            member = Member(name, index, "", None, now, now, left="lost")
            hub.members.by_name[name] = member
            hub.server.lose(name, now)

    def _tree(self, hub: Hub) -> dict[str, Any]:
        return {
            "form": _FORM,
            "library": __version__,
            "algorithm": self._algorithm.fingerprint,
            "layout": self._layout.describe(),
            "server": hub.server.state_dict(),
            "tally": hub.tally.state_dict(),
            "workers": list(hub.members.by_name),
        }

    def _check(self, tree: Any, path: Path) -> None:
        if not isinstance(tree, dict) or tree.get("form") != _FORM:
            raise ConfigurationError(
                "this folder holds checkpoints of something else",
                where=str(path),
                expected="those of a parameter server",
                help="choose another checkpoint_dir",
            )
        try:
            layout = ParameterLayout.from_description(tree["layout"])
            difference = self._layout.difference(layout)
        except (LookupError, StateError) as error:
            raise CheckpointError(
                "a checkpoint says nothing of its model", where=str(path)
            ) from error
        if difference is not None:
            raise ConfigurationError(
                "the checkpoint is of another model: the server has, against it, " + difference,
                where=str(path),
                help="build the model as it was, or choose another checkpoint_dir",
            )
        if tree.get("algorithm") != self._algorithm.fingerprint:
            raise ConfigurationError(
                "the checkpoint is of another algorithm",
                where=str(path),
                got=f"a server of {self._algorithm.fingerprint}",
                expected=str(tree.get("algorithm")),
                help="start the server with the options that it had, or choose another "
                "checkpoint_dir",
            )

    def _count_start(self) -> int:
        before = 0
        if self._at.exists():
            found = files.read_json(self._at)
            before = found["starts"] if isinstance(found, dict) else 0
        self._at.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self._at, {"starts": before + 1})
        return int(before)

    def _note(self) -> None:
        """Remember whether the checkpoint before could be written."""
        if self._writing is not None and self._writing.done():
            error = self._writing.exception()
            self.error = error if isinstance(error, Exception) else None
            self._writing = None
