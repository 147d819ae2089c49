"""Clients that are trained in other processes, and whose fault it is when that fails."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import headway as hw
from headway.core.errors import ConfigurationError, HeadwayError
from headway.simulation import Execution, until
from headway.simulation.blame import Accountable, failed_client
from headway.simulation.crew import Crew, many
from headway.task import Assignment, LocalTraining, Task
from tests.simulation_kit import CPU, doubled, precise

ONE_BY_ONE = Execution(mode="one_by_one")


def linear():
    return nn.Linear(10, 2)


def crew_task():
    g = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(n, 10, generator=g), torch.randint(0, 2, (n,), generator=g))
        for n in (9, 5, 1, 14)
    ]
    return Task(linear, "cross_entropy", data, data[0], local=LocalTraining(epochs=2, batch_size=4))


@pytest.mark.slow
def test_a_crew_trains_any_number_of_jobs_in_their_order():
    task, algorithm = crew_task(), hw.algorithms.async_delta()
    start = task.start(0, CPU).parameters
    jobs = [Assignment(k % 4, start + 0.01 * k, seed=k) for k in range(37)]
    crew = Crew(task, algorithm, 3, groups=False)
    try:
        alone = many(task, algorithm, CPU, groups=False)
        for some in (jobs[:1], jobs, jobs[:2], jobs[5:9]):
            expected = [(r.payload.clone(), *r[1:]) for r in alone(some)]
            for got, wanted in zip(crew(some), expected, strict=True):
                assert torch.equal(got.payload, wanted[0])
                assert tuple(got[1:]) == wanted[1:]
    finally:
        crew.close()


@pytest.mark.slow
def test_an_error_in_another_process_comes_here_with_its_traceback():
    task, algorithm = crew_task(), hw.algorithms.async_delta()
    start = task.start(0, CPU).parameters
    crew = Crew(task, algorithm, 2, groups=False)
    try:
        with pytest.raises(ConfigurationError, match="no such client") as caught:
            list(crew([Assignment(0, start), Assignment(77, start)]))
        assert "Traceback" in "".join(caught.value.__notes__)
        # It is still there.
        assert len(crew([Assignment(0, start), Assignment(1, start)])) == 2
    finally:
        crew.close()


BAD = 7


def flawed_task(model, bad=BAD):
    """One client has a label that there is not."""
    data = [doubled(5, seed) for seed in range(12)]
    data[bad] = (data[bad][0], torch.tensor([0, 1, 2, 0, 9]))
    return Task(model, "cross_entropy", data, doubled(5, 99), local=LocalTraining(batch_size=4))


def error_of(execution, task):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which it is, is what is compared)
        hw.simulate(
            task, hw.algorithms.fedbuff(), stop=until(updates=50), execution=execution, seed=1
        )
    error = caught.value
    first, *_, last = error.__notes__
    return type(error), str(error), first, last.partition(", after")[0]


@pytest.mark.parametrize("bad", [0, BAD, 11])
def test_the_error_of_a_group_is_that_of_the_job_that_failed(bad):
    task = flawed_task(precise, bad)
    alone = error_of(ONE_BY_ONE, task)
    assert alone[2:] == (f"while client {bad} was training", f"Headway: in client-{bad}")
    assert error_of(Execution(mode="groups"), task) == alone


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["groups", "one_by_one"])
@pytest.mark.parametrize("bad", [0, BAD, 11])
def test_the_error_of_another_process_is_that_of_the_job_that_failed(mode, bad):
    task = flawed_task(precise, bad)
    assert error_of(Execution(mode=mode, processes=2), task) == error_of(ONE_BY_ONE, task)


def test_a_group_that_fails_though_each_of_its_jobs_does_not_fails_with_its_own_error():
    class Narrow:
        obstacle = None
        not_compiled = None

        def train(self, assignments):
            raise MemoryError("too many")

    trained = []
    trainer = Accountable(Narrow(), lambda: trained.append)
    with pytest.raises(MemoryError, match="too many") as caught:
        trainer.train([Assignment(3, torch.zeros(1)), Assignment(4, torch.zeros(1))])
    assert [assignment.client for assignment in trained] == [3, 4]
    assert failed_client(caught.value) is None
    assert not trainer.is_written_out


@pytest.mark.slow
def test_results_that_nobody_asked_for_do_not_come_with_the_next_group():
    task, algorithm = crew_task(), hw.algorithms.async_delta()
    start = task.start(0, CPU).parameters
    jobs = [Assignment(k % 4, start + 0.01 * k, seed=k) for k in range(12)]
    alone = many(task, algorithm, CPU, groups=True)
    crew = Crew(task, algorithm, 3, groups=True)
    try:
        first = crew(jobs[:7])
        second = crew(jobs[7:])
        for got, wanted in zip([*first, *second], alone(jobs), strict=True):
            torch.testing.assert_close(got.payload, wanted.payload)
            assert got[1:4] == wanted[1:4]
    finally:
        crew.close()


@pytest.mark.slow
def test_a_process_that_dies_is_told_of():
    task = crew_task()
    start = task.start(0, CPU).parameters
    crew = Crew(task, hw.algorithms.async_delta(), 2, groups=False)
    try:
        list(crew([Assignment(0, start), Assignment(1, start)]))
        crew._hands[0]._process.kill()
        crew._hands[0]._process.join()
        with pytest.raises(HeadwayError, match="has died"):
            list(crew([Assignment(0, start), Assignment(1, start)]))
    finally:
        crew.close()


def test_a_task_can_be_sent():
    task = crew_task()
    again = pickle.loads(pickle.dumps(task))
    assert again.describe() == task.describe()


UNGUARDED = """
import torch, headway as hw
data = [(torch.randn(4, 10), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]
task = hw.Task(hw.models.softmax_regression(10, 2), "cross_entropy", data, data[0])
options = dict(stop=hw.until(updates=3), execution=hw.Execution(processes=2))
print(hw.simulate(task, hw.algorithms.async_delta(), **options))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "__main__" in done.stderr.splitlines()[-1]
