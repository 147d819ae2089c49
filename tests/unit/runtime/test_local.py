"""The local link where a worker is silent, or does not read: nobody waits, and it may come back."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import pytest
import torch

from headway.core.errors import RefusedError
from headway.runtime import wire
from headway.runtime.exchange import Exchange
from headway.runtime.local import SILENT, LocalLink, LocalSession
from headway.runtime.timeouts import Timeouts
from tests.link_kit import PATIENCE_S, Rig, job

SIZE = 5
LEASE_S = 3000.0
# The test says when the worker is heard of, and not a thread.
RARELY = Timeouts(heartbeat_s=1000.0, lease_s=LEASE_S, stall_s=LEASE_S)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig("local", torch.zeros(SIZE))
    yield made
    made.close()


class Worker:
    """One whose server's clock stands until it is told otherwise."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.now = rig, 0.0
        ours, theirs = Pipe()
        self.session = LocalSession(
            rig.hub, ours, rig.segments, rig.layout, RARELY, clock=lambda: self.now
        )
        self.link = LocalLink(theirs)
        rig.links.append(self.link)
        self.exchange = self.joined()

    def joined(self) -> Exchange:
        exchange = Exchange(self.link, worker="ada")
        exchange.join(PATIENCE_S)
        return exchange

    def silent(self, duration_s: float) -> None:
        """Let the server look again and again for so long, as it does."""
        until = self.now + duration_s
        while self.now < until:
            self.now = min(until, self.now + 100.0)
            self.rig.look(self.session.look)

    def works(self) -> None:
        self.exchange.ask()
        work = job(self.exchange)
        self.exchange.push(work, torch.ones(SIZE), num_examples=1, again=False)
        assert self.exchange.settle(PATIENCE_S)


def state(rig: Rig) -> Any:
    return rig.look(lambda: rig.hub.members.by_name["ada"].left)


def test_a_silent_worker_is_lost_with_its_jobs_and_joins_again(rig: Rig) -> None:
    worker = Worker(rig)
    worker.link._beat()
    worker.exchange.ask()
    stale = job(worker.exchange)
    worker.silent(LEASE_S)
    assert state(rig) == ""
    worker.silent(100.0)
    assert state(rig) == "lost"
    assert rig.look(lambda: rig.server.num_in_flight) == 0
    # It was only stopped: what it hands in now is of no use, and it is told why.
    worker.exchange.push(stale, torch.ones(SIZE), num_examples=1)
    with pytest.raises(RefusedError) as caught:
        worker.exchange.next(PATIENCE_S)
    assert caught.value.code == SILENT
    worker.exchange = worker.joined()
    worker.works()
    assert state(rig) == ""
    assert rig.look(lambda: (rig.server.version, rig.server.counts["lost"])) == (1, 1)
    assert worker.session.num_losses == 1


def test_a_worker_that_is_heard_of_is_not_lost(rig: Rig) -> None:
    worker = Worker(rig)
    for _ in range(3):
        worker.link._beat()
        worker.works()
        worker.silent(LEASE_S - 100.0)
    assert state(rig) == ""


def test_the_hub_does_not_wait_for_a_worker_that_does_not_read(rig: Rig) -> None:
    worker, other = Worker(rig), rig.joined("eve")
    long = wire.ToWorker(wait=wire.Wait(reason="x" * 1000))

    def tell() -> None:
        for _ in range(2000):
            worker.session.send(long)

    rig.look(tell)
    rig.until(lambda: rig.hub.members.by_name["ada"].left == "lost")
    other.ask()
    other.push(job(other), torch.ones(SIZE), num_examples=1, again=False)
    assert other.settle(PATIENCE_S)
    while worker.exchange._hear(0.0):
        pass
    worker.exchange.ask()
    with pytest.raises(RefusedError):
        worker.exchange.next(PATIENCE_S)
    worker.exchange = worker.joined()
    worker.works()
    assert rig.look(lambda: rig.server.version) == 2
