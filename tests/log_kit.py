"""Servers with logs, what is asked of them, and how they crash."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headway import algorithms, core
from headway.checkpoint import CheckpointStore, Journal, LoggedServer, recover, save_checkpoint
from headway.checkpoint.segments import Entry

SIZE = 3
WORKERS = tuple(f"w{index}" for index in range(3))
ALGORITHMS: dict[str, Callable[[], core.Algorithm]] = {
    "async_sgd": lambda: algorithms.async_sgd(learning_rate=0.1),
    "easgd": lambda: algorithms.easgd(mixing=0.3),
    "fedbuff": lambda: algorithms.fedbuff(buffer_size=2, timeout_s=2.5),
    "fedbuff, private": lambda: algorithms.fedbuff(
        buffer_size=2, clip_norm=0.5, noise_multiplier=1.0
    ),
    "minibatch_sgd": lambda: algorithms.minibatch_sgd(learning_rate=0.1, num_workers=2),
    "ringmaster": lambda: algorithms.ringmaster(learning_rate=0.1, delay_bound=2),
    "ssp": lambda: algorithms.ssp(learning_rate=0.1, bound=1),
}


@dataclass
class House:
    """A folder of checkpoints and log, and a server that lives there."""

    folder: Path
    algorithm: str = "async_sgd"
    keep_last: int = 2
    tickets: dict[int, core.Checkout] = field(default_factory=dict)
    sent: list[core.Update] = field(default_factory=list)
    # After each record, by its number: the server's state.
    states: dict[int, Any] = field(default_factory=dict)
    # How long the newest segment was then, in bytes.
    ends: dict[int, int] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.store = CheckpointStore(self.folder / "checkpoints", keep_last=self.keep_last)
        self.journal = Journal(self.folder / "log")
        server = recover(self.store, self.journal, self.make_server)
        self.doors = LoggedServer(server, self.journal)
        self.note()

    def make_server(self) -> core.Server:
        scheduler = core.RandomOrder(concurrency=2)
        return core.Server(
            torch.tensor([1.0, -2.0, 4.0]),
            ALGORITHMS[self.algorithm](),
            scheduler=scheduler,
            seed=5,
        )

    @property
    def server(self) -> core.Server:
        return self.doors.server

    def note(self) -> None:
        self.states[self.journal.sequence] = self.server.state_dict()
        self.ends[self.journal.sequence] = newest_segment(self.folder).stat().st_size

    def act(self, door: str, worker: str, value: float, again: bool) -> None:
        """Go through a door, whatever comes of it."""
        # A clock that stands now and then.
        self.now += 0.5 if value > 0 else 0.0
        if door == "register":
            self.carry(self.doors.register(WORKERS, self.now), worker)
        elif door == "checkout":
            self.carry(self.doors.checkout(worker, self.now), worker)
        elif door == "submit":
            job = next((job for job, owner in self.owners.items() if owner == worker), 77)
            ticket = self.tickets.get(job)
            payload = torch.tensor([value, 1.0, -value])
            version = 0 if ticket is None else ticket.version
            self.submit(core.Update(payload, version, worker, job, num_examples=3), again)
        elif door == "repeat" and self.sent:
            self.submit(self.sent[-1], again)
        elif door == "lose":
            self.carry(self.doors.lose(worker, self.now, again=again), worker)
        elif door == "tick":
            self.carry(self.doors.tick(self.now, closing=again), worker)
        elif door == "bad":
            odd: Any = [torch.ones(2, 2), torch.full((SIZE,), float("nan")), None][int(value) % 3]
            metrics = {"loss": float("inf")}
            self.submit(core.Update(odd, 0, worker, 78, weight=value, metrics=metrics), again)
        elif door == "checkpoint":
            self.checkpoint()
        self.note()

    def submit(self, update: core.Update, again: bool) -> core.Receipt:
        receipt = self.doors.submit(update, self.now, again=again)
        self.note()
        self.sent.append(update)
        self.carry(receipt, update.worker)
        return receipt

    @property
    def owners(self) -> dict[int, str]:
        """Who has which job."""
        return {job[0]: job[1] for job in self.server.state_dict()["jobs"]}

    def carry(self, reply: Any, worker: str) -> None:
        if isinstance(reply, core.Checkout):
            self.tickets[reply.job] = reply
        self.note()
        for effect in reply.effects:
            if isinstance(effect, core.Wake):
                self.carry(self.doors.checkout(effect.worker, self.now), effect.worker)

    def checkpoint(self) -> None:
        save_checkpoint(self.store, self.journal, self.server)()

    def close(self) -> None:
        self.journal.close()


class Town:
    """Houses below one folder, which are left in order at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[House | Journal] = []
        self._number = 0

    def house(self, algorithm: str = "async_sgd", **options: Any) -> House:
        """A new one."""
        self._number += 1
        return self.keep(House(self.folder / str(self._number), algorithm, **options))

    def after_a_crash(self, house: House, cut_at: int | None = None) -> House:
        """What comes up on the files as they are, or as if the newest segment ended sooner."""
        self._number += 1
        to = self.folder / str(self._number)
        shutil.copytree(house.folder, to)
        if cut_at is not None:
            os.truncate(newest_segment(to), cut_at)
        return self.keep(House(to, house.algorithm, now=house.now, sent=house.sent))

    def read(self, log: Path, after: int = 0) -> Iterator[Entry]:
        """The records of a log."""
        journal = Journal(log)
        self._open.append(journal)
        yield from journal.read(after)

    def leave(self) -> None:
        for one in self._open:
            one.close()

    def keep(self, house: House) -> House:
        """One that is left in the end."""
        self._open.append(house)
        return house


@contextmanager
def a_town() -> Iterator[Town]:
    """Where a test plays, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        town = Town(Path(folder))
        try:
            yield town
        finally:
            town.leave()


def newest_segment(folder: Path) -> Path:
    return max((folder / "log").glob("log-*.hwlog"))


def without_incarnation(state: Any) -> Any:
    """A server's state but for what a new incarnation changes."""
    return {key: value for key, value in state.items() if key not in ("incarnation", "num_jobs")}
