"""The place in shared memory where a worker may write its next payload."""

from __future__ import annotations

import pytest
import torch

from headway import algorithms
from tests.link_kit import PATIENCE_S, job

SIZE = 5


MINUS = algorithms.async_sgd(learning_rate=1.0)


@pytest.mark.parametrize("carrier", ["local", "shared"])
def test_what_lies_there_is_what_the_server_applies(rigs, carrier: str):
    rig = rigs(carrier, torch.zeros(SIZE), MINUS)
    exchange = rig.joined()
    assert exchange.room() is not None, "the server has said where"
    exchange.ask()
    for step in range(1, 4):
        work = job(exchange)
        assert work.parameters is not None
        before = work.parameters.clone()
        room = exchange.room()
        assert room is not None
        room.copy_(torch.full((SIZE,), float(step)))
        # The model of the job lies elsewhere.
        assert torch.equal(work.parameters, before)
        exchange.push(work, room, num_examples=1, again=step < 3)
    assert exchange.settle(PATIENCE_S)
    assert torch.equal(rig.look(lambda: rig.server.parameters.clone()), torch.full((SIZE,), -6.0))


def test_it_is_given_when_the_server_has_read_what_lay_there(rigs):
    rig = rigs("local", torch.zeros(SIZE), MINUS)
    exchange = rig.joined()
    for _ in range(2):
        exchange.ask()
    first, second = job(exchange), job(exchange)
    exchange.push(first, torch.ones(SIZE), num_examples=1, again=False)
    room = exchange.room()
    assert room is not None
    assert rig.look(lambda: rig.server.version) == 1
    room.fill_(2.0)
    exchange.push(second, room, num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert torch.equal(rig.look(lambda: rig.server.parameters.clone()), torch.full((SIZE,), -3.0))


def test_there_is_none_where_vectors_travel_in_messages(rigs):
    exchange = rigs("inline", torch.zeros(SIZE)).joined()
    assert exchange.room() is None
