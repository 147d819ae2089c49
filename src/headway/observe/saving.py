"""Results and comparisons as files.

``result.json`` holds everything of a result that is plain; the model lies in
``checkpoints/final.safetensors``, the events in ``events.jsonl``. ``comparison.json`` names the
folders of its results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headway.core.errors import LogDamagedError, RunFolderError
from headway.core.layout import ParameterLayout
from headway.observe import files, strict
from headway.observe.comparison import Comparison
from headway.observe.eventlog import encode_events, read_events
from headway.observe.hashing import weights_hash
from headway.observe.points import ClientCount, Point
from headway.observe.result import Result
from headway.observe.unfinished import rebuild
from headway.observe.weights import Weights, load_weights, save_weights

if TYPE_CHECKING:
    from headway.core.events import Event

__all__ = ["load_comparison", "load_result", "save_comparison", "save_result"]

RESULT: Final = "result.json"
ABOUT: Final = "run.json"
COMPARISON: Final = "comparison.json"
MODEL: Final = "checkpoints/final.safetensors"
EVENTS: Final = "events.jsonl"
POINTS: Final = "metrics.jsonl"

_FORMAT: Final = 1
_KEPT_ELSEWHERE: Final = ("parameters", "layout", "buffers", "events", "folder")
_BLOCK: Final = 1024


def save_result(result: Result, folder: str | Path) -> Path:
    """See :meth:`Result.save`."""
    path = Path(folder)
    with files.working_on(path):
        path.mkdir(parents=True, exist_ok=True)
        own = result.folder is not None and result.folder.resolve() == path.resolve()
        if not own:
            # What another run left here must not be taken for a part of this one.
            for name in (RESULT, ABOUT, MODEL, EVENTS, POINTS, "payloads.bin"):
                (path / name).unlink(missing_ok=True)
    if not own:
        files.write_lines(path / POINTS, (strict.dumps(p._asdict()) for p in result.history))
        if result.events:
            files.write_lines(path / EVENTS, _lines(result.events))
    if result.parameters is not None:
        layout = result.layout
        if layout is None:
            layout = ParameterLayout.flat(result.parameters.numel(), result.parameters.dtype)
        about = {"algorithm": result.algorithm, "task": result.task, "seed": str(result.seed)}
        weights = Weights(result.parameters, layout, result.buffers)
        save_weights(path / MODEL, weights, metadata=about)
    # Last, because it says that the rest is there.
    files.write_json(path / RESULT, _describe(result))
    return path


def load_result(folder: str | Path, *, events: bool = True) -> Result:
    """See :meth:`Result.load`."""
    path = Path(folder)
    if not (path / RESULT).is_file():
        if (path / ABOUT).is_file():
            return _rebuilt(path, events=events)
        raise RunFolderError(
            "there is no finished run in this folder",
            where=str(path),
            expected=f"a file {RESULT}",
            help="name a run folder; of a run that was killed, RunFolder.open(path) still reads "
            "the events and the points",
        )
    result = _from_description(path / RESULT, files.read_json(path / RESULT))
    result.folder = path
    if (path / MODEL).is_file():
        result.parameters, result.layout, result.buffers = load_weights(path / MODEL)
        _check_weights(path / MODEL, result)
    if events and (path / EVENTS).is_file():
        result.events = list(read_events(path / EVENTS))
    return result


def _rebuilt(path: Path, *, events: bool) -> Result:
    """What can be had of a run that was killed, or that is still going on."""
    logged = list(read_events(path / EVENTS)) if (path / EVENTS).is_file() else []
    points = (path / POINTS).is_file()
    history = list(files.read_lines(path / POINTS, Point.from_record)) if points else []
    about = files.read_json(path / ABOUT)
    try:
        result = rebuild(about, history, logged)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path / ABOUT, error) from error
    result.folder = path
    result.events = logged if events else []
    return result


def save_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """See :meth:`Comparison.save`."""
    path = Path(folder)
    with files.working_on(path):
        path.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for result in comparison.results:
        name = _place_below(result, path)
        if name is None or not (path / name / RESULT).is_file():
            name = name or _free_name(result, names)
            save_result(result, path / name)
        names.append(name)
    target = None if comparison.target is None else list(comparison.target)
    tree = {
        "format": _FORMAT,
        "target": target,
        "direction": comparison.direction,
        "results": names,
    }
    files.write_json(path / COMPARISON, tree)
    return path


def load_comparison(folder: str | Path, *, events: bool = True) -> Comparison:
    """See :meth:`Comparison.load`."""
    path = Path(folder)
    if not (path / COMPARISON).is_file():
        raise RunFolderError(
            "there is no comparison in this folder",
            where=str(path),
            expected=f"a file {COMPARISON}",
            help="name the folder that a comparison was saved in",
        )
    tree = files.read_json(path / COMPARISON)
    try:
        _check_format(tree)
        names = [_inside(path, name) for name in tree["results"]]
        target = (
            None if tree["target"] is None else (str(tree["target"][0]), float(tree["target"][1]))
        )
        direction = tree["direction"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path / COMPARISON, error) from error
    results = [load_result(name, events=events) for name in names]
    return Comparison(results=results, target=target, direction=direction)


def _lines(events: list[Event]) -> Iterable[str]:
    for start in range(0, len(events), _BLOCK):
        yield from encode_events(events[start : start + _BLOCK])


def _describe(result: Result) -> dict[str, Any]:
    plain = {
        f.name: getattr(result, f.name) for f in fields(Result) if f.name not in _KEPT_ELSEWHERE
    }
    return {
        "format": _FORMAT,
        **plain,
        "history": [point._asdict() for point in result.history],
        "staleness": {str(value): count for value, count in result.staleness.items()},
        "clients": {str(client): count._asdict() for client, count in result.clients.items()},
    }


def _from_description(path: Path, tree: Any) -> Result:
    try:
        _check_format(tree)
        known = {f.name for f in fields(Result)} - set(_KEPT_ELSEWHERE)
        plain: dict[str, Any] = {name: value for name, value in tree.items() if name in known}
        plain["history"] = [Point.from_record(record) for record in tree["history"]]
        plain["staleness"] = {int(value): int(n) for value, n in tree["staleness"].items()}
        plain["clients"] = {int(c): ClientCount(**count) for c, count in tree["clients"].items()}
        return Result(**plain)
    except (AttributeError, KeyError, LogDamagedError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_format(tree: Mapping[str, Any]) -> None:
    if tree["format"] != _FORMAT:
        raise ValueError(f"format {tree['format']}, where this Headway reads {_FORMAT}")


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{path.name} is not one that this Headway can read",
        where=str(path),
        got=str(error) if isinstance(error, ValueError) else repr(error),
        help="restore the file, or read it with the version of Headway that wrote it",
    )


def _check_weights(path: Path, result: Result) -> None:
    if result.parameters is None or not result.weights_hash:
        return
    found = weights_hash(result.parameters, result.buffers)
    if found != result.weights_hash:
        raise RunFolderError(
            "the saved model is not the one of this result",
            where=str(path),
            got=f"weights with hash {found[:16]}...",
            expected=f"weights with hash {result.weights_hash[:16]}...",
            help="restore both files from the same run, or make the run again",
        )


def _place_below(result: Result, folder: Path) -> str | None:
    """Where a result lies below the comparison's folder; ``None`` if it does not."""
    if result.folder is None:
        return None
    here, below = result.folder.resolve(), folder.resolve()
    return here.relative_to(below).as_posix() if below in here.parents else None


def _free_name(result: Result, taken: list[str]) -> str:
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", result.label).strip("-.")[:60] or "run"
    name = base = f"{label}-seed{result.seed}"
    # Labels may differ only in what a folder's name cannot hold, or in what a system ignores.
    number = 1
    while name.lower() in {other.lower() for other in taken}:
        number += 1
        name = f"{base}-{number}"
    return name


def _inside(folder: Path, name: Any) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a folder below this one")
    return folder / path
