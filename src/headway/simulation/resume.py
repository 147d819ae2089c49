"""Checkpoints of a simulation in its run folder: writing them, and finding the one to go on from.

A checkpoint holds the engine's state, how long the folder's files were, and what was run. The events
themselves stay in the folder's log: whoever goes on reads them again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from headway.checkpoint import CheckpointStore
from headway.core.errors import (
    ArgumentTypeError,
    CheckpointError,
    ConfigurationError,
    LogDamagedError,
    StateError,
)
from headway.core.events import Event
from headway.observe import LogHash, Result, RunFolder, strict, toml, weights_hash
from headway.observe.folder import CHECKPOINTS
from headway.observe.saving import RESULT
from headway.simulation.engine import Engine
from headway.simulation.resolve import describe
from headway.simulation.schedule import Every, as_every
from headway.simulation.settings import Settings
from headway.simulation.stop import Progress
from headway.task.fingerprint import Fingerprinted

__all__ = ["Checkpoints", "Saved", "begins_anew", "ended", "find", "identity", "reread"]

_KEPT: Final = 2
_WHERE: Final = "simulate(resume=True)"


class Saved(NamedTuple):
    """A run that can go on.

    Attributes:
        engine: Its state.
        mark: Where the run folder's files were.
        log_hash: Of the events until then.
    """

    engine: dict[str, Any]
    mark: dict[str, Any]
    log_hash: str


@final
class Checkpoints:
    """Writes a run's checkpoints.

    Args:
        folder: Of the run.
        settings: What is run.
        every: The distance between two.

    Raises:
        ArgumentTypeError: ``every`` is something else.
        ConfigurationError: It is out of its range, or there is no folder.
    """

    def __init__(self, folder: RunFolder | None, settings: Settings, every: Every | int) -> None:
        if folder is None:
            raise ConfigurationError(
                "checkpoints need a run folder",
                where="simulate(checkpoint_every=...)",
                got="no folder",
                help='pass folder="runs/mine" too',
            )
        self._every = as_every(every, "checkpoint_every")
        self._folder = folder
        self._settings = settings
        self._store = CheckpointStore(folder.path / CHECKPOINTS, keep_last=_KEPT)
        self._identity: Any = None
        self._last = 0

    def is_due(self, engine: Engine) -> bool:
        """Whether another one is due, or the run is interrupted."""
        return engine.interrupted or self._passed(engine.progress) > self._last

    def save(self, engine: Engine, log_hash: str) -> None:
        """Write one. Everything that the run has logged so far is in the folder.

        Args:
            engine: Between two events.
            log_hash: Of the events so far.

        Raises:
            CheckpointError: It cannot be written.
            RunFolderError: The run folder cannot be written.
            StateError: A part of the run has a state that cannot be saved.
        """
        if self._identity is None:
            self._identity = identity(self._settings)
        mark = self._folder.mark()
        tree = {
            "identity": self._identity,
            "engine": engine.state_dict(),
            "mark": mark,
            "log_hash": log_hash,
        }
        self._store.save(engine.tally.updates, tree)
        self.reached(engine)

    def reached(self, engine: Engine) -> None:
        """The run has got as far as this: what was due until now is due no more."""
        self._last = self._passed(engine.progress)

    def _passed(self, progress: Progress) -> int:
        """How many checkpoints were due by now."""
        every = self._every
        if every.updates is not None:
            return progress.updates // every.updates
        if every.versions is not None:
            return progress.versions // every.versions
        return int(progress.virtual_time_s // (every.virtual_time_s or 1.0))


def identity(settings: Settings) -> Any:
    """What must be the same for a run to go on, as a plain tree.

    Args:
        settings: What is run.
    """
    start = settings.task.start(settings.seed, settings.device)
    about = {
        **describe(settings),
        "fingerprint": settings.algorithm.fingerprint,
        "initial_weights": weights_hash(start.parameters, start.buffers),
    }
    if isinstance(settings.task, Fingerprinted):
        about["data"] = settings.task.data_fingerprint()
    return strict.loads(strict.dumps(about))


def find(folder: str | Path | RunFolder | None, settings: Settings) -> Saved | Result | None:
    """Look for what a run can go on from.

    Args:
        folder: Of the run.
        settings: What shall be run.

    Returns:
        The newest sound checkpoint; the result of a run that has come to its end; ``None`` where
        the run has to begin.

    Raises:
        ArgumentTypeError: The folder is not a path.
        CheckpointError: There are checkpoints, and none is sound.
        ConfigurationError: The run in the folder is another one.
    """
    if folder is None or isinstance(folder, RunFolder):
        raise ArgumentTypeError(
            "a run is resumed in the folder that it was written to",
            where=_WHERE,
            got=f"folder={folder!r}",
            expected="the folder's path",
            help='pass folder="runs/mine"',
        )
    path = Path(folder)
    store = CheckpointStore(path / CHECKPOINTS, keep_last=_KEPT)
    if not store.numbers():
        return ended(path, describe(settings))
    tree = store.load().tree
    try:
        saved = Saved(tree["engine"], tree["mark"], tree["log_hash"])
        _check_same(tree["identity"], identity(settings), path)
    except (LookupError, TypeError, AttributeError) as error:
        raise StateError(
            "this checkpoint is not one of a simulation", where=str(path), got=repr(error)
        ) from error
    return _ended(path) or saved


def ended(path: Path, about: Mapping[str, Any]) -> Result | None:
    """The result of a run that came to its end by itself, perhaps before a checkpoint was due.

    Args:
        path: The folder.
        about: What shall be run, as the folder's configuration would say it.

    Raises:
        ConfigurationError: The run in the folder is another one.
    """
    if not (path / RESULT).is_file():
        return None
    result = _ended(path)
    if result is not None:
        asked = tomllib.loads(toml.dumps(about))
        _check_same(_essence(RunFolder.open(path).config()), _essence(asked), path)
    return result


def begins_anew(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether a run that never came to a checkpoint lies here, and may be replaced by itself.

    Args:
        path: The folder.
        about: What shall be run, as the folder's configuration would say it.

    Raises:
        ConfigurationError: The run in the folder is another one.
        CheckpointError: The run was interrupted or failed, and left no checkpoint.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return False
    folder = RunFolder.open(path)
    asked = tomllib.loads(toml.dumps(about))
    _check_same(_essence(folder.config()), _essence(asked), path)
    if folder.has_result:
        raise CheckpointError(
            "the run in this folder was broken off, and left no checkpoint to go on from",
            where=str(path),
            got=Result.load(path).stop_reason,
            help="read it with headway.Result.load(folder), or choose another folder",
        )
    return True


def reread(folder: RunFolder, saved: Saved) -> tuple[list[Event], LogHash]:
    """Read the events of a reopened folder, and find out whether they are those of the checkpoint.

    Args:
        folder: Cut back to the checkpoint.
        saved: The checkpoint.

    Raises:
        LogDamagedError: They are not.
    """
    events, total = list(folder.events()), LogHash()
    total.extend(events)
    found = total.hexdigest() if events else ""
    if found != saved.log_hash:
        raise LogDamagedError(
            "the events in the folder are not those that the checkpoint knows",
            where=str(folder.path),
            got=f"events with hash {found[:16]}...",
            expected=f"events with hash {saved.log_hash[:16]}...",
            help="restore the folder, or start anew in another",
        )
    return events, total


def _ended(path: Path) -> Result | None:
    """The result of a run that came to its end by itself."""
    if not RunFolder.open(path).has_result:
        return None
    result = Result.load(path)
    unfinished = result.interrupted or result.stop_reason.startswith("failed")
    return None if unfinished else result


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what may be another when a run goes on."""
    run = {k: v for k, v in config.get("run", {}).items() if k != "checkpoint_every"}
    return {**config, "run": run}


def _check_same(told: Any, asked: Any, path: Path) -> None:
    difference = _difference(told, asked)
    if difference is None:
        return
    name, before, now = difference
    raise ConfigurationError(
        "the run in this folder is another one, and cannot go on with these arguments",
        where=_WHERE,
        got=f"{name} = {now}",
        expected=f"{name} = {before}, as in {path}",
        help="pass the arguments that the run was begun with, or choose another folder",
    )


def _difference(told: Any, asked: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first place where two trees differ, and what stands there."""
    if told == asked:
        return None
    if isinstance(told, Mapping) and isinstance(asked, Mapping):
        for key in [*told, *asked]:
            below = f"{name}.{key}" if name else str(key)
            found = _difference(told.get(key), asked.get(key), below)
            if found is not None:
                return found
    return name or "the run", _short(told), _short(asked)


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
