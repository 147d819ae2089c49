"""Chaos: real processes, faults drawn from a seed, and arithmetic on what is left afterwards.

A server process with a durable log, worker processes, and a proxy before each worker. Workers write
down what they push and what they are told; the log is kept whole beside the server's folder, which
removes what its checkpoints cover. ``tests/chaos_audit.py`` puts the two together.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from tests.chaos_worker import SIZE
from tests.durable_kit import Served
from tests.proxy_kit import Proxy
from tests.waiting_kit import WAIT_S

__all__ = ["SERVER_FAULTS", "WORKER_FAULTS", "Chaos", "Fault", "draw_faults"]

WORKER_FAULTS: Final = ("kill", "stop", "drop", "delay", "lost_reply", "repeat")
"""``kill -9``, and another comes in its place; SIGSTOP, and later SIGCONT; the connection is cut;
everything takes longer for a while; the server is heard no more, though it hears, and then the
connection is cut, so that a push is sent again; a push is said twice."""
SERVER_FAULTS: Final = ("server_kill", "disk_full")
"""``kill -9``, and a start on the same folder and port; the log finds no room for a while."""
_LASTS_S: Final = {"stop": (0.5, 6.0), "delay": (2.0, 5.0), "lost_reply": (0.5, 1.5)}
_FULL_S: Final = (0.5, 3.0)
_DELAYS_S: Final = (0.02, 0.1)
_FULL_BYTES: Final = 4096
_ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = "from tests.chaos_worker import main; main()"
_LOOK_S: Final = 0.02
_PATIENCE_S: Final = 120.0


class Fault(NamedTuple):
    """One fault.

    Attributes:
        at_s: When, in seconds from the beginning.
        kind: One of :data:`WORKER_FAULTS` and :data:`SERVER_FAULTS`.
        worker: Whose.
        lasts_s: How long, where it lasts.
        size: Of a delay, one way, in seconds.
    """

    at_s: float
    kind: str
    worker: int
    lasts_s: float
    size: float


def draw_faults(
    seed: int, kinds: Sequence[str], *, num: int, num_workers: int, duration_s: float
) -> list[Fault]:
    """Faults of each kind, as often as of any other, spread over a time.

    Args:
        seed: Of all that is drawn.
        kinds: Which.
        num: How many in all.
        num_workers: Whom they may meet.
        duration_s: How long the run is. None comes in its last tenth.

    Returns:
        They, in the order of their times.
    """
    dice = random.Random(seed)
    deck = [kinds[index % len(kinds)] for index in range(num)]
    dice.shuffle(deck)
    apart_s = 0.9 * duration_s / max(1, num)
    return [
        Fault(
            at_s=(index + dice.random()) * apart_s,
            kind=kind,
            worker=dice.randrange(num_workers),
            lasts_s=dice.uniform(*_LASTS_S.get(kind, _FULL_S)),
            size=dice.uniform(*_DELAYS_S),
        )
        for index, kind in enumerate(deck)
    ]


class Struck(NamedTuple):
    """A fault that was done: which, and when it began and was over, as ``time.monotonic``."""

    fault: Fault
    at_s: float
    over_s: float


class Note(NamedTuple):
    """A line that a worker wrote."""

    at_s: float
    words: tuple[str, ...]


def is_applied(note: Note) -> bool:
    """Whether a worker was told that an update changed the model.

    Args:
        note: Of it.
    """
    return note.words[0] == "told" and note.words[2] == "applied"


class Worker:
    """A worker process, started as often as it is killed, behind its proxy.

    Args:
        folder: Where it writes.
        index: Its number.
        address: The server's.
        work_s: How long a job takes.
    """

    def __init__(self, folder: Path, index: int, address: str, work_s: float) -> None:
        self.name = f"w{index}"
        self.proxy = Proxy(address)
        self.lock = threading.Lock()
        self.notes: list[Note] = []
        self._path = folder / f"{self.name}.notes"
        self._path.touch()
        self._errors = (folder / f"{self.name}.stderr").open("ab")
        self._read_bytes = 0
        self._told = {
            "address": self.proxy.address,
            "name": self.name,
            "notes": str(self._path),
            "work_s": work_s,
        }
        self.start()

    def start(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(self._told)],
            stdin=subprocess.PIPE,
            stderr=self._errors,
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def kill(self) -> None:
        """As a machine does that fails; also when it is stopped."""
        self.process.kill()
        self.process.wait(WAIT_S)
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def repeat(self) -> None:
        """Have it say its next push twice."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(b"repeat\n")
            self.process.stdin.flush()

    def finish(self) -> None:
        """Wait until it has ended, as it was told to by SIGTERM."""
        code = self.process.wait(WAIT_S)
        said = Path(self._errors.name).read_text(errors="replace")[-2000:]
        assert code == 0, f"{self.name} ended with {code}: {said}"

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self.proxy.close()
        self._errors.close()

    def look(self) -> list[Note]:
        """All that it has written so far."""
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.decode().splitlines():
            at_s, *words = line.split(" ")
            self.notes.append(Note(float(at_s), tuple(words)))
        return self.notes

    def applied_after(self, at_s: float) -> bool:
        """Whether it has heard that an update of its was applied, since then.

        Args:
            at_s: As ``time.monotonic``.
        """
        notes = self.look()
        start = bisect_left(notes, at_s, key=lambda note: note.at_s)
        return any(is_applied(note) for note in notes[start:])


class Chaos:
    """A server, workers, and what happens to them.

    Args:
        folder: Where all is kept; on a disk.
        num_workers: How many.
        work_s: How long a job takes, in seconds.
        checkpoint_frequency: The server's, in versions.

    Example::

        with Chaos(folder, num_workers=4, work_s=0.05) as chaos:
            chaos.run(faults, duration_s=60.0)
            account = audit(chaos)
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_workers: int,
        work_s: float,
        checkpoint_frequency: int = 1000,
    ) -> None:
        self.home, self.archive = folder / "home", folder / "archive"
        self.archive.mkdir(parents=True)
        self.struck: list[Struck] = []
        self.began_s = self.ended_s = 0.0
        self.weights: list[float] = []
        self.status: dict[str, object] = {}
        self._over = threading.Event()
        self._server = threading.Lock()
        self._linked: set[int] = set()
        with ExitStack() as stack:
            self.served = Served(
                self.home,
                size=SIZE,
                durability="log",
                checkpoint_frequency=checkpoint_frequency,
            )
            stack.callback(self._end_server)
            self.workers = []
            for index in range(num_workers):
                self.workers.append(Worker(folder, index, self.served.address, work_s))
                stack.callback(self.workers[-1].close)
            keeper = threading.Thread(target=self._keep_log)
            keeper.start()
            stack.callback(keeper.join)
            stack.callback(self._over.set)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, faults: Sequence[Fault], duration_s: float, *, num_updates: int = 0) -> None:
        """Let everybody work for a time while faults happen; then all leave, and the server stops.

        Args:
            faults: In the order of their times.
            duration_s: How long, from when all work.
            num_updates: How many must have been acknowledged before they leave.

        Raises:
            AssertionError: Somebody or something never came back.
        """
        self.until_all_work()
        self.began_s = time.monotonic()
        with ThreadPoolExecutor(max(1, len(faults))) as pool:
            done = []
            for fault in faults:
                self._wait_until(self.began_s + fault.at_s)
                done.append(pool.submit(self._strike, fault))
            for one in done:
                one.result()
        self._wait_until(self.began_s + duration_s)
        self.ended_s = time.monotonic()
        self._until(lambda: len(self.applied_s()) >= num_updates, "too little was applied")
        self.until_all_work()
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.finish()
        self.status = self.served.ask("status")
        self.weights = self.served.ask("weights")["weights"]
        self.keep_log()
        self.served.end()

    def until_all_work(self) -> None:
        """Wait until each worker has heard of an update that was applied, from now on.

        Raises:
            AssertionError: One never came back.
        """
        since_s = time.monotonic()
        for worker in self.workers:
            self._until(
                lambda one=worker: one.applied_after(since_s),  # type: ignore[misc]
                f"{worker.name} never came back",
            )

    def applied_s(self) -> list[float]:
        """When workers heard that an update was applied, each once, in order."""
        heard: dict[str, float] = {}
        for worker in self.workers:
            for note in worker.look():
                if is_applied(note):
                    heard.setdefault(note.words[1], note.at_s)
        return sorted(heard.values())

    def keep_log(self) -> None:
        """Take the log's files into the archive: other names of the same files."""
        with suppress(FileNotFoundError):
            for path in sorted((self.home / "log").glob("log-*.hwlog")):
                inode = path.stat().st_ino
                if inode not in self._linked:
                    os.link(path, self.archive / f"{path.name}.{len(self._linked):06d}")
                    self._linked.add(inode)

    # --- faults

    def _strike(self, fault: Fault) -> None:
        lock = self._server if fault.kind in SERVER_FAULTS else self.workers[fault.worker].lock
        with lock:
            at_s = time.monotonic()
            over_s = getattr(self, f"_{fault.kind}")(self.workers[fault.worker], fault)
            self.struck.append(Struck(fault, at_s, over_s or at_s))

    def _kill(self, worker: Worker, fault: Fault) -> None:
        worker.kill()
        worker.start()

    def _stop(self, worker: Worker, fault: Fault) -> float:
        worker.process.send_signal(signal.SIGSTOP)
        self._over.wait(fault.lasts_s)
        worker.process.send_signal(signal.SIGCONT)
        return time.monotonic()

    def _drop(self, worker: Worker, fault: Fault) -> None:
        worker.proxy.cut()

    def _delay(self, worker: Worker, fault: Fault) -> float:
        worker.proxy.delay_s = fault.size
        self._over.wait(fault.lasts_s)
        worker.proxy.delay_s = 0.0
        return time.monotonic()

    def _lost_reply(self, worker: Worker, fault: Fault) -> float:
        worker.proxy.mute()
        self._over.wait(fault.lasts_s)
        worker.proxy.cut()
        return time.monotonic()

    def _repeat(self, worker: Worker, fault: Fault) -> None:
        worker.repeat()

    def _server_kill(self, worker: Worker, fault: Fault) -> float:
        self.served.restart()
        return time.monotonic()

    def _disk_full(self, worker: Worker, fault: Fault) -> float:
        self._limit(_FULL_BYTES)
        self._until(lambda: self.served.ask("status")["log"]["error"], "the disk was never full")
        self._over.wait(fault.lasts_s)
        self._limit(None)
        return time.monotonic()

    def _limit(self, num_bytes: int | None) -> None:
        """How large a file of the server's may be: a disk that is full, for it alone."""
        process = self.served.process.pid
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        limit = hard if num_bytes is None else num_bytes
        resource.prlimit(process, resource.RLIMIT_FSIZE, (limit, hard))

    # --- waiting

    def _until(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < until, what
            self._over.wait(_LOOK_S)

    def _wait_until(self, at_s: float) -> None:
        self._over.wait(max(0.0, at_s - time.monotonic()))

    def _keep_log(self) -> None:
        # A file is there for two checkpoints at least.
        while not self._over.wait(_LOOK_S):
            self.keep_log()

    def _end_server(self) -> None:
        if self.served.process.poll() is None:
            self.served.kill()
