"""A worker that asks and does not read: how many models wait for it."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, closing

import pytest
import torch

import headway
from headway.runtime import session as module
from headway.runtime import wire
from tests.link_kit import PATIENCE_S, job
from tests.stream_kit import Stream, joins

SIZE = 1_000_000


@pytest.fixture
def rig(rigs):
    return rigs("inline", torch.zeros(SIZE))


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


def deaf(rig, times, *, look):
    """A worker that asks so often, and reads nothing but the welcome."""
    asks = [wire.ToServer(ask=wire.Ask(look=look))] * times
    join = joins(library=headway.__version__, instance="deaf")
    stream = Stream(rig.network.address, join, *asks)
    stream.hear()
    return stream


@pytest.mark.parametrize(("look", "most"), [(True, 2), (False, 9)], ids=["looks", "jobs"])
def test_few_models_wait_for_who_does_not_read(rig, waiting, look, most):
    with closing(deaf(rig, 300, look=look)):
        rig.until(lambda: not rig.network._sessions)
        assert 1 <= max(waiting) <= most
        assert len(waiting) <= most + 1


def test_one_copy_is_enough_for_all_who_look_at_one_version(rig, waiting):
    with ExitStack() as crowd:
        for _ in range(6):
            crowd.enter_context(closing(deaf(rig, 1, look=True)))
        rig.until(lambda: len(waiting) == 6)
        assert max(waiting) == 1


def test_what_is_said_right_behind_a_join_is_heard(rig, waiting):
    """Whoever may join has joined by the time the next message is read."""
    for number in range(1, 21):
        with closing(deaf(rig, 1, look=True)):
            rig.until(lambda number=number: len(waiting) == number)


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
