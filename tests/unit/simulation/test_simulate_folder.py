"""The folder of a run: all that it holds, after runs that ended, failed, and were killed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import headway as hw
from headway import algorithms, core
from headway.core.errors import RunFolderError
from headway.observe import RunFolder, log_hash, weights_hash
from headway.simulation import population, until
from headway.simulation.engine import server_for
from headway.simulation.resolve import resolve, structured
from tests.simulation_kit import DELTA, STOP, Chase, ChaseTrainer, perceptron_task, simulate


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    task = Chase([1.0] * 4)
    for folder in (tmp_path, tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError):
            simulate(task, folder=folder)
    assert task.trained == []


def test_the_error_of_a_folder_in_use_says_how_a_simulation_goes_on(tmp_path: Any) -> None:
    simulate(folder=tmp_path / "run")
    with pytest.raises(RunFolderError, match="not empty") as caught:
        simulate(folder=tmp_path / "run")
    assert "resume=True" in str(caught.value)
    made = RunFolder.create(tmp_path / "run", overwrite=True)
    assert simulate(folder=made).folder == tmp_path / "run"


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
