"""Optimizers as values, and what a user may give as one."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

import headway
from headway import LocalTraining, optim
from headway.algorithms.transforms import server_step
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.task import OPTIMIZERS
from headway.task.given_optimizer import read_optimizer

NAMES = [name for name in optim.__all__ if name != "OptimizerOptions"]


def test_there_is_one_for_each_elementwise_optimizer():
    assert headway.optim is optim
    assert {name.lower() for name in NAMES} == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Sgd", "Did you mean: 'SGD'?"),
        ("adamw", "Did you mean: 'AdamW'?"),
        ("Adafactor", "Give torch's own class, torch.optim.Adafactor"),
        ("xyz", "has no optimizer 'xyz'"),
    ],
)
def test_a_name_that_is_none_here_comes_with_what_may_be_meant(name, hint):
    with pytest.raises(AttributeError) as told:
        getattr(optim, name)
    assert str(told.value).endswith(hint)


@pytest.mark.parametrize(
    "options", [{"lr": nan}, {"lr": inf}, {"lr": 0.1, "betas": (0.9, nan)}, {"weight_decay": inf}]
)
def test_options_are_finite(options):
    for make in (optim.Adam, lambda **given: read_optimizer(partial(torch.optim.Adam, **given))):
        with pytest.raises(ConfigurationError, match=r"must be finite|out of range"):
            make(**options)


@pytest.mark.parametrize("name", NAMES)
def test_called_on_parameters_it_steps_as_torch_does(name):
    def train(make):
        x = torch.ones(3, requires_grad=True)
        optimizer = make([x])
        for _ in range(3):
            x.grad = x.detach() * torch.tensor([1.0, -2.0, 0.5])
            optimizer.step()
        return x.detach()

    torch.testing.assert_close(
        train(getattr(optim, name)(lr=0.125)), train(partial(getattr(torch.optim, name), lr=0.125))
    )


@pytest.mark.parametrize("name", NAMES)
def test_its_signature_is_the_class_s_without_parameters(name):
    options = inspect.signature(getattr(optim, name)).parameters
    assert list(options) == list(inspect.signature(getattr(torch.optim, name)).parameters)[1:]
    assert {option.kind for option in options.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_it_is_a_value():
    value = optim.SGD(lr=0.01, momentum=0.9)
    assert repr(value) == "optim.SGD(lr=0.01, momentum=0.9)"
    assert isinstance(value, partial)
    assert value == optim.SGD(momentum=0.9, lr=0.01) != optim.SGD(lr=0.01)
    assert value != partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    assert hash(value) == hash(optim.SGD(momentum=0.9, lr=0.01))
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert again == value
        assert type(again) is type(value)
        assert repr(again) == repr(value)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: optim.SGD(momentun=0.9), UnknownNameError, "did you mean `momentum`"),
        (lambda: optim.Adam(betas=(2.0, 0.9)), ConfigurationError, "betas=(2.0, 0.9)"),
        (lambda: optim.SGD(lr=-1.0), ConfigurationError, "optim.SGD(...)"),
        (lambda: optim.SGD(lr="x"), ConfigurationError, "optim.SGD(...)"),
        (lambda: optim.SGD(0.1), ArgumentTypeError, "given by name"),
        (lambda: optim.SGD([torch.zeros(1)], lr=0.1), ArgumentTypeError, "parameters later"),
        (lambda: optim.SGD(params=[torch.zeros(1)]), UnknownNameError, "params"),
    ],
)
def test_a_wrong_option_is_refused_when_it_is_written_down(make, kind, words):
    with pytest.raises(kind) as caught:
        make()
    assert words in str(caught.value)


def test_local_training_takes_it_with_its_rate():
    local = LocalTraining(steps=2, optimizer=optim.SGD(lr=0.05, momentum=0.9))
    assert local.learning_rate == 0.05
    assert local.choice == (torch.optim.SGD, {"momentum": 0.9})
    assert local == LocalTraining(
        steps=2, learning_rate=0.05, optimizer=optim.SGD(lr=0.05, momentum=0.9)
    )
    assert LocalTraining(optimizer=optim.Adam()).learning_rate == 0.1


def test_local_training_refuses_two_rates():
    with pytest.raises(ConfigurationError, match="given twice"):
        LocalTraining(learning_rate=0.2, optimizer=optim.SGD(lr=0.05))


def test_a_server_step_takes_it():
    assert repr(server_step(optim.Adam(lr=0.1))) == "server_step(Adam(lr=0.1))"


MODEL = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
EQUAL_GROUPS = [{"params": MODEL[0].parameters()}, {"params": MODEL[1].parameters()}]


@pytest.mark.parametrize(
    ("given", "cls", "options", "rate"),
    [
        ("adam", torch.optim.Adam, {}, None),
        (torch.optim.SGD, torch.optim.SGD, {}, None),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.SGD, {"momentum": 0.9}, 0.1),
        (optim.SGD(lr=0.1, momentum=0.9), torch.optim.SGD, {"momentum": 0.9}, 0.1),
        (
            torch.optim.SGD(MODEL.parameters(), lr=0.1, momentum=0.9, nesterov=True),
            torch.optim.SGD,
            {"momentum": 0.9, "nesterov": True},
            0.1,
        ),
        (torch.optim.SGD(EQUAL_GROUPS, lr=0.5), torch.optim.SGD, {}, 0.5),
        (torch.optim.Adam(MODEL.parameters()), torch.optim.Adam, {}, 0.001),
        (
            torch.optim.Adam(MODEL.parameters(), lr=torch.tensor(0.25), betas=(0.5, 0.9)),
            torch.optim.Adam,
            {"betas": (0.5, 0.9)},
            0.25,
        ),
        (torch.optim.Adafactor(MODEL.parameters(), d=2.0), torch.optim.Adafactor, {"d": 2.0}, 0.01),
    ],
)
def test_whatever_the_user_gives_is_read(given, cls, options, rate):
    read = read_optimizer(given, model=MODEL)
    assert (read.choice.cls, read.choice.options, read.learning_rate) == (cls, options, rate)
    usual = cls([torch.zeros(2, 2)]).param_groups[0]["lr"]
    assert read.rate == (usual if rate is None else rate)
    made = read.factory()([torch.zeros(2, 2)]).param_groups[0]
    assert made["lr"] == read.rate
    assert all(made[name] == value for name, value in options.items())


@pytest.mark.parametrize("name", NAMES)
def test_an_instance_of_each_class_keeps_what_was_set(name):
    instance = getattr(torch.optim, name)(MODEL.parameters(), lr=0.5)
    read = read_optimizer(instance)
    assert read.choice == (getattr(torch.optim, name), {})
    assert read.learning_rate == 0.5
    instance.param_groups[0]["lr"] = 0.25
    assert read_optimizer(instance).learning_rate == 0.25


def test_an_instance_is_left_alone_and_a_scheduler_s_note_is_no_option():
    instance = torch.optim.SGD(MODEL.parameters(), lr=0.5, momentum=0.9)
    torch.optim.lr_scheduler.ConstantLR(instance, factor=0.5)
    before = copy.deepcopy(instance.state_dict())
    assert read_optimizer(instance).choice.options == {"momentum": 0.9}
    assert read_optimizer(instance).learning_rate == 0.25
    assert instance.state_dict() == before


def test_groups_that_differ_are_refused():
    groups = [
        {"params": MODEL[0].parameters()},
        {"params": MODEL[1].parameters(), "weight_decay": 0.1},
    ]
    with pytest.raises(ConfigurationError) as caught:
        read_optimizer(torch.optim.SGD(groups, lr=0.1))
    assert "weight_decay=0 in group 0, 0.1 in group 1" in str(caught.value)


def test_an_instance_on_a_part_of_the_model_is_refused():
    part = torch.optim.SGD(MODEL[0].parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="only a part") as caught:
        read_optimizer(part, model=MODEL)
    assert "2 of 4; `1.weight`" in str(caught.value)
    assert read_optimizer(part).learning_rate == 0.1
    frozen = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    frozen[1].requires_grad_(False)
    assert read_optimizer(torch.optim.SGD(frozen[0].parameters(), lr=0.1), model=frozen).rate == 0.1


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("adamm", UnknownNameError, "did you mean `adam`"),
        (3, ArgumentTypeError, "headway.optim"),
        (lambda parameters: None, ArgumentTypeError, "not an optimizer"),
        (partial(torch.optim.SGD, [torch.zeros(1)]), ConfigurationError, "keyword"),
        (partial(torch.optim.SGD, lr=0.1, momentun=0.9), UnknownNameError, "`momentum`"),
        (partial(torch.optim.SGD, lr=0.0), ConfigurationError, "above 0"),
        (partial(torch.optim.SGD, lr=float("nan")), ConfigurationError, "above 0"),
        (partial(torch.optim.SGD, lr=float("inf")), ConfigurationError, "above 0"),
        (torch.optim.LBFGS(MODEL.parameters()), ConfigurationError, "LBFGS"),
        (torch.optim.SparseAdam, ConfigurationError, "sparse"),
    ],
)
def test_what_cannot_be_read_says_so_with_its_place(given, kind, words):
    with pytest.raises(kind) as caught:
        read_optimizer(given, where="worker.train(optimizer=...)")
    assert words in str(caught.value)
    assert "worker.train(optimizer=...)" in str(caught.value)
