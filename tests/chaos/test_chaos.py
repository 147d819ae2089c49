"""A minute of chaos: workers and the server are killed, stopped, cut off, delayed and left without disk.

Nothing here is timed: what does not come back is found by a time-out, everything else by arithmetic.
"""

from __future__ import annotations

import os
import resource
from collections import Counter

import pytest

from tests import chaos_audit
from tests.chaos_audit import audit
from tests.chaos_kit import SERVER_FAULTS, WORKER_FAULTS, Chaos, Note, draw_faults

ALL = (*WORKER_FAULTS, *SERVER_FAULTS)
PATIENCE_S = 600

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not hasattr(resource, "prlimit"),
    reason="processes cannot be stopped here, or their files not be limited",
)


def test_faults_follow_from_the_seed():
    first, again, other = (
        draw_faults(seed, ALL, num=40, num_workers=5, duration_s=60.0) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert Counter(fault.kind for fault in first) == dict.fromkeys(ALL, 5)
    times = [fault.at_s for fault in first]
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] <= 54.0
    assert {fault.worker for fault in first} == set(range(5))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S)
def test_a_minute_of_chaos_loses_and_doubles_nothing(tmp_path):
    faults = draw_faults(6, ALL, num=24, num_workers=6, duration_s=50.0)
    with Chaos(tmp_path, num_workers=6, work_s=0.05, checkpoint_frequency=300) as chaos:
        chaos.run(faults, 50.0, num_updates=500)
        account = audit(chaos)
    assert len(chaos.struck) == len(faults)
    kinds = Counter(fault.kind for fault in faults)
    assert {kind: len(times) for kind, times in account.recoveries_s.items()} == kinds
    assert account.incarnations == 1 + kinds["server_kill"]
    assert account.acknowledged >= 500
    # Only of a worker that was killed nobody knows whether it heard.
    assert account.applied - account.acknowledged == account.unheard <= kinds["kill"]
    assert account.rejoined > 0
    # Pushes whose reply was lost, and those that were said twice.
    assert account.repeated > 0
    assert account.loss < 0.01 * account.first_loss
    print(account)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A short run in which nothing happens."""
    with Chaos(tmp_path_factory.mktemp("chaos"), num_workers=2, work_s=0.02) as chaos:
        chaos.run([], 0.0, num_updates=20)
        yield chaos


def _claim(chaos, job, status, version):
    worker = chaos.workers[0]
    at = len(worker.look()) - 1
    worker.notes[at:at] = [
        Note(worker.notes[at].at_s, ("pushed", str(job))),
        Note(worker.notes[at].at_s, ("told", str(job), status, str(version), "-")),
    ]


def _forget(chaos, what):
    worker = chaos.workers[0]
    place = next(i for i, note in enumerate(worker.look()) if note.words[0] == what)
    del worker.notes[place]


def _reject(chaos):
    worker = chaos.workers[0]
    place = next(i for i, note in enumerate(worker.look()) if note.words[0] == "told")
    at_s, (what, job, *_) = worker.notes[place]
    worker.notes[place] = Note(at_s, (what, job, "rejected", "1", "lost"))


def _doubled(steps):
    """The calls of a log in which one update was applied twice."""

    def twice(journal, final):
        for call, step in steps(journal, final):
            yield call, step
            if step:
                yield call, step

    return twice


LIES = {
    "is lost": lambda chaos: _claim(chaos, 10**15, "applied", 3),
    "rejected, and applied": _reject,
    "which it never pushed": lambda chaos: _forget(chaos, "pushed"),
    "heard nothing": lambda chaos: _forget(chaos, "told"),
    "not the sum": lambda chaos: chaos.weights.__setitem__(0, chaos.weights[0] + 2.0**-12),
    "changed the model": lambda chaos: chaos.status.__setitem__("version", 10**6),
}


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("found", LIES)
def test_the_audit_finds_what_is_wrong(quiet, found, monkeypatch):
    monkeypatch.setattr(quiet, "weights", [*quiet.weights])
    monkeypatch.setattr(quiet, "status", {**quiet.status})
    for worker in quiet.workers:
        monkeypatch.setattr(worker, "notes", [*worker.look()])
    audit(quiet)
    LIES[found](quiet)
    with pytest.raises(AssertionError, match=found):
        audit(quiet)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S)
def test_the_audit_finds_an_update_that_the_log_holds_twice(quiet, monkeypatch):
    monkeypatch.setattr(chaos_audit, "_steps", _doubled(chaos_audit._steps))
    with pytest.raises(AssertionError, match="applied twice"):
        audit(quiet)
