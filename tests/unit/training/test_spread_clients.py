"""Clients that keep something in their worker process: no process takes those of the others."""

from __future__ import annotations

import multiprocessing
import os
import select
from pathlib import Path
from typing import Any

import pytest
import torch

import headway as hw
from headway import core
from headway.runtime.exchange import Exchange
from headway.task import LocalResult
from tests.simulation_kit import Chase, ChaseTrainer

UPDATES = 600
ALONE = 50
QUIET_S = 0.2
LONG_S = 60.0
LATE = "worker-1"


class Overslept(Chase):
    """A task at which one process asks for its first job when the other has had its time alone.

    That is until it has nothing to do, or has done ``ALONE`` jobs; it then waits for that question.

    Args:
        targets: Of the clients.
        folder: Where two named pipes are: ``done`` gets a byte for each job of the one that is
            alone, and ``asked`` one when the other has asked.
    """

    def __init__(self, targets: list[float], folder: Path) -> None:
        super().__init__(targets)
        self.pipes = [str(folder / "done"), str(folder / "asked")]

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        done, asked = [os.open(pipe, os.O_RDWR) for pipe in self.pipes]
        if multiprocessing.current_process().name == LATE:
            oversleep(done, asked)
            return ChaseTrainer(self, algorithm.payload)
        return GivesSigns(self, algorithm.payload, done, asked)


def comes(pipe: int, within_s: float) -> bool:
    return bool(select.select([pipe], [], [], within_s)[0])


def oversleep(done: int, asked: int) -> None:
    ask = Exchange.ask

    def late(exchange: Exchange, *args: Any, **options: Any) -> Any:
        Exchange.ask = ask  # type: ignore[method-assign]
        count = 0
        while count < ALONE and comes(done, QUIET_S if count else LONG_S):
            count += len(os.read(done, 1))
        ask(exchange, *args, **options)
        os.write(asked, b"!")

    Exchange.ask = late  # type: ignore[assignment, method-assign]


class GivesSigns(ChaseTrainer):
    def __init__(self, task: Chase, payload: core.PayloadKind, done: int, asked: int) -> None:
        super().__init__(task, payload)
        self.done, self.asked = done, asked

    def train(self, assignment: Any) -> LocalResult:
        os.write(self.done, b".")
        if len(self.task.trained) == ALONE:
            comes(self.asked, LONG_S)
        return super().train(assignment)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_process_that_asks_late_finds_its_share_of_the_clients(
    tmp_path: Path, prefetch: bool
) -> None:
    for name in ("done", "asked"):
        os.mkfifo(tmp_path / name)
    result = hw.run(
        Overslept([1.0, 2.0, 3.0, 4.0], tmp_path),
        hw.algorithms.easgd(mixing=0.2),
        runtime=hw.Processes(2, prefetch=prefetch),
        concurrency=4 if prefetch else 2,
        stop=hw.until(updates=UPDATES),
        evaluate_every=UPDATES,
    )
    assert result.updates == UPDATES
    # Without asking ahead a client of either is always waited for, so that none outruns the other.
    fewest = 0 if prefetch else UPDATES / 4
    assert min(result.execution["updates"].values()) > fewest
    assert min(count.accepted for count in result.clients.values()) > 0
    assert not any("clients had what they keep" in text for text in result.warnings)


@pytest.mark.slow
def test_clients_of_a_slow_process_keep_no_other_process_from_working() -> None:
    result = hw.run(
        Chase([1.0, 2.0, 3.0, 4.0]),
        hw.algorithms.easgd(mixing=0.2),
        runtime=hw.Processes(2, slowdown={0: 100.0}),
        stop=hw.until(updates=400),
        evaluate_every=400,
    )
    assert result.concurrency == 2
    updates = result.execution["updates"]
    # With as many turns as processes, both soon do as many: the turns are the slow one's clients'.
    assert updates["worker-1"] > 3 * updates["worker-0"]
