"""Ctrl-C: once ends the run in order, twice breaks it off, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import headway as hw
from headway.observe import RunFolder
from headway.simulation import until
from tests.simulation_kit import Chase

ROOT = Path(__file__).resolve().parents[3]
posix = pytest.mark.skipif(os.name != "posix", reason="sends signals")

# A client that, in its tenth job, waits for as many interruptions as it is told to.
SCRIPT = """
import signal, sys
import headway as hw
from tests.simulation_kit import Chase, ChaseTrainer

class Waits(ChaseTrainer):
    def train(self, assignment):
        if len(self.task.trained) == 9:
            handler = signal.getsignal(signal.SIGINT)
            print("first", flush=True)
            while signal.getsignal(signal.SIGINT) is handler:
                pass
            if sys.argv[1] == "twice":
                print("second", flush=True)
                while True:
                    pass
        return super().train(assignment)

class Task(Chase):
    def trainer(self, algorithm, device):
        return Waits(self, algorithm.payload)

def race():
    return hw.simulate(
        Task([1.0, 2.0]), hw.algorithms.async_delta(), stop=hw.until(updates=10**9),
        evaluate_every=4, folder=sys.argv[2])

if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(7))
before = signal.getsignal(signal.SIGINT)
result = race()
assert signal.getsignal(signal.SIGINT) is before
print(result.interrupted, result.updates, result.stop_reason, flush=True)
"""


def start(mode: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), mode, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
    )


def interrupt_at(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == line + "\n", process.stderr and process.stderr.read()
    process.send_signal(signal.SIGINT)


@posix
def test_the_first_ends_the_run_after_the_present_job(tmp_path: Path) -> None:
    process = start("once", tmp_path / "run")
    interrupt_at(process, "first")
    output, errors = process.communicate(timeout=60)
    assert (output, process.returncode) == ("True 10 interrupted\n", 0), errors
    result = hw.Result.load(tmp_path / "run")
    assert result.interrupted
    assert (result.updates, result.history[-1].updates) == (10, 10)
    assert result.parameters is not None
    assert result.events[-1].kind == "interrupted"  # type: ignore[union-attr]


@posix
def test_the_second_breaks_it_off_and_what_was_measured_stays(tmp_path: Path) -> None:
    process = start("twice", tmp_path / "run")
    interrupt_at(process, "first")
    interrupt_at(process, "second")
    output, errors = process.communicate(timeout=60)
    assert output == ""
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    opened = RunFolder.open(tmp_path / "run")
    assert not opened.has_result
    assert [point.updates for point in opened.points()] == [0, 4, 8]
    assert len(list(opened.events())) > 8


@posix
def test_a_handler_of_the_users_own_stays_in_place(tmp_path: Path) -> None:
    process = start("ignored", tmp_path / "run")
    interrupt_at(process, "first")
    process.communicate(timeout=60)
    assert process.returncode == 7


def at_update(number: int, act: Callable[[], None]) -> Chase:
    class Acts(Chase):
        def evaluate(self, parameters: object, buffers: object = None) -> dict[str, float]:
            if len(self.trained) == number:
                act()
            return {"value": 0.0}

    return Acts([1.0, 2.0])


@posix
def test_an_interruption_during_an_evaluation_is_not_forgotten() -> None:
    task = at_update(6, lambda: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    result = hw.simulate(
        task, hw.algorithms.async_delta(), stop=until(updates=1000), evaluate_every=2
    )
    assert result.interrupted
    assert (result.updates, result.stop_reason) == (6, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before


@posix
def test_an_observer_can_be_told_at_once() -> None:
    class Watcher:
        told = 0

        def started(self, info: object) -> None: ...

        def progress(self, snapshot: object) -> None: ...

        def evaluated(self, point: object) -> None: ...

        def finished(self, result: object) -> None: ...

    class Told(Watcher):
        def interrupted(self) -> None:
            self.told = len(task.trained)

    task = at_update(6, lambda: signal.raise_signal(signal.SIGINT))
    told = Told()
    hw.simulate(
        *(task, hw.algorithms.async_delta()),
        stop=until(updates=1000),
        evaluate_every=2,
        observers=[Watcher(), told],
    )
    assert told.told == 6


@posix
def test_a_comparison_that_is_interrupted_keeps_what_is_finished(tmp_path: Path) -> None:
    """Two updates a run: the seventh is the first of the fourth run."""
    algorithms = {"a": hw.algorithms.async_delta(), "b": hw.algorithms.fedbuff(buffer_size=2)}
    task = at_update(7, lambda: signal.raise_signal(signal.SIGINT))
    comparison = hw.compare(
        task, algorithms, stop=until(updates=2), evaluate_every=1, folder=tmp_path / "race"
    )
    assert [(r.label, r.seed, r.interrupted, r.updates) for r in comparison.results] == [
        ("a", 0, False, 2),
        ("b", 0, False, 2),
        ("a", 1, False, 2),
        ("b", 1, True, 1),
    ]
    loaded = hw.Comparison.load(tmp_path / "race")
    assert [r.weights_hash for r in loaded.results] == [r.weights_hash for r in comparison.results]


@pytest.fixture
def usual_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix
@pytest.mark.usefixtures("usual_ctrl_c")
def test_ctrl_c_between_two_runs_keeps_the_finished_ones(tmp_path: Path) -> None:
    def begun(label: str, seed: int) -> None:
        if label == "second":
            signal.raise_signal(signal.SIGINT)

    comparison = hw.compare(
        Chase([1.0, 2.0]),
        {label: hw.algorithms.async_delta() for label in ("first", "second", "third")},
        stop=hw.until(updates=6),
        seeds=(0,),
        folder=tmp_path / "race",
        begun=begun,
    )
    assert [(r.label, r.updates, r.interrupted) for r in comparison.results] == [
        ("first", 6, False),
        ("second", 0, True),
    ]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(hw.Comparison.load(tmp_path / "race").results) == 2


@posix
@pytest.mark.usefixtures("usual_ctrl_c")
def test_a_second_ctrl_c_between_two_runs_breaks_off_but_saves(tmp_path: Path) -> None:
    def begun(label: str, seed: int) -> None:
        if label == "second":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        hw.compare(
            Chase([1.0, 2.0]),
            {label: hw.algorithms.async_delta() for label in ("first", "second")},
            stop=hw.until(updates=6),
            seeds=(0,),
            folder=tmp_path / "race",
            begun=begun,
        )
    assert len(hw.Comparison.load(tmp_path / "race").results) == 1
