"""Jobs in groups give what they give one by one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headway import algorithms, models
from headway.core import WorkOrder
from headway.core.errors import DataError
from headway.task import Assignment, LocalTraining, Task

CPU = torch.device("cpu")
SIZES = (52, 3, 17, 40, 1, 33, 8)


def clients(shape=(20,), classes=4, sizes=SIZES):
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, *shape, generator=g), torch.randint(0, classes, (n,), generator=g))
        for n in sizes
    ]


def with_dropout():
    return nn.Sequential(
        nn.Linear(20, 16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(16, 8),
        nn.Dropout(0.1),
        nn.Linear(8, 4),
    )


class Tied(nn.Module):
    """The same matrix twice, and one parameter that is never trained."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 20, bias=False), nn.Linear(20, 20)
        self.second.weight = self.first.weight
        self.out = nn.Linear(20, 4)
        self.out.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.relu(self.first(x)))))


MODELS = {
    "mlp": models.mlp(20, [16], 4),
    "dropout": with_dropout,
    "tied": Tied,
    "norms": lambda: nn.Sequential(nn.Linear(20, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)),
}
LOCALS = {
    "plain": LocalTraining(epochs=2, batch_size=10),
    "steps and adam": LocalTraining(steps=7, batch_size=8, optimizer="adam", learning_rate=0.01),
    "all of it": LocalTraining(
        epochs=3,
        batch_size=16,
        options={"momentum": 0.9, "weight_decay": 0.01},
        clip_norm=0.5,
        proximal=0.1,
    ),
    "nadam, whole batch": LocalTraining(
        epochs=2, batch_size=None, optimizer="nadam", learning_rate=0.01
    ),
    "in order": LocalTraining(epochs=1.5, batch_size=7, shuffle=False, drop_last=True),
}
ALGORITHMS = {
    "delta": algorithms.fedbuff(),
    "gradient": algorithms.async_sgd(),
    "weights": algorithms.fedasync(proximal=0.1),
}


def assignments(task, count=7):
    start = task.start(0, CPU).parameters
    orders = {
        2: WorkOrder(steps=3),
        3: WorkOrder(learning_rate=0.2),
        5: WorkOrder(proximal=0.5, epochs=1),
    }
    return [
        # Different versions of the model, and streams of their own.
        Assignment(c, start + 0.01 * c, None, orders.get(c, WorkOrder()), 77 + c)
        for c in range(count)
    ]


def check_same(task, algorithm, jobs, rtol=1e-4, atol=2e-6):
    one, many = task.trainer(algorithm, CPU), task.group_trainer(algorithm, CPU)
    assert many.obstacle is None
    results = many.train(jobs)
    assert len(results) == len(jobs)
    for job, result in zip(jobs, results, strict=True):
        alone = one.train(job)
        torch.testing.assert_close(
            result.payload, alone.payload, rtol=rtol, atol=atol, equal_nan=True
        )
        assert result[1:4] == alone[1:4]
        assert result.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("local", LOCALS)
@pytest.mark.parametrize("model", MODELS)
def test_a_group_is_its_jobs_one_by_one(model, local, algorithm):
    data = clients()
    task = Task(MODELS[model], "cross_entropy", train=data, test=data[0], local=LOCALS[local])
    check_same(task, ALGORITHMS[algorithm], assignments(task))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda outputs, targets: F.cross_entropy(outputs, targets) + 0.1 * outputs.square().mean(),
    ],
    ids=["smoothed", "weighted", "own"],
)
@pytest.mark.parametrize("model", ["mlp", "dropout"])
def test_a_loss_of_which_only_the_mean_is_known(model, loss):
    data = clients()
    task = Task(MODELS[model], loss, train=data, test=data[0], local=LOCALS["all of it"])
    check_same(task, ALGORITHMS["delta"], assignments(task))


def test_targets_that_the_loss_ignores():
    data = [(x, torch.where(torch.arange(len(y)) % 3 == 1, -100, y)) for x, y in clients()]
    local = LocalTraining(epochs=1, batch_size=10, shuffle=False)
    task = Task(MODELS["mlp"], "cross_entropy", train=data, test=data[0], local=local)
    check_same(task, ALGORITHMS["delta"], assignments(task))


def test_regression():
    data = [(x, x[:, :2] * 2.0) for x, _ in clients()]
    task = Task(
        models.mlp(20, [8], 2),
        "mse",
        train=data,
        test=data[0],
        metrics="loss",
        local=LOCALS["plain"],
    )
    check_same(task, ALGORITHMS["delta"], assignments(task))


def test_what_a_group_keeps_of_each_example_is_known():
    def make():
        return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 4))

    data = clients()
    local = LocalTraining(epochs=1, batch_size=10)
    task = Task(make, "cross_entropy", train=data, test=data[0], local=local)
    found = task.group_trainer(ALGORITHMS["delta"], CPU).activation_bytes
    # The inputs and the hidden layer; at most with a copy of the weights, which two examples share.
    least, copy = 10 * 4 * (20 + 32), 10 * 4 * task.layout.num_params // 2
    assert least <= found <= least + copy


def test_a_sequence_in_and_out():
    g = torch.Generator().manual_seed(0)
    data = [
        (torch.randint(0, 11, (n, 6), generator=g), torch.randint(0, 11, (n, 6), generator=g))
        for n in (9, 4, 7)
    ]

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(11, 8), nn.Linear(8, 11)

        def forward(self, x):
            return self.out(self.table(x)).transpose(1, 2)

    task = Task(Language, "cross_entropy", train=data, test=data[0], local=LOCALS["plain"])
    check_same(task, ALGORITHMS["delta"], assignments(task, 3))


def test_convolutions():
    data = clients(shape=(1, 8, 8))
    small = partial(
        nn.Sequential,
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 4),
    )
    task = Task(small, "cross_entropy", train=data, test=data[0], local=LOCALS["all of it"])
    check_same(task, ALGORITHMS["delta"], assignments(task))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_job_whose_loss_is_not_finite_ends_and_the_others_go_on(algorithm):
    data = clients()
    data[1] = (data[1][0] * float("inf"), data[1][1])
    data[3] = (data[3][0].clone(), data[3][1])
    data[3][0][30:] = float("nan")
    task = Task(
        MODELS["mlp"], "cross_entropy", train=data, test=data[0],
        local=LocalTraining(epochs=2, batch_size=10, shuffle=False),
    )  # fmt: skip
    jobs = assignments(task)
    one = task.trainer(ALGORITHMS[algorithm], CPU)
    if algorithm != "gradient":
        assert one.train(jobs[3]).num_steps == 4
    check_same(task, ALGORITHMS[algorithm], jobs)


def test_a_group_of_one_and_a_client_without_data():
    data = clients()
    task = Task(
        MODELS["mlp"],
        "cross_entropy",
        train=[*data, (data[0][0][:0], data[0][1][:0])],
        test=data[0],
    )
    check_same(task, ALGORITHMS["delta"], assignments(task, 1))
    start = task.start(0, CPU).parameters
    with pytest.raises(DataError, match="client 7 has no examples"):
        task.group_trainer(ALGORITHMS["delta"], CPU).train([Assignment(7, start)])


def test_nothing_that_comes_in_is_written_to():
    data = clients()
    task = Task(MODELS["mlp"], "cross_entropy", train=data, test=data[0])
    jobs = assignments(task)
    before = [job.parameters.clone() for job in jobs]
    for algorithm in ALGORITHMS.values():
        task.group_trainer(algorithm, CPU).train(jobs)
    for job, copy in zip(jobs, before, strict=True):
        assert torch.equal(job.parameters, copy)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.drop = nn.Linear(20, 4), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.out(self.drop(x)))


class OneTwice(nn.Module):
    """One dropout layer is called twice, the other never."""

    def __init__(self):
        super().__init__()
        self.out, self.drop, self.idle = nn.Linear(20, 4), nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.out(self.drop(x)))


class Counts(nn.Module):
    """A buffer that is not saved, and that every forward pass changes."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 4)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1.0
        return self.out(x) * (1.0 + 0.1 * self.calls)


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, 4)

    def forward(self, x):
        return self.out(x) if x.sum() > 0 else self.out(-x)


@pytest.mark.parametrize(
    ("model", "obstacle"),
    [
        (lambda: nn.Sequential(nn.Linear(20, 4), nn.BatchNorm1d(4)), "BatchNorm"),
        (lambda: nn.Sequential(nn.Linear(20, 4), nn.AlphaDropout(0.5)), "AlphaDropout"),
        (Twice, "not called exactly once"),
        (OneTwice, "not called exactly once"),
        (Counts, "changes the buffer `calls`"),
        (Decides, "does not run in groups"),
        (lambda: nn.Sequential(nn.Linear(20, 4), nn.RReLU()), "does not run in groups"),
    ],
    ids=[
        "batch norm",
        "alpha dropout",
        "dropout twice",
        "one twice",
        "counts",
        "control flow",
        "random",
    ],
)
def test_what_cannot_be_done_in_groups_says_why(model, obstacle):
    data = clients()
    task = Task(model, "cross_entropy", train=data, test=data[0])
    assert obstacle in task.group_trainer(ALGORITHMS["delta"], CPU).obstacle


def test_optimizers_that_look_at_shapes_are_an_obstacle_unless_nobody_steps():
    data = clients()
    local = LocalTraining(optimizer=partial(torch.optim.Adafactor))
    task = Task(MODELS["mlp"], "cross_entropy", train=data, test=data[0], local=local)
    assert "Adafactor" in task.group_trainer(ALGORITHMS["delta"], CPU).obstacle
    assert task.group_trainer(ALGORITHMS["gradient"], CPU).obstacle is None
