"""Who may start, who waits, and who is stopped."""

from __future__ import annotations

import pytest
import torch

from headway import core
from headway.algorithms.transforms import buffer
from tests import core_kit as kit


def serve(gate: core.Gate, *chain: core.Transform, **fields: object) -> core.Server:
    return core.Server(torch.zeros(1), kit.bare(*chain, gate=gate), **fields)  # type: ignore[arg-type]


def refused(server: core.Server, worker: str) -> str:
    reply = server.checkout(worker, 0.0)
    assert isinstance(reply, core.Wait)
    return reply.reason


class TestBulk:
    def test_a_round_starts_from_one_version_and_the_next_waits_for_its_step(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        a, b = kit.take(server, "a"), kit.take(server, "b")
        assert refused(server, "c") == "waits for its turn"
        assert kit.send(server, "a", a, 2.0, again=True).effects == ()
        assert refused(server, "a") == "waits for the round to end"
        done = kit.send(server, "b", b, 4.0, again=True)
        assert (done.status, server.parameters.item()) == ("applied", 3.0)
        assert kit.wakes(done) == ["c", "b"]
        assert [kit.take(server, name).version for name in "cb"] == [1, 1]

    def test_over_selection_cuts_off_the_stragglers_and_counts_them(self) -> None:
        server = serve(core.Bulk(2, over_selection=1.5), kit.Mean(2))
        tickets = {name: kit.take(server, name) for name in "abc"}
        kit.send(server, "a", tickets["a"], 1.0)
        done = kit.send(server, "b", tickets["b"], 1.0)
        assert done.effects == (core.Cancel(tickets["c"].job, "c"), core.Wake("c"))
        assert server.counts["cancelled"] == 1
        assert kit.send(server, "c", tickets["c"], 9.0).reason == "cancelled"
        assert server.parameters.item() == 1.0

    def test_a_lost_member_is_replaced(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        a, _ = kit.take(server, "a"), kit.take(server, "b")
        refused(server, "c")
        assert kit.wakes(server.lose("b", 1.0)) == ["c"]
        kit.send(server, "a", a, 1.0)
        assert kit.send(server, "c", kit.take(server, "c"), 1.0).status == "applied"

    def test_a_member_lost_after_its_update_is_not_replaced(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        a, b = kit.take(server, "a"), kit.take(server, "b")
        kit.send(server, "a", a, 1.0)
        refused(server, "c")
        assert server.lose("a", 1.0).effects == ()
        assert refused(server, "a") == "waits for the round to end"
        assert kit.send(server, "b", b, 3.0).status == "applied"
        assert server.parameters.item() == 2.0

    def test_a_rejected_update_frees_its_place(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        a, b = kit.take(server, "a"), kit.take(server, "b")
        refused(server, "c")
        assert kit.wakes(kit.send(server, "a", a, float("nan"), again=True)) == ["c"]
        kit.send(server, "b", b, 1.0)
        assert kit.send(server, "c", kit.take(server, "c"), 1.0).status == "applied"

    def test_it_goes_on_when_everybody_was_lost(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        for name in "ab":
            kit.take(server, name)
        for name in "ab":
            server.lose(name, 1.0)
        for name in "ac":
            kit.send(server, name, kit.take(server, name), 1.0)
        assert server.version == 1

    def test_a_reservation_counts_in_the_round_that_it_is_used_in(self) -> None:
        server = serve(core.Bulk(1, over_selection=2.0))
        reply = server.register(["a", "b", "c"], 0.0)
        assert kit.wakes(reply) == ["a", "b"]
        a = kit.take(server, "a")
        # b was woken and has not come yet when the round ends.
        assert kit.wakes(kit.send(server, "a", a, 1.0, again=True)) == ["c"]
        assert [kit.take(server, name).version for name in "bc"] == [1, 1]
        assert server.num_in_flight == 2
        assert refused(server, "a") == "waits for its turn"

    def test_a_limit_below_the_cohort_only_makes_it_slower(self) -> None:
        server = serve(core.Bulk(3), kit.Mean(3), scheduler=core.FirstCome(concurrency=1))
        waiting = list(kit.wakes(server.register(["a", "b", "c"], 0.0)))
        for _ in range(6):
            name = waiting.pop()
            waiting += kit.wakes(kit.send(server, name, kit.take(server, name), 1.0, again=True))
        assert server.version == 2


class TestStaleSynchronous:
    def test_the_fast_wait_for_the_slowest(self) -> None:
        server = serve(core.StaleSynchronous(1))
        slow = kit.take(server, "slow")
        for _ in range(2):
            kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        assert refused(server, "fast") == "2 clocks ahead of the slowest worker (bound 1)"
        assert kit.wakes(kit.send(server, "slow", slow, 1.0)) == ["fast"]

    def test_jobs_in_flight_count_so_that_a_prefetch_keeps_the_bound(self) -> None:
        server = serve(core.StaleSynchronous(0))
        kit.take(server, "slow")
        fast = kit.take(server, "fast")
        assert refused(server, "fast").startswith("1 clocks ahead")
        assert kit.send(server, "fast", fast, 1.0).effects == ()
        assert refused(server, "fast").startswith("1 clocks ahead")

    def test_a_lost_worker_is_not_waited_for_and_returns_at_the_slowest_clock(self) -> None:
        server = serve(core.StaleSynchronous(0))
        kit.take(server, "slow")
        kit.send(server, "fast", kit.take(server, "fast"), 1.0, again=True)
        assert kit.wakes(server.lose("slow", 1.0)) == ["fast"]
        fast = kit.take(server, "fast")
        slow = kit.take(server, "slow")
        kit.send(server, "fast", fast, 1.0)
        refused(server, "fast")
        assert kit.wakes(kit.send(server, "slow", slow, 1.0)) == ["fast"]

    def test_a_rejected_update_moves_the_clock_so_that_a_bad_worker_stops_nobody(self) -> None:
        server = serve(core.StaleSynchronous(0))
        bad, good = kit.take(server, "bad"), kit.take(server, "good")
        kit.send(server, "good", good, 1.0)
        refused(server, "good")
        assert kit.wakes(kit.send(server, "bad", bad, float("nan"))) == ["good"]

    def test_a_cancelled_job_is_no_longer_in_flight(self) -> None:
        server = serve(core.CancelStale(1, core.StaleSynchronous(1)))
        slow = kit.take(server, "slow")
        receipt = kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        assert receipt.effects == (core.Cancel(slow.job, "slow"), core.Wake("slow"))
        assert kit.take(server, "slow").version == 1
        assert kit.take(server, "slow").version == 1


class TestCancelStale:
    def test_it_also_stops_what_the_wrapped_gate_stops(self) -> None:
        gate = core.CancelStale(5, core.Bulk(1, over_selection=2.0))
        server = serve(gate)
        a, b = kit.take(server, "a"), kit.take(server, "b")
        receipt = kit.send(server, "a", a, 1.0)
        assert core.Cancel(b.job, "b") in receipt.effects

    def test_an_old_version_that_a_view_sent_later_is_found(self) -> None:
        versions = iter([0, 1, 0, 1])
        old = torch.zeros(1)
        algorithm = kit.bare(
            gate=core.CancelStale(2), view=lambda context, states: (old, next(versions))
        )
        server = core.Server(torch.zeros(1), algorithm)
        first = kit.take(server, "a")
        assert kit.send(server, "a", first, 1.0).version == 1
        fresh, stale = kit.take(server, "fresh"), kit.take(server, "stale")
        receipt = kit.send(server, "a", kit.take(server, "a"), 1.0)
        assert [e for e in receipt.effects if isinstance(e, core.Cancel)] == [
            core.Cancel(stale.job, "stale")
        ]
        assert kit.send(server, "fresh", fresh, 1.0).status == "applied"


class TestLosing:
    """A lost worker gives back whatever it held: its jobs, its reservation, its place in line."""

    gates = pytest.mark.parametrize(
        "gate",
        [core.Asynchronous(), core.StaleSynchronous(1), core.CancelStale(9), core.Bulk(3)],
        ids=lambda gate: type(gate).__name__,
    )

    @gates
    def test_a_reservation(self, gate: core.Gate) -> None:
        server = serve(gate, scheduler=core.FirstCome(concurrency=1))
        assert kit.wakes(server.register(["a", "b"], 0.0)) == ["a"]
        assert kit.wakes(server.lose("a", 1.0)) == ["b"]
        assert server.lose("a", 1.0).effects == ()
        refused(server, "a")
        kit.take(server, "b")
        assert kit.wakes(server.lose("b", 2.0)) == ["a"]
        assert server.counts["lost"] == 1

    @gates
    def test_a_place_in_line(self, gate: core.Gate) -> None:
        server = serve(gate, scheduler=core.RandomOrder(concurrency=1))
        kit.take(server, "a")
        refused(server, "b")
        assert server.lose("b", 1.0).effects == ()
        assert server.lose("a", 1.0).effects == ()
        assert kit.take(server, "b").version == 0

    @gates
    def test_its_jobs(self, gate: core.Gate) -> None:
        server = serve(gate)
        jobs = [kit.take(server, "a")]
        if not isinstance(gate, core.Bulk):
            jobs.append(kit.take(server, "a"))
            assert refused(server, "a").endswith(("2 jobs already", "(bound 1)"))
        server.lose("a", 1.0)
        assert (server.counts["lost"], server.num_in_flight) == (len(jobs), 0)
        event = server.events[-1]
        assert isinstance(event, core.Lost)
        assert event.jobs == tuple(ticket.job for ticket in jobs)
        receipt = kit.send(server, "a", jobs[0], 5.0, again=True)
        assert (receipt.status, receipt.reason) == ("rejected", "lost")
        assert kit.wakes(receipt) == ["a"]
        assert kit.send(server, "a", kit.take(server, "a"), 1.0).status == "applied"

    def test_a_refused_worker_is_not_woken_later(self) -> None:
        server = serve(core.StaleSynchronous(0))
        slow = kit.take(server, "slow")
        kit.send(server, "fast", kit.take(server, "fast"), 1.0, again=True)
        assert server.lose("fast", 1.0).effects == ()
        assert kit.send(server, "slow", slow, 1.0).effects == ()

    def test_one_who_was_never_heard_of_changes_nothing(self) -> None:
        server = serve(core.Asynchronous())
        assert server.lose("nobody", 1.0) == core.Reply(0)
        assert server.num_workers == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: core.Bulk(0),
        lambda: core.Bulk(2, over_selection=0.5),
        lambda: core.Bulk(2, over_selection=float("nan")),
        lambda: core.StaleSynchronous(-1),
        lambda: core.CancelStale(0),
        lambda: core.FirstCome(concurrency=0),
        lambda: core.RandomOrder(concurrency=-1),
    ],
)
def test_bounds_are_checked(make: object) -> None:
    with pytest.raises(core.errors.ConfigurationError):
        make()  # type: ignore[operator]


class TestLosingAJobOnly:
    """``lose(again=True)``: the worker is there, and asks in the same trip."""

    def test_it_keeps_its_clock(self) -> None:
        server = serve(core.StaleSynchronous(1))
        kit.take(server, "slow")
        for _ in range(2):
            kit.send(server, "fast", kit.take(server, "fast"), 1.0)
        assert refused(server, "fast").startswith("2 clocks ahead")
        reply = server.lose("slow", 1.0, again=True)
        assert (kit.wakes(reply), len(reply.jobs)) == (["slow"], 1)
        # Whoever is lost altogether is not waited for.
        assert kit.wakes(server.lose("slow", 2.0)) == ["fast"]

    def test_it_asks_behind_those_who_wait(self) -> None:
        server = serve(core.Asynchronous(), scheduler=core.FirstCome(concurrency=1))
        kit.take(server, "a")
        refused(server, "b")
        assert kit.wakes(server.lose("a", 1.0, again=True)) == ["b"]
        assert server.lose("a", 1.0, again=True).effects == ()
        kit.send(server, "b", kit.take(server, "b"), 1.0)
        assert server.woken == ("a",)
        event = next(e for e in server.events if isinstance(e, core.Lost))
        assert (event.jobs, event.again, event.applied) == ((1,), True, 0)
        assert server.counts["lost"] == 1

    def test_its_place_in_the_round_is_free(self) -> None:
        server = serve(core.Bulk(2), kit.Mean(2))
        a, _ = kit.take(server, "a"), kit.take(server, "b")
        assert kit.wakes(server.lose("b", 1.0, again=True)) == ["b"]
        kit.send(server, "a", a, 1.0)
        assert kit.send(server, "b", kit.take(server, "b"), 1.0).status == "applied"

    @pytest.mark.parametrize("name", ["nobody", "gone"])
    def test_who_is_not_there_does_not_ask(self, name: str) -> None:
        server = serve(core.Asynchronous())
        server.checkout("gone", 0.0)
        server.lose("gone", 0.0)
        assert server.lose(name, 1.0, again=True) == core.Reply(0)


class TestARoundThatShrinks:
    """Buffers of three behind a bulk gate: who is waited for when workers are lost."""

    def serve(self) -> core.Server:
        shrinking = buffer(3, shrink=True)
        return core.Server(
            torch.zeros(1), kit.bare(shrinking, gate=core.Bulk(3)), record="payloads"
        )

    def test_a_contributor_that_is_lost_cuts_nobody_off(self) -> None:
        server = self.serve()
        tickets = {name: kit.take(server, name) for name in "abc"}
        kit.send(server, "a", tickets["a"], 3.0)
        server.lose("a", 1.0)
        assert kit.send(server, "b", tickets["b"], 3.0).status == "buffered"
        assert kit.send(server, "c", tickets["c"], 3.0).status == "applied"
        assert server.parameters.tolist() == [3.0]
        assert "flushed" not in server.counts

    def test_a_lost_worker_ends_the_round_of_the_others_and_that_is_counted(self) -> None:
        server = self.serve()
        tickets = {name: kit.take(server, name) for name in "abc"}
        for name in "ab":
            assert kit.send(server, name, tickets[name], 3.0, again=True).status == "buffered"
        reply = server.lose("c", 1.0)
        assert (reply.version, reply.applied, reply.jobs) == (1, 1, (3,))
        assert kit.wakes(reply) == ["a", "b"]
        assert server.counts["flushed"] == 1
        event = server.events[-1]
        assert isinstance(event, core.Lost)
        assert event.applied == 1
        again = core.replay(self.serve(), server.events)
        assert kit.same(again.state_dict(), server.state_dict())

    def test_a_lost_job_of_a_worker_that_stays_does_not(self) -> None:
        server = self.serve()
        tickets = {name: kit.take(server, name) for name in "abc"}
        for name in "ab":
            kit.send(server, name, tickets[name], 3.0, again=True)
        reply = server.lose("c", 1.0, again=True)
        assert (reply.version, kit.wakes(reply)) == (0, ["c"])
        assert kit.send(server, "c", kit.take(server, "c"), 3.0).status == "applied"


def test_a_closing_tick_that_flushes_is_counted() -> None:
    server = core.Server(torch.zeros(1), kit.bare(buffer(3, on_close="apply")))
    kit.send(server, "a", kit.take(server, "a"), 3.0)
    assert server.tick(1.0, closing=True) == core.Reply(1, applied=1)
    assert server.events[-1] == core.Ticked(1.0, 1, True, (), 1)
    assert (server.counts["flushed"], server.counts["applied"]) == (1, 0)


@pytest.mark.parametrize("gate", [core.Bulk(2), core.CancelStale(3, core.Bulk(2))])
def test_rounds_must_have_what_the_chain_waits_for(gate: core.Gate) -> None:
    with pytest.raises(core.errors.ConfigurationError, match="what its chain waits for"):
        kit.bare(buffer(3, shrink=True), gate=gate)
    kit.bare(buffer(2, shrink=True), gate=gate)
