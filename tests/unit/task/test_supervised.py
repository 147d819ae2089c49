"""A task: what it is made of, how it starts, how it judges, and what it refuses."""

from __future__ import annotations

import json
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway import data, models
from headway.core import WorkOrder
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    DataError,
    UnknownNameError,
)
from headway.task import Assignment, LocalTraining, Objective, Task
from headway.task.evaluation import Evaluator
from headway.task.replica import Replica
from tests.unit.task.jobs import CPU, SIZES, algorithm, do, examples, make_task, perceptron


def test_it_is_an_objective() -> None:
    task: Objective = make_task()
    assert isinstance(task, Objective)
    assert task.num_clients == len(SIZES)
    assert [task.num_examples(client) for client in range(4)] == list(SIZES)


def test_the_start_depends_on_the_seed_alone() -> None:
    task = make_task()
    first = task.start(4, CPU)
    torch.rand(1)
    assert torch.equal(task.start(4, CPU).parameters, first.parameters)
    assert not torch.equal(task.start(5, CPU).parameters, first.parameters)
    assert first.layout == task.layout
    assert first.buffers is None


def test_a_module_is_copied_and_starts_every_run_alike() -> None:
    module = perceptron()
    before = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    task = make_task(module)
    assert torch.equal(task.start(0, CPU).parameters, before)
    assert torch.equal(task.start(1, CPU).parameters, before)
    do(task)
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in module.parameters()]), before)


def test_evaluation_is_that_of_the_module_in_eval_mode() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 3))

    task = make_task(model, test_batch_size=7)
    start = task.start(2, CPU)
    module = task.make_module(2).eval()
    inputs, targets = examples(30, 99)
    with torch.no_grad():
        outputs = module(inputs)
    expected = {
        "accuracy": (outputs.argmax(1) == targets).double().mean().item(),
        "loss": nn.functional.cross_entropy(outputs, targets).item(),
    }
    for _ in range(2):
        assert task.evaluate(start.parameters, start.buffers) == pytest.approx(expected, rel=1e-6)


def test_a_function_as_metric_sees_all_outputs_at_once() -> None:
    shapes = []

    def largest(outputs: Tensor, targets: Tensor) -> float:
        shapes.append((tuple(outputs.shape), tuple(targets.shape)))
        return float(outputs.max())

    task = make_task(metrics={"largest": largest}, test_batch_size=7)
    start = task.start(0, CPU)
    expected = task.make_module(0)(examples(30, 99)[0]).max().item()
    assert task.evaluate(start.parameters)["largest"] == pytest.approx(expected, rel=1e-6)
    assert shapes == [((30, 3), (30,))]


def test_the_evaluators_module_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Evaluator.__init__

    def counting(self: Evaluator, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Evaluator, "__init__", counting)
    task = make_task()
    parameters = task.start(0, CPU).parameters
    assert task.evaluate(parameters) == task.evaluate(parameters)
    assert len(made) == 1


def test_federated_data_bring_their_own_test_set() -> None:
    inputs, targets = examples(60, 0)
    whole = data.Dataset("toy", inputs, targets, num_classes=3)
    federated = data.federated(whole, data.iid(4), test_fraction=0.2)
    task = Task(perceptron, "cross_entropy", federated)
    assert task.num_clients == 4
    assert sum(task.num_examples(client) for client in range(4)) == 48
    assert task.describe()["num_test_examples"] == 12
    assert Task(perceptron, "cross_entropy", federated, whole).describe()["num_test_examples"] == 60
    assert do(task).num_examples == 12


def test_running_statistics_travel() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    task = make_task(model, local=LocalTraining(epochs=1, batch_size=None, shuffle=False))
    start = task.start(0, CPU)
    result = do(task)
    module = task.make_module(0)
    module(examples(23, 0)[0])
    expected = task.layout.flatten_buffers(module)
    assert result.buffers is not None
    assert expected is not None
    torch.testing.assert_close(result.buffers.floating, expected.floating)
    assert torch.equal(result.buffers.integer, expected.integer)
    judged = task.evaluate(start.parameters, start.buffers)
    assert judged != task.evaluate(start.parameters, result.buffers)
    assert judged == task.evaluate(start.parameters, start.buffers)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.5}, {"momentum": 0.9}])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_stay(optimizer: str, options: dict[str, Any]) -> None:
    def model() -> nn.Module:
        module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        return module.requires_grad_(False).append(nn.Linear(3, 3))

    options = {} if optimizer == "adamw" else options
    local = LocalTraining(optimizer=optimizer, options=options, proximal=0.1)
    payload = do(make_task(model, local=local)).payload
    assert not payload[:-12].any()
    assert payload[-12:].all()


def test_shared_parameters_and_unused_ones() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 5)
            self.again = self.first
            self.last = nn.Linear(5, 3)
            self.unused = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(self.again(self.first(inputs)))

    payload = do(make_task(Odd)).payload
    assert payload.shape == (30 + 18 + 6,)
    assert payload[:48].all()
    assert not payload[48:].any()


def test_sparse_gradients() -> None:
    class Words(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 3, sparse=sparse)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.table(inputs).mean(1)

    words = torch.arange(40).view(10, 4) % 20
    labels = torch.arange(10) % 3
    found = [
        do(Task(partial(Words, sparse), "cross_entropy", [(words, labels)], (words, labels)))
        for sparse in (True, False)
    ]
    assert torch.equal(found[0].payload, found[1].payload)


def test_regression_by_name() -> None:
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    targets = inputs.sum(1, keepdim=True)
    task = Task(
        lambda: nn.Linear(5, 1),
        *("mse", [(inputs, targets)], (inputs, targets)),
        local=LocalTraining(epochs=200),
        metrics="loss",
    )
    start = task.start(0, CPU).parameters
    assert task.evaluate(start + do(task).payload)["loss"] < 1e-3 < task.evaluate(start)["loss"]
    flat = Task(lambda: nn.Linear(5, 1), "mse", [(inputs, targets[:, 0])], (inputs, targets[:, 0]))
    with pytest.raises(ConfigurationError, match="one shape"):
        do(flat)


@pytest.mark.parametrize("payload", ["delta", "weights", "gradient"])
def test_a_loss_that_is_nan_ends_the_job_and_shows(payload: str) -> None:
    inputs, targets = examples(20, 0)
    inputs[0] = math.nan
    local = LocalTraining(epochs=50, batch_size=10)
    task = Task(perceptron, "cross_entropy", [(inputs, targets)], (inputs, targets), local=local)
    result = do(task, payload, steps=100)
    assert math.isnan(result.metrics["loss"])
    assert not torch.isfinite(result.payload).all()
    assert result.num_steps <= 2
    assert result.num_processed == 10 * result.num_steps
    # The next job starts clean.
    healthy = make_task()
    trainer = healthy.trainer(algorithm(payload), CPU)
    start = healthy.start(0, CPU).parameters
    trainer.train(Assignment(0, torch.full_like(start, math.nan), None, WorkOrder(), seed=1))
    again = trainer.train(Assignment(0, start, None, WorkOrder(), seed=11))
    assert torch.equal(again.payload, do(healthy, payload).payload)


def test_an_empty_client_never_trains() -> None:
    task = make_task()
    trainer = task.trainer(algorithm(), CPU)
    assert trainer.num_steps(3, WorkOrder()) == 0
    with pytest.raises(DataError, match="client 3 has no examples") as caught:
        trainer.train(Assignment(3, task.start(0, CPU).parameters))
    assert "num_examples(client) is 0" in str(caught.value)


def test_an_error_in_the_model_names_the_client() -> None:
    task = make_task(lambda: nn.Linear(6, 3))
    with pytest.raises(RuntimeError) as caught:
        do(task, client=1)
    assert caught.value.__notes__ == ["while client 1 was training"]


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("held", "batch_size", "next_step"),
    [(9, 8, "set drop_last=True"), (9, 1, "another batch_size"), (1, None, "leave so small")],
)
@pytest.mark.parametrize("payload", ["delta", "gradient"])
def test_a_batch_of_one_that_cannot_be_normalised(
    held: int, batch_size: int | None, next_step: str, payload: str
) -> None:
    train = [examples(8, 0), examples(held, 1)]
    local = LocalTraining(batch_size=batch_size)
    task = Task(normalised, "cross_entropy", train, train[0], local=local)
    with pytest.raises(ConfigurationError, match="client 1 trains on a batch of one") as caught:
        do(task, payload, client=1, epochs=1)
    assert f"{held} examples, batch_size={batch_size}" in str(caught.value)
    assert next_step in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
    if "drop_last" in next_step:
        mended = LocalTraining(batch_size=batch_size, drop_last=True)
        do(Task(normalised, "cross_entropy", train, train[0], local=mended), payload, client=1)


def test_a_loss_that_is_no_scalar() -> None:
    loss = partial(nn.functional.cross_entropy, reduction="none")
    train = [examples(5, 0)]
    with pytest.raises(ConfigurationError, match="one number"):
        do(Task(perceptron, loss, train, train[0]))


def test_a_model_that_cannot_be_trained() -> None:
    with pytest.raises(ConfigurationError, match="requires a gradient"):
        do(make_task(perceptron().requires_grad_(False)))


def test_the_parameters_are_views_of_one_tensor() -> None:
    task = make_task()
    replica = Replica(task.make_module(0), task.layout, CPU)
    _ = replica.gradient
    for parameter in replica.module.parameters():
        assert parameter.grad is not None
        for view, flat in ((parameter, replica.parameters), (parameter.grad, replica.gradient)):
            assert view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


def test_the_description_is_json() -> None:
    task = make_task(models.mlp(5, (4, 4), 3), local=LocalTraining(optimizer="adam"), name="toy")
    description = json.loads(json.dumps(task.describe()))
    assert description["model"] == "mlp(inputs=5, hidden=(4, 4), classes=3)"
    assert description["num_params"] == 24 + 20 + 15
    assert description["num_examples"] == sum(SIZES)
    assert description["loss"] == "cross_entropy"
    assert description["metrics"] == ["accuracy", "loss"]
    assert description["local"]["optimizer"] == "adam"
    assert description["name"] == task.name == "toy"
    assert make_task(perceptron()).describe()["model"] == "Sequential"


def test_a_task_of_named_parts_can_be_sent_to_a_process() -> None:
    task = make_task(models.softmax_regression(5, 3))
    assert torch.equal(do(pickle.loads(pickle.dumps(task))).payload, do(task).payload)


PAIR = examples(4, 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, ArgumentTypeError, "not a model"),
        ({"loss": "cross_entrophy"}, UnknownNameError, "did you mean `cross_entropy`"),
        ({"loss": 3}, ArgumentTypeError, "not a loss"),
        ({"metrics": ("acuracy",)}, UnknownNameError, "did you mean `accuracy`"),
        ({"metrics": ()}, ConfigurationError, "at least one metric"),
        ({"metrics": {"f1": 3}}, ArgumentTypeError, "metric `f1` is not a function"),
        ({"train": PAIR}, ArgumentTypeError, r"train\[0\]"),
        ({"train": []}, DataError, "no clients"),
        ({"train": 7}, ArgumentTypeError, "not a data set of clients"),
        ({"train": [(PAIR[0], PAIR[1][:2])]}, DataError, "differ in length"),
        ({"train": [(PAIR[0], [1, 2])]}, ArgumentTypeError, "Tensor, list"),
        ({"test": None}, ArgumentTypeError, "needs a test set"),
        ({"test": (PAIR[0][:0], PAIR[1][:0])}, DataError, "test set is empty"),
        ({"local": {"epochs": 1}}, ArgumentTypeError, "LocalTraining"),
        ({"test_batch_size": 0}, ConfigurationError, "test_batch_size"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], error: Any, message: str) -> None:
    arguments = {"model": perceptron, "loss": "mse", "train": [PAIR], "test": PAIR, **change}
    with pytest.raises(error, match=message):
        Task(**arguments)


def test_what_it_refuses_later() -> None:
    with pytest.raises(ArgumentTypeError, match="did not make a model"):
        make_task(lambda: 3).start(0, CPU)
    with pytest.raises(ConfigurationError, match="no such client"):
        make_task().num_examples(4)
    scores = make_task(lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten(0)))
    with pytest.raises(ConfigurationError, match="one output per class"):
        scores.evaluate(scores.start(0, CPU).parameters)
