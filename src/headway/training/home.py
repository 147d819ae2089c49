"""A server's folder: who may use it, which server it is of, and how often one was started on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, final

from headway import __version__
from headway.checkpoint.locking import lock_folder
from headway.core import ParameterLayout
from headway.core.errors import (
    CheckpointError,
    ConfigurationError,
    StateError,
    UnknownNameError,
)
from headway.observe import files, strict

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.runtime.hub import Hub

__all__ = ["LOG", "Durability", "Home", "check_durability"]

Durability = Literal["checkpoint", "log"]

LOG: Final = "log"
_FORM: Final = 1
_STARTS: Final = "starts.json"
_DURABILITIES: Final = ("checkpoint", "log")
_SHORT: Final = 100


def check_durability(level: str, folder: str | os.PathLike[str] | None, *, where: str) -> None:
    """See whether a level of durability is one, and has the folder that it needs.

    Args:
        level: What shall survive.
        folder: The server's; ``None``: it has none.
        where: The call that errors name.

    Raises:
        UnknownNameError: There is no such level.
        ConfigurationError: It needs a folder.
    """
    if level not in _DURABILITIES:
        place = f"{where}(durability=...)"
        raise UnknownNameError.of("durability", str(level), _DURABILITIES, where=place)
    if level == "log" and folder is None:
        raise ConfigurationError(
            "a log needs a folder",
            where=where,
            got='durability="log" without checkpoint_dir',
            help="give checkpoint_dir=..., on the command line --checkpoint-dir",
        )


@final
class Home:
    """The folder that a server lives in. One server at a time.

    Args:
        folder: Where.
        algorithm: The server's.
        layout: Of its model, as the server has it.
        durability: What survives.
        about: Of a run on this machine, what has to be the same for it to go on, as plain values;
            ``None``: a server that workers connect to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        algorithm: Algorithm,
        layout: ParameterLayout,
        durability: Durability,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._algorithm = algorithm
        self._layout = layout
        self._durability = durability
        self._about = None if about is None else strict.loads(strict.dumps(dict(about)))
        self._lock: IO[bytes] | None = None
        self._starts = 0

    @property
    def is_for_all(self) -> bool:
        """Whether it is that of a server that workers connect to."""
        return self._about is None

    def enter(self) -> int:
        """Lock it: how many servers were started here before.

        Raises:
            CheckpointError: Another server is here, or the folder cannot be written.
            ConfigurationError: It holds a log, and this server would not read it.
        """
        self._lock = lock_folder(self.folder)
        if self._durability != "log" and any((self.folder / LOG).glob("log-*")):
            raise ConfigurationError(
                "this folder holds a log, with updates that are in no checkpoint",
                where=str(self.folder),
                got='durability="checkpoint"',
                expected='durability="log"',
                help="start the server as it was started before, or choose another checkpoint_dir",
            )
        at, before = self.folder / _STARTS, 0
        if at.exists():
            found = files.read_json(at)
            before = int(found["starts"]) if isinstance(found, dict) else 0
        self._starts = before + 1
        files.write_json(at, {"starts": self._starts})
        return before

    def ended_with(self, tree: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is the last word of the server that was started here before this one.

        Args:
            tree: It.
        """
        return bool(tree.get("ended", False)) and tree.get("starts") == self._starts - 1

    def leave(self) -> None:
        """Let others in. May be called twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def beside(self, hub: Hub | None) -> dict[str, Any]:
        """What is in a checkpoint beside the server.

        Args:
            hub: Whose; ``None``: nobody has joined yet.
        """
        members = [] if hub is None else list(hub.members.by_name.values())
        return {
            "form": _FORM,
            "library": __version__,
            "algorithm": self._algorithm.fingerprint,
            "layout": self._layout.describe(),
            "ended": hub is not None and hub.state == "ended",
            "starts": self._starts,
            "about": self._about,
            "tally": None if hub is None else hub.tally.state_dict(),
            "workers": [member.name for member in members],
            "numbers": [member.index for member in members],
            "left": [member.name for member in members if member.left == "left"],
        }

    def check(self, tree: Any, path: Path) -> None:
        """See whether a checkpoint is of this server.

        Args:
            tree: It.
            path: Its folder.

        Raises:
            ConfigurationError: It is of another one.
            CheckpointError: It cannot be told.
        """
        if not isinstance(tree, dict) or tree.get("form") != _FORM:
            raise ConfigurationError(
                "this folder holds checkpoints of something else",
                where=str(path),
                expected="those of a parameter server",
                help="choose another checkpoint_dir",
            )
        if tree.get("about") != self._about:
            raise ConfigurationError(
                "the checkpoint is of another run",
                where=str(path),
                got=_short(self._about, tree.get("about")),
                expected=_short(tree.get("about"), self._about),
                help="start it with the task and the seed that it had, or choose another "
                "checkpoint_dir",
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


def _short(about: Any, other: Any) -> str:
    """What one run is, and another is not."""
    if about is None:
        return "a server that workers connect to"
    if other is None:
        return _cut(f"a run: {strict.dumps(about)}")
    parts = [_cut(f"{name} = {strict.dumps(value)}") for name, value in _only(about, other)]
    return ", ".join(parts) or "nothing beside what both have"


def _only(about: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree that are not in another, by where they stand."""
    if not isinstance(about, dict) or not isinstance(other, dict):
        yield place, about
        return
    for name, value in about.items():
        if name not in other or value != other[name]:
            yield from _only(value, other.get(name), f"{place}.{name}" if place else name)


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."
