"""A run folder whose run was killed goes on, and ends as that of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch

import headway as hw
from headway.checkpoint import CheckpointDamagedWarning, CheckpointStore
from headway.core.errors import (
    ArgumentTypeError,
    CheckpointError,
    ConfigurationError,
    LogDamagedError,
    RunFolderError,
)
from headway.observe import RunFolder, log_hash
from headway.simulation import every, until
from tests.simulation_kit import Chase, arrivals, perceptron_task

TASK = hw.tasks.quadratic(dim=6, num_clients=8, noise=0.1)
SPEEDS = hw.population.lognormal(8, median_s=2.0, sigma=0.7)


class KilledError(BaseException):
    """Ends a run at once, as nothing that a run would catch does."""


class Killer:
    """An observer that ends a run at its n-th evaluation."""

    def __init__(self, at: int, error: type[BaseException] = KilledError) -> None:
        self.left, self.error = at, error

    def started(self, info: Any) -> None: ...
    def progress(self, snapshot: Any) -> None: ...
    def finished(self, result: Any) -> None: ...

    def evaluated(self, point: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def run(folder: Any = None, **changes: Any) -> hw.Result:
    arguments: dict[str, Any] = {
        "task": TASK,
        "algorithm": hw.algorithms.fedbuff(buffer_size=3),
        "population": SPEEDS,
        "stop": until(updates=60),
        "evaluate_every": 7,
        "folder": folder,
        **changes,
    }
    if folder is not None:
        arguments.setdefault("checkpoint_every", every(updates=10))
    return hw.simulate(arguments.pop("task"), arguments.pop("algorithm"), **arguments)


def killed(folder: Any, at: int = 6, **changes: Any) -> None:
    with pytest.raises(KilledError):
        run(folder, observers=[Killer(at)], **changes)


def assert_same(result: hw.Result, undisturbed: hw.Result) -> None:
    assert result.weights_hash == undisturbed.weights_hash
    assert result.log_hash == undisturbed.log_hash
    assert result.events == undisturbed.events
    assert result.stop_reason == undisturbed.stop_reason
    assert (result.counts, result.clients) == (undisturbed.counts, undisturbed.clients)
    assert [p._replace(wall_time_s=0) for p in result.history] == [
        p._replace(wall_time_s=0) for p in undisturbed.history
    ]
    if result.folder is not None:
        read = hw.Result.load(result.folder)
        assert (read.weights_hash, read.log_hash) == (result.weights_hash, result.log_hash)
        assert log_hash(read.events) == undisturbed.log_hash
        assert read.history == result.history


@pytest.mark.parametrize("at", [1, 2, 3, 6, 9])
@pytest.mark.parametrize(
    "checkpoint_every", [1, every(updates=10), every(versions=4), every(virtual_time_s=2.0)]
)
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tmp_path, at, checkpoint_every):
    undisturbed = run()
    killed(tmp_path, at, checkpoint_every=checkpoint_every)
    result = run(tmp_path, resume=True, checkpoint_every=checkpoint_every)
    assert_same(result, undisturbed)
    assert (tmp_path / "report.html").is_file()


COMING = hw.population.with_arrival(SPEEDS, rate_per_s=2.0)
CONDITIONS: dict[str, dict[str, Any]] = {
    "arrival": {"population": COMING},
    "arrival in line": {"population": COMING, "concurrency": 2},
    "arrival, drop-out and hours": {
        "population": hw.population.with_diurnal(
            hw.population.with_dropout(COMING, 0.2, away_s=4.0), open_s=9.0, period_s=12.0
        )
    },
    "timeout": {"population": hw.population.with_timeout(SPEEDS, 2.5)},
    "simulated staleness": {"staleness": hw.SimulatedStaleness(max_staleness=5)},
}


@pytest.mark.parametrize("at", [2, 6])
@pytest.mark.parametrize("mode", ["one_by_one", "groups"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_whatever_surrounds_the_clients_goes_on_too(tmp_path, name, mode, at):
    options = {"task": perceptron_task(sizes=(9, 8, 3, 9, 7, 8, 5, 4)), **CONDITIONS[name]}
    options["execution"] = hw.Execution(mode=mode)
    undisturbed = run(**options)
    killed(tmp_path, at, **options)
    assert_same(run(tmp_path, resume=True, **options), undisturbed)


@pytest.mark.parametrize("name", CONDITIONS)
def test_groups_train_as_one_by_one_whatever_surrounds_the_clients(name):
    options = {"task": perceptron_task(sizes=(9, 8, 3, 9, 7, 8, 5, 4)), **CONDITIONS[name]}
    one, many = (run(**options, execution=hw.Execution(mode=m)) for m in ("one_by_one", "groups"))
    # The same arrivals at the same times; the numbers differ in their last digits.
    assert [e[:9] for e in arrivals(one.events)] == [e[:9] for e in arrivals(many.events)]
    assert one.counts == many.counts
    torch.testing.assert_close(one.parameters, many.parameters, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_killed_again_and_again_ends_too(tmp_path):
    killed(tmp_path, 4)
    for at in (2, 1, 2):
        killed(tmp_path, at, resume=True)
    assert_same(run(tmp_path, resume=True), run())


def test_payloads_go_on_and_the_folder_can_be_replayed(tmp_path):
    undisturbed = run(tmp_path / "one", record="payloads")
    killed(tmp_path / "two", record="payloads")
    result = run(tmp_path / "two", record="payloads", resume=True)
    assert_same(result, undisturbed)
    one, two = ((tmp_path / name / "payloads.bin").read_bytes() for name in ("one", "two"))
    assert one == two
    lines = [(tmp_path / name / "events.jsonl").read_bytes() for name in ("one", "two")]
    assert lines[0] == lines[1]


def test_a_run_without_a_log_goes_on(tmp_path):
    killed(tmp_path, record="nothing")
    result = run(tmp_path, record="nothing", resume=True)
    assert result.weights_hash == run(record="nothing").weights_hash
    assert (result.log_hash, result.events) == ("", [])


def test_the_last_two_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert CheckpointStore(tmp_path / "checkpoints").numbers() == (40, 50)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    killed(tmp_path)
    numbers = CheckpointStore(tmp_path / "checkpoints").numbers()
    state = tmp_path / "checkpoints" / f"checkpoint-{numbers[-1]:012d}" / "state.json"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.warns(CheckpointDamagedWarning):
        result = run(tmp_path, resume=True)
    assert_same(result, run())


def test_a_folder_without_a_run_or_without_a_checkpoint_begins(tmp_path):
    assert_same(run(tmp_path / "new", resume=True), run())
    killed(tmp_path / "early", 1)
    assert not (tmp_path / "early" / "checkpoints").exists()
    assert_same(run(tmp_path / "early", resume=True), run())


def test_a_run_that_has_ended_is_read_and_not_run_again(tmp_path):
    first = run(tmp_path)
    before = (tmp_path / "result.json").stat().st_mtime_ns
    result = run(tmp_path, resume=True)
    assert (result.weights_hash, result.wall_time_s) == (first.weights_hash, first.wall_time_s)
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("every", [None, 1000])
def test_one_that_has_ended_without_checkpoints_is_read(tmp_path, every):
    first = run(tmp_path, checkpoint_every=every)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = run(tmp_path, checkpoint_every=every, resume=True)
    assert (result.weights_hash, result.wall_time_s) == (first.weights_hash, first.wall_time_s)
    with pytest.raises(ConfigurationError, match="is another one"):
        run(tmp_path, checkpoint_every=every, resume=True, seed=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_one_that_failed_without_checkpoints_is_not_replaced(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, observers=[Killer(5, ZeroDivisionError)], checkpoint_every=None)
    with pytest.raises(CheckpointError, match="was broken off, and left no checkpoint"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(("every", "error"), [(0, ConfigurationError), ("5", ArgumentTypeError)])
def test_a_wrong_distance_leaves_no_folder(tmp_path, every, error):
    with pytest.raises(error, match="checkpoint_every"):
        run(tmp_path / "new", checkpoint_every=every)
    assert not (tmp_path / "new").exists()
    run(tmp_path / "new", checkpoint_every=50)
    with pytest.raises(RunFolderError, match="pass resume=True to go on"):
        run(tmp_path / "new", checkpoint_every=50)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    class CtrlC(Killer):
        def evaluated(self, point: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    interrupted = run(tmp_path, observers=[CtrlC(5)])
    assert interrupted.interrupted
    stopped_at = interrupted.updates
    assert CheckpointStore(tmp_path / "checkpoints").numbers()[-1] == stopped_at
    assert_same(run(tmp_path, resume=True), run())


def test_a_run_that_an_exception_ended_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, observers=[Killer(5, ZeroDivisionError)])
    assert (tmp_path / "result.json").is_file()
    assert_same(run(tmp_path, resume=True), run())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"seed": 1}, "seed = 1"),
        ({"stop": until(updates=61)}, "stop.updates = 61"),
        ({"algorithm": hw.algorithms.fedbuff(buffer_size=4)}, "algorithm.buffer_size = 4"),
        ({"algorithm": hw.algorithms.async_sgd()}, "algorithm.name = 'async_sgd'"),
        ({"task": hw.tasks.quadratic(dim=7, num_clients=8, noise=0.1)}, "task.dim = 7"),
        ({"population": hw.population.constant(8)}, "population.name = 'constant'"),
        ({"concurrency": 3}, "run.concurrency = 3"),
        ({"evaluate_every": 8}, "run.evaluate_every.updates = 8"),
        ({"server": hw.BusyServer(apply_s=0.1)}, "server = "),
        ({"record": "nothing"}, "run.record = 'nothing'"),
        ({"execution": hw.Execution(processes=2)}, "execution.processes = 2"),
    ],
)
@pytest.mark.parametrize("at", [1, 6])
def test_another_run_is_refused_and_the_folder_left_alone(tmp_path, change, where, at):
    killed(tmp_path, at)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigurationError, match="is another one") as caught:
        run(tmp_path, resume=True, **change)
    assert str(caught.value.got).startswith(where)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_task_of_the_same_words_and_another_model_is_refused(tmp_path):
    killed(tmp_path, task=Chase([1.0] * 8, dim=2))
    with pytest.raises(ConfigurationError, match="is another one") as caught:
        run(tmp_path, resume=True, task=Chase([1.0] * 8, dim=3))
    assert str(caught.value.got).startswith("initial_weights")


def test_files_that_are_not_those_of_the_checkpoint_are_refused(tmp_path):
    killed(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    log = tmp_path / "a" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"client-1", b"client-2"))
    with pytest.raises(LogDamagedError, match="not those that the checkpoint knows"):
        run(tmp_path / "a", resume=True)
    log = tmp_path / "b" / "events.jsonl"
    log.write_bytes(log.read_bytes()[:500])
    with pytest.raises(RunFolderError, match="shorter than it was"):
        run(tmp_path / "b", resume=True)


def test_what_needs_a_folder_says_so():
    with pytest.raises(ConfigurationError, match="checkpoints need a run folder"):
        run(checkpoint_every=10)
    with pytest.raises(ArgumentTypeError, match="is resumed in the folder"):
        run(resume=True)


def test_a_new_run_in_an_old_folder_leaves_no_old_checkpoint(tmp_path):
    killed(tmp_path)
    RunFolder.create(tmp_path, {}, overwrite=True).close()
    assert CheckpointStore(tmp_path / "checkpoints").numbers() == ()


CHILD = """
import sys
from tests.unit.simulation.test_resume import Tells, long_run
long_run(sys.argv[1], resume=True, observers=[Tells()])
"""


class Tells:
    """Prints a line at each evaluation."""

    def started(self, info: Any) -> None:
        pass

    def progress(self, snapshot: Any) -> None:
        pass

    def evaluated(self, point: Any) -> None:
        print(point.updates, flush=True)

    def finished(self, result: Any) -> None:
        pass


def long_run(folder: Any = None, **changes: Any) -> hw.Result:
    task = perceptron_task((23, 20, 3, 9, 14, 8, 7, 5), epochs=1)
    if folder is not None:
        changes["checkpoint_every"] = 5
    return run(folder, task=task, stop=until(updates=1500), evaluate_every=50, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_process_that_is_killed_three_times_ends_as_an_undisturbed_one(tmp_path, seed):
    """``kill -9`` after so many evaluations; where in the run that is, the system decides."""
    dice = random.Random(seed)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            for _ in range(dice.randint(2, 6)):
                assert child.stdout.readline()
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert CheckpointStore(tmp_path / "checkpoints").numbers()
    result = long_run(tmp_path, resume=True)
    assert_same(result, long_run())
    assert json.loads((tmp_path / "result.json").read_text())["updates"] == 1500
