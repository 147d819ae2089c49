"""Convolutional networks whose gradients are written out: what autograd makes of the module."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headway import algorithms, models
from headway.core import WorkOrder
from headway.task import Assignment, LocalTraining, Task
from headway.task import convolutional as code
from headway.task.convolutional import Convolutional

CPU = torch.device("cpu")


def lenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
        nn.Tanh(),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.Sequential(nn.Conv2d(6, 8, 3, dilation=2, padding=2, groups=2), nn.Sigmoid()),
        nn.Flatten(),
        nn.Linear(8 * 25, 12, bias=False),
        nn.ReLU(),
        nn.Linear(12, 4),
    )


def wide():
    """A first layer that is no matrix product, an activation in a place of its own, a 1 x 1 image."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (5, 4), stride=(2, 1)),
        nn.ReLU(),
        nn.Tanh(),
        nn.MaxPool2d((6, 13)),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def whole_images():
    """No linear layer: each pixel is classified."""
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1))


CHAINS = {"lenet": lenet, "wide": wide, "images": whole_images, "cnn": models.cnn(16, 16, 3, 4)}


def examples(count, seed=0, shape=(3, 16, 16)):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=draw), torch.randint(0, 4, (count,), generator=draw)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CHAINS)
def test_it_is_the_module_and_its_gradient(name, dtype):
    torch.manual_seed(0)
    module = CHAINS[name]().to(dtype).train()
    found = Convolutional.of(module)
    inputs, targets = examples(7)
    inputs = inputs.to(dtype)
    if name == "images":
        targets = targets.view(-1, 1, 1).expand(-1, 16, 16)
    before = inputs.clone()
    prepared = found.prepared(inputs)
    rows = torch.tensor([4, 0, 6])
    outcomes = []
    for outputs in (module(inputs[rows]), found(prepared[rows])):
        loss = F.cross_entropy(outputs, targets[rows])
        outcomes.append((outputs, *torch.autograd.grad(loss, list(module.parameters()))))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(other, one)
        assert other.shape == one.shape
    assert torch.equal(inputs, before)


def test_patches_are_cut_out_batch_by_batch_where_they_take_too_much(monkeypatch):
    torch.manual_seed(0)
    found = Convolutional.of(lenet())
    inputs, _ = examples(5)
    at_once = found.prepared(inputs)
    monkeypatch.setattr(code, "_PATCHES_BYTES", 1000)
    one_by_one = found.prepared(inputs)
    assert at_once.shape == (5, 1, 8, 8, 27)
    assert one_by_one is inputs
    assert torch.equal(found(at_once[1:3]), found(one_by_one[1:3]))


def test_the_first_of_equal_numbers_gets_the_gradient_of_a_window():
    # Flat images: all windows are ties.
    torch.manual_seed(0)
    module = models.cnn(8, 8, 1, 4)()
    found = Convolutional.of(module)
    inputs, targets = torch.zeros(3, 64), torch.tensor([0, 1, 2])
    gradients = [
        torch.autograd.grad(F.cross_entropy(outputs, targets), list(module.parameters()))
        for outputs in (module(inputs), found(found.prepared(inputs)))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.inner(x).mean(dim=(2, 3))


def hooked():
    module = lenet()
    module[0].register_forward_hook(lambda layer, args, out: out)
    return module


def tied():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(3 * 256, 4))


def frozen():
    module = lenet()
    module[-1].bias.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "make",
    [
        Own,
        hooked,
        tied,
        frozen,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(14, 2)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, return_indices=True)),
        lambda: nn.Sequential(nn.Linear(16, 16), nn.Conv2d(3, 4, 3)),
    ],
)
def test_it_knows_what_it_does_not_know(make):
    assert Convolutional.of(make()) is None


def test_inputs_that_the_first_layer_does_not_take_are_left_to_the_module():
    found = Convolutional.of(models.cnn(8, 8, 1, 4)())
    assert found.prepared(torch.zeros(2, 63)) is None
    assert found.prepared(torch.zeros(2, 64, dtype=torch.float64)) is None
    assert Convolutional.of(lenet()).prepared(torch.zeros(2, 1, 16, 16)) is None


def with_dropout():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(6 * 49, 8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(8, 4),
    )


LOCALS = {
    "plain": LocalTraining(epochs=2, batch_size=5),
    "all of it": LocalTraining(
        epochs=2, batch_size=4, options={"momentum": 0.9}, clip_norm=0.5, proximal=0.1
    ),
    "adam": LocalTraining(steps=5, batch_size=8, optimizer="adam", learning_rate=0.01),
}
PAYLOADS = {
    "delta": algorithms.fedbuff(),
    "gradient": algorithms.async_sgd(),
    "weights": algorithms.fedasync(proximal=0.1),
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("local", LOCALS)
@pytest.mark.parametrize("make", [lenet, with_dropout], ids=["lenet", "dropout"])
def test_jobs_are_those_that_autograd_does(make, local, payload, monkeypatch):
    data = [examples(n, seed=n) for n in (13, 3)]
    task = Task(make, "cross_entropy", train=data, test=data[0], local=LOCALS[local])
    start = task.start(0, CPU).parameters
    jobs = [
        Assignment(0, start, None, WorkOrder(), 5),
        Assignment(1, start + 0.01, None, WorkOrder(learning_rate=0.05), 6),
    ]
    written_out = task.trainer(PAYLOADS[payload], CPU)
    monkeypatch.setattr(Convolutional, "of", lambda module: None)
    by_autograd = task.trainer(PAYLOADS[payload], CPU)
    for job in jobs:
        one, other = by_autograd.train(job), written_out.train(job)
        torch.testing.assert_close(other.payload, one.payload, rtol=1e-4, atol=2e-6)
        assert other[1:4] == one[1:4]
        assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-4)


def test_a_job_whose_loss_is_not_finite_ends():
    inputs, targets = examples(12)
    inputs[7] = float("nan")
    local = LocalTraining(epochs=2, batch_size=4, shuffle=False)
    task = Task(lenet, "cross_entropy", [(inputs, targets)], (inputs, targets), local=local)
    result = task.trainer(PAYLOADS["delta"], CPU).train(
        Assignment(0, task.start(0, CPU).parameters)
    )
    assert result.num_steps == 2


def test_a_copy_of_the_module_is_read_anew():
    module = lenet()
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2.0)
    inputs, _ = examples(2)
    found = [Convolutional.of(each) for each in (module, other)]
    outputs = [each(each.prepared(inputs)) for each in found]
    torch.testing.assert_close(outputs[1], other(inputs))
    assert all(not torch.equal(*pair) for pair in pairwise(outputs))
