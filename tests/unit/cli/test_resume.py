"""Runs that go on: `headway simulate --resume`."""

from __future__ import annotations

import signal
import sys

import pytest

from headway import Result
from headway.checkpoint import CheckpointStore

SMALL = ["--set", "run.evaluate_every=5", "--quiet"]


def first_line(process):
    """Wait until the run has begun."""
    line = process.stderr.readline()
    assert "0 updates" in line, line + process.stderr.read()


def same(run, other):
    return (run.weights_hash, run.log_hash, run.updates) == (
        other.weights_hash,
        other.log_hash,
        other.updates,
    )


def test_checkpoints_are_written_and_a_run_that_has_ended_is_read(headway, here):
    first = headway("simulate", "quick.toml", "--out", "run", "--checkpoint-every", 5, *SMALL)
    assert first.code == 0, first.err
    assert CheckpointStore(here / "run" / "checkpoints").numbers()
    again = headway("simulate", "run", "--resume", "--quiet")
    assert again.code == 0, again.err
    assert "updates       20" in again.out


def test_a_run_without_a_checkpoint_begins_again(headway, here):
    headway("simulate", "quick.toml", "--out", "run", *SMALL)
    (here / "run" / "result.json").unlink()
    undisturbed = headway("simulate", "quick.toml", "--out", "other", *SMALL)
    assert undisturbed.code == 0
    done = headway("simulate", "run", "--resume", "--checkpoint-every", 5, "--quiet")
    assert done.code == 0, done.err
    assert same(Result.load(here / "run"), Result.load(here / "other"))


def test_another_run_is_refused(headway, here):
    headway("simulate", "quick.toml", "--out", "run", "--checkpoint-every", 5, *SMALL)
    done = headway("simulate", "run", "--resume", "--set", "algorithm.buffer_size=3")
    assert done.code == 2
    assert "the run in this folder is another one" in done.err
    assert "algorithm.buffer_size = 3" in done.err
    (here / "run" / "result.json").unlink()
    for checkpoint in (here / "run" / "checkpoints").glob("checkpoint-*"):
        checkpoint.rename(here / checkpoint.name)
    done = headway("simulate", "run", "--resume", "--set", "seed=9")
    assert done.code == 2
    assert "seed = 9" in done.err


def test_one_that_ended_without_checkpoints_is_read(headway, here):
    command = ("simulate", "quick.toml", "--out", "run", "--resume", *SMALL)
    first = headway(*command)
    assert first.code == 0, first.err
    before = (here / "run" / "result.json").stat().st_mtime_ns
    again = headway(*command)
    assert (again.code, again.out) == (0, first.out), again.err
    assert (here / "run" / "result.json").stat().st_mtime_ns == before
    assert headway("simulate", "run", "--resume", "--set", "seed=9").code == 2


def test_which_run_has_to_be_said(headway):
    done = headway("simulate", "quick.toml", "--resume")
    assert done.code == 2
    assert "which run shall go on" in done.err
    assert "--out RUN --resume" in done.err


def test_a_run_cannot_go_on_and_be_replaced(headway):
    done = headway("simulate", "quick.toml", "--out", "run", "--resume", "--overwrite")
    assert done.code == 2
    assert "--resume and --overwrite" in done.err


LONG = ["--set", "stop.updates=3000", "--set", "run.evaluate_every=100"]
CONDITIONS = [
    *("--set", 'population={ name = "exponential", mean_s = 1.0, timeout_s = 3.0 }'),
    *("--set", "population.arrival.rate_per_s=3.0", "--set", "run.concurrency=3"),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize("at", [20, 300])
def test_a_command_that_is_killed_goes_on_to_the_same_hash(start, headway, here, at):
    process = start(
        *("simulate", "quick.toml", "--out", "run", "--checkpoint-every", "20"),
        *(*LONG, *CONDITIONS),
    )
    first_line(process)
    store = CheckpointStore(here / "run" / "checkpoints")
    while max(store.numbers(), default=0) < at:
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (here / "run" / "result.json").exists()
    done = headway("simulate", "run", "--resume", "--quiet")
    assert done.code == 0, done.err
    whole = headway("simulate", "quick.toml", "--out", "whole", "--quiet", *LONG, *CONDITIONS)
    assert whole.code == 0, whole.err
    assert same(Result.load(here / "run"), Result.load(here / "whole"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_ctrl_c_names_the_command_that_goes_on(start, headway, here):
    long = ["--set", "stop.updates=3000", "--set", "run.evaluate_every=50"]
    process = start("simulate", "quick.toml", "--out", "my run", "--checkpoint-every", "500", *long)
    first_line(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130
    assert "headway simulate 'my run' --resume" in err
    done = headway("simulate", "my run", "--resume", "--quiet")
    assert done.code == 0, done.err
    headway("simulate", "quick.toml", "--out", "whole", "--quiet", *long)
    assert same(Result.load(here / "my run"), Result.load(here / "whole"))
