"""A training that ends before its data do says so; what breaks on the way ends nothing."""

from __future__ import annotations

import logging
import signal
from collections import deque

import pytest
import torch

import headway
from headway.core import Receipt, WorkOrder
from headway.core.errors import ServerLostError
from headway.runtime import wire
from headway.runtime.exchange import Exchange, Work
from headway.runtime.parcel import Delivery, Parcel
from headway.task import LocalResult
from headway.training.batches import read_data
from headway.training.comeback import Comeback
from headway.training.ending import Ending
from headway.training.history import History
from headway.training.learner import Meter
from headway.training.visit import Diary, Visit
from tests.unit.training import server_kit as kit

SGD = headway.optim.SGD
X, Y = kit.regression()


class Breaking:
    """An exchange whose server cancels each job, and is lost right after it was heard to."""

    stopped = None
    waiting = ""

    def __init__(self):
        self.jobs = 0
        self.is_lost = False

    def ask(self):
        pass

    def next(self, timeout_s):
        self.overhear()
        self.jobs += 1
        return Work(self.jobs, 0, None, None, WorkOrder(steps=4), 7, 0)

    def is_cancelled(self, work):
        self.overhear()
        self.is_lost = True
        return True

    def overhear(self):
        if self.is_lost:
            raise ServerLostError("the server has gone")

    def settle(self, timeout_s=None):
        return True


class Looking:
    """A learner that looks between two batches whether its job is still wanted."""

    has_chain = False

    def train(self, work, batches, num_steps, *, is_cancelled, held=None):
        while batches() is not None and not is_cancelled():
            pass


class Even:
    def uniform(self, low, high):
        return low


class Scripted:
    """A connection that says what it was told to, and keeps what is sent."""

    def __init__(self, *told):
        self.told, self.sent = deque(told), []

    def send(self, parcel: Parcel):
        self.sent.append(parcel)

    def receive(self, timeout_s=None):
        return Delivery(self.told.popleft()) if self.told else None


def visited(exchange, learner, comeback, **options):
    """The history of a visit of eight batches."""
    history = History()
    usual = {"update_frequency": 1, "prefetch": False, "wanted": Ending()}
    Visit(
        exchange,
        learner,
        Diary(history, Meter(torch.nn.functional.mse_loss, {}, 0, {}), 100),
        passes=read_data((X, Y), None, batch_size=6),
        epochs=2,
        local_epochs=None,
        comeback=comeback,
        **{**usual, **options},
    ).run(0)
    return history


def test_a_server_that_is_lost_right_after_it_cancelled_a_job_ends_nothing():
    exchange = Breaking()

    def resume():
        exchange.is_lost = False

    retry = headway.Retry(first_s=1e-6, max_s=1e-6)
    comeback = Comeback(retry, resume, wanted=bool, stream=Even())
    history = visited(exchange, Looking(), comeback, update_frequency=4)
    assert history.batches == history.receipts["cancelled"] == 8 == exchange.jobs


def test_who_wants_to_leave_does_not_wait_for_a_server_that_takes_nothing(monkeypatch):
    """A server whose disk is full answers nothing that was handed in."""
    monkeypatch.setattr("headway.training.visit._SETTLE_S", 0.0)
    wanted, pushed = Ending(), []

    class Full(Breaking):
        def settle(self, timeout_s=None):
            assert timeout_s is not None, "this would wait for ever"
            wanted.reason = "terminated"
            return False

        def is_cancelled(self, work):
            return False

        def push(self, *args, **options):
            pushed.append(args)

    class Through(Looking):
        def train(self, work, batches, *args, **options):
            batches()
            return LocalResult(torch.zeros(2), 6, 6, 1, {})

    comeback = Comeback(None, lambda: None, wanted=lambda: bool(wanted), stream=Even())
    history = visited(Full(), Through(), comeback, prefetch=True, wanted=wanted)
    assert not pushed
    assert history.updates == 0


def test_a_cancelled_job_that_was_handed_in_counts_as_cancelled_and_not_as_an_update():
    link = Scripted(
        wire.ToWorker(job=wire.Job(id=1)),
        wire.ToWorker(cancel=wire.Cancel(job=1)),
    )
    exchange = Exchange(link)
    work = exchange.next(0.0)
    assert exchange.is_cancelled(work)
    assert not exchange.push(work, torch.zeros(2), num_examples=1)
    assert not link.sent


@pytest.mark.parametrize("reason", ["", "the building closes"])
def test_a_stop_is_told_with_and_without_a_reason(reason):
    exchange = Exchange(Scripted(wire.ToWorker(stop=wire.Stop(reason=reason))))
    assert exchange.next(0.0) is None
    assert exchange.stopped == (reason or "the server has not said why")


def test_what_had_no_receipt_at_the_end_is_told():
    history = History(worker="w", updates=5)
    for status in ("applied", "buffered", "rejected"):
        history.note(Receipt(status, "", 0, 1.0, 1, 1, None))
    assert history.unanswered == history.to_dict()["unanswered"] == 2
    assert "2 without a receipt" in str(history)
    assert "without a receipt" not in str(History(worker="w"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_a_signal_ends_says_so_in_the_log(number, caplog):
    loss = kit.Signals(number)
    with caplog.at_level(logging.WARNING, "headway"), kit.server(kit.line()) as server:
        worker = kit.worker(server, local_batch_size=6)
        history = worker.train(dataset=(X, Y), loss_fn=loss, epochs=1000, optimizer=SGD(lr=0.01))
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert history.stopped == word
    assert history.updates == 3
    assert f"Headway: ended after 3 updates: {word}" in caplog.messages
