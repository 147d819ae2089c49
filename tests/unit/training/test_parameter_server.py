"""A parameter server with real workers: what it accepts, what it says, how it ends and goes on."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading

import pytest
import torch

import headway
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ExchangeError,
    UnknownNameError,
    UsageError,
)
from headway.observe import RunFolder
from tests.unit.training import server_kit as kit
from tests.waiting_kit import until


def _train(server, **options):
    options.setdefault("optimizer", headway.optim.SGD(lr=0.05))
    worker = kit.worker(server, local_batch_size=6)
    return worker.train(dataset=kit.regression(), loss_fn="mse", **options)


def test_a_worker_trains_the_servers_model_and_the_users_stays_as_it_is():
    model = kit.line()
    with kit.server(model) as server:
        _train(server, epochs=30)
        result = server.wait_for_workers()
        found = kit.weights(server)
    torch.testing.assert_close(
        found, torch.tensor([1.0, -2.0], dtype=torch.float64), atol=0.05, rtol=0
    )
    assert not model.weight.any()
    assert (result.updates, result.versions, server.version) == (120, 120, 120)
    assert result.counts["applied"] == 120
    assert result.parameters is not None
    torch.testing.assert_close(result.parameters, found)


def test_the_result_has_a_history_of_what_workers_reported():
    with kit.server(kit.line()) as server:
        history = _train(server, epochs=60, log_frequency=40)
        result = server.stop()
    assert result.metrics == ["train_loss"]
    assert result.final("train_loss") < 0.1 < history["loss"][0]
    assert "async_delta on Linear, 1 clients" in str(result)


def test_a_server_without_shared_memory_gives_the_same_weights():
    found = []
    for shared in (True, False):
        with kit.server(kit.line(), shared_memory=shared, seed=3) as server:
            _train(server, epochs=3)
            found.append(kit.weights(server))
    assert torch.equal(*found)


def test_hogwild_trains_too_and_is_refused_where_the_base_is_needed():
    for shared in (True, False):
        with kit.server(kit.line(), consistency="hogwild", shared_memory=shared) as server:
            _train(server, epochs=30, optimizer=headway.optim.SGD(lr=0.05, momentum=0.5))
            assert (kit.weights(server) - torch.tensor([1.0, -2.0])).norm() < 0.05
    refused = kit.server(
        kit.line(),
        consistency="hogwild",
        update_rule="async_momentum",
        staleness_policy="delay_compensation",
    )
    with pytest.raises(ConfigurationError, match="each job started from"):
        refused.start()


def test_the_status_is_json_and_says_who_is_in_and_why_updates_were_dropped():
    with kit.server(kit.line(), staleness_policy="filter", max_staleness=0) as server:
        kit_worker = kit.worker(server, local_batch_size=6, name="ada", prefetch=True)
        kit_worker.train(
            dataset=kit.regression(), loss_fn="mse", epochs=2, optimizer=headway.optim.SGD(lr=0.01)
        )
        status = json.loads(json.dumps(server.status()))
    (told,) = status["workers"]
    assert (told["name"], told["state"], told["updates"]) == ("ada", "left", 8)
    assert told["applied"] + told["rejected"] == 8
    assert told["reasons"] == {"too_stale": told["rejected"]} == status["reasons"]
    assert status["algorithm"] == "async_delta"
    assert status["address"] == server.address


def test_stale_updates_are_dropped_with_the_reason_in_the_workers_history():
    with kit.server(kit.line(), max_staleness=0) as server:
        worker = kit.worker(server, local_batch_size=6, prefetch=True)
        history = worker.train(
            dataset=kit.regression(), loss_fn="mse", epochs=2, optimizer=headway.optim.SGD(lr=0.01)
        )
    # The second job was given out before the first came back; from then on each is one late.
    assert history.receipts["applied"] >= 1
    assert history.receipts["rejected:too_stale"] == history.receipts["rejected"] > 0
    assert set(history.staleness) == {0}


def test_waiting_is_until_all_that_joined_have_gone():
    with kit.server(kit.line()) as server:
        threads = kit.Threads()
        for _ in range(3):
            threads.go(lambda: _train(server, epochs=2))
        result = server.wait_for_workers(3, timeout_s=kit.WAIT_S)
        threads.join()
    assert result.updates == 3 * 8
    assert result.stop_reason == "all workers have left"


def test_waiting_can_take_too_long():
    with (
        kit.server(kit.line()) as server,
        pytest.raises(ExchangeError, match="have not finished in time") as caught,
    ):
        server.wait_for_workers(timeout_s=0.01)
    assert "0 had joined" in str(caught.value)


def test_at_most_so_many_jobs_are_in_flight_and_others_wait():
    with kit.server(kit.line(), concurrency=1) as server:
        threads = kit.Threads()
        for _ in range(3):
            threads.go(lambda: _train(server, epochs=3))
        histories = threads.join()
        result = server.stop()
    # One at a time: nobody is ever late.
    assert set(result.staleness) == {0}
    assert all(history.receipts["applied"] == 12 for history in histories)


def test_a_synchronous_algorithm_waits_for_its_round():
    rule = headway.algorithms.fedavg(clients_per_round=2)
    with kit.server(kit.line(), update_rule=rule) as server:
        threads = kit.Threads()
        for _ in range(2):
            threads.go(lambda: _train(server, epochs=2))
        threads.join()
        result = server.stop()
    assert result.synchronous
    assert set(result.staleness) == {0}
    assert result.versions == 8


# --- checkpoints


def test_a_server_goes_on_from_its_newest_checkpoint(tmp_path, caplog):
    options = {"checkpoint_dir": tmp_path, "checkpoint_frequency": 5, "update_rule": "async_adam"}
    with kit.server(kit.line(), **options) as server:
        worker = kit.worker(server, local_batch_size=6, name="ada")
        worker.train(dataset=kit.regression(), loss_fn="mse", epochs=2)
        before = kit.weights(server)
    with caplog.at_level(logging.WARNING), kit.server(kit.line(), **options) as server:
        assert server.resumed_from is not None
        assert "going on from version 8" in caplog.text
        assert server.version == 8
        assert torch.equal(kit.weights(server), before)
        told = server.status()
        assert told["updates"] == 8
        assert told["workers"][0]["state"] == "left"
        worker = kit.worker(server, local_batch_size=6, name="ada")
        worker.train(dataset=kit.regression(), loss_fn="mse", epochs=1)
        result = server.wait_for_workers()
    assert (result.updates, result.versions, result.num_clients) == (12, 12, 1)
    assert result.counts["lost"] == 0


def test_two_halves_are_one_whole(tmp_path):
    def run(server, seed):
        worker = kit.worker(server, local_batch_size=6)
        worker.train(dataset=kit.regression(), loss_fn="mse", epochs=2, seed=seed)

    rule = {"update_rule": "async_momentum"}
    with kit.server(kit.line(), **rule) as server:
        run(server, 1)
        run(server, 2)
        whole = kit.weights(server)
    for seed in (1, 2):
        with kit.server(kit.line(), checkpoint_dir=tmp_path, **rule) as server:
            run(server, seed)
            parts = kit.weights(server)
    assert torch.equal(parts, whole)


def test_jobs_of_each_life_have_ids_of_their_own(tmp_path):
    lives = []
    for _ in range(3):
        with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
            lives.append(server._hub.server.incarnation)
    assert lives == sorted(set(lives))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path):
        pass
    with pytest.raises(ConfigurationError, match="another model") as caught:
        kit.server(kit.line((0.0, 0.0, 0.0)), checkpoint_dir=tmp_path).start()
    assert "weight[1, 3] against weight[1, 2]" in str(caught.value)


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path):
        pass
    with pytest.raises(ConfigurationError, match="another algorithm") as caught:
        kit.server(kit.line(), checkpoint_dir=tmp_path, update_rule="fedasync").start()
    assert "fedasync" in str(caught.value.got)
    assert "async_delta" in str(caught.value.expected)


def test_checkpoints_are_written_while_it_runs(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, checkpoint_frequency=10) as server:
        _train(server, epochs=20)
        server._keeper._writing and server._keeper._writing.result(kit.WAIT_S)
        assert list(tmp_path.glob("checkpoint-*"))


def test_a_checkpoint_that_cannot_be_written_is_told_and_does_not_end_the_server(
    tmp_path, monkeypatch, caplog
):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, checkpoint_frequency=1) as server:
        store = server._keeper._store
        save = store.save
        failed = threading.Event()

        def fail(*_):
            failed.set()
            raise OSError("the disk is full")

        monkeypatch.setattr(store, "save", fail)
        _train(server, epochs=5)
        assert failed.wait(kit.WAIT_S)
        assert "the disk is full" in server.status()["checkpoint_error"]
        assert caplog.text.count("a checkpoint could not be written: the disk is full") == 1
        monkeypatch.setattr(store, "save", save)


# --- the folder


def test_a_run_folder_holds_the_events_and_the_result(tmp_path):
    with kit.server(kit.line(), folder=tmp_path / "run") as server:
        _train(server, epochs=30)
        result = server.stop()
    folder = RunFolder.open(tmp_path / "run")
    kinds = [type(event).__name__ for event in folder.events()]
    assert kinds.count("Submitted") == 120
    read = headway.Result.load(tmp_path / "run")
    assert read.updates == result.updates == 120
    assert read.log_hash == result.log_hash != ""
    assert read.weights_hash == result.weights_hash
    assert (tmp_path / "run" / "report.html").exists()


# --- ends


def test_stop_may_be_called_twice_and_without_a_with():
    server = kit.server(kit.line())
    assert server.start() is server
    assert server.stop() is server.stop()
    assert server.wait_for_workers().stop_reason == "stopped"


def test_a_worker_in_the_middle_hands_in_what_it_is_at_when_the_server_stops():
    begun, go_on = threading.Event(), threading.Event()

    def loss(outputs, targets):
        begun.set()
        assert go_on.wait(kit.WAIT_S)
        return torch.nn.functional.mse_loss(outputs, targets)

    with kit.server(kit.line(), drain_s=kit.WAIT_S) as server:
        threads = kit.Threads()
        worker = kit.worker(server, local_batch_size=24)
        threads.go(
            lambda: worker.train(
                dataset=kit.regression(),
                loss_fn=loss,
                epochs=1000,
                optimizer=headway.optim.SGD(lr=0.01),
            )
        )
        assert begun.wait(kit.WAIT_S)
        threads.go(server.stop)
        until(lambda: server._hub.state != "running")
        go_on.set()
        history, result = threads.join()
    assert history.stopped == "stopped"
    assert history.receipts["applied"] == history.updates == 1
    assert result.versions == 1


def test_a_worker_that_vanishes_is_noticed_and_nobody_waits_for_it():
    with kit.server(
        kit.line(), update_rule=headway.algorithms.fedavg(clients_per_round=2)
    ) as server:
        gone = kit.worker(server)
        exchange, _ = gone._join(10.0)
        exchange.ask()
        threads = kit.Threads()
        threads.go(lambda: _train(server, epochs=1))
        exchange._link.close()
        server.wait_for_workers(2, timeout_s=kit.WAIT_S)
        threads.join()
        states = {told["name"]: told["state"] for told in server.status()["workers"]}
    assert states[gone.name] == "lost"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order(tmp_path, monkeypatch, number):
    server = kit.server(kit.line(), checkpoint_dir=tmp_path).start()
    before = signal.getsignal(number)
    _train(server)
    wait = server._ledger.wait

    def kill_then_wait(timeout_s):
        # Not before somebody waits: only then the signal is caught.
        if signal.getsignal(number) is not before:
            os.kill(os.getpid(), number)
        wait(timeout_s)

    monkeypatch.setattr(server._ledger, "wait", kill_then_wait)
    result = server.wait_for_workers(5)
    assert signal.getsignal(number) is before
    assert result.interrupted
    assert result.stop_reason == ("interrupted" if number == signal.SIGINT else "terminated")
    assert list(tmp_path.glob("checkpoint-*"))


def test_an_error_in_the_algorithm_ends_the_server_and_is_raised_where_it_is_waited_for():
    def explode(update, context):
        raise RuntimeError("this transform is broken")

    broken = headway.algorithms.transforms.stateless(explode)
    server = kit.server(kit.line(), staleness_policy=[broken()]).start()
    worker = kit.worker(server, local_batch_size=6)
    with pytest.raises(headway.errors.ServerLostError):
        worker.train(
            dataset=kit.regression(), loss_fn="mse", optimizer=headway.optim.SGD(lr=0.1), epochs=9
        )
    with pytest.raises(RuntimeError, match="this transform is broken"):
        server.wait_for_workers()
    with pytest.raises(RuntimeError, match="this transform is broken"):
        server.stop()


# --- wrong inputs


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"update_rule": "async_sdg"}, UnknownNameError, "async_sgd"),
        ({"staleness_policy": "fliter"}, UnknownNameError, "filter"),
        ({"staleness_policy": "filter"}, ConfigurationError, "max_staleness"),
        ({"consistency": "torn"}, UnknownNameError, "hogwild, snapshot"),
        ({"checkpoint_frequency": 0}, ConfigurationError, "checkpoint_frequency"),
        ({"concurrency": 0}, ConfigurationError, "concurrency"),
        ({"server_optimizer": torch.optim.Adam}, ConfigurationError, "workers own the optimizer"),
    ],
)
def test_wrong_options_are_refused_at_once(options, error, words):
    with pytest.raises(error) as caught:
        kit.server(kit.line(), **options)
    assert words in str(caught.value)


def test_a_model_is_a_module_or_makes_one():
    with pytest.raises(ArgumentTypeError, match="no model"):
        kit.server("resnet")
    with pytest.raises(ArgumentTypeError, match="makes no model"):
        kit.server(lambda: 3)
    with kit.server(headway.models.mlp(inputs=2, classes=2), seed=1) as server:
        first = kit.server(headway.models.mlp(inputs=2, classes=2), seed=1)
        assert repr(server).startswith("ParameterServer(mlp, async_delta, at ")
        with first:
            for one, other in zip(server.model.parameters(), first.model.parameters(), strict=True):
                assert torch.equal(one, other)


def test_an_address_beyond_this_machine_needs_tls_or_the_word_insecure():
    with pytest.raises(ConfigurationError, match="without TLS"):
        kit.server(kit.line(), host="0.0.0.0").start()
    with kit.server(kit.line(), host="0.0.0.0", insecure=True) as server:
        assert server.address.startswith("0.0.0.0:")


def test_a_server_that_was_not_started_says_so():
    server = kit.server(kit.line())
    assert "not started" in repr(server)
    for look in (lambda: server.version, lambda: server.model, server.status, server.stop):
        with pytest.raises(UsageError, match="has not been started"):
            look()
    with server, pytest.raises(UsageError, match="was started before"):
        server.start()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_model_on_a_gpu_stays_there():
    with kit.server(kit.line().cuda()) as server:
        worker = kit.worker(server, local_batch_size=6, device="cuda")
        worker.train(
            dataset=kit.regression(), loss_fn="mse", epochs=30, optimizer=headway.optim.SGD(lr=0.05)
        )
        assert server.model.weight.is_cuda
        assert (kit.weights(server).cpu() - torch.tensor([1.0, -2.0])).norm() < 0.05
