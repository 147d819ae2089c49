"""Messages leave when the log is on the disk; a log that is only numbers stands in for it."""

from __future__ import annotations

import threading

import pytest
import torch

from headway.core.errors import CheckpointError
from headway.runtime import wire
from headway.runtime.loop import Loop
from headway.runtime.outbox import Outbox
from headway.runtime.patience import Patience

WAIT_S = 20.0


class Log:
    """A log whose syncs wait until they are let through, or fail."""

    def __init__(self):
        self.sequence = self.durable = self.syncs = 0
        self.failing = False
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def sync(self):
        target = self.sequence
        self.began.release()
        assert self.gate.acquire(timeout=WAIT_S)
        if self.failing:
            raise CheckpointError("the disk failed")
        self.syncs += 1
        self.durable = target
        return target


class Session:
    def __init__(self):
        self.got = []
        self.closed = False

    def send(self, header, vector=None, buffers=None):
        self.got.append((header.wait.reason or header.receipt.job, vector))

    def close(self):
        self.closed = True


def _wait(reason):
    return wire.ToWorker(wait=wire.Wait(reason=reason))


@pytest.fixture
def parts():
    loop, log = Loop(), Log()
    outbox = Outbox(loop, log)
    yield loop, log, outbox, Session()
    log.failing = False
    for _ in range(50):
        log.gate.release()
    outbox.close()
    loop.close()


def test_a_message_waits_for_its_record_and_no_longer(parts):
    loop, log, outbox, session = parts
    outbox.send(session, _wait("nothing to wait for"))
    log.sequence = 1
    outbox.send(session, _wait("one"))
    loop.turn(0.0)
    assert [reason for reason, _ in session.got] == ["nothing to wait for"]
    log.gate.release()
    loop.turn(WAIT_S)
    assert [reason for reason, _ in session.got] == ["nothing to wait for", "one"]


def test_what_comes_during_a_sync_shares_the_next_one(parts):
    loop, log, outbox, session = parts
    log.sequence = 1
    outbox.send(session, _wait("1"))
    loop.turn(0.0)
    assert log.began.acquire(timeout=WAIT_S)
    for number in range(2, 50):
        log.sequence = number
        outbox.send(session, _wait(str(number)))
    loop.turn(0.0)
    log.gate.release()
    loop.turn(WAIT_S)
    assert [reason for reason, _ in session.got] == ["1"]
    log.gate.release()
    loop.turn(WAIT_S)
    assert [reason for reason, _ in session.got] == [str(number) for number in range(1, 50)]
    assert log.syncs == 2


def test_a_receipt_and_the_job_behind_it_share_a_sync(parts):
    loop, log, outbox, session = parts
    for number, reason in enumerate(("receipt", "job"), 1):
        log.sequence = number
        outbox.send(session, _wait(reason))
    loop.turn(0.0)
    log.gate.release()
    loop.turn(WAIT_S)
    assert [reason for reason, _ in session.got] == ["receipt", "job"]
    assert log.syncs == 1


def test_an_answer_that_waits_is_a_copy(parts):
    loop, log, outbox, session = parts
    answer, log.sequence = torch.ones(2), 1
    outbox.send(session, wire.ToWorker(receipt=wire.Receipt(job=7)), answer)
    answer.zero_()
    loop.turn(0.0)
    log.gate.release()
    loop.turn(WAIT_S)
    assert session.got[0][0] == 7
    assert session.got[0][1].tolist() == [1.0, 1.0]


def test_a_disk_that_fails_is_told_and_tried_again(parts):
    loop, log, outbox, session = parts
    log.sequence, log.failing = 1, True
    outbox.send(session, _wait("1"))
    loop.turn(0.0)
    log.gate.release()
    loop.turn(WAIT_S)
    assert session.got == []
    assert "the disk failed" in str(outbox.problem)
    log.failing = False
    log.gate.release()
    for _ in range(100):
        # A turn may end with the word of the first try.
        if session.got:
            break
        loop.turn(WAIT_S / 100)
    assert [reason for reason, _ in session.got] == ["1"]
    assert outbox.problem is None


class Overtaken(Log):
    """A log that a checkpoint brings to the disk right after a message was found to wait for it."""

    looks = 0

    @property
    def durable(self):
        self.looks += 1
        return self.sequence - (self.looks == 1)

    @durable.setter
    def durable(self, number):
        pass


def test_what_a_checkpoint_has_brought_to_the_disk_leaves_without_a_sync():
    loop, log, session = Loop(), Overtaken(), Session()
    outbox = Outbox(loop, log)
    log.sequence = 1
    outbox.send(session, _wait("1"))
    loop.turn(0.0)
    loop.turn(WAIT_S)
    assert [reason for reason, _ in session.got] == ["1"]
    assert log.syncs == 0
    outbox.close()
    loop.close()


def test_what_waits_for_the_checkpoint_after_a_failure_leaves_when_it_is_written(
    parts, monkeypatch
):
    loop, log, outbox, session = parts
    log.sequence = 1
    # As a log does that goes on after a failure: synced, and no good without the checkpoint.
    monkeypatch.setattr(log, "sync", lambda: log.durable)
    outbox.send(session, _wait("1"))
    loop.turn(WAIT_S)
    assert session.got == []
    log.durable = 1
    for _ in range(100):
        if session.got:
            break
        loop.turn(WAIT_S / 100)
    assert [reason for reason, _ in session.got] == ["1"]


def test_nothing_unsynced_leaves_at_the_end(parts):
    loop, log, outbox, session = parts
    log.sequence, log.failing = 1, True
    outbox.send(session, _wait("1"))
    loop.turn(0.0)
    log.gate.release(2)
    outbox.close()
    assert session.got == []
    assert outbox.num_waiting == 0


def test_a_worker_that_asks_and_asks_is_cut_off(parts):
    _, log, outbox, session = parts
    log.sequence = 1
    for _ in range(300):
        outbox.send(session, _wait("x"))
    assert session.closed
    assert outbox.num_waiting == 256


def test_what_waits_is_done_in_order_and_each_once():
    told, done, finished, full = [], [], [], [True]

    def act(what):
        if full[0]:
            raise CheckpointError("full")
        done.append(what)

    patience = Patience(lambda problem: told.append(problem is not None))
    for what in range(3):
        patience.do(lambda what=what: act(what), 0.0, lambda what=what: finished.append(what))
    patience.try_again(0.1)
    patience.try_again(1.0)
    assert (done, finished, patience.num_waiting) == ([], [], 3)
    full[0] = False
    patience.try_again(2.0)
    assert (done, finished, told) == ([0, 1, 2], [0, 1, 2], [True, False])
    assert patience.due_s is None


def test_what_an_action_has_others_do_waits_behind_it_and_is_not_lost():
    done, full = [], [True]

    def inner():
        if full[0]:
            raise CheckpointError("full")
        done.append("inner")

    patience = Patience(lambda _: None)

    def outer():
        done.append("outer")
        patience.do(inner, 0.0)

    patience.do(outer, 0.0)
    assert done == ["outer"]
    full[0] = False
    patience.try_again(1.0)
    assert done == ["outer", "inner"]


def test_another_error_is_raised_and_nothing_waits():
    finished = []
    patience = Patience(lambda _: None)
    with pytest.raises(ZeroDivisionError):
        patience.do(lambda: 1 // 0, 0.0, lambda: finished.append(1))
    assert finished == [1]
    assert patience.problem is None


def test_few_models_wait_for_a_worker_that_asks_and_asks(parts):
    _, log, outbox, session = parts
    log.sequence = 1
    for number in range(9):
        assert not session.closed, number
        outbox.send(session, wire.ToWorker(job=wire.Job(look=True)), torch.zeros(1))
    assert session.closed
    assert outbox.num_waiting == 8
    other = Session()
    outbox.send(other, wire.ToWorker(job=wire.Job(id=1)), torch.zeros(1))
    assert not other.closed


def test_what_was_sent_makes_room_again(parts):
    loop, log, outbox, session = parts
    for _ in range(5):
        log.sequence += 1
        for _ in range(8):
            outbox.send(session, wire.ToWorker(job=wire.Job(look=True)), torch.zeros(1))
        log.gate.release()
        while outbox.num_waiting:
            loop.turn(WAIT_S)
    assert not session.closed
    assert len(session.got) == 40


def test_nothing_waits_for_who_is_gone(parts):
    _, log, outbox, session = parts
    stays, log.sequence = Session(), 1
    for one in (session, stays, session):
        outbox.send(one, _wait("x"), torch.zeros(1))
    outbox.forget(session)
    assert outbox.num_waiting == 1
    for _ in range(8):
        outbox.send(session, _wait("y"), torch.zeros(1))
    assert not session.closed


def test_whoever_waits_is_told_that_the_disk_failed_and_when_that_is_over():
    loop, log, told = Loop(), Log(), []
    outbox = Outbox(loop, log, lambda problem: told.append(problem and problem.message))
    log.sequence, log.failing = 1, True
    outbox.send(Session(), _wait("1"))
    log.gate.release()
    while not told:
        loop.turn(WAIT_S / 100)
    log.failing = False
    log.gate.release(10)
    while len(told) < 2:
        loop.turn(WAIT_S / 100)
    assert told == ["the disk failed", None]
    outbox.close()
    loop.close()


def test_what_somebody_wanted_who_is_gone_is_not_done():
    done, finished, full = [], [], [True]

    def act(what):
        if full[0]:
            raise CheckpointError("full")
        done.append(what)

    patience = Patience(lambda problem: None)
    for what in range(4):
        finish = lambda what=what: finished.append(what)  # noqa: E731
        patience.do(lambda what=what: act(what), 0.0, finish, owner=what % 2)
    patience.forget(1)
    assert (patience.num_waiting, finished) == (2, [1, 3])
    full[0] = False
    patience.try_again(1.0)
    assert done == [0, 2]
    assert finished == [1, 3, 0, 2]


def test_when_all_are_gone_the_next_one_tries_again():
    told, full = [], [True]

    def act():
        if full[0]:
            raise CheckpointError("full")

    patience = Patience(lambda problem: told.append(problem is not None))
    patience.do(act, 0.0, owner="ada")
    patience.forget("ada")
    assert patience.problem is not None
    assert patience.due_s is None
    patience.do(act, 0.0, owner="bob")
    assert patience.num_waiting == 1
    patience.forget("bob")
    full[0] = False
    patience.do(act, 0.0)
    assert patience.problem is None
    assert told == [True, True, False]
