"""The event queue against a sorted list, under any sequence of operations."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headway.simulation.queue import EventQueue

# Few distinct times, so that ties are common.
DELAYS = st.sampled_from([0.0, 0.25, 1.0, 1.0, 2.0]) | st.floats(0.0, 1e6)
PRIORITIES = st.integers(0, 3)


class QueueMachine(RuleBasedStateMachine):
    """The model: a list of (time, priority, order of arrival, item), sorted when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = EventQueue[dict[str, int]]()
        self.model: list[tuple[float, int, int, dict[str, int]]] = []
        self.pushed = 0
        self.now = 0.0
        self.gone: set[int] = set()

    @rule(delay=DELAYS, priority=PRIORITIES)
    def push(self, delay: float, priority: int) -> None:
        item = {"job": self.pushed}
        handle = self.queue.push(self.now + delay, priority, item)
        assert handle == self.pushed
        self.model.append((self.now + delay, priority, handle, item))
        self.pushed += 1

    @rule(delays=st.lists(DELAYS, min_size=50, max_size=150))
    def push_many_and_cancel_most(self, delays: list[float]) -> None:
        first = self.pushed
        for delay in delays:
            self.push(delay, 0)
        for handle in range(first, self.pushed - 3):
            self._cancel(handle)

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        self.model.sort(key=lambda event: event[:3])
        expected = self.model.pop(0)
        assert self.queue.pop() == expected
        assert expected[0] >= self.now
        self.now = expected[0]
        self.gone.add(expected[2])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._cancel(data.draw(st.sampled_from([event[2] for event in self.model])))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def cancel_what_is_gone(self, data: st.DataObject) -> None:
        assert self.queue.cancel(data.draw(st.sampled_from(sorted(self.gone)))) is False

    @rule()
    def save_and_load(self) -> None:
        state: dict[str, Any] = json.loads(json.dumps(self.queue.state_dict()))
        self.queue = EventQueue()
        self.queue.load_state_dict(state)

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.now_s == self.now
        earliest = min((event[0] for event in self.model), default=None)
        assert self.queue.peek_time == earliest

    def teardown(self) -> None:
        while self.model:
            self.pop()
        assert len(self.queue) == 0

    def _cancel(self, handle: int) -> None:
        assert self.queue.cancel(handle) is True
        self.model = [event for event in self.model if event[2] != handle]
        self.gone.add(handle)


TestQueue = QueueMachine.TestCase
