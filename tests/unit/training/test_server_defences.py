"""What a worker may say without harm to the server's books, and what a server tells meanwhile."""

from __future__ import annotations

import json
import math
import threading

import pytest

import headway
from headway.core.errors import ExchangeError
from headway.runtime import members, wire
from headway.training.standstill import Standstill
from tests.unit.training import server_kit as kit

# --- counts


@pytest.mark.parametrize(
    "counts",
    [{"num_examples": 2**64 - 1}, {"num_steps": 2**53 + 1}, {"num_processed": 2**40}],
    ids=["examples", "steps", "processed"],
)
def test_counts_that_cannot_be_are_refused_and_the_next_checkpoint_is_written(tmp_path, counts):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, checkpoint_frequency=1) as server:
        refused = kit.Raw(server, "liar").work(**counts)
        assert refused.refused.code == "protocol_error"
        kit.Raw(server, "ada").work()
        assert server.status()["examples"] == 1
        assert server.status()["checkpoint_error"] is None
    assert list(tmp_path.glob("checkpoint-*"))


def test_an_update_that_was_rejected_for_its_count_counts_for_nothing():
    with kit.server(kit.line()) as server:
        told = kit.Raw(server).work(num_examples=2**50, num_processed=7)
        assert (told.receipt.status, told.receipt.reason) == ("rejected", "bad_count")
        assert server.status()["examples"] == 0


@pytest.mark.parametrize("durability", ["checkpoint", "log"])
def test_a_checkpoint_that_cannot_be_made_is_told_and_the_server_goes_on(
    tmp_path, monkeypatch, durability
):
    options = {"checkpoint_dir": tmp_path, "checkpoint_frequency": 1, "durability": durability}
    with kit.server(kit.line(), **options) as server:

        def fail():
            raise OverflowError("a count is too large")

        with monkeypatch.context() as broken:
            broken.setattr(server._hub.tally.__class__, "state_dict", lambda _: fail())
            kit.Raw(server, "ada").work()
            assert "too large" in server.status()["checkpoint_error"]
        assert kit.Raw(server, "bob").work().receipt.status == "applied"
        assert server.status()["state"] == "running"


# --- who is waited for, and remembered


def test_who_only_looks_is_not_who_is_waited_for():
    with kit.server(kit.line()) as server:
        kit.worker(server).evaluate(kit.regression(), loss_fn="mse", metrics="loss")
        with pytest.raises(ExchangeError, match="not finished") as caught:
            server.wait_for_workers(timeout_s=0.01)
        assert "0 had joined" in str(caught.value)


def test_a_worker_without_an_instance_is_counted():
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server, instance="")
        raw.work()
        raw.say(leave=wire.Leave())
        assert server.wait_for_workers(timeout_s=kit.WAIT_S).updates == 1


def test_workers_of_an_earlier_life_are_not_counted_and_keep_their_numbers(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
        for name in ("ada", "bob"):
            kit.Raw(server, name).work()
    with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
        assert server._ledger.seen == (0, 0)
        assert kit.Raw(server, "bob").ask().job.client == 1
        assert kit.Raw(server).ask().job.client == 2
        assert server._ledger.seen == (2, 2)


def test_of_those_who_have_left_a_bounded_number_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_REMEMBERED", 3)
    with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
        stays = kit.Raw(server)
        names = [stays.name]
        for _ in range(10):
            raw = kit.Raw(server)
            names.append(raw.name)
            raw.say(leave=wire.Leave())
        assert len(set(names)) == 11
        told = [worker["name"] for worker in server.status()["workers"]]
        assert told == [names[0], *names[-3:]]
    with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
        assert kit.Raw(server).name == "worker-11"
        assert kit.Raw(server, names[-1]).ask().job.client == 10


# --- what is written down


def test_a_loss_that_is_no_number_does_not_hide_the_others():
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server)
        for loss in (2.0, math.nan, math.inf, 4.0):
            raw.work(metrics={"loss": loss})
        result = server.stop()
    assert result.final("train_loss") == 3.0


def test_a_status_is_strict_json(monkeypatch):
    with kit.server(kit.line()) as server:
        kit.Raw(server, "ada").work()
        monkeypatch.setattr(server._hub.members.by_name["ada"], "staleness", math.inf)
        told = json.loads(json.dumps(server.status(), allow_nan=False))
        assert told["workers"][0]["staleness"] is None


# --- ends


def test_a_stop_that_comes_when_the_server_has_ended_changes_nothing():
    server = kit.server(kit.line()).start()
    server.stop()
    server._hub._begin_to_stop("late", drain=False, within_s=0.0)
    assert server._hub.state == "ended"


def test_an_error_in_the_last_write_ends_the_server_all_the_same(monkeypatch):
    server = kit.server(kit.line()).start()

    def full(hub):
        if hub.state == "ended":
            raise OSError("the disk is full")

    monkeypatch.setattr(server._hub, "settled", full)
    with pytest.raises(OSError, match="the disk is full"):
        server.stop()
    assert server._hub.join(kit.WAIT_S)
    assert server._hub.state == "ended"


def test_whoever_waits_looks_again_when_a_signal_came():
    with kit.server(kit.line()) as server:
        ledger = server._ledger
        threads = kit.Threads()
        waits = threading.Event()
        changed = ledger._changed

        def wait():
            with changed:
                waits.set()
                assert changed.wait(kit.WAIT_S)

        threads.go(wait)
        assert waits.wait(kit.WAIT_S)
        ledger.ring()
        threads.join()


def test_what_ended_a_server_is_said_once_and_there_is_no_virtual_time():
    server = kit.server(kit.line()).start()
    result = server.stop("terminated")
    result.interrupted = True
    told = str(result)
    assert "terminated" in told
    assert "interrupted" not in told
    assert "virtual time" not in told
    assert "wall time" in told


# --- rounds that cannot end


def test_a_round_that_waits_for_workers_who_are_not_here_says_so_once(caplog):
    now = [0.0]
    with kit.server(kit.line(), update_rule="fedavg") as server:
        still = server._ledger._standstill = Standstill(server.algorithm, lambda: now[0])
        raws = [kit.Raw(server) for _ in range(3)]
        for raw in raws:
            assert raw.work().receipt.status == "buffered"
        assert server.status()["waits"] is None
        for raw in raws:
            assert raw.ask().wait.reason == "waits for the round to end"
        assert server.status()["waits"] == "waits for 10 workers, 3 are here"
        assert [raw.hear().wait.reason for raw in raws] == [
            "the server waits for 10 workers, 3 are here"
        ] * 3
        still.warn()
        assert not caplog.records
        now[0] = 10.0
        still.warn()
        still.warn()
        (record,) = caplog.records
        assert "waits for 10 workers, 3 are here" in record.getMessage()
        assert "headway.algorithms.fedavg(clients_per_round=...)" in record.getMessage()
        kit.Raw(server).ask()
        assert server.status()["waits"] is None


def test_a_worker_tells_what_its_server_waits_for():
    with kit.server(kit.line(), update_rule="fedavg") as server:
        worker = kit.worker(server, local_batch_size=6)
        threads = kit.Threads()
        threads.go(
            lambda: worker.train(
                dataset=kit.regression(),
                loss_fn="mse",
                epochs=2,
                optimizer=headway.optim.SGD(lr=0.01),
            )
        )
        told = server._ledger._standstill
        while not told.told:
            server.status()
        server.stop()
        (history,) = threads.join()
    assert history.waits_for == "the server waits for 10 workers, 1 is here"
    assert "waits for 10 workers, 1 is here" in str(history)
