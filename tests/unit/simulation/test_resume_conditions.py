"""Runs under harder conditions go on as well: processes, links, windows, and other data is refused."""

from __future__ import annotations

from typing import Any

import pytest

import headway as hw
from headway.core.errors import ConfigurationError
from headway.simulation import until
from headway.task import Task
from tests.simulation_kit import examples, perceptron, perceptron_task
from tests.unit.simulation.test_resume import SPEEDS, assert_same, killed, run

SIZES = (23, 20, 3, 9, 14, 8, 7, 5)
WINDOWS = [[[0.0, 3.0 + 0.25 * client], [6.0, 11.0 - 0.25 * client]] for client in range(8)]


def windows(leaving: Any, clients: Any = SPEEDS) -> Any:
    return hw.population.with_windows(clients, WINDOWS, period_s=12.0, leaving=leaving)


def linked(clients: Any = SPEEDS, *, slowest_bps: float = 100.0) -> Any:
    """Of six numbers some ways take longer than most of the work."""
    rates = [slowest_bps * 2**client for client in range(8)]
    return hw.population.with_link(clients, down_bps=rates, up_bps=rates[::-1], latency_s=0.05)


@pytest.mark.parametrize("at", [1, 4, 8])
@pytest.mark.parametrize(
    "population",
    [
        windows("finish"),
        windows("lose"),
        linked(),
        windows("lose", linked()),
        hw.population.with_dropout(windows("lose", linked()), 0.2, away_s=3.0),
        hw.population.with_diurnal(SPEEDS, open_s=6.0, period_s=12.0, leaving="lose"),
    ],
    ids=["finish", "lose", "links", "lose with links", "dropout too", "diurnal"],
)
def test_windows_and_links(tmp_path, population, at):
    undisturbed = run(population=population)
    killed(tmp_path, at, population=population)
    assert_same(run(tmp_path, population=population, resume=True), undisturbed)


def test_the_windows_do_lose_jobs():
    counts = run(population=windows("lose")).counts
    assert counts["lost"] > 0
    assert run(population=windows("finish")).counts["lost"] == 0


@pytest.mark.parametrize("checkpoint_every", [1, 7])
def test_a_checkpoint_at_any_event_of_a_run_that_loses_jobs(tmp_path, checkpoint_every):
    population = windows("lose", linked())
    undisturbed = run(population=population)
    killed(tmp_path, 3, population=population, checkpoint_every=checkpoint_every)
    for at in (1, 2):
        killed(tmp_path, at, population=population, checkpoint_every=checkpoint_every, resume=True)
    result = run(tmp_path, population=population, checkpoint_every=checkpoint_every, resume=True)
    assert_same(result, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["groups", "one_by_one"])
def test_several_processes(tmp_path, mode):
    changes: dict[str, Any] = {
        "task": perceptron_task(SIZES, epochs=1),
        "execution": hw.Execution(mode=mode, processes=2),
        # The perceptron has eleven times as many numbers.
        "population": windows("lose", linked(slowest_bps=1100.0)),
        "stop": until(updates=40),
    }
    undisturbed = run(**changes)
    killed(tmp_path, 4, **changes)
    assert_same(run(tmp_path, resume=True, **changes), undisturbed)


def task_on(*, first: int = 0, test: int = 99, server: int = 98) -> Task:
    """Tasks that differ in nothing but numbers inside their data."""
    train = [examples(size, seed) for seed, size in enumerate(SIZES, start=first)]
    return Task(
        perceptron, "cross_entropy", train, examples(30, test), server_data=examples(20, server)
    )


@pytest.mark.parametrize("other", [{"first": 1}, {"test": 100}, {"server": 100}])
def test_other_data_are_refused_and_the_folder_left_alone(tmp_path, other):
    assert task_on(**other).describe() == task_on().describe()
    killed(tmp_path, task=task_on())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match="is another one") as caught:
        run(tmp_path, resume=True, task=task_on(**other))
    assert str(caught.value.got).startswith("data = ")
    assert {path: path.read_bytes() for path in before} == before
    assert_same(run(tmp_path, resume=True, task=task_on()), run(task=task_on()))


def test_a_run_that_has_ended_is_not_read_for_other_data(tmp_path):
    run(tmp_path, task=task_on())
    with pytest.raises(ConfigurationError, match="is another one"):
        run(tmp_path, resume=True, task=task_on(first=1))
