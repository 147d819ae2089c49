"""A worker that has to wait hears why, over the network; and what waits for it is bounded."""

from __future__ import annotations

import time

import pytest
import torch

import headway
from headway.core import FirstCome, Waited
from headway.core.errors import CheckpointError
from headway.runtime import wire
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from headway.training import apply_policies
from tests.link_kit import PATIENCE_S, job
from tests.unit.training import server_kit as kit

SIZE = 64


@pytest.fixture
def rig(rigs):
    return lambda *algorithm, **options: rigs("inline", torch.zeros(SIZE), *algorithm, **options)


def hears(exchange, what):
    """Listen until this is why the worker waits."""
    until = time.monotonic() + PATIENCE_S
    while what not in exchange.waiting:
        assert time.monotonic() < until, exchange.waiting
        assert exchange.next(0.05) is None


def hand_in(exchange, work=None, *, again=False):
    work = work or job(exchange)
    exchange.push(work, torch.ones(SIZE), num_examples=1, again=again)
    assert exchange.settle(PATIENCE_S)


def slow_and_quick(rig):
    """A rig whose workers may not be a job ahead of each other: one has a job, the other has asked."""
    algorithm = apply_policies(
        headway.algorithms.async_sgd(learning_rate=1.0), "ssp", max_staleness=0
    )
    rig = rig(algorithm)
    slow, quick = rig.joined("slow"), rig.joined("quick")
    slow.ask()
    work = job(slow)
    quick.ask()
    return rig, slow, work, quick


# --- what a worker is told


def test_the_limit_of_jobs_in_flight(rig):
    rig = rig(scheduler=FirstCome(concurrency=1))
    works, waits = rig.joined("works"), rig.joined("waits")
    works.ask()
    work = job(works)
    waits.ask()
    hears(waits, "1 jobs are in flight, the most allowed")
    hand_in(works, work)
    assert job(waits)
    assert waits.waiting == ""


def test_the_bound_of_stale_synchronous_training(rig):
    rig, slow, work, quick = slow_and_quick(rig)
    hand_in(quick)
    quick.ask()
    hears(quick, "ahead of the slowest worker (bound 0)")
    hand_in(slow, work)
    assert job(quick)


def test_who_hands_in_and_asks_in_one_trip(rig):
    rig, slow, work, quick = slow_and_quick(rig)
    hand_in(quick, again=True)
    why = "ahead of the slowest worker (bound 0)"
    hears(quick, why)
    rows = {member.name: member.describe(0.0) for member in rig.hub.members.here.values()}
    assert why in rows["quick"]["waits"]
    assert (rows["quick"]["state"], rows["slow"]["waits"]) == ("waiting", None)
    events = [event for event in rig.hub.server.events if isinstance(event, Waited)]
    assert [(event.worker, event.reason == rows["quick"]["waits"]) for event in events] == [
        ("quick", True)
    ]
    hand_in(slow, work)
    assert job(quick)
    assert quick.waiting == ""
    assert rig.hub.members.by_name["quick"].describe(0.0)["waits"] is None


def test_who_is_given_a_job_at_once_is_not_told_to_wait(rig):
    rig = rig()
    worker = rig.joined("alone")
    worker.ask()
    for _ in range(3):
        hand_in(worker, again=True)
    assert job(worker)
    assert not any(isinstance(event, Waited) for event in rig.hub.server.events)


def test_a_third_job(rig):
    worker = rig().joined("greedy")
    for _ in range(3):
        worker.ask()
    assert job(worker)
    assert job(worker)
    hears(worker, "has 2 jobs already")


@pytest.fixture
def durable(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, durability="log") as server:
        yield server


def joined(server, name):
    exchange = Exchange(NetworkLink(server.address), worker=name)
    exchange.join(PATIENCE_S)
    return exchange


def test_a_disk_whose_sync_fails_is_told_to_who_waits_for_its_receipt(durable, monkeypatch):
    """Nobody asks for anything meanwhile: the failure alone is the reason to speak."""
    worker = joined(durable, "ada")
    worker.ask()
    work = job(worker)
    journal, failing = durable._keeper._journal, [True]
    sync = journal.sync

    def failed():
        if failing:
            raise CheckpointError("the disk failed")
        return sync()

    monkeypatch.setattr(journal, "sync", failed)
    worker.push(work, torch.ones(2, dtype=torch.float64), num_examples=1, again=False)
    hears(worker, "the disk failed")
    failing.clear()
    assert worker.settle(PATIENCE_S)
    hears(worker, "can log again")
    assert kit.weights(durable).tolist() == [1.0, 1.0]
    worker.leave()


# --- what waits for a worker


@pytest.fixture
def full(durable, monkeypatch):
    """A switch: whether the log has no room."""
    journal, switch = durable._keeper._journal, []
    append = journal.append

    def refusing(call, *, version):
        if switch:
            raise CheckpointError("the disk is full")
        return append(call, version=version)

    monkeypatch.setattr(journal, "append", refusing)
    return switch


def test_who_comes_and_goes_while_the_disk_is_full_leaves_nothing_in_the_queue(durable, full):
    hub = durable._hub
    stays = kit.Raw(durable, "stays")
    work = stays.ask().job
    full.append(True)
    stays.say(torch.ones(2, dtype=torch.float64), push=wire.Push(job=work.id))
    for number in range(300):
        raw = kit.Raw(durable, f"passes-{number % 3}")
        raw.say(ask=wire.Ask())
        raw.say(torch.ones(2, dtype=torch.float64), push=wire.Push(job=7))
        if number % 2:
            hub.gone(raw)
        else:
            raw.say(leave=wire.Leave())
            hub.gone(raw)
        hub.call(lambda: None)
    assert hub.patience.num_waiting == 1
    assert hub.call(lambda: len(hub.members.here)) == 1
    full.clear()
    late = kit.Raw(durable, "late")
    late.say(ask=wire.Ask())
    while not late.hear().HasField("job"):
        pass
    assert durable.status()["rejected"] == 0
    assert durable.status()["applied"] == 1
    assert hub.server.num_workers == 2


def test_one_that_is_known_is_lost_once_however_often_it_comes_while_the_disk_is_full(
    durable, full
):
    hub = durable._hub
    kit.Raw(durable, "comes").work()
    full.append(True)
    for _ in range(100):
        hub.gone(kit.Raw(durable, "comes", instance="i"))
        hub.call(lambda: None)
    # That it was lost.
    assert hub.patience.num_waiting == 1
    full.clear()
    kit.Raw(durable, "late").work()
    assert durable.status()["workers"][0]["state"] == "lost"


def test_with_nobody_left_in_the_queue_the_next_one_tries_the_disk(durable, full):
    hub = durable._hub
    raw = kit.Raw(durable, "gone")
    full.append(True)
    raw.say(ask=wire.Ask())
    assert "full" in raw.hear().wait.reason
    hub.gone(raw)
    hub.call(lambda: None)
    assert hub.patience.num_waiting == 0
    assert "full" in durable.status()["log"]["error"]
    full.clear()
    ada = kit.Raw(durable, "ada")
    assert "can log again" in ada.ask().wait.reason
    assert ada.push(ada.hear().job).receipt.status == "applied"
    assert durable.status()["log"]["error"] is None
