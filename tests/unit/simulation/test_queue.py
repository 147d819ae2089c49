"""The event queue: order, cancellation, and what it refuses."""

from __future__ import annotations

import json

import pytest

from headway.core.errors import HeadwayError, StateError
from headway.simulation.queue import COMPLETION, EVALUATION, LOSS, TIMER, EventQueue


class Incomparable:
    """An item that would fail the test if the heap ever looked at it."""

    def __lt__(self, other: object) -> bool:
        raise AssertionError("an item was compared")


def drain(queue: EventQueue) -> list[tuple]:
    return [queue.pop() for _ in range(len(queue))]


def test_equal_times_go_by_priority_then_by_arrival() -> None:
    queue = EventQueue[str]()
    for priority, item in [
        (EVALUATION, "measure"),
        (TIMER, "deadline"),
        (COMPLETION, "first"),
        (LOSS, "gone"),
        (COMPLETION, "second"),
    ]:
        queue.push(1.0, priority, item)
    assert [event[3] for event in drain(queue)] == [
        "first",
        "second",
        "gone",
        "deadline",
        "measure",
    ]
    assert COMPLETION < LOSS < TIMER < EVALUATION


def test_items_are_never_compared() -> None:
    queue = EventQueue[Incomparable]()
    for _ in range(100):
        queue.push(1.0, COMPLETION, Incomparable())
    queue.state_dict()
    assert [event[2] for event in drain(queue)] == list(range(100))


def test_time_and_length_follow_the_events() -> None:
    queue = EventQueue[str]()
    assert (len(queue), queue.now_s, queue.peek_time) == (0, 0.0, None)
    queue.push(3.0, COMPLETION, "b")
    queue.push(2.0, COMPLETION, "a")
    assert (len(queue), queue.now_s, queue.peek_time) == (2, 0.0, 2.0)
    queue.pop()
    assert (len(queue), queue.now_s, queue.peek_time) == (1, 2.0, 3.0)
    queue.push(2.0, COMPLETION, "at the same time")
    assert queue.pop()[3] == "at the same time"


@pytest.mark.parametrize("time_s", [float("nan"), float("inf"), float("-inf"), 1.999])
def test_times_that_cannot_be_reached(time_s: float) -> None:
    queue = EventQueue[None]()
    queue.push(2.0, COMPLETION, None)
    queue.pop()
    with pytest.raises(HeadwayError, match="internal error") as caught:
        queue.push(time_s, COMPLETION, None)
    assert repr(time_s) in str(caught.value.got)
    assert caught.value.help
    assert len(queue) == 0


def test_nothing_before_the_start() -> None:
    with pytest.raises(HeadwayError):
        EventQueue[None]().push(-1e-9, COMPLETION, None)


def test_an_empty_queue_has_nothing_to_give() -> None:
    queue = EventQueue[None]()
    queue.cancel(queue.push(1.0, TIMER, None))
    with pytest.raises(IndexError):
        queue.pop()
    assert queue.now_s == 0.0


def test_cancel_once_and_only_what_is_to_come() -> None:
    queue = EventQueue[str]()
    first, second = queue.push(1.0, TIMER, "a"), queue.push(2.0, TIMER, "b")
    assert queue.cancel(first) is True
    assert queue.cancel(first) is False
    assert queue.peek_time == 2.0
    assert queue.pop()[2] == second
    assert queue.cancel(second) is False
    assert queue.cancel(12345) is False
    assert len(queue) == 0


def test_cancelled_events_do_not_pile_up() -> None:
    queue = EventQueue[int]()
    queue.push(0.5, TIMER, -1)
    for n in range(10_000):
        queue.cancel(queue.push(1.0 + n, TIMER, n))
        assert len(queue._heap) <= 2 * len(queue) + 65
    assert [event[3] for event in drain(queue)] == [-1]


def test_state_is_plain_and_leaves_out_what_was_cancelled() -> None:
    queue = EventQueue[dict]()
    queue.push(1.0, COMPLETION, {"client": 3})
    cancelled = queue.push(2.0, TIMER, {"client": 4})
    queue.push(3.0, TIMER, {"client": 5})
    queue.pop()
    queue.cancel(cancelled)
    state = json.loads(json.dumps(queue.state_dict()))
    assert state == {
        "now_s": 1.0,
        "next_sequence": 3,
        "events": [[3.0, TIMER, 2, {"client": 5}]],
    }


def test_a_loaded_queue_keeps_time_and_handles() -> None:
    queue = EventQueue[str]()
    queue.push(1.0, COMPLETION, "a")
    handle = queue.push(2.0, TIMER, "b")
    queue.pop()
    twin = EventQueue[str]()
    twin.load_state_dict(queue.state_dict())
    assert twin.now_s == 1.0
    with pytest.raises(HeadwayError):
        twin.push(0.5, COMPLETION, "too late")
    assert twin.push(5.0, COMPLETION, "c") == 2
    assert twin.cancel(handle) is True
    assert [event[3] for event in drain(twin)] == ["c"]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"now_s": 0.0, "next_sequence": 1},
        {"now_s": "soon", "next_sequence": 1, "events": []},
        {"now_s": float("nan"), "next_sequence": 1, "events": []},
        {"now_s": 0.0, "next_sequence": 1, "events": [[1.0, 0, 0]]},
        {"now_s": 0.0, "next_sequence": 1, "events": 7},
        {"now_s": 2.0, "next_sequence": 1, "events": [[1.0, 0, 0, None]]},
        {"now_s": 0.0, "next_sequence": 1, "events": [[float("nan"), 0, 0, None]]},
        {"now_s": 0.0, "next_sequence": 1, "events": [[1.0, 0, 1, None]]},
        {"now_s": 0.0, "next_sequence": 2, "events": [[1.0, 0, 1, None], [2.0, 0, 1, None]]},
    ],
)
def test_a_damaged_state_changes_nothing(state: dict) -> None:
    queue = EventQueue[str]()
    queue.push(1.0, COMPLETION, "kept")
    with pytest.raises(StateError, match="not a saved event queue"):
        queue.load_state_dict(state)
    assert [event[3] for event in drain(queue)] == ["kept"]
