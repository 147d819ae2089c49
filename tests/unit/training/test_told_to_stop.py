"""A worker whose updates are rejected again and again: seen, and told to stop."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import headway
from headway.core import Receipt, Server
from headway.core.errors import ConfigurationError
from headway.runtime import dismissals, wire
from headway.runtime.dismissals import Dismissals
from headway.runtime.members import Member
from headway.training.guestbook import COMINGS, Guestbook
from tests.unit.training import server_kit as kit

NAN = torch.tensor([torch.nan, 0.0], dtype=torch.float64)


class Worker(kit.Raw):
    """One that hands in what it likes, and leaves when it is told to stop."""

    stop = None

    def send(self, header, vector=None, buffers=None):
        if header.HasField("stop"):
            self.stop = header.stop
        self.got.put(header)

    def hand_in(self, vector=None, job=None, **told):
        """Ask for a job, and hand in an update of it: its receipt."""
        job = self.ask().job if job is None else job
        vector = torch.zeros(2, dtype=torch.float64) if vector is None else vector
        told = {"num_examples": 1, "num_steps": 1, "base_version": job.version, **told}
        self.say(vector, push=wire.Push(job=job.id, **told))
        return self.hear().receipt


def receipt(reason, status="rejected"):
    return Receipt(status, reason, 0, 0.0, 0, 1)


def ada():
    return Member("ada", 0, "", None, 0.0, 0.0)


# --- what counts


@pytest.mark.parametrize(("reason", "limit"), [("not_finite", 4), ("too_stale", 200)])
def test_faults_count_one_and_what_the_algorithm_does_not_take_a_fiftieth(reason, limit):
    judge, member = Dismissals(4).judge, ada()
    told = [bool(judge(member, receipt(reason))) for _ in range(limit)]
    assert told == [False] * (limit - 1) + [True]


@pytest.mark.parametrize("reason", ["cancelled", "lost", "transform_failed", "mean_not_finite"])
def test_what_others_did_counts_nothing(reason):
    member = ada()
    assert not any(Dismissals(1).judge(member, receipt(reason)) for _ in range(1000))
    assert not member.in_a_row


def test_an_update_that_is_taken_ends_the_row():
    judge, member = Dismissals(3).judge, ada()
    for status in itertools.islice(itertools.cycle(["rejected", "rejected", "buffered"]), 300):
        assert not judge(member, receipt("not_finite", status))


def test_a_receipt_that_is_given_again_is_no_news():
    judge, member = Dismissals(2).judge, ada()
    assert not judge(member, receipt("not_finite"))
    for _ in range(10):
        assert not judge(member, receipt("not_finite"), was_out=False)
        assert not judge(member, receipt("", "applied"), was_out=False)
    assert judge(member, receipt("not_finite"))


def test_jobs_of_nobody_count_as_what_is_not_taken():
    judge, member = Dismissals(1).judge, ada()
    told = [bool(judge(member, receipt("unknown_job"), was_out=False)) for _ in range(50)]
    assert told == [False] * 49 + [True]


def test_without_a_limit_nobody_is_told_and_the_row_is_counted():
    member = ada()
    assert not any(Dismissals(None).judge(member, receipt("not_finite")) for _ in range(1000))
    assert member.describe(0.0)["rejected_in_a_row"] == 1000


def test_every_reason_of_the_servers_own_is_judged_one_way():
    from headway.core.checks import FAULTS

    judged = dismissals._FAULTS | dismissals._NOT_ITS_OWN | dismissals._NOBODYS
    assert set(FAULTS) - judged == {"zero_weight"}


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ConfigurationError, match="max_rejections"):
        headway.ParameterServer(kit.line(), port=0, max_rejections=limit)


# --- what happens


def test_a_worker_that_sends_nan_is_told_to_stop_and_the_others_go_on():
    with kit.server(kit.line(), max_rejections=3) as server:
        bad, good = Worker(server, "bad"), Worker(server, "good")
        for number in range(3):
            assert bad.stop is None, number
            assert bad.hand_in(NAN).reason == "not_finite"
            assert good.hand_in().status == "applied"
        assert (bad.stop.code, bad.stop.drain) == ("rejected", False)
        assert bad.stop.reason == "the last 3 updates were rejected: 3 not_finite"
        told = {worker["name"]: worker for worker in server.status()["workers"]}
        assert told["bad"]["state"] == "told to stop"
        assert told["bad"]["told_to_stop"] == bad.stop.reason
        assert told["bad"]["reasons"] == {"not_finite": 3}
        assert told["good"]["told_to_stop"] is None
        (result,) = [server.stop()]
    assert any("told to stop" in warning for warning in result.warnings)


def test_its_jobs_are_freed_and_what_it_still_says_is_not_taken():
    with kit.server(kit.line(), max_rejections=1, concurrency=2) as server:
        bad, waits = Worker(server, "bad"), Worker(server, "waits")
        one, two = bad.ask().job, bad.ask().job
        waits.ask()
        bad.hand_in(NAN, one, again=True)
        assert bad.stop is not None
        # The place that it had is another's, and it gets none.
        assert waits.hear().job.id
        version = server.version
        bad.say(torch.ones(2, dtype=torch.float64), push=wire.Push(job=two.id, again=True))
        bad.say(ask=wire.Ask())
        assert server.version == version
        assert server.status()["in_flight"] == 1
        while not bad.got.empty():
            assert not bad.hear().HasField("job")


def test_nobody_waits_for_it():
    algorithm = headway.algorithms.fedavg(clients_per_round=2)
    with kit.server(kit.line(), algorithm=algorithm, max_rejections=1) as server:
        bad, one, two = (Worker(server, name) for name in ("bad", "one", "two"))
        bad.hand_in(NAN)
        for worker in (one, two):
            assert worker.hand_in().status in ("buffered", "applied")
        assert server.version == 1


def test_who_does_not_leave_is_cut_off():
    with kit.server(kit.line(), max_rejections=1) as server:
        bad, hub = Worker(server, "bad"), server._hub
        bad.hand_in(NAN)
        assert hub.dismissals.due_s == pytest.approx(hub.now + dismissals.LEAVE_S, abs=1.0)
        assert hub.call(lambda: len(hub.members.here)) == 1
        honest, hub.clock = hub.clock, lambda: honest() + dismissals.LEAVE_S
        hub.call(lambda: None)
        hub.call(lambda: None)
        assert hub.call(lambda: len(hub.members.here)) == 0
        assert hub.dismissals.due_s is None
        assert server.status()["workers"][0]["state"] == "told to stop"


def test_who_comes_back_is_judged_by_its_next_update():
    with kit.server(kit.line(), max_rejections=3) as server:
        bad = Worker(server, "bad")
        for _ in range(3):
            bad.hand_in(NAN)
        bad.say(leave=wire.Leave())
        again = Worker(server, "bad")
        assert server.status()["workers"][0]["state"] == "idle"
        assert again.hand_in(NAN).reason == "not_finite"
        assert again.stop.reason == "the last 4 updates were rejected: 4 not_finite"
        again.say(leave=wire.Leave())
        mended = Worker(server, "bad")
        assert mended.hand_in().status == "applied"
        for _ in range(2):
            mended.hand_in(NAN)
        assert mended.stop is None
        assert server.status()["workers"][0]["rejected_in_a_row"] == 2


def test_a_slow_worker_is_noticed_long_before_it_is_told_to_stop():
    with kit.server(kit.line(), max_staleness=0, max_rejections=2) as server:
        slow, quick = Worker(server, "slow"), Worker(server, "quick")
        for number in range(100):
            job = slow.ask().job
            quick.hand_in()
            assert slow.stop is None, number
            assert slow.hand_in(job=job).reason == "too_stale"
        assert slow.stop.reason == "the last 100 updates were rejected: 100 too_stale"
        said = [line for line in server._ledger.guests.take() if "slow" in line]
    assert said == [
        "slow joined; 1 here",
        "slow is of no use at present: the last 2 updates were rejected: 2 too_stale",
        "slow was told to stop: the last 100 updates were rejected: 100 too_stale",
    ]


def test_an_event_is_written(tmp_path):
    with kit.server(kit.line(), max_rejections=1, folder=tmp_path / "run") as server:
        Worker(server, "bad").hand_in(NAN)
    events = [
        json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    (told,) = [event for event in events if event.get("kind") == "told_to_stop"]
    assert told["data"]["worker"] == "bad"
    assert "not_finite" in told["data"]["reason"]


@pytest.mark.parametrize("durability", ["log", "checkpoint"])
def test_a_server_that_goes_on_has_the_same_model_and_judges_anew(tmp_path, durability):
    options = {"checkpoint_dir": tmp_path, "durability": durability, "max_rejections": 2}
    ones = torch.ones(2, dtype=torch.float64)
    server = kit.server(kit.line(), **options).start()
    bad, good = Worker(server, "bad"), Worker(server, "good")
    for _ in range(2):
        good.hand_in(ones)
        bad.hand_in(NAN)
    while bad.stop is None:
        bad.hear()
    before = kit.weights(server)
    server.stop()
    with kit.server(kit.line(), **options) as server:
        assert torch.equal(kit.weights(server), before)
        again = Worker(server, "bad")
        assert again.hand_in(NAN).reason == "not_finite"
        assert again.stop is None


def test_the_log_replays_to_the_same_state_as_the_server_had(tmp_path, monkeypatch):
    """Without the checkpoint at the end: every call is made again, the loss of the worker too."""
    options = {"checkpoint_dir": tmp_path, "durability": "log", "max_rejections": 1}
    server = kit.server(kit.line(), **options).start()
    bad, good = Worker(server, "bad"), Worker(server, "good")
    good.hand_in(torch.ones(2, dtype=torch.float64))
    bad.ask()
    bad.hand_in(NAN)
    while bad.stop is None:
        bad.hear()
    core: Server = server._hub.server
    monkeypatch.setattr(server._keeper, "finish", lambda hub: None)
    server.stop()
    lost, version = core._roster.num_lost, core.version
    with kit.server(kit.line(), **options) as server:
        core = server._hub.server
        assert (core._roster.num_lost, core.version, core.num_in_flight) == (lost, version, 0)


# --- the worker's side, over the network


@pytest.mark.parametrize("durability", [None, "log"])
def test_a_worker_says_why_it_stopped(tmp_path, durability, caplog):
    data = (torch.full((24, 2), torch.nan, dtype=torch.float64), torch.ones(24, 1).double())
    options = {} if durability is None else {"durability": "log", "checkpoint_dir": tmp_path}
    with kit.server(kit.line(), max_rejections=5, **options) as server:
        worker = kit.worker(server, name="bad", local_batch_size=6, prefetch=True)
        sgd = headway.optim.SGD(lr=0.1)
        history = worker.train(dataset=data, epochs=1000, loss_fn="mse", optimizer=sgd)
        assert server.version == 0
    assert history.dismissed
    assert history.stopped == "the last 5 updates were rejected: 5 not_finite"
    assert history.to_dict()["dismissed"] is True
    assert "told to stop  the last 5" in " ".join(str(history).split("\n")).replace("   ", " ")
    assert "told this worker to stop" in caplog.text


def test_a_worker_of_a_server_that_ends_was_not_dismissed():
    with kit.server(kit.line()) as server:
        threads = kit.Threads()
        worker = kit.worker(server, local_batch_size=6)
        sgd = headway.optim.SGD(lr=0.001)
        threads.go(
            lambda: worker.train(
                dataset=kit.regression(), epochs=10**6, loss_fn="mse", optimizer=sgd
            )
        )
        while not server.version:
            server.status()
        server.stop("enough")
        (history,) = threads.join()
    assert (history.stopped, history.dismissed) == ("enough", False)


# --- who comes and goes


def test_a_crowd_is_counted_and_not_listed():
    now = [0.0]
    book = Guestbook(lambda: now[0])
    for _ in range(1000):
        book.note(ada(), "joined", 1)
        book.note(ada(), "lost", 0)
    assert len(book.take()) == 20
    assert book.take() == []
    now[0] = 1.0
    assert book.take() == ["and more: 990 joined, 990 lost; 0 here"]


def test_who_waits_for_workers_hears_who_comes_and_goes(caplog):
    caplog.set_level("INFO", COMINGS)
    with kit.server(kit.line()) as server:
        kit.worker(server, name="ada").train(
            dataset=kit.regression(), loss_fn="mse", optimizer=headway.optim.SGD(lr=0.01)
        )
        server.wait_for_workers()
    told = [record.getMessage() for record in caplog.records if record.name == COMINGS]
    assert told == ["Headway: ada joined; 1 here", "Headway: ada left, 1 update; 0 here"]


def test_a_history_has_a_bounded_number_of_points_and_still_all_of_the_run(monkeypatch):
    from headway.training import ledger

    monkeypatch.setattr(ledger, "_POINTS", 8)
    monkeypatch.setattr(ledger, "_POINT_EVERY", 1)
    monkeypatch.setattr(ledger, "_TAKE_AT", 1)
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server, "ada")
        for _ in range(60):
            raw.work(metrics={"loss": 1.0})
        points = [point.updates for point in server.stop().history]
    assert len(points) < 8
    assert points == sorted(set(points))
    assert points[-1] == 60
    assert points[0] <= 60 // 4
