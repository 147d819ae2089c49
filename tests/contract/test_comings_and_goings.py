"""Workers that come and go a thousand times: what is left of them."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import tracemalloc

import pytest
import torch

import headway
from headway.runtime import members as module
from headway.runtime import wire
from headway.runtime.quiet import grpc
from tests.link_kit import PATIENCE_S, job
from tests.unit.training import server_kit as kit

TIMES = 1000
AT_ONCE = 50
FEW = 50


def objects():
    """How many things there are that could hold others."""
    gc.collect()
    return len(gc.get_objects())


def visit(server, name, *, lost=False):
    """Join, do a job, and go."""
    raw = kit.Raw(server, name)
    raw.work()
    if lost:
        server._hub.gone(raw)
        server._hub.call(lambda: None)
    else:
        raw.say(leave=wire.Leave())


def sizes(server):
    """How much the server keeps of its workers, wherever it does."""
    hub = server._hub
    return hub.call(
        lambda: {
            "members": len(hub.members.by_name),
            "here": len(hub.members.here),
            "counted": len(hub.tally.clients),
            "known": hub.server.num_workers,
            "out": len(hub._deals.in_flight),
            "timers": len(hub._timers),
            "snapshots": hub.server.num_snapshots,
            "waiting": hub.outbox.num_waiting + hub.patience.num_waiting,
            "leaving": hub.dismissals.due_s,
        }
    )


NOTHING = {
    "members": 1,
    "here": 0,
    "counted": 1,
    "known": 1,
    "out": 0,
    "timers": 0,
    "waiting": 0,
    "leaving": None,
}


@pytest.mark.parametrize("lost", [False, True], ids=["leaves", "is lost"])
@pytest.mark.parametrize("rule", ["async_sgd", "ssp"])
def test_one_that_comes_back_leaves_nothing_behind(lost, rule):
    options = {"staleness_policy": "ssp", "max_staleness": 3} if rule == "ssp" else {}
    with kit.server(kit.line(), **options) as server:
        for _ in range(FEW):
            visit(server, "ada", lost=lost)
        before, threads = objects(), threading.active_count()
        for _ in range(TIMES):
            visit(server, "ada", lost=lost)
        told = sizes(server)
        assert told.pop("snapshots") <= 1
        assert told == NOTHING
        # Some of what is counted is the collector's and pytest's own.
        assert objects() - before < TIMES // 10
        assert threading.active_count() == threads
        assert len(server.status()["workers"]) == 1
        assert server.version == FEW + TIMES


def newest_bytes(folder):
    """Of the newest checkpoint. How much log lies beside it depends on how busy the disk was."""
    newest = max(folder.glob("checkpoint-*"))
    return sum(file.stat().st_size for file in newest.iterdir())


def test_one_that_comes_back_is_one_line_of_a_log_at_a_time(tmp_path):
    """With a log: what was logged is in checkpoints, and those are as large as before."""
    options = {"checkpoint_dir": tmp_path, "durability": "log", "checkpoint_frequency": 10}
    with kit.server(kit.line(), **options) as server:
        for _ in range(FEW):
            visit(server, "ada")
    few = newest_bytes(tmp_path)
    with kit.server(kit.line(), **options) as server:
        for _ in range(4 * FEW):
            visit(server, "ada")
        assert sizes(server)["known"] == 1
    assert newest_bytes(tmp_path) < 1.5 * few
    # All that was logged is more than twice that.
    log = sum(file.stat().st_size for file in (tmp_path / "log").iterdir())
    assert log < 4 * FEW * 250


def test_of_new_names_little_is_left(monkeypatch):
    """Receipts and a number for each that has worked, so that none of its work is taken twice."""
    monkeypatch.setattr(module, "_REMEMBERED", 8)
    with kit.server(kit.line()) as server:
        names = (f"worker of its own name {number}" for number in itertools.count())
        for _ in range(FEW):
            visit(server, next(names))
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(TIMES):
            visit(server, next(names))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        told = sizes(server)
        assert told["members"] == 8
        assert len(server.status()["workers"]) == 8
        assert told["known"] == told["counted"] == FEW + TIMES
        assert grown < 3000 * TIMES


def test_of_who_only_joins_nothing_is_left(monkeypatch, tmp_path):
    """Not in the state machine, not in its log: only in the table of those who were here last."""
    monkeypatch.setattr(module, "_REMEMBERED", 8)
    with kit.server(kit.line(), checkpoint_dir=tmp_path, durability="log") as server:
        journal = server._keeper._journal
        logged = journal.sequence
        for number in range(FEW):
            kit.Raw(server, f"early-{number}").say(leave=wire.Leave())
        before = objects()
        for number in range(TIMES):
            raw = kit.Raw(server, f"one-{number}")
            if number % 2:
                raw.say(leave=wire.Leave())
            else:
                server._hub.gone(raw)
        server._hub.call(lambda: None)
        del raw
        told = sizes(server)
        assert (told["members"], told["known"], told["counted"], told["here"]) == (8, 0, 0, 0)
        assert objects() - before < TIMES // 10
        assert journal.sequence == logged


# --- over the network


@pytest.fixture
def rig(rigs):
    return rigs("inline", torch.zeros(100_000))


class Visitors:
    """Streams of one connection, one after the other."""

    def __init__(self, address):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self._work = self.channel.stream_stream("/headway.v1.Exchange/Work")

    def _say(self, over, *headers):
        for header in headers:
            yield header.SerializeToString()
        over.wait(PATIENCE_S)

    def knock(self):
        """Open a stream, say nothing, and break it off."""
        over = threading.Event()
        call = self._work(self._say(over))
        call.initial_metadata()
        call.cancel()
        over.set()

    def join(self, name):
        """Join, hear the welcome, and break off."""
        join = wire.Join(
            protocol=wire.PROTOCOL, library=headway.__version__, worker=name, instance="i"
        )
        over = threading.Event()
        call = self._work(self._say(over, wire.ToServer(join=join)))
        assert wire.ToWorker.FromString(next(call)).HasField("welcome")
        call.cancel()
        over.set()

    def close(self):
        self.channel.close()


def held():
    """Threads of the network, and open files."""
    names = [thread.name for thread in threading.enumerate()]
    return names.count("headway-reader"), len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts files as Linux does")
@pytest.mark.parametrize("joins", [False, True], ids=["knock", "join"])
def test_a_thousand_streams_leave_nothing_behind(rig, joins):
    visitors = Visitors(rig.network.address)

    def come(count):
        for number in range(count):
            if joins:
                visitors.join(f"one-{number % 10}")
            else:
                visitors.knock()
            # A connection has so many streams, and those that were broken off end a little later.
            if number % AT_ONCE == AT_ONCE - 1 or number == count - 1:
                rig.until(lambda: not rig.network._sessions and not rig.hub.members.here)

    try:
        come(FEW)
        rig.until(lambda: held()[0] == 0)
        before, files = objects(), held()[1]
        come(TIMES)
        rig.until(lambda: held()[0] == 0)
        rig.until(lambda: objects() - before < TIMES)
        assert held()[1] <= files + 2
        assert rig.look(lambda: rig.server.num_workers) == 0
        assert rig.look(lambda: len(rig.hub.members.by_name)) == 10 * joins
    finally:
        visitors.close()
    exchange = rig.joined("honest")
    exchange.ask()
    exchange.push(job(exchange), torch.ones(100_000), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
