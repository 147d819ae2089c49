"""A server that is killed in the middle of pushes: what it acknowledged is there, and once."""

from __future__ import annotations

import random
import resource
import subprocess
import threading
from contextlib import suppress

import pytest

from tests.durable_kit import SIZE, Hand, Served
from tests.waiting_kit import until


@pytest.fixture
def serve(tmp_path):
    started = []

    def make(folder=tmp_path / "home", **options):
        started.append(Served(folder, **{"durability": "log", **options}))
        return started[-1]

    yield make
    for served in started:
        served.end()


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
        until(lambda so_far=before: sum(h.acknowledged for h in hands) > so_far + 100)
        threading.Event().wait(0.02 * dice.random())
        served.restart()
        known = sum(hand.acknowledged for hand in hands)
        assert served.ask("status")["version"] >= known - len(hands)
    for hand in hands:
        hand.finish()
    assert not [hand.waits for hand in hands if any("full" in wait for wait in hand.waits)]
    _check(served, hands)
    print(f"serving again after {', '.join(f'{s:.2f}' for s in served.started_s[1:])} s")


@pytest.mark.slow
def test_a_checkpoint_level_goes_back_to_the_newest_checkpoint(serve, tmp_path):
    served = serve(durability="checkpoint", checkpoint_frequency=20)
    hand = Hand(served, "w0")
    until(lambda: hand.acknowledged > 60 and served.ask("status")["version"] > 60)
    # They are written beside the work, which does not wait for them.
    until(lambda: any((tmp_path / "home").glob("checkpoint-*")))
    served.kill()
    newest = max(int(path.name[-12:]) for path in (tmp_path / "home").glob("checkpoint-*"))
    served.start()
    hand.finish()
    status = served.ask("status")
    assert status["durability"] == "checkpoint"
    assert newest >= 20
    assert str(newest) in status["resumed_from"]
    assert served.ask("weights")["weights"] == [float(status["version"])] * SIZE


def _limit(served, num_bytes):
    hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)[1]
    limit = hard if num_bytes is None else num_bytes
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (limit, hard))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limits of another process")
@pytest.mark.parametrize("killed", [False, True])
def test_a_full_disk_stops_acknowledgements_and_heals(serve, killed):
    served = serve(checkpoint_frequency=1_000_000)
    hands = [Hand(served, f"w{index}") for index in range(2)]
    until(lambda: sum(hand.acknowledged for hand in hands) > 20)
    _limit(served, 4096)
    until(lambda: served.ask("status")["log"]["error"])
    assert "full" in served.ask("status")["log"]["error"]
    until(lambda: all(any("full" in wait for wait in hand.waits) for hand in hands))
    before = served.ask("status")["version"]
    threading.Event().wait(0.6)
    assert served.ask("status")["version"] == before
    if killed:
        served.restart()
    else:
        _limit(served, None)
    so_far = sum(hand.acknowledged for hand in hands)
    until(lambda: sum(hand.acknowledged for hand in hands) > so_far + 20)
    for hand in hands:
        hand.finish()
    assert served.ask("status")["log"]["error"] is None
    _check(served, hands)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_of_other_things(serve, small_disk):
    served = serve(small_disk / "home", checkpoint_frequency=50)
    hands = [Hand(served, f"w{index}") for index in range(2)]
    until(lambda: sum(hand.acknowledged for hand in hands) > 20)
    filler = small_disk / "filler"

    def full():
        # Again and again: a checkpoint gives the room of older logs back.
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass
        return served.ask("status")["log"]["error"]

    until(full)
    filler.unlink(missing_ok=True)
    so_far = sum(hand.acknowledged for hand in hands)
    until(lambda: sum(hand.acknowledged for hand in hands) > so_far + 100)
    served.restart()
    for hand in hands:
        hand.finish()
    _check(served, hands)
