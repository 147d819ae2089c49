"""Gradients that are written out are those of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headway.algorithms import fedbuff
from headway.task import Assignment, LocalTraining, Task
from headway.task.dense import Dense
from headway.task.masks import masked
from headway.task.metrics import mean_squared_error

LANES, BATCH = 3, 4
WEIGHTS = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])


def chain(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), *layers)


MODELS = {
    "linear": lambda: chain(),
    "relu": lambda: chain(nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
    "tanh, sigmoid": lambda: chain(nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)),
    "nested": lambda: chain(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Identity(), nn.Linear(5, 3)),
    "dropout": lambda: chain(nn.ReLU(), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 3)),
    "ends in relu": lambda: chain(nn.Dropout(0.5), nn.ReLU()),
}


class Case:
    def __init__(self, model, loss):
        draw = torch.Generator().manual_seed(3)
        self.module, self.loss = MODELS[model]().double(), loss
        self.layers = masked(self.module)
        self.named = {
            name: torch.randn(LANES, *p.shape, generator=draw, dtype=torch.float64)
            for name, p in self.module.named_parameters()
        }
        self.inputs = torch.randn(LANES, BATCH, 2, 3, generator=draw, dtype=torch.float64)
        self.masks = {
            name: torch.randn(LANES, BATCH, 5, generator=draw, dtype=torch.float64)
            for name, _ in self.layers
        }
        classes = self.module(torch.zeros(1, 6).double()).shape[1]
        self.targets = torch.randint(0, classes, (LANES, BATCH), generator=draw)
        if loss is mean_squared_error:
            self.targets = F.one_hot(self.targets, classes).double()
        self.weights = WEIGHTS.double()

    def expected(self):
        """Lane by lane, of the weighted sum of the losses of single examples."""
        gradients, losses = {name: [] for name in self.named}, []
        for lane in range(LANES):
            own = {name: value[lane].clone().requires_grad_() for name, value in self.named.items()}
            masks = {name: mask[lane] for name, mask in self.masks.items()}
            outputs = torch.func.functional_call(self.module, {**own, **masks}, self.inputs[lane])
            each = [
                self.loss(outputs[row : row + 1], self.targets[lane][row : row + 1])
                for row in range(BATCH)
            ]
            loss = (torch.stack(each) * self.weights[lane]).sum()
            for name, gradient in zip(own, torch.autograd.grad(loss, own.values()), strict=True):
                gradients[name].append(gradient)
            losses.append(loss.detach())
        return {name: torch.stack(found) for name, found in gradients.items()}, torch.stack(losses)


@pytest.mark.parametrize("loss", [F.cross_entropy, mean_squared_error])
@pytest.mark.parametrize("model", MODELS)
def test_gradients_and_steps_are_those_of_autograd(model, loss):
    case = Case(model, loss)
    dense = Dense.of(case.module, loss)
    gradients, losses = case.expected()
    given = case.inputs.clone(), case.targets, case.weights, case.masks
    found, sums = dense.gradients(case.named, *given)
    torch.testing.assert_close(found, gradients)
    torch.testing.assert_close(sums, losses)

    moved = {name: value.clone() for name, value in case.named.items()}
    each = dense.descend(dense.bind(moved), *given, 0.3)
    torch.testing.assert_close((each * case.weights).sum(dim=1), losses)
    for name, value in moved.items():
        torch.testing.assert_close(value, case.named[name] - 0.3 * gradients[name])
    assert torch.equal(given[0], case.inputs)


class Own(nn.Linear):
    """It could do anything."""


def tied():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen():
    module = chain(nn.ReLU(), nn.Linear(5, 3))
    module[1].weight.requires_grad_(False)
    return module


def hooked():
    module = chain()
    module[1].register_forward_hook(lambda layer, args, output: output * 2.0)
    return module


@pytest.mark.parametrize(
    "model",
    [
        tied,
        frozen,
        hooked,
        lambda: chain(nn.GELU(), nn.Linear(5, 3)),
        lambda: nn.Sequential(Own(6, 3)),
        lambda: nn.Sequential(nn.Conv1d(1, 1, 3), nn.Flatten(), nn.Linear(4, 3)),
        lambda: chain(nn.LayerNorm(5)),
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(6, 3)),
    ],
    ids=["tied", "frozen", "hooked", "gelu", "own", "convolution", "norm", "other flatten"],
)
def test_everything_else_is_left_to_autograd(model):
    assert Dense.of(model(), F.cross_entropy) is None


def test_losses_and_examples_that_it_does_not_know():
    assert Dense.of(chain(), lambda outputs, targets: outputs.sum()) is None
    rows, classes = torch.zeros(7, 6), torch.zeros(7, dtype=torch.int64)
    flat = Dense.of(nn.Sequential(nn.Linear(6, 3)), F.cross_entropy)
    assert flat.accepts(rows, classes)
    assert not flat.accepts(torch.zeros(7, 2, 6), classes)
    assert not flat.accepts(rows, torch.zeros(7, 3))
    assert Dense.of(chain(), F.cross_entropy).accepts(torch.zeros(7, 2, 3), classes)
    assert not Dense.of(chain(), mean_squared_error).accepts(rows, classes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=["plain", "momentum"])
def test_groups_on_a_gpu_give_what_they_give_on_the_cpu(options):
    draw = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(n, 6, generator=draw), torch.randint(0, 3, (n,), generator=draw))
        for n in (7, 3, 12)
    ]
    local = LocalTraining(epochs=2, batch_size=4, options=options)
    task = Task(MODELS["relu"], "cross_entropy", data, data[0], local=local)
    start = task.start(0, torch.device("cpu")).parameters
    found = []
    for device in ("cpu", "cuda"):
        trainer = task.group_trainer(fedbuff(), torch.device(device))
        jobs = [Assignment(k, start.to(device) + 0.01 * k, seed=k) for k in range(3)]
        found.append(trainer.train(jobs))
    for one, other in zip(*found, strict=True):
        assert other.payload.device.type == "cuda"
        torch.testing.assert_close(one.payload, other.payload.cpu(), rtol=1e-3, atol=1e-5)
