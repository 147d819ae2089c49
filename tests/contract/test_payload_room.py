"""The place in shared memory where a worker may write its next payload."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from headway import algorithms, compression, core
from headway.runtime import wire
from headway.runtime.encoded import Traffic
from headway.runtime.exchange import Exchange
from headway.runtime.narrow import Narrow
from headway.runtime.parcel import Delivery
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
    # The hub reads nothing until the worker listens for its receipt.
    held = threading.Event()
    rig.hub.loop.post(lambda: held.wait(PATIENCE_S))
    exchange.push(first, torch.ones(SIZE), num_examples=1, again=False)
    receive = exchange._link.receive

    def listens(timeout_s=None):
        held.set()
        return receive(timeout_s)

    exchange._link.receive = listens
    room = exchange.room()
    assert held.is_set(), "it waited for no receipt"
    assert rig.look(lambda: rig.server.version) == 1
    room.fill_(2.0)
    exchange.push(second, room, num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert torch.equal(rig.look(lambda: rig.server.parameters.clone()), torch.full((SIZE,), -3.0))


class Stops:
    """A link to a server that ends before it has taken an update."""

    traffic = Traffic()

    def __init__(self):
        layout = json.dumps(core.ParameterLayout.flat(SIZE).describe())
        self.told = [
            wire.ToWorker(welcome=wire.Welcome(layout=layout, instructions="{}")),
            wire.ToWorker(job=wire.Job(id=1)),
            wire.ToWorker(stop=wire.Stop(reason="done", drain=False)),
        ]

    def send(self, parcel):
        pass

    def receive(self, timeout_s=None):
        return Delivery(self.told.pop(0))

    def attach(self, welcome, layout):
        return True

    def room(self):
        return torch.zeros(SIZE)


def test_there_is_none_while_a_server_that_ends_may_still_read():
    exchange = Exchange(Stops())
    exchange.join()
    assert exchange.room() is not None
    exchange.push(exchange.next(), torch.ones(SIZE), num_examples=1)
    assert exchange.room() is None
    assert exchange.stopped == "done"


def test_there_is_none_for_what_is_compressed():
    exchange = Exchange(Stops(), narrow=Narrow(compression.int8()))
    exchange.join()
    assert exchange.room() is None


def test_there_is_none_where_vectors_travel_in_messages(rigs):
    exchange = rigs("inline", torch.zeros(SIZE)).joined()
    assert exchange.room() is None
