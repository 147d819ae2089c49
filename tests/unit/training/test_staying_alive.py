"""Workers and servers that are killed, stopped or cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from random import Random

import pytest
import torch

import headway
from headway.core import Lost, ParameterLayout
from headway.core.errors import ConfigurationError, RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.encoded import Traffic
from headway.runtime.exchange import Exchange
from headway.runtime.heartbeats import LOOK_EVERY_S, Vital
from headway.runtime.leases import Lease
from headway.runtime.parcel import Delivery
from headway.runtime.timeouts import Retry, Timeouts
from headway.training.comeback import Comeback
from tests.unit.training import server_kit as kit
from tests.waiting_kit import until

SGD = headway.optim.SGD
X, Y = kit.regression()


# --- values


@pytest.mark.parametrize(
    "given",
    [
        {"heartbeat_s": 0.0},
        {"heartbeat_s": 1.0},
        {"lease_s": 30.0},
        {"join_s": -1.0},
        {"slack_s": float("nan")},
    ],
    ids=str,
)
def test_timeouts_that_contradict_each_other(given):
    with pytest.raises(ConfigurationError):
        Timeouts(**given)


@pytest.mark.parametrize(
    "given", [{"first_s": 0.0}, {"factor": 0.5}, {"max_s": 0.1}, {"give_up_s": -1.0}], ids=str
)
def test_a_retry_that_cannot_be(given):
    with pytest.raises(ConfigurationError):
        Retry(**given)


def test_a_machine_that_slept_takes_nobody_for_lost():
    lease = Lease(2.0, max_slack_s=0.0, look_s=0.1)
    lease.begin(0.0)
    assert not lease.is_over(0.1)
    assert not lease.is_over(1000.0)
    assert not lease.is_over(1000.1)


def test_measured_round_trips_make_a_lease_longer_up_to_a_bound():
    lease = Lease(2.0, max_slack_s=5.0, look_s=0.1)
    for slack_s, lasts_s in [(1.0, 3.0), (99.0, 7.0), (-1.0, 2.0), (float("nan"), 2.0)]:
        lease.allow(slack_s)
        assert lease.lasts_s == lasts_s


@pytest.mark.parametrize("phase", range(10))
def test_a_worker_that_falls_silent_is_lost_within_3_seconds_at_defaults(phase):
    clock, usual = Time(), Timeouts()
    vital = Vital(usual, clock)
    looks = [number * LOOK_EVERY_S for number in range(200)]
    # It falls silent anywhere between two beats, and between two looks at it.
    stopped_s = 10.0 + phase * 0.087
    beats = [number * usual.heartbeat_s for number in range(40)]
    happens = [(at, "look") for at in looks] + [(at, "beat") for at in beats if at <= stopped_s]
    lost = []
    for clock.now, what in sorted(happens):
        if what == "beat":
            vital.heard()
            vital.beat(slack_s=0.004)
        elif vital.is_lost():
            lost.append(clock.now)
    assert stopped_s < lost[0] < stopped_s + 3.0


# --- coming back, with a clock of its own


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, duration_s):
        self.now += duration_s


def comeback(fails, retry, *, wanted=lambda: False):
    """What tries again, its clock, and when it tried; it fails with these errors, then not."""
    time, tried = Time(), []

    def resume():
        tried.append(time.now)
        if len(tried) <= len(fails):
            raise fails[len(tried) - 1]

    back = Comeback(retry, resume, wanted=wanted, stream=Random(0), clock=time, wait=time.wait)
    return back, time, tried


def refusal(code):
    error = RefusedError("no")
    error.code = code
    return error


def test_it_waits_longer_and_longer_until_the_server_is_there():
    retry = Retry(first_s=1.0, factor=2.0, max_s=8.0, give_up_s=1000.0)
    back, _, tried = comeback([ServerLostError("gone"), refusal("full")] * 4, retry)
    back.lost(ServerLostError("gone"))
    back.come_back()
    assert back.count == 1
    assert not back.is_lost
    bounds = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    waits = [late - early for early, late in zip([0.0, *tried], tried, strict=False)]
    drawn = Random(0)
    assert waits == pytest.approx([drawn.uniform(0.0, bound) for bound in bounds])


def test_it_gives_up_in_time_and_says_what_was_wrong_last():
    retry = Retry(first_s=1.0, max_s=4.0, give_up_s=30.0)
    back, time, _ = comeback([ServerLostError(str(n)) for n in range(1000)], retry)
    back.lost(ServerLostError("gone"))
    with pytest.raises(ServerLostError) as caught:
        back.come_back()
    assert 30.0 <= time.now <= 34.0
    assert f"tried again for {time.now:.3g} seconds" in caught.value.message
    assert caught.value.got == f"gone; at the last attempt: {caught.value.__cause__.message}"


@pytest.mark.parametrize("code", ["layout", "protocol", "dismissed"])
def test_a_refusal_that_stays_is_not_tried_again(code):
    back, _, tried = comeback([refusal(code)], Retry())
    back.lost(ServerLostError("gone"))
    with pytest.raises(RefusedError):
        back.come_back()
    assert len(tried) == 1


def test_without_a_retry_or_when_the_user_ends_it_the_loss_is_raised():
    for retry, wanted in [(None, lambda: False), (Retry(), lambda: True)]:
        back, _, tried = comeback([], retry, wanted=wanted)
        with pytest.raises(ServerLostError, match="gone"):
            back.lost(ServerLostError("gone"))
        assert not tried


def test_a_worker_whose_connection_breaks_goes_on_with_its_optimizer():
    broken = []

    def loss(outputs, targets):
        if len(broken) < 2 and server._hub.server.version == 3 * (len(broken) + 1):
            broken.append(server.version)
            for session in list(server._network._sessions):
                session._cancel()
        return (outputs - targets).square().mean()

    with kit.server(kit.line()) as server:
        worker = kit.worker(server, local_batch_size=6, retry=Retry(first_s=0.01))
        history = worker.train(
            dataset=(X, Y), loss_fn=loss, epochs=10, optimizer=SGD(lr=0.05, momentum=0.5)
        )
        result = server.wait_for_workers()
        assert len(server.status()["workers"]) == 1
        assert server._hub.call(lambda: len(server._hub.members.by_name)) == 1
    assert history.reconnects == 2
    assert history.receipts["applied"] == result.versions
    assert history.updates == 40
    assert history.receipts["applied"] + history.receipts["rejected"] == 40
    assert history.receipts["rejected"] <= 2


# --- processes

WORKER = """
    import json, sys, torch, headway
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 2, generator=generator, dtype=torch.float64)
    worker = headway.AsyncWorker(sys.argv[1], name="ada", local_batch_size=6)
    data = (x, x.sum(1, keepdim=True))
    history = worker.train(
        dataset=data, epochs=10**6, loss_fn="mse", optimizer=headway.optim.SGD(lr=0.001))
    print(json.dumps(history.to_dict()["reconnects"]))
"""


@pytest.fixture
def lonely():
    """A server, a worker process at it, and where the server's losses are found."""
    with kit.server(kit.line()) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), server.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        losses = []
        take = server._hub.server.take_events

        def note():
            events = take()
            losses.extend(event for event in events if type(event) is Lost)
            return events

        server._hub.server.take_events = note
        try:
            until(lambda: server.version > 20)
            yield server, process, losses
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_stopped_is_lost_and_may_come_back(lonely, number):
    server, process, losses = lonely
    process.send_signal(number)
    until(lambda: server.status() and losses)
    assert losses[0].worker == "ada"
    assert server.status()["in_flight"] == 0
    if number == signal.SIGSTOP:
        version = server.version
        process.send_signal(signal.SIGCONT)
        until(lambda: server.version > version + 20)
        server.stop()
        out, errors = process.communicate(timeout=60)
        assert json.loads(out) == 1, errors


class Silent:
    """A link to a server that takes what it is sent, and says what it was given to say."""

    traffic = Traffic()

    def __init__(self, *told):
        self.sent, self._told = [], list(told)

    def send(self, parcel):
        self.sent.append(parcel.header)

    def receive(self, timeout_s=None):
        if not self._told:
            return None
        told = self._told.pop(0)
        if isinstance(told, Exception):
            raise told
        return Delivery(told)

    def attach(self, welcome, layout):
        return False

    def room(self):
        return None

    def close(self):
        pass


def _welcome():
    layout = json.dumps(ParameterLayout.flat(2).describe())
    return wire.ToWorker(welcome=wire.Welcome(worker="ada", layout=layout, instructions="{}"))


def _job(number):
    return wire.ToWorker(job=wire.Job(id=number))


def test_a_server_that_is_stopped_at_the_door_is_lost_and_tried_again():
    with pytest.raises(ServerLostError, match="did not answer"):
        Exchange(Silent()).join(0.0)


def test_who_comes_back_asks_for_as_many_jobs_as_it_was_owed_and_says_what_it_holds():
    exchange = Exchange(Silent(_welcome(), _job(1), _job(2)), keeps=True)
    exchange.join()
    exchange.ask()
    exchange.ask()
    exchange.push(exchange.next(0.0), torch.ones(2), num_examples=1, again=True)
    # One without a receipt, and one that was not begun, which is asked for again.
    link = Silent(_welcome())
    exchange.resume(link)
    kinds = [header.WhichOneof("kind") for header in link.sent]
    assert kinds == ["join", "push", "ask", "ask"]
    assert link.sent[0].join.holds == [1]
    assert not link.sent[1].push.again


def test_who_wants_no_more_asks_for_nothing_when_it_comes_back():
    exchange = Exchange(Silent(_welcome(), _job(1)), keeps=True)
    exchange.join()
    exchange.ask()
    exchange.push(exchange.next(0.0), torch.ones(2), num_examples=1, again=False)
    link = Silent(_welcome())
    exchange.resume(link)
    assert [header.WhichOneof("kind") for header in link.sent] == ["join", "push"]


def test_a_job_that_was_cancelled_before_the_loss_is_not_held_after_it():
    cancel = wire.ToWorker(cancel=wire.Cancel(job=1))
    exchange = Exchange(Silent(_welcome(), _job(1), cancel), keeps=True)
    exchange.join()
    exchange.ask()
    work = exchange.next(0.0)
    exchange.overhear()
    link = Silent(_welcome(), _job(2))
    exchange.resume(link)
    assert [header.WhichOneof("kind") for header in link.sent] == ["join", "ask"]
    assert not link.sent[0].join.holds
    assert exchange.is_cancelled(work)
    assert exchange.next(0.0).job == 2


def test_what_the_server_said_last_is_heard_though_the_connection_has_ended():
    """It said that it would stop, while the worker was at a batch, and was gone when it was through."""
    said = []

    def loss(outputs, targets):
        if server.version == 3 and not said:
            said.append(server.stop("enough"))
            until(worker_link.is_over)
        return (outputs - targets).square().mean()

    with kit.server(kit.line(), drain_s=0.0) as server:
        worker = kit.worker(server, local_batch_size=6)
        worker_link = _LinkOf(worker)
        history = worker.train(dataset=(X, Y), loss_fn=loss, epochs=10, optimizer=SGD(lr=0.05))
    assert history.stopped == "enough"
    assert history.reconnects == 0


class _LinkOf:
    """Looks at the connection that a worker has made last."""

    def __init__(self, worker):
        self._dial, self._link = worker._dial, None
        worker._dial = self

    def __call__(self, **options):
        self._link = self._dial(**options)
        return self._link

    def is_over(self):
        return self._link._over.is_set()


def test_timeouts_are_public():
    assert headway.Timeouts is Timeouts
    assert headway.Retry is Retry
