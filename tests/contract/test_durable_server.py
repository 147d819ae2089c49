"""A server that is killed in the middle of pushes: what it acknowledged is there, and once."""

from __future__ import annotations

import random
import threading

import pytest
from tests.durable_kit import SIZE, WAIT_S, Hand, Served



@pytest.fixture
def serve(tmp_path):
    started = []

    def make(folder=tmp_path / "home", **options):
        started.append(Served(folder, **{"durability": "log", **options}))
        return started[-1]

    yield make
    for served in started:
        served.end()


def _until(condition):
    seen = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        seen.wait(0.01)
    raise AssertionError("it never became so")


def _check(served, hands):
    """By arithmetic: each update added one to every weight, and no two receipts are of one job."""
    applied = [
        job for hand in hands for job, status in hand.receipts.items() if status == "applied"
    ]
    assert len(applied) == len(set(applied))
    assert served.ask("weights")["weights"] == [float(len(applied))] * SIZE
    status = served.ask("status")
    assert status["version"] == status["applied"] == len(applied)
    assert status["in_flight"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("shared_memory", [True, False])
def test_no_acknowledged_update_is_lost_or_doubled_across_kills(serve, shared_memory):
    served, dice = serve(shared_memory=shared_memory, checkpoint_frequency=97), random.Random(3)
    hands = [Hand(served, f"w{index}") for index in range(4)]
    for _ in range(4):
        before = sum(hand.acknowledged for hand in hands)
        _until(lambda so_far=before: sum(h.acknowledged for h in hands) > so_far + 100)
        threading.Event().wait(0.02 * dice.random())
        served.restart()
        known = sum(hand.acknowledged for hand in hands)
        assert served.ask("status")["version"] >= known - len(hands)
    for hand in hands:
        hand.finish()
    assert not [hand.waits for hand in hands if any("full" in wait for wait in hand.waits)]
    _check(served, hands)
    print(f"serving again after {', '.join(f'{s:.2f}' for s in served.started_s[1:])} s")
