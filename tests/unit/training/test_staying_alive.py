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

import headway
from headway.core import Lost
from headway.core.errors import ConfigurationError, RefusedError, ServerLostError
from headway.runtime.leases import Lease
from headway.runtime.timeouts import Retry, Timeouts
from headway.training.comeback import Comeback
from tests.unit.training import server_kit as kit

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
    assert "30 seconds" in caught.value.__notes__[0]


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
            _until(lambda: server.version > 20)
            yield server, process, losses
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


def _until(condition):
    import threading

    never = threading.Event()
    for _ in range(6000):
        if condition():
            return
        never.wait(0.01)
    raise AssertionError("it never became so")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_stopped_is_lost_within_3_seconds(lonely, number):
    server, process, losses = lonely
    process.send_signal(number)
    at = server._hub.now
    _until(lambda: server.status() and losses)
    assert losses[0].worker == "ada"
    assert losses[0].time - at < 3.0
    assert server.status()["in_flight"] == 0
    if number == signal.SIGSTOP:
        version = server.version
        process.send_signal(signal.SIGCONT)
        _until(lambda: server.version > version + 20)
        server.stop()
        out, errors = process.communicate(timeout=60)
        assert json.loads(out) == 1, errors


def test_timeouts_are_public():
    assert headway.Timeouts is Timeouts
    assert headway.Retry is Retry
