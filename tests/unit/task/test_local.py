"""What LocalTraining takes, counts and refuses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core import WorkOrder
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.task import OPTIMIZERS, LocalTraining
from headway.task.trainer import batches

SGD = torch.optim.SGD


def test_one_epoch_unless_told_otherwise() -> None:
    assert LocalTraining().epochs == 1
    assert LocalTraining(steps=3).epochs is None


@given(
    count=st.integers(1, 60),
    batch_size=st.none() | st.integers(1, 70),
    num_batches=st.integers(0, 40),
)
def test_batches_go_through_the_data_pass_after_pass(
    count: int, batch_size: int | None, num_batches: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    found = [rows.tolist() for rows in batches(count, batch_size, num_batches, generator=generator)]
    assert len(found) == num_batches
    flat = [row for rows in found for row in rows]
    for begin in range(0, len(flat) - count + 1, count):
        assert sorted(flat[begin : begin + count]) == list(range(count))
    rest = flat[len(flat) // count * count :]
    assert len(set(rest)) == len(rest)
    assert all(len(rows) <= (batch_size or count) for rows in found)


@given(count=st.integers(1, 60), size=st.integers(1, 70), num_batches=st.integers(0, 40))
def test_a_dropped_last_batch_leaves_full_ones(count: int, size: int, num_batches: int) -> None:
    local = LocalTraining(batch_size=size, drop_last=True)
    kept = local.per_pass(count)
    assert kept == (count // size * size or count)
    assert local.num_steps(count) == max(1, count // size)
    found = list(batches(count, size, num_batches, generator=None, per_pass=kept))
    assert [len(rows) for rows in found] == [min(size, count)] * num_batches


@given(count=st.integers(1, 500), batch_size=st.integers(1, 64), epochs=st.integers(1, 40))
def test_whole_epochs_are_whole_passes(count: int, batch_size: int, epochs: int) -> None:
    steps = LocalTraining(epochs=epochs, batch_size=batch_size).num_steps(count)
    assert steps == epochs * -(-count // batch_size)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0.1, 3), (0.5, 15), (1 / 30, 1), (1e-9, 1), (1.01, 31)]
)
def test_a_part_of_an_epoch(epochs: float, steps: int) -> None:
    assert LocalTraining(epochs=epochs, batch_size=1).num_steps(30) == steps


@pytest.mark.parametrize(
    ("local", "work", "payload", "steps"),
    [
        (LocalTraining(epochs=2, batch_size=10), WorkOrder(), "delta", 6),
        (LocalTraining(epochs=2, batch_size=10), WorkOrder(steps=4), "delta", 4),
        (LocalTraining(steps=9, batch_size=10), WorkOrder(epochs=1), "delta", 3),
        (LocalTraining(steps=9, batch_size=None), WorkOrder(epochs=2), "weights", 2),
        (LocalTraining(epochs=2, batch_size=10), WorkOrder(), "gradient", 1),
        (LocalTraining(steps=2, batch_size=10), WorkOrder(), "gradient", 2),
        (LocalTraining(steps=2, batch_size=10), WorkOrder(epochs=1), "gradient", 3),
        (LocalTraining(steps=2, batch_size=10), WorkOrder(steps=7), "gradient", 7),
    ],
)
def test_who_decides_the_amount(
    local: LocalTraining, work: WorkOrder, payload: Any, steps: int
) -> None:
    assert local.num_steps(25, work, payload) == steps


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 1, "steps": 1}, ConfigurationError, "given twice"),
        ({"epochs": 0}, ConfigurationError, "epochs is out of range"),
        ({"epochs": float("inf")}, ConfigurationError, "epochs is out of range"),
        ({"epochs": "3"}, ArgumentTypeError, "epochs must be a number"),
        ({"steps": 0}, ConfigurationError, "steps is out of range"),
        ({"steps": 1.5}, ArgumentTypeError, "steps must be a whole number"),
        ({"steps": True}, ArgumentTypeError, "steps must be a whole number"),
        ({"batch_size": 0}, ConfigurationError, "batch_size is out of range"),
        ({"learning_rate": 0.0}, ConfigurationError, "learning_rate is out of range"),
        ({"learning_rate": None}, ArgumentTypeError, "learning_rate must be a number"),
        ({"learning_rate": float("nan")}, ConfigurationError, "learning_rate is out of range"),
        ({"proximal": -0.1}, ConfigurationError, "proximal is out of range"),
        ({"clip_norm": 0.0}, ConfigurationError, "clip_norm is out of range"),
        ({"shuffle": "no"}, ArgumentTypeError, "shuffle must be True or False"),
        ({"drop_last": 1}, ArgumentTypeError, "drop_last must be True or False"),
        ({"optimizer": "adamm"}, UnknownNameError, "did you mean `adam`"),
        ({"optimizer": 3}, ArgumentTypeError, "not an optimizer"),
        ({"optimizer": partial(int)}, ArgumentTypeError, "not an optimizer"),
        ({"optimizer": partial(SGD, lr=0.01)}, ConfigurationError, "learning_rate=..."),
        ({"options": {"lr": 0.01}}, ConfigurationError, "learning rate is given among"),
        ({"options": {"momentm": 0.9}}, UnknownNameError, "did you mean `momentum`"),
        ({"options": {"momentum": -1.0}}, ConfigurationError, "Invalid momentum"),
        ({"options": 0.9}, ArgumentTypeError, "options must be a mapping"),
        ({"optimizer": partial(SGD, [])}, ConfigurationError, "positional"),
        ({"optimizer": torch.optim.LBFGS}, ConfigurationError, "LBFGS"),
        (
            {"optimizer": partial(SGD, momentum=0.5), "options": {"momentum": 0.9}},
            ConfigurationError,
            "`momentum` is given twice",
        ),
    ],
)
def test_what_it_refuses(settings: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        LocalTraining(**settings)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_name_makes_its_optimizer(name: str) -> None:
    assert LocalTraining(optimizer=name).choice.cls.__name__.lower() == name


def test_the_description_is_json_and_makes_it_again() -> None:
    local = LocalTraining(steps=4, optimizer="adam", options={"betas": (0.8, 0.9)}, clip_norm=1.0)
    description = json.loads(json.dumps(local.describe()))
    assert LocalTraining(**description).describe() == local.describe()
    assert LocalTraining(optimizer=partial(SGD, momentum=0.9)).describe()["options"] == {
        "momentum": 0.9
    }


def test_it_does_not_share_its_options() -> None:
    options = {"momentum": 0.9}
    local = LocalTraining(options=options)
    options["momentum"] = 0.1
    assert local.options == {"momentum": 0.9}
