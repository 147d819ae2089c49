"""What travels between a server and its workers, in every way in which they reach it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from headway import algorithms, core
from headway.core.errors import HeadwayError
from tests.link_kit import PATIENCE_S, SIZE, job, receipts_of


def test_an_answer_comes_with_the_receipt_and_models_are_kept(rig):
    rig = rig(torch.ones(SIZE), algorithms.easgd(mixing=0.25))
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    exchange.ask()
    x = local = torch.ones(SIZE)
    kept = []
    for step in range(4):
        local = local + step
        work = job(exchange)
        kept.append(work.parameters is None)
        exchange.push(work, local, num_examples=1, again=step < 2)
        assert exchange.settle(PATIENCE_S)
        # The elastic rule: both move towards each other by the same step.
        move = 0.25 * (local - x)
        local, x = local - move, x + move
        assert torch.allclose(receipts[step].answer, local)
    assert torch.allclose(rig.look(lambda: rig.server.parameters.clone()), x)
    # A worker that has its own model goes on from it.
    assert kept == [False, False, True, True]


def test_buffers_travel_both_ways(rig):
    model = nn.BatchNorm1d(3)
    layout = core.ParameterLayout.of(model)
    initial = layout.flatten(model)
    buffers = layout.flatten_buffers(model)
    rig = rig(initial, layout=layout, buffers=buffers)
    exchange = rig.joined()
    exchange.ask()
    work = job(exchange)
    assert torch.equal(work.buffers.floating, buffers.floating)
    assert torch.equal(work.buffers.integer, buffers.integer)
    sent = core.Buffers(torch.arange(6.0), torch.tensor([41]))
    exchange.push(work, torch.ones(6), num_examples=1, buffers=sent)
    assert torch.equal(job(exchange).buffers.integer, torch.tensor([41]))


def test_fragments_come_one_by_one(rig):
    layout = core.ParameterLayout.of(
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5))
    ).with_fragments(2)
    algorithm = algorithms.decoupled_diloco(num_fragments=2, sync_every=4, grace=0.0)
    rig = rig(torch.zeros(layout.num_params), algorithm, layout=layout)
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    sent = []
    for _ in range(8):
        work = job(exchange)
        fragment = work.order.fragment
        sent.append(work.parameters.numel())
        part = layout.fragment(fragment)
        exchange.push(work, torch.ones(part.stop - part.start), num_examples=1, fragment=fragment)
    assert exchange.settle(PATIENCE_S)
    assert {receipt.status for receipt in receipts} == {"applied"}
    small, large = sorted(f.stop - f.start for f in map(layout.fragment, range(2)))
    assert sent[0] == small + large
    assert set(sent[1:]) == {small, large}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [5, 70_000])
def test_other_dtypes(rig, dtype, size):
    rig = rig(torch.zeros(size, dtype=dtype))
    exchange = rig.joined()
    exchange.ask()
    exchange.push(job(exchange), torch.full((size,), -1.5, dtype=dtype), num_examples=1)
    assert torch.equal(job(exchange).parameters, torch.full((size,), 1.5, dtype=dtype))


@pytest.mark.parametrize("size", [16_384, 16_385, 262_144, 262_145, 1_000_003])
def test_vectors_of_every_size(rig, size):
    """Around what still travels in the message, and around the end of a chunk."""
    rig = rig(torch.arange(float(size)))
    exchange = rig.joined()
    exchange.ask()
    exchange.ask()
    first, second = job(exchange), job(exchange)
    assert torch.equal(first.parameters, torch.arange(float(size)))
    exchange.push(first, torch.arange(float(size)), num_examples=1)
    third = job(exchange)
    assert torch.equal(second.parameters, torch.arange(float(size)))
    assert not third.parameters.any()


def test_models_are_whole_while_others_push(rig):
    """Each value of the model is the number of pushes so far: a torn one would have two values."""
    size, steps = 300_000, 12
    rig = rig(torch.zeros(size))
    torn, failed = [], []

    def work(name):
        try:
            exchange = rig.joined(name)
            exchange.ask()
            exchange.ask()
            for _ in range(steps):
                task = job(exchange)
                model = task.parameters.clone()
                if not (model == float(-task.version)).all():
                    torn.append(task)
                exchange.push(task, torch.ones(size), num_examples=1)
            exchange.settle(PATIENCE_S)
            exchange.leave()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE_S)
    assert not torn
    assert not failed
    assert rig.look(lambda: rig.server.version) == 3 * steps


def test_hogwild_gives_out_the_servers_own_vector(rig, carrier):
    if carrier == "inline":
        pytest.skip("it says where vectors lie in shared memory")
    rig = rig(consistent=False)
    reader, writer = rig.joined("reader"), rig.joined("writer")
    reader.ask()
    seen = job(reader)
    writer.ask()
    writer.push(job(writer), torch.ones(SIZE), num_examples=1, again=False)
    assert writer.settle(PATIENCE_S)
    assert torch.equal(seen.parameters, -torch.ones(SIZE))


def test_what_lies_elsewhere_stays_apart_for_two_jobs(rig):
    """A server on a GPU: its snapshots are copied to where the worker reads them."""
    rig = rig()
    # Here the snapshots lie in memory of this process alone.
    rig.look(lambda: rig.segments._by_address.clear())
    exchange = rig.joined()
    exchange.ask()
    exchange.ask()
    first, second = job(exchange), job(exchange)
    exchange.push(first, torch.ones(SIZE), num_examples=1)
    third = job(exchange)
    assert not second.parameters.any()
    assert torch.equal(third.parameters, -torch.ones(SIZE))


def test_without_room_for_shared_memory_models_come_with_the_message(rigs, caplog):
    rig = rigs("shared", torch.zeros(SIZE))

    def full(num_bytes):
        raise HeadwayError("there is no room for memory that processes share")

    exchange = rig.joined()
    exchange.ask()
    first = job(exchange)
    rig.look(lambda: setattr(rig.segments, "create", full))
    # The newest snapshot is in use, so that the next one needs room of its own.
    exchange.ask()
    exchange.push(first, torch.ones(SIZE), num_examples=1, again=False)
    second = job(exchange)
    for _ in range(19):
        assert exchange.settle(PATIENCE_S)
        exchange.ask()
        exchange.push(second, torch.ones(SIZE), num_examples=1, again=False)
        second = job(exchange)
        assert torch.equal(second.parameters, torch.full((SIZE,), float(-second.version)))
        seen = exchange.look(PATIENCE_S)
        assert torch.equal(seen.parameters, torch.full((SIZE,), float(-seen.version)))
    assert rig.hub.error is None
    # Who comes now has no segment at all.
    other = rig.joined()
    other.ask()
    assert job(other).parameters is not None
    assert sum("without shared memory" in line.message for line in caplog.records) == 1
