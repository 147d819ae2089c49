"""A worker's edges: what it refuses, servers that are not there, and how its training ends."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial

import pytest
import torch

import headway
from headway.core.errors import ConfigurationError, RefusedError, ServerLostError
from tests.unit.training import server_kit as kit

SGD = headway.optim.SGD
X, Y = kit.regression()


# --- optimizers, devices, servers that are not there


def test_a_workers_optimizer_is_an_error_where_the_server_owns_it():
    with kit.server(kit.line(), update_rule="async_momentum") as server:
        with pytest.raises(ConfigurationError, match="the server owns the optimizer") as caught:
            kit.train(server, optimizer=SGD(lr=0.1))
        assert "async_momentum" in str(caught.value.got)
        assert "async_sgd" in str(caught.value.help)


def test_the_lack_of_an_optimizer_is_an_error_where_it_is_the_workers():
    with (
        kit.server(kit.line()) as server,
        pytest.raises(ConfigurationError, match="an optimizer of its own"),
    ):
        kit.train(server)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"loss_fn": "mes"}, "AsyncWorker.train(loss_fn=...)"),
        ({"loss_fn": 3}, "AsyncWorker.train(loss_fn=...)"),
        ({"loss_fn": lambda out, y: (out - y).square()}, "AsyncWorker.train(loss_fn=...)"),
        ({"metrics": ()}, "AsyncWorker.train(metrics=...)"),
        ({"metrics": "acuracy"}, "AsyncWorker.train(metrics=...)"),
        ({"metrics": {"mine": 3}}, "AsyncWorker.train(metrics=...)"),
        (
            {"optimizer": partial(torch.optim.SGD, learning_rate=1)},
            "AsyncWorker.train(optimizer=...)",
        ),
    ],
)
def test_errors_name_the_argument_that_was_given(given, where):
    options = {"optimizer": headway.optim.SGD(lr=0.1), "loss_fn": "mse", **given}
    with kit.server(kit.line()) as server, pytest.raises((ValueError, TypeError)) as caught:
        headway.AsyncWorker(server.address).train((X, Y), **options)
    assert caught.value.where == where
    assert isinstance(given.get("optimizer"), partial) == (caught.value.help == "write lr=1")


@pytest.mark.parametrize("device", ["gpu", "meta", 3.5])
def test_what_is_no_device_is_refused_in_words(device):
    with pytest.raises(ConfigurationError, match="no device to train on") as caught:
        headway.AsyncWorker(device=device)
    assert repr(device) in caught.value.got


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "grpc://127.0.0.1:5000/"])
def test_a_url_is_no_address(address):
    with pytest.raises(ConfigurationError, match="not a URL") as caught:
        headway.AsyncWorker(address)
    assert (caught.value.got, caught.value.help) == (address, 'write "127.0.0.1:5000"')


def test_an_unknown_device_is_replaced_with_one_notice(caplog, monkeypatch):
    real = torch.empty

    def without(*args, device=None, **options):
        if device is not None and torch.device(device).type == "cuda":
            raise AssertionError("Torch not compiled with CUDA enabled")
        return real(*args, device=device, **options)

    monkeypatch.setattr(torch, "empty", without)
    with caplog.at_level(logging.WARNING):
        worker = headway.AsyncWorker(device="cuda")
    assert worker.device == torch.device("cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "Headway: training on the CPU; cuda cannot be used here: Torch not compiled with CUDA enabled"
    ]


def test_a_server_that_is_not_there_is_an_error_that_says_where():
    with kit.server(kit.line()) as server:
        address = server.address
    worker = headway.AsyncWorker(address, connect_timeout_s=0.3)
    with pytest.raises(ServerLostError) as caught:
        worker.train(dataset=(X, Y), optimizer=SGD(lr=0.1))
    assert address in str(caught.value)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ((), "127.0.0.1:5000"),
        (("10.0.0.1",), "10.0.0.1:5000"),
        (("10.0.0.1:7000",), "10.0.0.1:7000"),
        (("::1",), "[::1]:5000"),
        (("[::1]:7",), "[::1]:7"),
    ],
)
def test_the_address_has_a_usual_port(given, address):
    assert headway.AsyncWorker(*given).address == address
    assert headway.AsyncWorker(*given, port=5000).address == address


@pytest.mark.parametrize(
    "options",
    [
        {"local_batch_size": 0},
        {"update_frequency": 0},
        {"local_epochs": 0.0},
        {"update_frequency": 2, "local_epochs": 1},
        {"server_address": ""},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        headway.AsyncWorker(**options)


def test_a_second_worker_of_a_name_is_refused():
    with kit.server(kit.line()) as server:
        first = kit.worker(server, name="ada")
        exchange, _ = first._join(10.0)
        with pytest.raises(RefusedError, match="a worker named `ada`"):
            kit.train(server, optimizer=SGD(lr=0.1), worker={"name": "ada"})
        exchange.leave()


def test_local_epochs_need_data_of_a_known_length():
    def endless():
        yield from kit.batches(6)

    with kit.server(kit.line()) as server, pytest.raises(ConfigurationError, match="known length"):
        kit.train(
            server,
            dataset=None,
            dataloader=endless(),
            optimizer=SGD(lr=0.1),
            worker={"local_epochs": 1},
        )


# --- ends


def test_a_cancelled_job_is_given_up_between_two_batches():
    rule = headway.algorithms.fedavg(clients_per_round=1, over_selection=2.0)
    begun, go_on = threading.Event(), threading.Event()

    def slow(outputs, targets):
        begun.set()
        assert go_on.wait(kit.WAIT_S)
        return torch.nn.functional.mse_loss(outputs, targets)

    with kit.server(kit.line(), update_rule=rule) as server:
        threads = kit.Threads()
        loser = kit.worker(server, local_batch_size=6, update_frequency=4)
        threads.go(
            lambda: loser.train(dataset=(X, Y), loss_fn=slow, epochs=1, optimizer=SGD(lr=0.1))
        )
        assert begun.wait(kit.WAIT_S)
        kit.train(server, optimizer=SGD(lr=0.1), worker={"update_frequency": 4})
        go_on.set()
        (history,) = threads.join()
    assert history.receipts["cancelled"] + history.receipts["rejected:cancelled"] >= 1
    assert history.batches < 8


def test_not_finite_updates_are_rejected_and_do_not_spoil_the_optimizer():
    bad = X.clone()
    bad[:6] = torch.inf
    with kit.server(kit.line()) as server:
        history = kit.train(
            server, dataset=(bad, Y), optimizer=SGD(lr=0.05, momentum=0.9), epochs=1
        )
        assert torch.isfinite(kit.weights(server)).all()
    assert history.receipts == {"rejected": 1, "rejected:not_finite": 1, "applied": 3}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_worker_after_the_present_batch(number):
    loss = kit.Signals(number)
    with kit.server(kit.line()) as server:
        worker = kit.worker(server, local_batch_size=6, update_frequency=100)
        history = worker.train(dataset=(X, Y), loss_fn=loss, epochs=1000, optimizer=SGD(lr=0.01))
        assert server.version == 1
    assert history.stopped == ("interrupted" if number == signal.SIGINT else "terminated")
    assert history.batches == loss.calls == 3
    assert history.receipts == {"applied": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_worker_on_a_gpu_sends_what_one_on_the_cpu_sends():
    found = []
    for device in ("cpu", "cuda"):
        with kit.server(kit.line()) as server:
            kit.train(server, optimizer=SGD(lr=0.1, momentum=0.9), worker={"device": device})
            found.append(kit.weights(server))
    torch.testing.assert_close(*found)
