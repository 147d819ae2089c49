"""A run folder: everything that a run leaves on disk, usable at any moment of the run.

::

    config.toml                     what was run, with every default filled in
    run.json                        what is known of the result when the run begins
    environment.json                versions, git commit, hardware, flags
    events.jsonl                    one event a line
    payloads.bin                    the payloads, where they were kept
    metrics.jsonl                   one evaluation a line
    result.json                     what the run came to; written at its end
    checkpoints/final.safetensors   the final model
    checkpoints/checkpoint-*        what a killed run can go on from, where it was told to write that
    report.html                     the report, where one was written
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from headway.core.errors import (
    ConfigurationError,
    LogDamagedError,
    LogError,
    RunFolderError,
    StateError,
)
from headway.core.events import Event, Submitted
from headway.core.layout import Buffers
from headway.observe import files, odd, toml
from headway.observe.closing import Closing
from headway.observe.environment import describe_environment
from headway.observe.eventlog import EventLog, encode_event, read_events
from headway.observe.payloads import PayloadReader, PayloadWriter, Record
from headway.observe.points import Point
from headway.observe.result import Result
from headway.observe.saving import ABOUT, EVENTS, MODEL, POINTS, RESULT, load_result, save_result
from headway.observe.strict import dumps

__all__ = ["RunFolder", "free_part"]

CONFIG: Final = "config.toml"
ENVIRONMENT: Final = "environment.json"
PAYLOADS: Final = "payloads.bin"
REPORT: Final = "report.html"
CHECKPOINTS: Final = "checkpoints"
_OURS: Final = (RESULT, ABOUT, REPORT, MODEL, EVENTS, PAYLOADS, POINTS, ENVIRONMENT, CONFIG)


@final
class RunFolder(Closing):
    """The folder of one run; made by :meth:`create` to be written, by :meth:`open` to be read.

    Events and points are appended while the run goes on. With each point everything so far is
    handed to the operating system, so that a killed run loses what came after its last evaluation
    and nothing else.

    Attributes:
        path: The folder.

    Example:
        >>> import tempfile
        >>> from headway.core import Waited
        >>> from headway.observe import Point
        >>> place = tempfile.TemporaryDirectory()
        >>> with RunFolder.create(f"{place.name}/run", {"seed": 0}) as folder:
        ...     folder.append_events([Waited(1.5, "client-0", "concurrency")])
        ...     folder.append_point(Point(1, 1, 32, 800, 1.5, 0.1, {"accuracy": 0.5}))
        >>> run = RunFolder.open(f"{place.name}/run")
        >>> run.config(), list(run.events()), len(list(run.points()))
        ({'seed': 0}, [Waited(time=1.5, worker='client-0', reason='concurrency')], 1)
        >>> place.cleanup()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: EventLog | None = None
        self._points: EventLog | None = None
        self._payloads: PayloadWriter | None = None
        self._device = torch.device("cpu")

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        advice: str | None = None,
    ) -> RunFolder:
        """Make the folder of a new run, and find out at once whether it can be written.

        Args:
            path: The folder; folders above it are made too.
            config: What is run, a plain tree with every default filled in.
            overwrite: Whether the files of an older run in this folder are removed. Other files
                in it are left alone.
            advice: What the error says can be done about a folder that is not empty, where that is
                more, or something else, than this method offers.

        Raises:
            ArgumentTypeError: The config holds something that TOML cannot.
            RunFolderError: It cannot be written, or is not empty.
        """
        folder = cls(Path(path))
        text = toml.dumps(config or {})
        with files.working_on(folder.path):
            if not overwrite and _is_used(folder.path):
                raise RunFolderError(
                    "the run folder is not empty",
                    where=str(folder.path),
                    expected="a folder that is new or empty",
                    help=advice
                    or "choose another folder, or pass overwrite=True to replace the run in it",
                )
            folder.path.mkdir(parents=True, exist_ok=True)
            # A permission that looks right is not yet one that is; a byte on the disk is.
            with tempfile.TemporaryFile(dir=folder.path, prefix=".probe-") as probe:
                probe.write(b"?")
                probe.flush()
            for name in _OURS:
                (folder.path / name).unlink(missing_ok=True)
            for old in (folder.path / CHECKPOINTS).glob("*checkpoint-*"):
                shutil.rmtree(old)
        files.write_atomically(folder.path / CONFIG, text)
        files.write_json(folder.path / ENVIRONMENT, describe_environment())
        folder._events = EventLog(folder.path / EVENTS)
        folder._points = EventLog(folder.path / POINTS)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of a run to read it, whether or not the run has ended.

        Raises:
            RunFolderError: This is not a run folder.
        """
        folder = cls(Path(path))
        if not any((folder.path / name).is_file() for name in (CONFIG, EVENTS, RESULT)):
            raise RunFolderError(
                "this is not a run folder",
                where=str(folder.path),
                got="a folder" if folder.path.is_dir() else "no folder",
                expected=f"a folder with {CONFIG} and {EVENTS}",
                help="name the folder that a run was told to write",
            )
        return folder

    @classmethod
    def reopen(cls, path: str | Path, mark: Mapping[str, Any]) -> RunFolder:
        """Open the folder of a run to go on with it, as it was at a mark.

        What was written after the mark is cut off, and what was written at its end is removed.

        Args:
            path: The folder.
            mark: From :meth:`mark`.

        Raises:
            RunFolderError: It cannot be written, or a file is shorter than it was.
            StateError: It is not such a mark.
        """
        folder = cls(Path(path))
        try:
            sizes = {name: int(mark[name]) for name in (EVENTS, POINTS)}
            if mark[PAYLOADS] is not None:
                sizes[PAYLOADS] = int(mark[PAYLOADS])
            num_records, device = int(mark["num_records"]), torch.device(mark["device"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise StateError("this is not a mark in a run folder", got=repr(error)) from error
        for name, size in sizes.items():
            files.cut(folder.path / name, size)
        with files.working_on(folder.path):
            for name in (RESULT, REPORT, MODEL):
                (folder.path / name).unlink(missing_ok=True)
        folder._events = EventLog(folder.path / EVENTS)
        folder._points = EventLog(folder.path / POINTS)
        if PAYLOADS in sizes:
            folder._payloads = PayloadWriter(folder.path / PAYLOADS, num_records=num_records)
            folder._device = device
        return folder

    @property
    def has_payloads(self) -> bool:
        """Whether the payloads were kept, so that the run can be replayed."""
        return (self.path / PAYLOADS).is_file()

    @property
    def has_result(self) -> bool:
        """Whether the run has ended: by itself, an interruption or an exception, but not killed."""
        return (self.path / RESULT).is_file()

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Write what is known of the result before the run has begun.

        From this, the events and the evaluations, :meth:`result` puts a result together for a run
        that was killed.

        Args:
            about: The fields of :class:`~headway.observe.Result` from ``label`` to
                ``num_clients``, plain values; and the ``execution``'s mode, where workers are real.

        Raises:
            RunFolderError: It cannot be written.
        """
        files.write_json(self.path / ABOUT, dict(about))

    def append_initial(
        self,
        parameters: Tensor,
        buffers: Buffers | None = None,
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the initial parameters: the first record of ``payloads.bin``.

        To be called before the first event that carries a payload.

        Args:
            parameters: Flat, as the server got them.
            buffers: As the server got them.
            about: Plain values to keep beside them, such as the layout's description.

        Raises:
            RunFolderError: They cannot be written.
        """
        self._payloads = PayloadWriter(self.path / PAYLOADS)
        self._device = parameters.device
        self._payloads.append(parameters, buffers, meta={**(about or {}), "kind": "initial"})

    def append_events(self, events: Sequence[Event]) -> None:
        """Append events; of those that carry a payload, the payload too.

        A rejected update may carry a tensor of any dtype and shape; it is kept as it is. What
        cannot be kept, because it is on another device or quantized, is described: the run can be
        replayed all the same.

        Raises:
            ConfigurationError: There is a payload, but :meth:`append_initial` was not called.
            RunFolderError: They cannot be written.
        """
        log = self._open_log(self._events)
        start = 0
        for place, event in enumerate(events):
            if type(event) is Submitted and event.payload is not None:
                log.append(events[start:place])
                log.append_lines([encode_event(event, self._keep(event, event.payload))])
                start = place + 1
        log.append(events[start:] if start else events)

    def append_point(self, point: Point, *, flush: bool = True) -> None:
        """Append an evaluation, and hand everything so far to the operating system.

        Args:
            point: The evaluation.
            flush: Whether everything is handed over; if not, call :meth:`flush`.

        Raises:
            RunFolderError: It cannot be written.
        """
        self._open_log(self._points).append_lines([dumps(point._asdict())])
        if flush:
            self.flush()

    def flush(self) -> None:
        """Hand everything so far to the operating system: it outlives this process.

        Raises:
            RunFolderError: It cannot be written.
        """
        # Payloads first, so that no event on disk names a payload that is not.
        for log in (self._payloads, self._events, self._points):
            if log is not None:
                log.flush()

    def mark(self) -> dict[str, Any]:
        """Bring everything so far to the disk: a mark that :meth:`reopen` goes back to.

        Returns:
            The files' lengths, a plain tree.

        Raises:
            RunFolderError: It cannot be written.
        """
        payloads = self._payloads
        return {
            # Payloads first, as ever.
            PAYLOADS: None if payloads is None else payloads.mark(),
            EVENTS: self._open_log(self._events).mark(),
            POINTS: self._open_log(self._points).mark(),
            "num_records": 0 if payloads is None else payloads.num_records,
            "device": str(self._device),
        }

    def close(self, result: Result | None = None) -> None:
        """Bring everything to the disk, and write the result where there is one.

        May be called twice; a run that breaks off closes without a result.

        Args:
            result: What the run came to. Its ``folder`` becomes this one.

        Raises:
            RunFolderError: It cannot be written; its files are closed all the same.
        """
        with ExitStack() as closing:
            # The last one in is the first to be closed: payloads, as ever.
            for log in (self._points, self._events, self._payloads):
                if log is not None:
                    closing.callback(log.close)
        if result is not None:
            result.folder = self.path
            save_result(result, self.path)

    def config(self) -> dict[str, Any]:
        """What was run.

        Raises:
            RunFolderError: It cannot be read.
            LogDamagedError: It is not TOML.
        """
        path = self.path / CONFIG
        with files.working_on(path, "read"):
            data = path.read_bytes()
        try:
            return tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise LogDamagedError(
                f"{path.name} is damaged", where=str(path), got=str(error), expected="TOML"
            ) from error

    def environment(self) -> dict[str, Any]:
        """Where it was run.

        Raises:
            RunFolderError: It cannot be read.
            LogDamagedError: It is not a JSON object.
        """
        path = self.path / ENVIRONMENT
        tree = files.read_json(path)
        if not isinstance(tree, dict):
            raise LogDamagedError(
                f"{path.name} is damaged", where=str(path), got=type(tree).__name__
            )
        return tree

    def events(self, *, payloads: bool = False) -> Iterator[Event]:
        """The events, one after the other.

        Args:
            payloads: Whether to read their payloads too.

        Raises:
            RunFolderError: They cannot be read.
            LogError: Payloads are wanted, and none were kept.
            LogDamagedError: A line or a payload is damaged. A last line that is cut off is left
                out, with one :class:`~headway.observe.LogTruncatedWarning`.
        """
        if not payloads:
            yield from read_events(self.path / EVENTS)
            return
        with self._open_payloads() as reader:
            yield from read_events(self.path / EVENTS, reader)

    def initial(self) -> Record:
        """The initial parameters (``tensors["payload"]``) and buffers, where payloads were kept.

        Raises:
            RunFolderError: They cannot be read.
            LogError: No payloads were kept.
            LogDamagedError: They are damaged.
        """
        with self._open_payloads() as reader:
            return reader.read(0)

    def points(self) -> Iterator[Point]:
        """The evaluations, one after the other.

        Raises:
            RunFolderError: They cannot be read.
            LogDamagedError: A line is damaged. A last line that is cut off is left out, with one
                :class:`~headway.observe.LogTruncatedWarning`.
        """
        return files.read_lines(self.path / POINTS, Point.from_record)

    def result(self, *, events: bool = True) -> Result:
        """What the run came to; of a run that was killed or still goes on, what there is.

        Args:
            events: Whether to read the events too.

        Raises:
            RunFolderError: The result cannot be read, or too little is here to make one.
            LogDamagedError: A file is damaged.
        """
        return load_result(self.path, events=events)

    def _keep(self, event: Submitted, payload: Tensor) -> int:
        if self._payloads is None:
            raise ConfigurationError(
                "a payload came before the initial parameters",
                where=str(self.path),
                help="call append_initial(parameters, buffers) before the first event",
            )
        meta: dict[str, Any] = {"kind": "update", "job": event.job}
        named = {"payload": payload}
        if event.buffers is not None:
            named |= {"floating": event.buffers.floating, "integer": event.buffers.integer}
        found = {name: odd.flatten(tensor, self._device) for name, tensor in named.items()}
        told = {name: about for name, (_, about) in found.items() if about is not None}
        if told:
            meta["odd"] = told
        flat = [tensor for tensor, _ in found.values()]
        buffers = Buffers(flat[1], flat[2]) if event.buffers is not None else None
        return self._payloads.append(flat[0], buffers, meta=meta)

    def _open_log(self, log: EventLog | None) -> EventLog:
        if log is None:
            raise RunFolderError(
                "this run folder was opened to be read",
                where=str(self.path),
                help="make a new one with RunFolder.create(path)",
            )
        return log

    def _open_payloads(self) -> PayloadReader:
        if not self.has_payloads:
            raise LogError(
                "this run kept no payloads, so its model cannot be rebuilt",
                where=str(self.path),
                help='run again with record="payloads"',
            )
        return PayloadReader(self.path / PAYLOADS)


def free_part(folder: Path) -> Path:
    """The folder itself; where it is in use, the first of ``<folder>-2``, ``<folder>-3``, ...

    Each life of a run with checkpoints leaves a folder of its own, and so does each of a server.

    Args:
        folder: Which.
    """
    number, part = 1, folder
    while _is_used(part):
        number += 1
        part = folder.with_name(f"{folder.name}-{number}")
    return part


def _is_used(path: Path) -> bool:
    # A path that is a file, or lies below one, is refused by mkdir, in the system's own words.
    return path.is_dir() and any(path.iterdir())
