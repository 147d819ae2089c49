"""``headway server`` is killed and stopped while workers train, and training goes on."""

from __future__ import annotations

import logging
import random
import signal
import threading

import pytest
import torch

import headway
from headway.runtime.exchange import Exchange
from headway.runtime.narrow import Narrow
from headway.training.visit import Diary
from tests.command_kit import Command
from tests.waiting_kit import WAIT_S, until

# Each start of a server loads torch.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
QUICK = headway.Retry(first_s=0.05, max_s=0.5)


class Trainer:
    """A worker in a thread, with batches of one example whose gradient is minus one."""

    def __init__(self, server, name, jobs, *, inputs=None, **options):
        self.jobs = jobs
        self.worker = headway.AsyncWorker(server.address, name=name, local_batch_size=1, **options)
        self._inputs = torch.full((1, 64), -1.0) if inputs is None else inputs
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def history(self):
        return self.worker.history

    @property
    def updates(self):
        return 0 if self.history is None else self.history.updates

    def finish(self):
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self.history

    def _run(self):
        try:
            self.worker.train(
                (self._inputs, torch.zeros(len(self._inputs))),
                epochs=self.jobs / len(self._inputs),
                loss_fn=lambda outputs, _: outputs.sum(1).mean(),
                optimizer=headway.optim.SGD(lr=1.0),
                seed=0,
            )
        except BaseException as error:  # noqa: BLE001 (raised by finish)
            self._error = error


class Book:
    """What workers of this process were told, said that they hold, and sent."""

    def __init__(self):
        self.receipts = []
        self.holds = []
        self.losses = []
        self.sent = torch.zeros(650, dtype=torch.float64)

    def applied(self):
        return [job for job, status in self.receipts if status == "applied"]


@pytest.fixture
def book(monkeypatch):
    book, lock = Book(), threading.Lock()
    hear, join, encode = Diary.receipt, Exchange.join, Narrow.encode

    def receipt(diary, told):
        book.receipts.append((told.job, told.status))
        hear(diary, told)

    def joined(exchange, *arguments, holds=(), **options):
        book.holds.append(list(holds))
        return join(exchange, *arguments, holds=holds, **options)

    def encoded(narrow, job, payload, fragment):
        with lock:
            book.sent += payload
        return encode(narrow, job, payload, fragment)

    class Losses(logging.Handler):
        def emit(self, record):
            if "trying to reach the server again" in record.getMessage():
                book.losses.append(record.getMessage())

    monkeypatch.setattr(Diary, "receipt", receipt)
    monkeypatch.setattr(Exchange, "join", joined)
    monkeypatch.setattr(Narrow, "encode", encoded)
    handler = Losses()
    logging.getLogger("headway").addHandler(handler)
    yield book
    logging.getLogger("headway").removeHandler(handler)


@pytest.fixture
def serve(tmp_path):
    started = []

    def make(*arguments, **options):
        started.append(Command(tmp_path, *arguments, **options))
        return started[-1]

    yield make
    for one in started:
        one.end()


def values(server):
    """The server's model, flat, as a worker that only looks sees it."""
    worker = headway.AsyncWorker(server.address, shared_memory=False)
    worker.evaluate((torch.zeros(1, 64), torch.zeros(1, dtype=torch.long)))
    parts = [parameter.detach().double().flatten() for parameter in worker.model.parameters()]
    return torch.cat(parts)


def moved(server, before):
    """How many ones were added to each weight, and taken from each bias."""
    change = values(server) - before
    change[640:] *= -1.0
    count = change.round()
    assert float((change - count).abs().max()) < 0.1
    assert len(count.unique()) == 1
    return int(count[0])


def progress(trainers, share):
    """Wait until so much of all work is done."""
    jobs = sum(trainer.jobs for trainer in trainers)
    until(lambda: sum(trainer.updates for trainer in trainers) >= share * jobs, f"{share:.0%}")


def test_every_receipt_is_of_an_update_that_is_applied_once(serve, book):
    server, dice = serve("--durability", "log", "--checkpoint-frequency", "150"), random.Random(5)
    before = values(server)
    trainers = [
        Trainer(server, "ada", 150),
        Trainer(server, "bob", 150, shared_memory=False),
        Trainer(server, "", 150, shared_memory=False, prefetch=True),
    ]
    for share in (0.25, 0.6):
        progress(trainers, share)
        threading.Event().wait(0.02 * dice.random())
        server.restart()
    histories = [trainer.finish() for trainer in trainers]
    # What a worker says that it holds stays its own, and so no update is rejected.
    assert [dict(history.receipts) for history in histories] == [{"applied": 150}] * 3
    # One that waits longer than a server lives finds the one after it.
    assert all(1 <= history.reconnects <= 2 for history in histories)
    assert any(book.holds)
    applied = book.applied()
    assert len(applied) == len(set(applied)) == 450
    assert moved(server, before) == 450
    status = server.status()
    assert (status["version"], status["applied"], status["in_flight"]) == (450, 450, 0)
    server.kill()
    assert {job for _, job in server.submitted.values()} == set(applied)


def test_rounds_go_on_after_a_kill(serve, book):
    options = "clients_per_round = 2"
    server = serve("--durability", "log", algorithm="fedavg", options=options)
    trainers = [Trainer(server, name, 40, shared_memory=False) for name in ("ada", "bob")]
    progress(trainers, 0.5)
    server.restart()
    for trainer in trainers:
        history = trainer.finish()
        assert history.receipts["rejected"] == 0
        assert history.updates == 40
    status = server.status()
    assert status["applied"] + status["buffered"] == 80
    assert status["version"] == 40


def test_without_a_log_training_goes_on_from_the_newest_checkpoint(serve, book):
    server = serve("--checkpoint-frequency", "20")
    before = values(server)
    trainers = [Trainer(server, name, 100, shared_memory=False) for name in ("ada", "bob")]
    progress(trainers, 0.5)
    until(lambda: list(server.home.glob("checkpoint-*")))
    server.restart()
    assert "going on from version" in server.told
    assert "updates that came after it are not in it" in server.told
    status = server.status()
    assert str(server.home) in status["resumed_from"]
    histories = [trainer.finish() for trainer in trainers]
    assert [history.reconnects for history in histories] == [1, 1]
    # The jobs that were out are of a server that nobody remembers: at most one of each worker.
    assert sum(history.receipts["rejected"] for history in histories) <= 2
    version = server.status()["version"]
    assert moved(server, before) == version <= len(book.applied())


def test_a_server_that_was_stopped_for_longer_than_a_lease_goes_on(serve, book):
    server = serve("--durability", "log")
    before = values(server)
    trainers = [
        Trainer(server, name, 100, shared_memory=name == "ada", retry=QUICK)
        for name in ("ada", "bob")
    ]
    progress(trainers, 0.3)
    server.send(signal.SIGSTOP)
    until(lambda: len(book.losses) >= 2, "both workers miss it")
    server.send(signal.SIGCONT)
    histories = [trainer.finish() for trainer in trainers]
    applied = book.applied()
    assert len(applied) == len(set(applied)) == moved(server, before) == server.status()["version"]
    # Both were lost too, with what they had in hand.
    assert sum(history.receipts["rejected"] for history in histories) <= 2
    assert sum(history.updates for history in histories) == len(book.receipts) == 200


def test_what_compression_leaves_out_is_exact_across_kills(serve, book):
    server = serve("--durability", "log")
    before, stream = values(server), torch.Generator().manual_seed(0)
    inputs = torch.randint(-8, 9, (60, 64), generator=stream) / 8.0
    trainers = [
        Trainer(server, name, 60, inputs=inputs, shared_memory=False, compression=codec)
        for name, codec in (("ada", "topk"), ("bob", "int8"))
    ]
    progress(trainers, 0.5)
    server.restart()
    for trainer in trainers:
        assert dict(trainer.finish().receipts) == {"applied": 60}
    left = sum(trainer.worker._narrow.residual.double() for trainer in trainers)
    assert float(left.abs().max()) > 0.0
    torch.testing.assert_close(values(server) - before + left, book.sent, rtol=0.0, atol=1e-3)
