"""One suite for every way in which workers reach a server."""

from __future__ import annotations

import json

import pytest
import torch

import headway
from headway import algorithms, core
from headway.core.errors import RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.exchange import Exchange
from headway.runtime.parcel import Parcel
from headway.runtime.segments import machine
from tests.link_kit import PATIENCE_S, SIZE, job, receipts_of

# --- the door


def test_a_worker_is_told_what_it_needs(rig):
    rig = rig()
    exchange = rig.exchange("ada")
    invitation = exchange.join(PATIENCE_S)
    assert invitation.worker == "ada"
    assert invitation.layout == rig.layout
    assert invitation.instructions == {"payload": "gradient"}
    assert invitation.shared == (rig.carrier != "inline")


def test_a_worker_without_a_name_gets_one(rig):
    rig = rig()
    first, second = (rig.exchange().join(PATIENCE_S).worker for _ in range(2))
    assert (first, second) == ("worker-0", "worker-1")


def test_both_sides_say_how_vectors_travel(rig):
    rig = rig()
    exchange = rig.joined("ada")
    exchange.ask()
    job(exchange)
    described = rig.look(lambda: rig.hub.members.by_name["ada"].describe(0.0))
    assert described["carrier"] == rig.says
    assert getattr(rig.links[0], "carrier", "shared memory") == rig.says


def told_to_leave(rig, **fields):
    """What a worker is told that introduces itself like this."""
    link = rig.link()
    join = wire.Join(**{"protocol": wire.PROTOCOL, "library": headway.__version__, **fields})
    link.send(Parcel(wire.ToServer(join=join)))
    delivery = link.receive(PATIENCE_S)
    with pytest.raises(ServerLostError):
        link.receive(PATIENCE_S)
    return delivery.header.refused


def test_another_protocol_is_refused_with_both_named(rig):
    refused = told_to_leave(rig(), protocol=99)
    assert refused.code == "protocol"
    assert "protocol 1 " in refused.message
    assert "protocol 99 " in refused.message


def test_another_version_of_the_library_is_refused_with_both_named(rig):
    refused = told_to_leave(rig(), library="0.0.1")
    assert refused.code == "library"
    assert headway.__version__ in refused.message
    assert "0.0.1" in refused.message


def test_another_model_is_refused_with_both_named(rig):
    rig = rig()
    exchange = rig.exchange(layout=core.ParameterLayout.flat(SIZE + 1))
    with pytest.raises(RefusedError) as caught:
        exchange.join(PATIENCE_S)
    assert "7" in str(caught.value)
    assert "8" in str(caught.value)
    assert caught.value.__notes__ == ["code: layout"]


def test_a_description_that_cannot_be_read_is_refused(rig):
    assert told_to_leave(rig(), layout="[" * 10_000).code == "layout"


def test_a_name_that_is_taken_is_refused(rig):
    rig = rig()
    rig.joined("ada")
    with pytest.raises(RefusedError, match="named `ada` is here already"):
        rig.joined("ada")


def test_a_process_that_comes_back_takes_its_own_place(rig):
    rig = rig()
    old = rig.joined("ada", instance="one")
    old.ask()
    lost = job(old)
    new = rig.joined("ada", instance="one")
    with pytest.raises(ServerLostError):
        old.next(PATIENCE_S)
    new.ask()
    assert job(new).job != lost.job
    assert rig.look(lambda: rig.server.num_in_flight) == 1


def test_who_has_not_joined_may_say_nothing(rig):
    link = rig().link()
    link.send(Parcel(wire.ToServer(ask=wire.Ask())))
    assert link.receive(PATIENCE_S).header.refused.code == "protocol_error"


# --- work


def test_ask_push_receipt_and_again(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    x = torch.zeros(SIZE)
    for step in range(5):
        work = job(exchange)
        assert work.version == step
        assert torch.equal(work.parameters, x)
        gradient = torch.arange(SIZE) + float(step)
        exchange.push(work, gradient, num_examples=3, again=step < 4)
        gradient.fill_(torch.nan)
        x = x - (torch.arange(SIZE) + float(step))
    assert exchange.settle(PATIENCE_S)
    assert [receipt.status for receipt in receipts] == ["applied"] * 5
    assert [receipt.version for receipt in receipts] == [1, 2, 3, 4, 5]
    assert torch.equal(rig.look(lambda: rig.server.parameters.clone()), x)


def test_a_worker_that_leaves_is_not_lost(rig):
    rig = rig()
    exchange = rig.joined("ada")
    exchange.ask()
    job(exchange)
    exchange.leave("done")
    exchange.leave("twice")
    rig.until(lambda: rig.hub.members.by_name["ada"].left)
    assert rig.hub.members.by_name["ada"].left == "left"
    assert rig.look(lambda: rig.server.num_in_flight) == 0


def test_a_worker_waits_and_is_woken(rig):
    rig = rig(algorithm=algorithms.ssp(learning_rate=1.0, bound=0))
    fast, slow = rig.joined("fast"), rig.joined("slow")
    for exchange in (fast, slow):
        exchange.ask()
    ahead, behind = job(fast), job(slow)
    fast.push(ahead, torch.ones(SIZE), num_examples=1)
    assert fast.settle(PATIENCE_S)
    assert fast.next(0.01) is None
    slow.push(behind, torch.ones(SIZE), num_examples=1)
    assert job(fast).version == 2


def test_who_asks_twice_has_the_next_job_at_hand(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    exchange.ask()
    first, second = job(exchange), job(exchange)
    before = first.parameters.clone()
    assert first.job != second.job
    exchange.push(first, torch.ones(SIZE), num_examples=1)
    third = job(exchange)
    assert torch.equal(second.parameters, before)
    assert torch.equal(third.parameters, before - 1.0)
    exchange.push(second, torch.ones(SIZE), num_examples=1)
    exchange.push(third, torch.ones(SIZE), num_examples=1)
    assert exchange.settle(PATIENCE_S)
    assert [receipt.staleness for receipt in receipts] == [0, 1, 1]


def test_a_job_that_is_cancelled_is_abandoned(rig):
    rig = rig(algorithm=algorithms.ringmaster(learning_rate=1.0, delay_bound=1))
    slow, fast = rig.joined("slow"), rig.joined("fast")
    slow.ask()
    stale = job(slow)
    fast.ask()
    for _ in range(2):
        fast.push(job(fast), torch.ones(SIZE), num_examples=1)
    assert fast.settle(PATIENCE_S)
    fresh = job(slow)
    assert slow.is_cancelled(stale)
    assert fresh.version > stale.version
    slow.push(fresh, torch.ones(SIZE), num_examples=1)
    assert slow.settle(PATIENCE_S)
    assert rig.look(lambda: rig.server.counts["cancelled"]) >= 1


def test_the_same_push_gets_the_same_receipt(rig):
    rig = rig()
    receipts = []
    link = rig.link()
    exchange = Exchange(link, worker="ada", machine=machine(), receipt=receipts.append)
    exchange.join(PATIENCE_S)
    exchange.ask()
    work = job(exchange)
    for _ in range(2):
        exchange.push(work, torch.ones(SIZE), num_examples=1, again=False)
        assert exchange.settle(PATIENCE_S)
    assert receipts[0] == receipts[1]
    assert receipts[0].status == "applied"
    assert rig.look(lambda: rig.server.version) == 1


def test_nobody_hands_in_what_others_were_given(rig):
    rig = rig()
    owner, owned = receipts_of(rig, "owner")
    thief, stolen = receipts_of(rig, "thief")
    owner.ask()
    work = job(owner)
    thief.push(work, torch.full((SIZE,), 9.0), num_examples=1, again=False)
    assert thief.settle(PATIENCE_S)
    owner.push(work, torch.ones(SIZE), num_examples=1, again=False)
    assert owner.settle(PATIENCE_S)
    assert stolen[0].status == "rejected"
    assert owned[0].status == "applied"
    assert torch.equal(rig.look(lambda: rig.server.parameters.clone()), -torch.ones(SIZE))


def test_a_bad_update_is_rejected_and_stops_nothing(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    exchange.push(job(exchange), torch.full((SIZE,), torch.nan), num_examples=1)
    exchange.push(job(exchange), torch.ones(SIZE - 2), num_examples=1)
    exchange.push(job(exchange), torch.ones(SIZE), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert [receipt.status for receipt in receipts] == ["rejected", "rejected", "applied"]


def test_a_look_at_the_model_takes_no_job(rig):
    rig = rig(torch.arange(float(SIZE)))
    exchange = rig.joined()
    seen = exchange.look(PATIENCE_S)
    assert torch.equal(seen.parameters, torch.arange(float(SIZE)))
    assert rig.look(lambda: rig.server.num_in_flight) == 0


# --- ends


def test_without_a_drain_what_is_late_is_not_taken(rig):
    rig = rig()
    exchange = rig.joined()
    exchange.ask()
    work = job(exchange)
    rig.hub.stop("enough", within_s=PATIENCE_S)
    assert exchange.next(PATIENCE_S) is None
    assert exchange.stopped == "enough"
    assert exchange.is_cancelled(work)
    exchange.leave()
    assert rig.hub.join(PATIENCE_S)
    assert rig.server.version == 0


def test_with_a_drain_what_is_nearly_done_is_taken(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    work = job(exchange)
    rig.hub.stop("enough", drain=True, within_s=PATIENCE_S)
    assert exchange.next(PATIENCE_S) is None
    assert not exchange.is_cancelled(work)
    exchange.push(work, torch.ones(SIZE), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    exchange.leave()
    assert rig.hub.join(PATIENCE_S)
    assert [receipt.status for receipt in receipts] == ["applied"]


def test_a_worker_that_disappears_is_lost_and_its_jobs_are_free(rig):
    rig = rig(scheduler=core.FirstCome(concurrency=1))
    gone, waiting = rig.joined("gone"), rig.joined("waiting")
    gone.ask()
    job(gone)
    waiting.ask()
    assert waiting.next(0.05) is None
    rig.links[0].close()
    assert job(waiting).version == 0
    assert rig.look(lambda: rig.hub.members.by_name["gone"].left) == "lost"


def go_on(exchange, work):
    """A worker that has not heard of the end."""
    exchange._told.stop = None
    while True:
        exchange.push(work, torch.ones(SIZE), num_examples=1)
        exchange.settle(PATIENCE_S)
        exchange._told.stop = None


def test_a_server_that_disappears_is_noticed(rig):
    rig = rig()
    exchange = rig.joined()
    exchange.ask()
    work = job(exchange)
    rig.hub.stop("gone", within_s=0.0)
    assert rig.hub.join(PATIENCE_S)
    rig.network.stop()
    with pytest.raises(ServerLostError):
        go_on(exchange, work)


def test_a_link_that_ended_raises_at_every_call(rig):
    rig = rig()
    exchange = rig.joined()
    exchange.ask()
    work = job(exchange)
    rig.stop(within_s=0.0)
    rig.network.stop()
    for _ in range(3):
        with pytest.raises(ServerLostError):
            go_on(exchange, work)


def test_the_status_is_json(rig, carrier):
    if carrier == "local":
        pytest.skip("a pipe has no status")
    from headway.runtime.connect import fetch_status

    rig = rig(network={"status": lambda: json.dumps({"version": 3})})
    assert fetch_status(rig.network.address) == {"version": 3}


def test_an_update_of_no_job_is_counted_with_its_reason(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    work = job(exchange)
    exchange.push(work._replace(job=work.job + 40), torch.ones(SIZE), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert [(receipt.status, receipt.reason) for receipt in receipts] == [
        ("rejected", "unknown_job")
    ]
    tally = rig.hub.tally
    assert rig.look(lambda: (tally.updates, dict(tally.reasons))) == (0, {"unknown_job": 1})
    assert rig.look(lambda: rig.server.counts["rejected"]) == 1


def test_an_update_that_is_handed_in_twice_is_counted_once(rig):
    rig = rig()
    exchange, receipts = receipts_of(rig)
    exchange.ask()
    work = job(exchange)
    for _ in range(2):
        exchange.push(work, torch.ones(SIZE), num_examples=1, again=False)
        assert exchange.settle(PATIENCE_S)
    assert [receipt.status for receipt in receipts] == ["applied", "applied"]
    assert rig.look(lambda: rig.server.counts["duplicates"]) == 1
    assert rig.look(lambda: rig.hub.tally.updates) == 1
