"""The front door: arguments and their refusals, the result, the folder, and what watches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import headway as hw
from headway import algorithms, core
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    RunFolderError,
    UnknownNameError,
)
from headway.observe import RunFolder, log_hash, weights_hash
from headway.simulation import population, until
from headway.simulation.engine import server_for
from headway.simulation.resolve import resolve, structured
from tests.simulation_kit import Chase, ChaseTrainer, perceptron_task

DELTA = algorithms.async_delta()
STOP = until(updates=20)


def simulate(task: Any = None, algorithm: Any = DELTA, **options: Any) -> hw.Result:
    return hw.simulate(
        Chase([1.0] * 4) if task is None else task, algorithm, **{"stop": STOP, **options}
    )


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


# The folder.


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    task = Chase([1.0] * 4)
    for folder in (tmp_path, tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError):
            simulate(task, folder=folder)
    assert task.trained == []


def test_a_folder_holds_all_of_the_run(tmp_path: Any) -> None:
    result = simulate(perceptron_task(), folder=tmp_path / "run", evaluate_every=7)
    opened = RunFolder.open(tmp_path / "run")
    assert opened.config()["algorithm"]["name"] == "async_delta"
    assert opened.config()["seed"] == 0
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!")
    loaded = opened.result()
    assert list(opened.points()) == result.history == loaded.history
    assert loaded.log_hash == result.log_hash == log_hash(opened.events())
    assert loaded.parameters is not None
    assert torch.equal(loaded.parameters, result.parameters)
    assert len(result.events) == len(loaded.events) > 20


def test_the_file_of_a_run_made_in_python_is_structured_and_says_so(tmp_path: Any) -> None:
    stop = until(updates=20, target=("value", 1e9))
    simulate(
        algorithm=algorithms.fedbuff(buffer_size=2),
        stop=stop,
        folder=tmp_path / "run",
        evaluate_every=7,
    )
    config = RunFolder.open(tmp_path / "run").config()
    assert config["made_by"] == "python"
    assert config["run"]["evaluate_every"] == {"updates": 7}
    assert config["scheduler"] == {"name": "random_order"}
    assert "server" not in config
    assert config["stop"] == {
        "updates": 20,
        "target": {"metric": "value", "value": 1e9, "direction": "max"},
    }
    assert config["algorithm"]["buffer_size"] == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (hw.staleness.hinge(10, 4), {"name": "hinge", "a": 10.0, "b": 4.0}),
        (partial(torch.optim.SGD, lr=0.5), {"name": "SGD", "lr": 0.5}),
        (core.FirstCome(concurrency=3), {"name": "FirstCome", "concurrency": 3}),
        ({"a": (1, None, torch.float32), "b": None}, {"a": [1, "none", "torch.float32"]}),
        (torch.optim.SGD, "SGD"),
    ],
)
def test_values_are_taken_apart_where_they_can_be(value: Any, expected: Any) -> None:
    assert structured(value) == expected


def test_a_run_made_in_python_is_replayed_as_the_documentation_says(tmp_path: Any) -> None:
    task = perceptron_task()
    result = simulate(task, record="payloads", folder=tmp_path / "run", concurrency=3, seed=4)
    server = server_for(resolve(task, DELTA, STOP, concurrency=3, seed=4))
    core.replay(server, RunFolder.open(tmp_path / "run").events(payloads=True))
    assert weights_hash(server.parameters) == result.weights_hash


def test_a_folder_with_payloads_can_be_replayed(tmp_path: Any) -> None:
    task = perceptron_task()
    result = simulate(task, record="payloads", folder=tmp_path / "run", evaluate_every=7)
    opened = RunFolder.open(tmp_path / "run")
    initial = opened.initial().tensors["payload"]
    assert torch.equal(initial, task.start(0, torch.device("cpu")).parameters)
    server = core.Server(initial, DELTA, scheduler=core.RandomOrder(), layout=task.layout)
    core.replay(server, opened.events(payloads=True))
    assert weights_hash(server.parameters) == result.weights_hash
    # The payloads are in the folder; what is in memory holds the rest.
    arrived = [event for event in result.events if isinstance(event, core.Submitted)]
    assert [event.payload for event in arrived] == [None] * 20


class Odd(Chase):
    """Client 1 sends something else than what was asked for."""

    def __init__(self, change: Callable[[torch.Tensor], Any], **options: Any) -> None:
        super().__init__([1.0] * 4, dim=4, **options)
        self.change = change

    def trainer(self, algorithm: Any, device: Any) -> Any:
        made, train = super().trainer(algorithm, device), ChaseTrainer.train

        def changed(assignment: Any) -> Any:
            result = train(made, assignment)
            if assignment.client != 1:
                return result
            if result.buffers is None:
                return result._replace(payload=self.change(result.payload))
            floating, integer = result.buffers
            return result._replace(buffers=core.Buffers(self.change(floating), integer))

        made.train = changed  # type: ignore[method-assign]
        return made


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda payload: payload.to(torch.int32), "wrong_dtype"),
        (lambda payload: payload.to(torch.complex64).conj(), "wrong_dtype"),
        (lambda payload: payload.to(torch.float8_e5m2), "wrong_dtype"),
        (lambda payload: payload > 0, "wrong_dtype"),
        (lambda payload: torch.quantize_per_tensor(payload, 0.1, 0, torch.quint8), "wrong_dtype"),
        (lambda payload: payload.reshape(2, 2).t(), "wrong_size"),
        (lambda payload: payload.sum(), "wrong_size"),
        (lambda payload: payload.to("meta"), "wrong_device"),
        (lambda payload: payload.to_sparse(), "wrong_type"),
        (lambda payload: payload.tolist(), "wrong_type"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_what_a_careless_client_sends_is_logged_and_refused_again_in_a_replay(
    tmp_path: Any, change: Callable[[torch.Tensor], Any], fault: str
) -> None:
    task = Odd(change)
    options: dict[str, Any] = {"record": "payloads", "folder": tmp_path / "run"}
    result = simulate(task, **options)
    assert result.counts[f"rejected:{fault}"] == result.counts["rejected"] == 5
    opened = RunFolder.open(tmp_path / "run")
    server = core.Server(torch.zeros(4), DELTA, scheduler=core.RandomOrder())
    core.replay(server, opened.events(payloads=True))
    assert weights_hash(server.parameters) == result.weights_hash
    assert log_hash(opened.events()) == result.log_hash
    sent = change(torch.ones(4))
    if fault in ("wrong_dtype", "wrong_size") and not sent.is_quantized:
        (first, *_) = [e for e in opened.events(payloads=True) if is_rejected(e)]
        assert first.payload.dtype is sent.dtype  # type: ignore[union-attr]
        assert first.payload.shape == sent.shape  # type: ignore[union-attr]


def is_rejected(event: core.Event) -> bool:
    return isinstance(event, core.Submitted) and event.status == "rejected"


def test_buffers_of_the_wrong_kind_are_logged_and_refused_again(tmp_path: Any) -> None:
    task = Odd(lambda floating: floating.to(torch.int16).reshape(1, 3), has_buffers=True)
    result = simulate(task, record="payloads", folder=tmp_path / "run")
    assert result.counts["rejected:wrong_buffers"] == 5
    start = task.start(0, torch.device("cpu"))
    server = core.Server(
        start.parameters, DELTA, scheduler=core.RandomOrder(), buffers=start.buffers
    )
    core.replay(server, RunFolder.open(tmp_path / "run").events(payloads=True))
    assert weights_hash(server.parameters, server.buffers) == result.weights_hash


class Breaks(Chase):
    """The eleventh evaluation or the twelfth job raises."""

    def __init__(self, where: str) -> None:
        super().__init__([1.0] * 4)
        self.where = where

    def evaluate(self, parameters: Any, buffers: Any = None) -> dict[str, float]:
        if self.where == "evaluation" and len(self.trained) > 10:
            raise ZeroDivisionError("by zero")
        return super().evaluate(parameters, buffers)

    def trainer(self, algorithm: Any, device: Any) -> Any:
        made, train = super().trainer(algorithm, device), ChaseTrainer.train

        def broken(assignment: Any) -> Any:
            if self.where == "client" and len(self.trained) == 11:
                raise ZeroDivisionError("by zero")
            return train(made, assignment)

        made.train = broken  # type: ignore[method-assign]
        return made


@pytest.mark.parametrize(("where", "updates"), [("client", 11), ("evaluation", 15)])
def test_a_run_that_fails_leaves_all_that_there_is_and_says_where(
    tmp_path: Any, where: str, updates: int
) -> None:
    with pytest.raises(ZeroDivisionError, match="by zero") as error:
        simulate(Breaks(where), folder=tmp_path / "run", evaluate_every=5)
    (note,) = error.value.__notes__
    assert str(tmp_path / "run") in note
    opened = RunFolder.open(tmp_path / "run")
    *_, last = opened.events()
    assert isinstance(last, core.Noted)
    assert (last.kind, last.data["error"], last.data["message"]) == (
        *("failed", "ZeroDivisionError"),
        "by zero",
    )
    worker = last.data["worker"]
    assert worker == "evaluation" if where == "evaluation" else worker.startswith("client-")
    assert worker in note
    loaded = hw.Result.load(tmp_path / "run")
    assert (loaded.updates, loaded.interrupted) == (updates, False)
    assert loaded.stop_reason == "failed: ZeroDivisionError: by zero"
    assert any("did not finish" in warning and worker in warning for warning in loaded.warnings)
    assert loaded.parameters is not None
    assert [point.updates for point in opened.points()] == [0, 5, 10]
    loaded.report(tmp_path / "report.html")


def test_a_run_without_a_folder_fails_with_a_note_too() -> None:
    with pytest.raises(ZeroDivisionError) as error:
        simulate(Breaks("client"))
    assert error.value.__notes__[0].startswith("Headway: in client-")


def test_the_first_error_is_told_when_the_run_cannot_be_saved(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise RunFolderError("no space left")

    monkeypatch.setattr("headway.observe.folder.save_result", full)
    with pytest.raises(ZeroDivisionError) as error:
        simulate(Breaks("client"), folder=tmp_path / "run")
    assert "could not be saved: no space left" in error.value.__notes__[0]


def test_a_task_that_cannot_start_leaves_no_open_file(tmp_path: Any) -> None:
    class Unable(Chase):
        def start(self, seed: int, device: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        simulate(Unable([1.0]), folder=tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").config()["task"]["name"] == "chase"


def test_a_run_that_was_killed_still_has_a_result(tmp_path: Any) -> None:
    """All that the log can tell is as in the result that was written, and is then taken away."""
    clients = population.with_dropout(population.exponential(6, mean_s=1.0), 0.1)
    whole = simulate(
        perceptron_task(),
        algorithms.fedavg(clients_per_round=3, over_selection=1.5),
        population=clients,
        stop=until(updates=60),
        evaluate_every=7,
        folder=tmp_path / "run",
    )
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoints" / "final.safetensors").unlink()
    found = hw.Result.load(tmp_path / "run")
    assert found.stop_reason.startswith("unfinished")
    assert any("did not finish" in warning for warning in found.warnings)
    assert (found.parameters, found.weights_hash) == (None, "")
    for name in (
        *("label", "algorithm", "settings", "task", "seed", "synchronous", "population"),
        *("concurrency", "num_clients", "history", "staleness", "updates", "versions"),
        *("virtual_time_s", "log_hash", "idle_share", "bytes_up"),
    ):
        assert getattr(found, name) == getattr(whole, name), name
    assert whole.counts["lost"] > 0 < whole.counts["cancelled"]
    assert found.counts == {name: whole.counts[name] for name in found.counts}
    for client, count in whole.clients.items():
        assert found.clients[client]._replace(examples=0) == count._replace(examples=0)
    assert str(found)
    found.report(tmp_path / "report.html")


def test_a_killed_run_that_recorded_nothing_has_its_evaluations(tmp_path: Any) -> None:
    simulate(folder=tmp_path / "run", record="nothing", evaluate_every=7)
    (tmp_path / "run" / "result.json").unlink()
    found = hw.Result.load(tmp_path / "run")
    assert [point.updates for point in found.history] == [0, 7, 14, 20]
    assert (found.updates, found.versions, found.virtual_time_s) == (20, 20, 5.0)


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
