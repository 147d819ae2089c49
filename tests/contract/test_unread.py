"""A worker that asks and does not read: how many models wait for it."""

from __future__ import annotations

import threading
import weakref

import grpc
import pytest
import torch

import headway
from headway.runtime import session as module
from headway.runtime import wire
from tests.link_kit import PATIENCE_S, Rig, job

SIZE = 1_000_000


@pytest.fixture
def rig():
    made = Rig("inline", torch.zeros(SIZE))
    yield made
    made.close()


@pytest.fixture
def waiting(monkeypatch):
    """How many models were alive each time when another was to be sent."""
    alive, counts = {}, []
    honest = module.Unsent.put

    def put(self, letter):
        if letter.vector is not None:
            alive[id(letter.vector)] = weakref.ref(letter.vector)
            counts.append(sum(model() is not None for model in alive.values()))
        return honest(self, letter)

    monkeypatch.setattr(module.Unsent, "put", put)
    return counts


class Deaf:
    """A worker that asks so often, and reads nothing but the welcome."""

    def __init__(self, address, times, *, look):
        self._over = threading.Event()
        # A connection of its own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options=options)
        join = wire.Join(protocol=wire.PROTOCOL, library=headway.__version__, instance="deaf")
        self._says = [wire.ToServer(join=join)]
        self._says += [wire.ToServer(ask=wire.Ask(look=look))] * times
        self.call = self.channel.stream_stream("/headway.v1.Exchange/Work")(self._say())
        next(self.call)

    def _say(self):
        for header in self._says:
            yield header.SerializeToString()
        self._over.wait(PATIENCE_S)

    def close(self):
        self._over.set()
        self.call.cancel()
        self.channel.close()


@pytest.mark.parametrize(("look", "most"), [(True, 2), (False, 9)], ids=["looks", "jobs"])
def test_few_models_wait_for_who_does_not_read(rig, waiting, look, most):
    deaf = Deaf(rig.network.address, 300, look=look)
    rig.until(lambda: not rig.network._sessions)
    assert 1 <= max(waiting) <= most
    assert len(waiting) <= most + 1
    deaf.close()


def test_one_copy_is_enough_for_all_who_look_at_one_version(rig, waiting):
    deaf = [Deaf(rig.network.address, 1, look=True) for _ in range(6)]
    rig.until(lambda: len(waiting) == 6)
    assert max(waiting) == 1
    for one in deaf:
        one.close()


def test_what_is_said_right_behind_a_join_is_heard(rig, waiting):
    """Whoever may join has joined by the time the next message is read."""
    for number in range(1, 21):
        hasty = Deaf(rig.network.address, 1, look=True)
        rig.until(lambda number=number: len(waiting) == number)
        hasty.close()


def test_who_reads_may_look_as_often_as_it_likes(rig, waiting):
    exchange = rig.joined("honest")
    for turn in range(30):
        assert exchange.look(PATIENCE_S).version == turn // 10
        if turn % 10 == 9:
            exchange.ask()
            exchange.push(job(exchange), torch.ones(SIZE), num_examples=1, again=False)
            assert exchange.settle(PATIENCE_S)
    assert float(exchange.look(PATIENCE_S).parameters[0]) == -3.0
    assert max(waiting) <= 3
