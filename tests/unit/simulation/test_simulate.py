"""The front door: arguments and their refusals, the result, and what watches."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

import headway as hw
from headway import algorithms, core
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    UnknownNameError,
)
from headway.observe import log_hash, weights_hash
from headway.simulation import population, until
from tests.simulation_kit import DELTA, Chase, ChaseTrainer, perceptron_task, simulate

# What it refuses, before anything was trained.


def test_more_in_flight_than_clients_names_both_numbers() -> None:
    with pytest.raises(ConfigurationError, match="more clients in flight than there are") as error:
        simulate(concurrency=9)
    assert "9" in str(error.value.got)
    assert "4" in str(error.value.expected)
    assert "4" in str(error.value.help)


def test_only_clients_with_data_count() -> None:
    task = Chase([1.0] * 4, sizes=[1, 0, 1, 1])
    with pytest.raises(ConfigurationError, match="more clients in flight") as error:
        simulate(task, concurrency=4)
    assert "at most 3" in str(error.value.expected)
    simulate(task, concurrency=3)


@pytest.mark.parametrize(
    "algorithm",
    [
        algorithms.fedavg(clients_per_round=5),
        algorithms.minibatch_sgd(num_workers=5),
        # A barrier around an algorithm that has none of its own.
        replace(DELTA, gate=core.Bulk(5)),
    ],
)
def test_a_round_larger_than_the_population_names_both_numbers(algorithm: core.Algorithm) -> None:
    with pytest.raises(ConfigurationError, match="needs more clients than there are") as error:
        simulate(algorithm=algorithm)
    assert algorithm.name in error.value.message
    assert "4" in str(error.value.got)
    assert "5" in str(error.value.expected)


def test_more_over_selection_than_clients_starts_them_all() -> None:
    algorithm = algorithms.fedavg(clients_per_round=3, over_selection=2.0)
    result = simulate(algorithm=algorithm, stop=until(versions=3))
    assert result.counts["cancelled"] == 3
    (warning,) = result.warnings
    assert "over_selection wants 6 clients in a round of 3" in warning
    assert "at most 4" in warning
    enough = algorithms.fedavg(clients_per_round=2, over_selection=2.0)
    assert simulate(algorithm=enough).warnings == []
    assert "at most 3" in simulate(algorithm=enough, concurrency=3).warnings[0]
    plain = algorithms.fedavg(clients_per_round=4)
    assert simulate(algorithm=plain, concurrency=3).warnings == []


def test_a_task_in_which_nobody_has_data_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs more clients than there are"):
        simulate(Chase([1.0, 1.0], sizes=[0, 0]))


def test_a_population_of_another_size_names_both_numbers() -> None:
    with pytest.raises(ConfigurationError, match="same number of clients") as error:
        simulate(population=population.constant(5))
    assert "a task with 4, a population with 5" in str(error.value.got)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"record": "everything"}, UnknownNameError, "unknown recording"),
        ({"stop": 100}, ArgumentTypeError, "does not say when the run ends"),
        ({"algorithm": algorithms.fedbuff}, ArgumentTypeError, "not an algorithm"),
        ({"population": 4}, ArgumentTypeError, "not a population"),
        ({"seed": "4"}, ArgumentTypeError, "a seed is a whole number"),
        ({"seed": -1}, ConfigurationError, "a seed is out of range"),
        ({"seed": 2**63}, ConfigurationError, "a seed is out of range"),
        ({"device": "nowhere"}, ConfigurationError, r"device `.*` cannot be used here"),
        ({"evaluate_every": 0}, ConfigurationError, "evaluate_every cannot be 0"),
        ({"evaluate_every": 2.5}, ArgumentTypeError, "whole number"),
        ({"concurrency": 0}, ConfigurationError, "concurrency"),
        ({"scheduler": 3}, ArgumentTypeError, "not a scheduler"),
        ({"scheduler": core.FirstCome}, ArgumentTypeError, "not a scheduler"),
        ({"observers": 3}, ArgumentTypeError, "must be a list"),
        ({"observers": ["x"]}, ArgumentTypeError, "not an observer"),
        (
            {"concurrency": 2, "scheduler": core.FirstCome()},
            ConfigurationError,
            "either a scheduler or a concurrency",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    task = Chase([1.0] * 4)
    with pytest.raises(error, match=words):
        simulate(task, **options)
    assert task.trained == []


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="not a task"):
        simulate("mnist")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"device `.*` cannot be used here") as error:
        simulate(device="cuda")
    assert "cpu" in str(error.value.help)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_smallest_and_the_largest_seed_work(seed: int) -> None:
    assert simulate(perceptron_task(), seed=seed).seed == seed


# The result.


def test_the_result_says_what_was_run_and_what_came_of_it() -> None:
    task = Chase([1.0] * 4, broken=[2])
    result = simulate(
        task,
        algorithms.fedbuff(buffer_size=3),
        population=population.with_dropout(population.exponential(4, mean_s=1.0), 0.1),
        concurrency=3,
        stop=until(updates=200),
        seed=5,
        label="a label",
    )
    assert (result.label, result.algorithm, result.task, result.seed) == (
        "a label",
        "fedbuff",
        "chase",
        5,
    )
    assert (result.num_clients, result.concurrency, result.synchronous) == (4, 3, False)
    assert result.population["dropout"] == 0.1
    assert result.settings["buffer_size"] == 3
    counts = result.counts
    assert counts["updates"] == 200 == result.updates
    assert counts["applied"] + counts["buffered"] + counts["rejected"] == 200
    assert counts["rejected:not_finite"] == counts["rejected"] > 0
    assert counts["applied"] == result.versions
    assert counts["lost"] == sum(client.lost for client in result.clients.values()) > 0
    assert sum(result.staleness.values()) == counts["applied"] + counts["buffered"]
    assert result.examples == 200 + counts["lost"]
    thrown_away = counts["rejected"] + counts["lost"] + counts["unapplied"]
    assert result.discarded_examples == thrown_away
    # Of a version's three updates two were buffered, but for those that are left at the end.
    assert counts["unapplied"] == counts["buffered"] - 2 * result.versions
    assert any("not finite" in warning for warning in result.warnings)
    assert result.parameters is not None
    assert result.weights_hash == weights_hash(result.parameters)
    assert result.log_hash == log_hash(result.events)
    assert str(result)


def test_work_in_a_buffer_that_is_dropped_at_the_end_is_counted_as_thrown_away() -> None:
    """15 updates of one example each: one version of ten, and five that nobody uses."""
    result = simulate(algorithm=algorithms.fedbuff(buffer_size=10), stop=until(updates=15))
    assert (result.versions, result.discarded_examples, result.counts["unapplied"]) == (1, 5, 5)
    assert "buffered 14 (5 never applied)" in str(result)
    applied = algorithms.fedbuff(buffer_size=10, on_close="apply")
    result = simulate(algorithm=applied, stop=until(updates=15))
    assert (result.versions, result.discarded_examples, result.counts["unapplied"]) == (2, 0, 0)


def test_a_buffer_whose_weights_are_all_0_is_thrown_away_whole() -> None:
    worthless = algorithms.fedbuff(buffer_size=2, staleness=hw.staleness.constant(0.0))
    result = simulate(algorithm=worthless, stop=until(updates=10))
    assert (result.versions, result.counts["unapplied"]) == (0, 5)
    assert result.discarded_examples == result.examples == 10


def test_metrics_of_any_name_leave_the_keys_of_notes_alone() -> None:
    class Named(Chase):
        def evaluate(self, parameters: Any, buffers: Any = None) -> dict[str, float]:
            return {"updates": -1.0, "value": 2.0}

        def trainer(self, algorithm: Any, device: Any) -> Any:
            made, train = super().trainer(algorithm, device), ChaseTrainer.train
            made.train = lambda job: train(made, job)._replace(  # type: ignore[method-assign]
                metrics={"worker": -1.0}
            )
            return made

    result = simulate(Named([1.0] * 4, broken=[2]), stop=until(updates=10))
    noted = [event for event in result.events if isinstance(event, core.Noted)]
    (bad,) = [note.data for note in noted if note.kind == "non_finite"]
    assert bad == {"worker": "client-2", "metrics": {"worker": -1.0}}
    measured = [note.data for note in noted if note.kind == "evaluated"]
    assert [data["updates"] for data in measured] == [0, 10]
    assert measured[0]["metrics"] == {"updates": -1.0, "value": 2.0}


def test_the_default_population_takes_one_second_a_job_and_all_train() -> None:
    result = simulate(stop=until(virtual_time_s=3.0))
    assert (result.updates, result.concurrency, result.population["name"]) == (12, None, "constant")


def test_synchronous_runs_say_so() -> None:
    assert simulate(algorithm=algorithms.fedavg(clients_per_round=2)).synchronous


def test_clients_without_data_are_warned_of() -> None:
    result = simulate(Chase([1.0] * 4, sizes=[1, 0, 1, 0]))
    assert "2 clients have no data and never train" in result.warnings
    assert simulate().warnings == []


def test_buffers_of_a_model_are_in_the_result() -> None:
    result = simulate(Chase([1.0] * 4, has_buffers=True))
    assert result.buffers is not None
    assert result.parameters is not None
    assert result.weights_hash == weights_hash(result.parameters, result.buffers)


# Whoever watches.


class Watcher:
    def __init__(self) -> None:
        self.infos: list[Any] = []
        self.snapshots: list[Any] = []
        self.points: list[Any] = []
        self.results: list[Any] = []

    def started(self, info: Any) -> None:
        self.infos.append(info)

    def progress(self, snapshot: Any) -> None:
        self.snapshots.append(snapshot)

    def evaluated(self, point: Any) -> None:
        self.points.append(point)

    def finished(self, result: Any) -> None:
        self.results.append(result)


@pytest.mark.parametrize("limits", [{"updates": 20}, {"updates": 20, "wall_time_s": 3600.0}])
def test_observers_are_told_how_the_run_goes_on(limits: dict[str, Any]) -> None:
    watcher = Watcher()
    result = simulate(observers=[watcher], evaluate_every=10, label="x", stop=until(**limits))
    (info,) = watcher.infos
    assert (info.label, info.task, info.num_clients, info.concurrency) == ("x", "chase", 4, None)
    assert info.stop.startswith("updates >= 20")
    assert watcher.points == result.history
    assert watcher.results == [result]
    assert watcher.snapshots[-1].updates == 20
    assert watcher.snapshots[-1].fraction_done == 1.0
    assert all(snapshot.in_flight <= 4 for snapshot in watcher.snapshots)
    # Three evaluations, and a few a second: not one for each update.
    assert len(watcher.snapshots) < 15


def test_in_another_thread_no_signal_is_touched() -> None:
    results: list[hw.Result] = []
    thread = threading.Thread(target=lambda: results.append(simulate()))
    thread.start()
    thread.join(timeout=60)
    assert [result.updates for result in results] == [20]


def test_a_model_that_does_not_fit_the_data_is_named_as_the_cause():
    data = [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)) for _ in range(2)]
    task = hw.Task(lambda: torch.nn.Linear(5, 2), "cross_entropy", data, data[0])
    with pytest.raises(RuntimeError) as caught:
        hw.simulate(task, hw.algorithms.fedasync(), stop=hw.until(updates=2))
    assert "in evaluation" in caught.value.__notes__[0]
    assert "does the model take such inputs" in caught.value.__notes__[0]
