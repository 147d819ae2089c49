"""What clients hold between jobs, where a view does not send them the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headway.core import Checkout, ParameterLayout, WorkOrder
from headway.core.errors import ConfigurationError
from headway.task import LocalResult
from headway.task.replicas import Replicas

LAYOUT = ParameterLayout.of(torch.nn.Linear(2, 2)).with_fragments(2)
INITIAL = torch.arange(6.0)
PARTS = slice(0, 4), slice(4, 6)


def replicas(payload: Any = "delta") -> Replicas:
    return Replicas(INITIAL.clone(), LAYOUT, payload)


def ticket(parameters: Any, fragment: int | None = None, sent: int | None = None) -> Checkout:
    return Checkout(0, parameters, 1, WorkOrder(fragment=fragment, sent_fragment=sent))


def result(payload: Any) -> LocalResult:
    return LocalResult(payload, 1, 1, 1, {})


def test_a_client_that_was_never_sent_anything_has_the_initial_model() -> None:
    held = replicas()
    assert torch.equal(held.receive(0, ticket(None)), INITIAL)
    assert torch.equal(held.receive(1, ticket(torch.ones(6))), torch.ones(6))
    assert torch.equal(held.receive(0, ticket(None)), INITIAL)


@pytest.mark.parametrize("fragment", [0, 1])
def test_a_fragment_goes_to_its_place_and_the_rest_stays(fragment: int) -> None:
    held = replicas()
    sent = torch.full((PARTS[fragment].stop - PARTS[fragment].start,), -1.0)
    expected = INITIAL.clone()
    expected[PARTS[fragment]] = -1.0
    assert torch.equal(held.receive(0, ticket(sent, fragment)), expected)


def test_a_part_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="without saying which") as error:
        replicas().receive(0, ticket(torch.ones(2)))
    assert "2 of 6" in str(error.value.got)


@pytest.mark.parametrize(
    ("payload", "after"),
    [("delta", INITIAL + 10.0), ("weights", torch.full((6,), 10.0)), ("gradient", INITIAL)],
)
def test_the_clients_model_is_where_its_job_ended(payload: str, after: torch.Tensor) -> None:
    held = replicas(payload)
    held.receive(0, ticket(None))
    sent = held.train(0, result(torch.full((6,), 10.0)), None)
    assert torch.equal(sent.payload, torch.full((6,), 10.0))
    assert torch.equal(held.receive(0, ticket(None)), after)


def test_of_a_fragment_only_that_is_sent_but_all_is_kept() -> None:
    held = replicas()
    held.receive(0, ticket(torch.zeros(2), 1))
    sent = held.train(0, result(torch.arange(6.0) * 10), 1)
    assert sent.payload.tolist() == [40.0, 50.0]
    assert held.receive(0, ticket(None)).tolist() == [0.0, 11.0, 22.0, 33.0, 40.0, 50.0]


def test_the_work_of_several_jobs_goes_into_one_delta_of_a_fragment() -> None:
    held = replicas()
    held.receive(0, ticket(torch.zeros(6), 0))
    assert held.train(0, result(torch.full((6,), 1.0)), 0).payload.tolist() == [1.0] * 4
    # Fragment 0 comes back as 5, while fragment 1 goes on.
    assert (
        held.receive(0, ticket(torch.full((4,), 5.0), 1, sent=0)).tolist() == [5.0] * 4 + [1.0] * 2
    )
    assert held.train(0, result(torch.full((6,), 2.0)), 1).payload.tolist() == [3.0, 3.0]
    held.receive(0, ticket(None, 0))
    assert held.train(0, result(torch.full((6,), 4.0)), 0).payload.tolist() == [6.0] * 4
    # The whole model makes a new beginning of all.
    held.receive(0, ticket(torch.zeros(6), 1))
    assert held.train(0, result(torch.full((6,), 7.0)), 1).payload.tolist() == [7.0, 7.0]


def test_an_answer_replaces_the_clients_model() -> None:
    held = replicas("weights")
    held.receive(0, ticket(None))
    answer = torch.full((6,), 3.0)
    held.answer(0, answer)
    answer.zero_()
    assert torch.equal(held.receive(0, ticket(None)), torch.full((6,), 3.0))


def test_the_state_is_a_copy() -> None:
    held = replicas()
    held.receive(2, ticket(None))
    state = held.state()
    state[2].zero_()
    assert list(state) == [2]
    assert torch.equal(held.receive(2, ticket(None)), INITIAL)
