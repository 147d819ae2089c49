"""Runs with real worker processes: what is said of them, what goes wrong in them, how they end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import headway as hw
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    HeadwayError,
    RunFolderError,
    UnknownNameError,
)
from headway.observe import RunFolder
from tests.runtime_kit import Endless, Fails, FailsToBegin, Judges
from tests.simulation_kit import Chase

ROOT = Path(__file__).resolve().parents[3]
ASYNC = hw.algorithms.async_delta()


def run(task: Any = None, algorithm: Any = ASYNC, **options: Any) -> Any:
    values: dict[str, Any] = {
        "runtime": hw.Processes(2),
        "stop": hw.until(updates=30),
        "evaluate_every": 10,
        **options,
    }
    return hw.run(task or hw.tasks.quadratic(dim=6, num_clients=4), algorithm, **values)


class Recorder:
    """An observer that writes down its calls, and may do something at one of them."""

    def __init__(self, at: int = 10**9, act: Any = None) -> None:
        self.calls: list[str] = []
        self.at, self.act = at, act

    def started(self, info: Any) -> None:
        self.calls.append("started")

    def progress(self, snapshot: Any) -> None:
        pass

    def evaluated(self, point: Any) -> None:
        self.calls.append("evaluated")
        if point.updates >= self.at and self.act is not None:
            act, self.act = self.act, None
            act()

    def interrupted(self) -> None:
        self.calls.append("interrupted")

    def finished(self, result: Any) -> None:
        self.calls.append("finished")


def kill(*names: str, number: int = signal.SIGKILL) -> None:
    for process in multiprocessing.active_children():
        if process.name in names:
            assert process.pid is not None
            os.kill(process.pid, number)


# What is refused before a process is started.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_workers": 0}, "at least one worker process"),
        ({"num_workers": 2.0}, "at least one worker process"),
        ({"num_workers": True}, "at least one worker process"),
        ({"num_workers": 2, "slowdown": {2: 5.0}}, "no such worker"),
        ({"num_workers": 2, "slowdown": {"0": 5.0}}, "no such worker"),
        ({"num_workers": 2, "slowdown": {0: 0.5}}, "slowed down, and not sped up"),
        ({"num_workers": 2, "slowdown": {0: float("inf")}}, "slowed down, and not sped up"),
        ({"num_workers": 2, "slowdown": {0: float("nan")}}, "slowed down, and not sped up"),
        ({"num_workers": 2, "start_method": "fork"}, "start method"),
    ],
)
def test_processes_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        hw.Processes(**options)


def test_processes_say_what_they_are() -> None:
    chosen = hw.Processes(4, slowdown={0: 5.0, 1: 1.0}, prefetch=True)
    assert str(chosen) == "4 processes, worker 0 5x slower"
    assert chosen.num_jobs == 8
    assert chosen.describe() == {
        "name": "processes",
        "num_workers": 4,
        "slowdown": {"0": 5.0, "1": 1.0},
        "prefetch": True,
        "start_method": "spawn",
    }


@pytest.mark.parametrize(
    ("options", "kind", "where"),
    [
        ({"task": "mnist"}, ArgumentTypeError, "run(task=...)"),
        ({"algorithm": "fedbuff"}, ArgumentTypeError, "run(algorithm=...)"),
        ({"runtime": 4}, ArgumentTypeError, "run(runtime=...)"),
        ({"stop": 100}, ArgumentTypeError, "run(stop=...)"),
        ({"stop": hw.until(virtual_time_s=5)}, ConfigurationError, "run(stop=...)"),
        (
            {"evaluate_every": hw.every(virtual_time_s=5)},
            ConfigurationError,
            "run(evaluate_every=...)",
        ),
        ({"consistency": "torn"}, UnknownNameError, "run(consistency=...)"),
        ({"record": "all"}, UnknownNameError, "run(record=...)"),
        ({"seed": -1}, ConfigurationError, "run(seed=...)"),
        ({"concurrency": 9}, ConfigurationError, "run(concurrency=...)"),
        ({"device": "abacus"}, ConfigurationError, "run(device=...)"),
        ({"observers": [3]}, ArgumentTypeError, "run(observers=...)"),
        (
            {"algorithm": hw.algorithms.fedavg(clients_per_round=9)},
            ConfigurationError,
            "run(algorithm=...)",
        ),
        (
            {"task": Chase([1.0, 2.0]), "algorithm": hw.algorithms.zeno()},
            ConfigurationError,
            "run(task=...)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(
    options: dict[str, Any], kind: type[Exception], where: str
) -> None:
    with pytest.raises(kind) as caught:
        run(**options)
    assert caught.value.where == where  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_model_without_copies_needs_an_algorithm_that_does_not_look_back() -> None:
    with pytest.raises(ConfigurationError):
        run(algorithm=hw.algorithms.dc_asgd(), consistency="hogwild")


def test_a_task_that_cannot_be_sent_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    task = Chase([1.0, 2.0])
    task.secret = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="cannot be sent to another process") as caught:
        run(task)
    assert caught.value.where == "run(task=..., algorithm=...)"
    assert not multiprocessing.active_children()


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="not empty") as caught:
        run(folder=tmp_path)
    # It is a simulation that has a resume=.
    assert "checkpoint_dir" in str(caught.value)
    assert "resume" not in str(caught.value)


# What happens in a run.


@pytest.mark.slow
def test_a_run_leaves_what_a_simulation_leaves(tmp_path: Path) -> None:
    watcher = Recorder()
    result = run(
        Chase([1.0, 2.0, 3.0], sizes=[1, 0, 1]), folder=tmp_path / "r", observers=[watcher]
    )
    assert watcher.calls == ["started", *["evaluated"] * 4, "finished"]
    assert [point.updates for point in result.history] == [0, 10, 20, 30]
    assert result.history[0].virtual_time_s == 0.0
    assert result.virtual_time_s == result.wall_time_s >= result.history[-1].wall_time_s > 0.0
    assert result.updates == result.counts["applied"] == 30
    assert set(result.clients) == {0, 2}
    assert sum(count.accepted for count in result.clients.values()) == 30
    assert result.concurrency == 2
    assert result.population["name"] == "processes"
    assert "1 clients have no data and never train" in result.warnings
    assert "virtual time" not in str(result)
    read = RunFolder.open(tmp_path / "r").result()
    assert str(read) == str(result)
    assert read.events == result.events
    assert (tmp_path / "r/report.html").is_file()
    assert not multiprocessing.active_children()
    (tmp_path / "r/result.json").unlink()
    killed = RunFolder.open(tmp_path / "r").result()
    assert killed.is_real
    assert "virtual time" not in str(killed)


@pytest.mark.slow
def test_a_slowed_worker_does_less() -> None:
    local = hw.LocalTraining(steps=200, learning_rate=0.01)
    task = hw.tasks.quadratic(dim=6, num_clients=4, local=local)
    result = run(task, runtime=hw.Processes(2, slowdown={0: 1_000.0}), stop=hw.until(updates=60))
    slow, fast = result.execution["updates"].values()
    # The other's jobs, with the way to the server and back, take a small part of its first one.
    assert slow + fast == 60
    assert slow <= 1
    assert "worker-0" in str(result)


@pytest.mark.slow
def test_a_target_ends_a_run() -> None:
    stop = hw.until(target=("loss", 1.0), wall_time_s=60)
    result = run(stop=stop)
    assert result.stop_reason == "target loss <= 1"
    assert result.at_target("loss", 1.0) is not None


@pytest.mark.slow
def test_the_clock_ends_a_run() -> None:
    result = run(stop=hw.until(wall_time_s=0.2))
    assert result.stop_reason == "wall_time_s >= 0.2"
    assert result.wall_time_s >= 0.2


@pytest.mark.slow
def test_a_killed_worker_is_missed_and_not_waited_for() -> None:
    # Its job is slow, so it has one at any time.
    runtime = hw.Processes(2, slowdown={0: 10_000.0})
    watcher = Recorder(100, lambda: kill("worker-0"))
    result = run(runtime=runtime, stop=hw.until(updates=20_000), observers=[watcher])
    assert result.updates == 20_000
    assert result.counts["lost"] == 1
    assert sum(count.lost for count in result.clients.values()) == 1
    (warning,) = [text for text in result.warnings if "worker-0" in text]
    assert "exit code -9" in warning


class Hears(logging.Handler):
    """Does something when the log says something."""

    def __init__(self, **acts: Any) -> None:
        super().__init__()
        self.acts = {said.replace("_", " "): act for said, act in acts.items()}

    def emit(self, record: logging.LogRecord) -> None:
        for said in [said for said in self.acts if said in record.getMessage()]:
            self.acts.pop(said)()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_stopped_worker_is_not_waited_for_and_comes_back(tmp_path: Path) -> None:
    log = logging.getLogger("headway")
    hears = Hears(
        is_not_waited_for=lambda: kill("worker-0", number=signal.SIGCONT),
        is_there_again=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    log.addHandler(hears)
    try:
        result = run(
            # Its job is slow, so it has one at any time.
            runtime=hw.Processes(2, slowdown={0: 1_000.0}),
            stop=hw.until(wall_time_s=80),
            observers=[Recorder(100, lambda: kill("worker-0", number=signal.SIGSTOP))],
        )
    finally:
        log.removeHandler(hears)
    assert not hears.acts
    assert (result.interrupted, result.stop_reason) == (True, "terminated")
    assert result.counts["lost"] == 1
    assert "worker-0 was silent for too long 1x; its jobs went to others" in result.warnings


@pytest.mark.slow
def test_a_client_whose_process_was_killed_goes_on_elsewhere_and_that_is_said() -> None:
    result = run(
        # So many that the other worker cannot have done the first job of each by then.
        hw.tasks.quadratic(dim=6, num_clients=1_000),
        algorithm=hw.algorithms.easgd(mixing=0.2),
        runtime=hw.Processes(2),
        stop=hw.until(updates=1_200),
        evaluate_every=300,
        observers=[Recorder(900, lambda: kill("worker-0"))],
    )
    assert result.updates == 1_200
    assert any("clients had what they keep" in text for text in result.warnings)
    assert result.final("loss") < result.history[0].metrics["loss"]


@pytest.mark.slow
def test_a_cancelled_job_is_given_up_between_two_steps() -> None:
    # Without that, a worker would be at the first client's job for ever.
    result = run(
        Endless([1.0, 2.0, 3.0, 4.0]),
        hw.algorithms.ringmaster(learning_rate=0.05, delay_bound=3),
        stop=hw.until(updates=40),
    )
    assert result.updates == 40
    assert result.counts["cancelled"] > 0
    assert result.clients[0].accepted == 0


@pytest.mark.slow
def test_a_round_does_not_wait_for_a_killed_worker() -> None:
    runtime = hw.Processes(2, slowdown={0: 1_000.0})
    watcher = Recorder(4, lambda: kill("worker-0"))
    result = run(
        algorithm=hw.algorithms.fedavg(clients_per_round=4),
        runtime=runtime,
        stop=hw.until(versions=20),
        observers=[watcher],
        evaluate_every=1,
    )
    assert result.versions == 20
    assert result.counts["lost"] <= 1


@pytest.mark.slow
def test_without_any_worker_the_run_is_an_error(tmp_path: Path) -> None:
    watcher = Recorder(10, lambda: kill("worker-0", "worker-1"))
    with pytest.raises(HeadwayError, match="all worker processes have ended") as caught:
        run(stop=hw.until(wall_time_s=60), observers=[watcher], folder=tmp_path / "r")
    assert "exit code -9" in str(caught.value)
    assert "what there is of the run" in caught.value.__notes__[0]
    saved = RunFolder.open(tmp_path / "r").result()
    assert saved.stop_reason.startswith("failed")
    assert saved.updates >= 10


@pytest.mark.slow
def test_what_a_job_raises_is_raised_here_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no such target") as caught:
        run(Fails([1.0, 2.0, 3.0]), folder=tmp_path / "r")
    notes = "\n".join(caught.value.__notes__)
    assert "in train" in notes
    assert "in client-2, after" in notes
    assert RunFolder.open(tmp_path / "r").result().stop_reason.startswith("failed: Arithmetic")
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_cannot_begin_ends_the_run() -> None:
    with pytest.raises(ArithmeticError, match="no trainer here"):
        run(FailsToBegin([1.0, 2.0]))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_evaluation_that_fails_ends_the_run() -> None:
    with pytest.raises(ArithmeticError, match="cannot judge this") as caught:
        run(Judges([1.0, 2.0]))
    assert "in evaluation, after" in caught.value.__notes__[0]
    assert not multiprocessing.active_children()


# Ctrl-C.

SCRIPT = """
import os, signal, sys
import headway as hw

class Presses:
    def __init__(self, times):
        self.times = times
    def started(self, info): pass
    def progress(self, snapshot): pass
    def evaluated(self, point):
        if point.updates >= 20:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
            self.times = 0
    def finished(self, result):
        print("finished", flush=True)

if __name__ == "__main__":
    result = hw.run(
        hw.tasks.quadratic(dim=6, num_clients=4), hw.algorithms.async_delta(),
        runtime=hw.Processes(2), stop=hw.until(wall_time_s=60), evaluate_every=20,
        observers=[Presses(int(sys.argv[1]))], folder=sys.argv[2])
    print(result.interrupted, result.stop_reason, flush=True)
"""


def pressed(times: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(SCRIPT))
    return subprocess.run(
        [sys.executable, str(program), str(times), str(tmp_path / "r")],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_ends_a_run_in_order(tmp_path: Path) -> None:
    done = pressed(1, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["finished", "True interrupted"]
    result = RunFolder.open(tmp_path / "r").result()
    assert result.interrupted
    assert result.counts["lost"] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_second_ctrl_c_breaks_it_off(tmp_path: Path) -> None:
    done = pressed(2, tmp_path)
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert "finished" not in done.stdout
    assert RunFolder.open(tmp_path / "r").result().updates >= 20


# Checkpoints.


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_terminated_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    saved: dict[str, Any] = {
        "algorithm": hw.algorithms.fedbuff(buffer_size=2),
        "checkpoint_dir": tmp_path / "ckpt",
        "checkpoint_frequency": 5,
        "folder": tmp_path / "r",
        "seed": 3,
    }
    ends = Recorder(20, lambda: os.kill(os.getpid(), signal.SIGTERM))
    first = run(**saved, stop=hw.until(wall_time_s=80), observers=[ends])
    assert (first.interrupted, first.stop_reason) == (True, "terminated")
    assert "interrupted" in ends.calls
    second = run(**saved, stop=hw.until(updates=first.updates + 20))
    assert second.updates == first.updates + 20
    assert second.versions >= first.versions + 10
    assert second.history[: len(first.history) - 1] == first.history[:-1]
    assert second.wall_time_s > first.wall_time_s
    assert second.folder == tmp_path / "r-2"
    assert any("went on from" in text for text in second.warnings)
    with pytest.raises(ConfigurationError, match="of another run") as caught:
        run(**{**saved, "seed": 4})
    assert "seed = 4" in caught.value.got
    assert "seed = 3" in caught.value.expected
    assert "num_clients" not in caught.value.got
    with pytest.raises(ConfigurationError, match="of another run"):
        hw.ParameterServer(
            torch.nn.Linear(2, 1),
            port=0,
            algorithm=saved["algorithm"],
            checkpoint_dir=tmp_path / "ckpt",
        ).start()
    assert not multiprocessing.active_children()


class EndedAtOnce(Chase):
    """A task whose workers see to it, before they are ready, that the run is ended."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__([1.0, 2.0])
        self.number, self.whose = number, os.getpid()

    def trainer(self, algorithm: Any, device: torch.device) -> Any:
        if os.getpid() != self.whose:
            os.kill(self.whose, self.number)
        return super().trainer(algorithm, device)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")]
)
def test_it_may_be_ended_while_its_workers_start(
    tmp_path: Path, number: signal.Signals, reason: str
) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    result = run(EndedAtOnce(number), folder=tmp_path / "r", runtime=hw.Processes(1))
    assert (result.interrupted, result.stop_reason, result.updates) == (True, reason, 0)
    assert RunFolder.open(tmp_path / "r").result().stop_reason == reason
    assert not multiprocessing.active_children()
    assert {n: signal.getsignal(n) for n in before} == before
