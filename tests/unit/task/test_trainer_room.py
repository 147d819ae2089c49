"""A payload that is written where it is sent from: the same bits, and no copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway import core
from headway.task import Assignment, LocalTraining
from tests.unit.task.jobs import CPU, algorithm, make_task, perceptron


def partly_frozen() -> nn.Module:
    model = perceptron()
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(False)
    return model


def trained(model: Any, payload: str, room: Tensor | None, **work: Any) -> Tensor:
    task = make_task(model, local=LocalTraining(steps=3, batch_size=8))
    start = task.start(0, CPU)
    job = Assignment(0, start.parameters, None, core.WorkOrder(**work), 11, room=lambda: room)
    return task.trainer(algorithm(payload), CPU).train(job).payload


@pytest.mark.parametrize("model", [perceptron, partly_frozen])
@pytest.mark.parametrize(
    ("payload", "work"),
    [("delta", {}), ("weights", {}), ("gradient", {"steps": 1}), ("gradient", {"steps": 3})],
)
def test_a_payload_lies_in_the_room_and_has_the_same_bits(
    model: Any, payload: str, work: dict[str, int]
) -> None:
    usual = trained(model, payload, None, **work)
    room = torch.full_like(usual, torch.nan)
    found = trained(model, payload, room, **work)
    assert found.data_ptr() == room.data_ptr()
    assert torch.equal(room, usual)


@pytest.mark.parametrize("room", [torch.zeros(3), torch.zeros(66, dtype=torch.float64)])
def test_a_room_that_does_not_fit_is_left_alone(room: Tensor) -> None:
    before = room.clone()
    found = trained(perceptron, "delta", room)
    assert torch.equal(found, trained(perceptron, "delta", None))
    assert torch.equal(room, before)


class Keeps:
    """A client transform that holds on to each payload, as it may."""

    needs = core.Needs()

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def init(self, num_params: int, dtype: torch.dtype, device: torch.device) -> None:
        return None

    def gradient(self, gradient: Tensor, parameters: Tensor, base: Tensor, state: None) -> None:
        return None

    def payload(self, payload: Tensor, state: None) -> Tensor:
        self.kept.append(payload)
        return payload


def test_what_a_client_transform_keeps_is_not_written_to() -> None:
    task, keeps = make_task(local=LocalTraining(steps=3, batch_size=8)), Keeps()
    start = task.start(0, CPU)
    room = torch.zeros_like(start.parameters)
    trainer = task.trainer(algorithm("delta", (keeps,)), CPU)
    for seed in (11, 12):
        job = Assignment(0, start.parameters, None, core.WorkOrder(), seed, room=lambda: room)
        trainer.train(job)
    assert torch.equal(keeps.kept[0], trained(perceptron, "delta", None))
    assert not torch.equal(*keeps.kept)
