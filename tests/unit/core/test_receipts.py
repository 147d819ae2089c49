"""A job that is submitted again gets its first receipt again, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from headway import core
from tests import core_kit as kit


def serve(*chain: core.Transform, **fields: object) -> core.Server:
    return core.Server(torch.zeros(1), kit.bare(*chain), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("payload", [1.0, float("nan")])
def test_the_same_receipt_without_effects(payload: float) -> None:
    server = serve(scheduler=core.FirstCome(concurrency=1))
    ticket = kit.take(server, "a")
    assert isinstance(server.checkout("b", 0.0), core.Wait)
    first = kit.send(server, "a", ticket, payload)
    assert kit.wakes(first) == ["b"]
    before = server.parameters.clone()
    again = kit.send(server, "a", ticket, 5.0, again=True)
    assert again == first._replace(effects=())
    assert torch.equal(server.parameters, before)
    assert server.counts["duplicates"] == 1
    event = server.events[-1]
    assert isinstance(event, core.Submitted)
    assert (event.status, event.reason) == (first.status, "duplicate")


def test_it_is_known_while_it_is_among_the_workers_last_four() -> None:
    server = serve()
    tickets = [kit.take(server, "a")]
    receipts = [kit.send(server, "a", tickets[0], 1.0)]
    for _ in range(3):
        tickets.append(kit.take(server, "a"))
        receipts.append(kit.send(server, "a", tickets[-1], 1.0))
        for other in "bcdefg":
            kit.send(server, other, kit.take(server, other), 1.0)
        assert kit.send(server, "a", tickets[0], 9.0) == receipts[0]
    kit.send(server, "a", kit.take(server, "a"), 1.0)
    before = server.parameters.clone()
    assert kit.send(server, "a", tickets[0], 9.0).reason == "unknown_job"
    assert kit.send(server, "a", tickets[1], 9.0) == receipts[1]
    assert torch.equal(server.parameters, before)


def test_a_buffered_update_is_not_counted_twice() -> None:
    server = serve(kit.Mean(2))
    a, b = kit.take(server, "a"), kit.take(server, "b")
    for _ in range(3):
        assert kit.send(server, "a", a, 2.0).status == "buffered"
    assert kit.send(server, "b", b, 4.0).status == "applied"
    assert server.parameters.item() == 3.0
    assert (server.counts["buffered"], server.counts["duplicates"]) == (1, 2)


def test_staleness_counts_versions_between_checkout_and_submit() -> None:
    server = serve()
    slow = kit.take(server, "slow")
    for expected in range(3):
        assert kit.send(server, "fast", kit.take(server, "fast"), 1.0).version == expected + 1
    receipt = kit.send(server, "slow", slow, 1.0)
    assert (receipt.staleness, receipt.version, receipt.job) == (3, 4, slow.job)


def test_a_receipt_tells_the_updates_own_weight_even_at_a_flush() -> None:
    server = serve(kit.Weigh(lambda context: 1 / (1 + context.staleness)), kit.Mean(2))
    a, b = kit.take(server, "a"), kit.take(server, "b")
    assert kit.send(server, "a", a, 2.0, weight=3.0).weight == 3.0
    assert kit.send(server, "b", b, 4.0, weight=0.5).weight == 0.5
    assert server.parameters.item() == (3.0 * 2.0 + 0.5 * 4.0) / 2


def test_a_worker_that_asks_again_in_the_same_trip_is_woken_when_there_is_room() -> None:
    server = serve(scheduler=core.FirstCome(concurrency=1))
    a = kit.take(server, "a")
    assert kit.wakes(kit.send(server, "a", a, 1.0, again=True)) == ["a"]
    a = kit.take(server, "a")
    assert isinstance(server.checkout("b", 0.0), core.Wait)
    assert kit.wakes(kit.send(server, "a", a, 1.0, again=True)) == ["b"]


def test_a_reservation_is_kept_until_it_is_used() -> None:
    server = serve(scheduler=core.FirstCome(concurrency=1))
    assert kit.wakes(server.register(["a", "b"], 0.0)) == ["a"]
    assert isinstance(server.checkout("b", 0.0), core.Wait)
    assert kit.take(server, "a").version == 0


def test_one_prefetch_and_no_more() -> None:
    server = serve()
    jobs = [kit.take(server, "a"), kit.take(server, "a")]
    reply = server.checkout("a", 0.0)
    assert isinstance(reply, core.Wait)
    assert reply.reason == "has 2 jobs already"
    kit.send(server, "a", jobs[1], 1.0)
    kit.send(server, "a", kit.take(server, "a"), 1.0)
    assert kit.send(server, "a", jobs[0], 1.0).staleness == 2


class TestAnUpdateOfAJobThatTheServerEnded:
    """Its first delivery is a rejection with the reason of its end, and only later ones doubles."""

    def cancelled(self) -> tuple[core.Server, core.Checkout]:
        server = core.Server(torch.zeros(1), kit.bare(gate=core.CancelStale(1)))
        late = kit.take(server, "late")
        kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        return server, late

    def lost(self) -> tuple[core.Server, core.Checkout]:
        server = serve()
        late = kit.take(server, "late")
        server.lose("late", 1.0)
        kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        return server, late

    @pytest.mark.parametrize("reason", ["cancelled", "lost"])
    def test_is_rejected_first_and_a_duplicate_afterwards(self, reason: str) -> None:
        server, late = getattr(self, reason)()
        kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        first = kit.send(server, "late", late, 1.0)
        # Given out at version 0, ended at 0 or 1, delivered at 2.
        assert first == core.Receipt("rejected", reason, 2, 0.0, 2, late.job)
        assert (server.counts["rejected"], server.counts["duplicates"]) == (1, 0)
        assert server.events[-1].reason == reason  # type: ignore[union-attr]
        kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        assert kit.send(server, "late", late, 1.0) == first
        assert (server.counts["rejected"], server.counts["duplicates"]) == (1, 1)
        assert server.events[-1].reason == "duplicate"  # type: ignore[union-attr]

    def test_that_is_known_after_a_load(self) -> None:
        server, late = self.lost()
        other = serve()
        other.load_state_dict(server.state_dict())
        kit.send(other, "late", late, 1.0)
        assert (other.counts["rejected"], other.counts["duplicates"]) == (1, 0)


class TestAskingWithAnUpdateOfNoJobInFlight:
    @pytest.mark.parametrize("job", [1, 999])
    def test_an_idle_worker_is_woken(self, job: int) -> None:
        server = serve()
        kit.send(server, "a", kit.take(server, "a"), 1.0)
        update = core.Update(torch.ones(1), 0, "a", job)
        assert kit.wakes(server.submit(update, 1.0, again=True)) == ["a"]
        assert kit.wakes(server.submit(update, 1.0, again=True)) == []
        assert server.woken == ("a",)
        assert kit.take(server, "a").version == 1

    def test_a_lost_worker_returns(self) -> None:
        server = serve()
        ticket = kit.take(server, "a")
        server.lose("a", 1.0)
        receipt = kit.send(server, "a", ticket, 1.0, again=True)
        assert (receipt.reason, kit.wakes(receipt)) == ("lost", ["a"])
        server.lose("a", 2.0)
        assert server.woken == ()

    def test_a_late_duplicate_does_not_queue_who_is_working(self) -> None:
        server = serve()
        first = kit.take(server, "a")
        kit.send(server, "a", first, 1.0)
        kit.take(server, "a")
        assert kit.send(server, "a", first, 1.0, again=True).effects == ()
        assert server.woken == ()

    def test_a_stranger_is_not_let_in(self) -> None:
        server = serve()
        update = core.Update(torch.ones(1), 0, "stranger", 1)
        assert server.submit(update, 1.0, again=True).effects == ()
        assert server.num_workers == 0

    def test_replay_agrees(self) -> None:
        def make() -> core.Server:
            return serve(scheduler=core.FirstCome(concurrency=1), record="payloads")

        server = make()
        ticket = kit.take(server, "a")
        server.lose("a", 1.0)
        kit.send(server, "a", ticket, 1.0, again=True)
        kit.send(server, "a", ticket, 1.0, again=True)
        kit.take(server, "a")
        again = core.replay(make(), server.events)
        assert kit.same(again.state_dict(), server.state_dict())


def test_a_wait_tells_when_the_next_tick_is_due() -> None:
    @dataclass(frozen=True, slots=True)
    class Later(kit.Mean):
        def apply(self, update: Any, state: Any, context: core.Context) -> core.Outcome:
            return core.Held("later", timer=10.0 - context.now)

    server = serve(Later(1), scheduler=core.FirstCome(concurrency=1))
    kit.take(server, "z")
    reply = server.checkout("b", 0.0)
    assert isinstance(reply, core.Wait)
    assert reply.until is None
    server.lose("z", 0.0)
    for now in (1.0, 3.0):
        kit.send(server, "b", kit.take(server, "b"), 1.0, now)
    kit.take(server, "b", 3.0)
    reply = server.checkout("c", 3.0)
    assert isinstance(reply, core.Wait)
    assert reply.until == 7.0
