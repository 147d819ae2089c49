"""Three orders in which waiting updates are taken; each is total."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import core

arrivals = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0])), max_size=20)


def taken(inbox: core.Inbox, arrivals: list[tuple[int, float]]) -> list[int]:
    for number, (version, weight) in enumerate(arrivals):
        inbox.put(core.Update(torch.zeros(1), version, "a", number, weight=weight))
    order = [inbox.take().sequence for _ in range(len(inbox))]
    with pytest.raises(IndexError):
        inbox.take()
    return order


@given(arrivals)
def test_orders_are_stable_sorts(arrivals: list[tuple[int, float]]) -> None:
    numbers = range(len(arrivals))
    keys: dict[str, Callable[[int], float]] = {
        "arrival": lambda number: 0,
        "freshest": lambda number: -arrivals[number][0],
        "priority": lambda number: -arrivals[number][1],
    }
    for order, key in keys.items():
        inbox = core.Inbox(order=order)  # type: ignore[arg-type]
        assert taken(inbox, arrivals) == sorted(numbers, key=key)


def test_a_priority_of_ones_own() -> None:
    inbox = core.Inbox(order="priority", priority=lambda update: -update.base_version)
    assert taken(inbox, [(3, 1.0), (1, 1.0), (2, 1.0), (1, 9.0)]) == [1, 3, 2, 0]


def test_an_update_that_comes_between_is_taken_in_its_place() -> None:
    inbox = core.Inbox(order="freshest")
    for version in (1, 3):
        inbox.put(core.Update(torch.zeros(1), version, "a", version))
    assert inbox.take().base_version == 3
    inbox.put(core.Update(torch.zeros(1), 2, "a", 2))
    assert [inbox.take().base_version for _ in range(2)] == [2, 1]


def test_an_unknown_order_names_the_nearest() -> None:
    with pytest.raises(core.errors.UnknownNameError, match="unknown inbox order `fresh`") as caught:
        core.Inbox(order="fresh")  # type: ignore[arg-type]
    assert caught.value.known == ("arrival", "freshest", "priority")
