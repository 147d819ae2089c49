"""Worker processes of this machine: what a user says of them, and what starts and watches them.

They are spawned, never forked: a forked process with torch's threads in it can fail. Each has one
thread of torch, and a pipe of its own beside the exchange's, for what goes wrong in it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, final

import torch
import torch.multiprocessing

from headway.core.errors import ConfigurationError, HeadwayError, UnknownNameError
from headway.runtime.heartbeats import LOOK_EVERY_S, Ticker
from headway.runtime.kinds import FLAG, Kind, check_kinds, value_of
from headway.runtime.local import LocalLink, LocalSession
from headway.runtime.loop import SPIN_S
from headway.runtime.timeouts import Timeouts
from headway.task.sending import start

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from types import FrameType

    from headway.core import Algorithm, ParameterLayout
    from headway.runtime.hub import Hub
    from headway.runtime.segments import Segments
    from headway.runtime.trainee import Trainee
    from headway.task import Objective

__all__ = ["Processes", "Team", "all_gone"]

_METHODS: Final = ("spawn", "forkserver")
_GRACE_S: Final = 2.0
_START_S: Final = 300.0
_LOOK_S: Final = 0.1
_TIMEOUTS: Final = Timeouts()
_FACTORS: Final = Kind((Mapping,), "a mapping of workers' numbers to factors", "{0: 5.0}")


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """Worker processes on this machine, started for one run.

    Args:
        num_workers: How many, at least 1.
        slowdown: Factors of at least 1 for single workers, by number, such as ``{0: 5.0}``: each of
            its jobs takes so many times as long, which it spends waiting. To study stragglers.
        prefetch: Whether a worker is given its next job while it works on one. It never waits for
            the server then, and starts from a model that is one job older.
        start_method: ``"spawn"``, or ``"forkserver"``, which starts faster.
        timeouts: When a worker that says nothing is taken for lost: :class:`headway.Timeouts`. One
            that was only stopped for a while joins again. A process that has ended is lost at
            once, and is not replaced: the others train its clients.

    Raises:
        ArgumentTypeError: A value is of the wrong kind.
        ConfigurationError: A value is outside its range.

    Example:
        >>> print(Processes(4, slowdown={0: 5.0}))
        4 processes, worker 0 5x slower
    """

    num_workers: int
    slowdown: Mapping[int, float] = field(default_factory=dict, kw_only=True)
    prefetch: bool = field(default=False, kw_only=True)
    start_method: Literal["spawn", "forkserver"] = field(default="spawn", kw_only=True)
    timeouts: Timeouts = field(default=_TIMEOUTS, kw_only=True)

    def __post_init__(self) -> None:
        count: object = self.num_workers
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigurationError(
                "there must be at least one worker process",
                where="Processes(num_workers=...)",
                got=repr(count),
                expected="a whole number from 1 on",
                help="write headway.Processes(num_workers=4)",
            )
        check_kinds(
            "Processes",
            slowdown=(self.slowdown, _FACTORS),
            prefetch=(self.prefetch, FLAG),
            timeouts=(self.timeouts, value_of(Timeouts, "lease_s=10")),
        )
        for worker, factor in self.slowdown.items():
            _check_factor(worker, factor, count)
        if self.start_method not in _METHODS:
            raise UnknownNameError.of(
                "start method",
                str(self.start_method),
                _METHODS,
                where="Processes(start_method=...)",
            )

    def __str__(self) -> str:
        several = "processes" if self.num_workers > 1 else "process"
        slow = [f"worker {w} {f:g}x slower" for w, f in self.slowdown.items() if f > 1.0]
        return ", ".join([f"{self.num_workers} {several}", *slow])

    @property
    def num_jobs(self) -> int:
        """How many jobs they can have at the same time."""
        return self.num_workers * (2 if self.prefetch else 1)

    def describe(self) -> dict[str, Any]:
        """As a plain tree."""
        slow = {str(worker): factor for worker, factor in self.slowdown.items()}
        return {
            "name": "processes",
            "num_workers": self.num_workers,
            "slowdown": slow,
            "prefetch": self.prefetch,
            "start_method": self.start_method,
        }


def _check_factor(worker: object, factor: object, count: int) -> None:
    where = "Processes(slowdown=...)"
    if not isinstance(worker, int) or isinstance(worker, bool) or not 0 <= worker < count:
        raise ConfigurationError(
            "there is no such worker to slow down",
            where=where,
            got=repr(worker),
            expected=f"a number in [0, {count})",
            help="workers are numbered from 0",
        )
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 1.0 <= factor < float("inf"):  # type: ignore[operator]
        raise ConfigurationError(
            "a worker can be slowed down, and not sped up",
            where=where,
            got=repr(factor),
            expected="a finite factor of at least 1",
            help="slow the others down instead",
        )


class Brief(NamedTuple):
    """What a worker process is given.

    Attributes:
        task: Whose jobs.
        algorithm: Which payload is due.
        seed: Of the run.
        name: What the worker is called.
        device: Where it trains.
        slowdown: Its factor.
        prefetch: Whether it asks ahead.
        spin_s: For how long it looks for a message before it sleeps.
    """

    task: Objective
    algorithm: Algorithm
    seed: int
    name: str
    device: torch.device
    slowdown: float
    prefetch: bool
    spin_s: float


@final
class Team:
    """The processes of one run.

    Args:
        chosen: How many, and how slow.
        task: It must be possible to send it to another process.
        algorithm: Likewise.
        seed: Of the run.
        device: Where they train.
        is_unwanted: Asked again and again while they start. Once it is so, those that were started
            are ended at once, and there are none.

    Attributes:
        failure: What a job raised, with the worker's traceback in a note.
        failed_in: The client whose job that was; -1: none.

    Raises:
        ConfigurationError: The task or the algorithm cannot be sent, or a process did not start.
    """

    def __init__(
        self,
        chosen: Processes,
        task: Objective,
        algorithm: Algorithm,
        *,
        seed: int,
        device: torch.device,
        is_unwanted: Callable[[], bool] = bool,
    ) -> None:
        self.failure: BaseException | None = None
        self.failed_in = -1
        self._context: Any = torch.multiprocessing.get_context(chosen.start_method)
        self._spin_s = SPIN_S if _num_cores() > chosen.num_workers else 0.0
        self._timeouts = chosen.timeouts
        self._hands: list[_Hand] = []
        self._sessions: list[tuple[str, LocalSession]] = []
        self._ticker: Ticker | None = None
        self._deaths: list[str] = []
        try:
            with _deaf_to_ctrl_c():
                for index in range(chosen.num_workers):
                    if is_unwanted():
                        break
                    factor = float(chosen.slowdown.get(index, 1.0))
                    name = f"worker-{index}"
                    brief = Brief(
                        task, algorithm, seed, name, device, factor, chosen.prefetch, self._spin_s
                    )
                    self._hands.append(_Hand(self._context, brief))
            self._wait_for_all(is_unwanted)
        except BaseException:
            self.close()
            raise

    @property
    def num_here(self) -> int:
        """How many have not ended."""
        return sum(hand.is_here for hand in self._hands)

    def connect(
        self, hub: Hub, segments: Segments, layout: ParameterLayout, gone: Callable[[], object]
    ) -> None:
        """Let them talk to a hub that is about to run.

        Args:
            hub: Who takes what they send.
            segments: Where shared vectors lie.
            layout: Of the model.
            gone: Called by the hub's thread when one has ended or failed.
        """
        hub.loop.spin_s = self._spin_s
        for hand in self._hands:
            session = LocalSession(hub, hand.exchange, segments, layout, self._timeouts)
            self._sessions.append((hand.name, session))
            hub.loop.post(partial(self._watch, hub, hand, gone))
        # By the hub's own thread: one that is late with reading takes nobody for silent.
        look = partial(hub.loop.post, self._look)
        self._ticker = Ticker(look, LOOK_EVERY_S, "headway-leases")

    def deaths(self) -> list[str]:
        """In words, which have ended before the run."""
        return list(self._deaths)

    def silences(self) -> dict[str, int]:
        """How often each worker was taken for lost whose process was there, if it ever was."""
        return {name: session.num_losses for name, session in self._sessions if session.num_losses}

    def pids(self) -> list[int]:
        """Their process numbers."""
        return [hand.pid for hand in self._hands]

    def close(self, grace_s: float = _GRACE_S) -> None:
        """End those that have not ended: they are given a moment, and then killed.

        Args:
            grace_s: The moment, in seconds, for all of them together.
        """
        until = time.monotonic() + grace_s
        if self._ticker is not None:
            self._ticker.close()
        for hand in self._hands:
            hand.let_go()
        for hand in self._hands:
            hand.end(max(0.0, until - time.monotonic()))
        self._hands = []

    def _look(self) -> None:
        for _, session in self._sessions:
            session.look()

    def _watch(self, hub: Hub, hand: _Hand, gone: Callable[[], object]) -> None:
        def hear() -> None:
            told = hand.hear()
            if told is None:
                hub.loop.unwatch(hand.control)
                self._deaths += [hand.obituary] if hand.obituary else []
            elif self.failure is None:
                self.failure, self.failed_in = told
            gone()

        hub.loop.watch(hand.control, hear)

    def _wait_for_all(self, is_unwanted: Callable[[], bool]) -> None:
        waiting = {hand.control: hand for hand in self._hands}
        until = time.monotonic() + _START_S
        while waiting and not is_unwanted():
            # Not for longer: a signal's handler does not end the wait.
            ready = wait(list(waiting), _LOOK_S)
            if not ready and time.monotonic() > until:
                raise _not_started("no answer for too long")
            for control in ready:
                # Whoever told this process to end may have told all of them.
                if not is_unwanted():
                    waiting.pop(control).begun()  # type: ignore[call-overload]
        if is_unwanted():
            self.close(0.0)


@final
class _Hand:
    """One worker process, seen from here."""

    def __init__(self, context: Any, brief: Brief) -> None:
        self.exchange, theirs = context.Pipe()
        self.control: Connection
        self.control, told = context.Pipe(duplex=False)
        self.is_here = True
        self.name = brief.name
        self.obituary = ""
        self._process: BaseProcess = context.Process(
            target=_work, args=(theirs, told, brief), daemon=True, name=brief.name
        )
        try:
            start(self._process, where="run(task=..., algorithm=...)")
        except BaseException:
            self.exchange.close()
            self.control.close()
            raise
        finally:
            theirs.close()
            told.close()
        self.pid = self._process.pid or 0

    def begun(self) -> None:
        """It has said that it is ready, or has ended."""
        try:
            said = self.control.recv()
        except (EOFError, OSError) as error:
            self._process.join(_GRACE_S)
            raise _not_started(
                f"{self._process.name}, exit code {self._process.exitcode}; it says why above"
            ) from error
        if said is not None:
            raise said[0]

    def hear(self) -> tuple[BaseException, int] | None:
        """What it says went wrong; ``None``: it has ended."""
        try:
            said: tuple[BaseException, int] = self.control.recv()
        except (EOFError, OSError):
            self.is_here = False
            self._process.join(_GRACE_S)
            code = self._process.exitcode
            if code != 0:
                self.obituary = f"{self._process.name} (exit code {code})"
            return None
        return said

    def let_go(self) -> None:
        """Nothing more is taken from it."""
        self.exchange.close()

    def end(self, within_s: float) -> None:
        """Wait for it, and end it."""
        self._process.join(within_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.control.close()
        self._process.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C goes to everybody in the terminal; children are born deaf to it, and stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _not_started(got: str) -> ConfigurationError:
    return ConfigurationError(
        "a worker process could not be started",
        where="run(runtime=Processes(...))",
        got=got,
        help='in a script, call run below `if __name__ == "__main__":`; processes import the script',
    )


def all_gone(deaths: list[str]) -> HeadwayError:
    """The error of a run whose workers have all ended.

    Args:
        deaths: Who, and how.
    """
    return HeadwayError(
        "all worker processes have ended",
        got=", ".join(deaths) or "no exit code",
        help="were they killed, or was there too little memory? Try fewer processes",
    )


def _num_cores() -> int:
    """How many cores this process may use; with one more than workers, the server has its own."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(exchange: Connection, control: Connection, brief: Brief) -> None:
    """What a worker process does, from its start to its end."""
    # Where it was started by another thread than the main one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    trainee: Any = None
    try:
        from headway.runtime.trainee import Trainee

        trainee = Trainee(
            LocalLink(exchange, spin_s=brief.spin_s),
            brief.task,
            brief.algorithm,
            seed=brief.seed,
            name=brief.name,
            device=brief.device,
            slowdown=brief.slowdown,
            prefetch=brief.prefetch,
        )
        signal.signal(signal.SIGTERM, partial(_leave_soon, trainee))
        control.send(None)
        trainee.run()
    except Exception as error:  # noqa: BLE001 (it is raised on the other side)
        _tell(control, error, -1 if trainee is None else trainee.client)


def _leave_soon(trainee: Trainee, number: int, frame: FrameType | None) -> None:
    """The first SIGTERM: what is being done is handed in. The second ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trainee.leave_soon()


def _tell(control: Connection, error: Exception, client: int) -> None:
    told = traceback.format_exc()
    error.add_note(told)
    said: BaseException = error
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    # An exception of the user's own need not survive the way.
    except Exception:  # noqa: BLE001
        said = HeadwayError(f"{type(error).__name__} in a worker process", got=told)
    control.send((said, client))
