"""A log with payloads makes the same model again; one that was changed is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import core
from tests import core_kit as kit


def make(record: core.Recording = "payloads") -> core.Server:
    algorithm = kit.bare(kit.Noise(), kit.Mean(2), gate=core.CancelStale(2))
    buffers = core.Buffers(torch.zeros(2), torch.zeros(1, dtype=torch.int64))
    return core.Server(
        torch.zeros(3),
        algorithm,
        scheduler=core.RandomOrder(concurrency=3),
        buffers=buffers,
        seed=11,
        record=record,
    )


def run(server: core.Server) -> core.Server:
    """A run with everything in it: loss, cancellation, duplicates, faults, refusals."""
    stream = torch.Generator().manual_seed(1)
    tickets: dict[str, core.Checkout] = {}
    server.register([f"w{index}" for index in range(6)], 0.0)
    for number in range(90):
        now = number * 0.1
        name = f"w{int(torch.randint(6, (), generator=stream))}"
        if name not in tickets:
            reply = server.checkout(name, now)
            if isinstance(reply, core.Checkout):
                tickets[name] = reply
            continue
        payload = torch.randn(3, generator=stream)
        if number % 11 == 0:
            payload[0] = float("nan")
        buffers = core.Buffers(torch.randn(2, generator=stream), torch.tensor([number]))
        for _ in range(1 + number % 2):
            kit.send(
                server,
                name,
                tickets[name],
                None if number % 13 == 0 else payload,
                now,
                again=number % 3 == 0,
                num_examples=number,
                weight=0.5 + number % 4,
                buffers=buffers,
                metrics={"loss": number / 3},
            )
        del tickets[name]
        if number % 5 == 0 and tickets:
            server.lose(tickets.popitem()[0], now)
            server.tick(now)
    server.tick(99.0, closing=True)
    assert {"applied", "buffered", "rejected", "lost", "cancelled"} <= set(+server.counts)
    return server


def through_json(events: list[core.Event]) -> list[core.Event]:
    """What a run folder does: records as JSON lines, payloads beside them."""
    back: list[core.Event] = []
    for event in events:
        record = json.loads(json.dumps(core.to_record(event)))
        if isinstance(event, core.Submitted):
            back.append(core.from_record(record, payload=event.payload, buffers=event.buffers))
        else:
            back.append(core.from_record(record))
    return back


def test_replay_is_bit_identical_also_through_json() -> None:
    server = run(make())
    for events in (server.events, through_json(server.events)):
        again = core.replay(make(), events)
        assert kit.same(again.state_dict(), server.state_dict())
        assert again.counts == server.counts
        assert len(again.events) == len(server.events)


def test_the_same_run_twice_leaves_the_same_log() -> None:
    one, other = run(make()), run(make())
    assert json.dumps([core.to_record(event) for event in one.events]) == json.dumps(
        [core.to_record(event) for event in other.events]
    )
    assert torch.equal(one.parameters, other.parameters)


def changed(kind: type[Any], **fields: Any) -> Callable[[core.Event], core.Event | None]:
    def change(event: core.Event) -> core.Event | None:
        return event._replace(**fields) if isinstance(event, kind) else None

    return change


def _is_applied(event: core.Event) -> bool:
    return isinstance(event, core.Submitted) and event.reason == ""


@pytest.mark.parametrize(
    "change",
    [
        changed(core.CheckedOut, job=77),
        changed(core.CheckedOut, version=5),
        changed(core.Waited, reason="felt like it"),
        changed(core.Lost, version=10**6),
        changed(core.Ticked, version=10**6),
        changed(core.Submitted, status="lost"),
        changed(core.Submitted, cancelled=(1,)),
        changed(core.CheckedOut, kept=True),
        changed(core.Lost, jobs=(10**6,)),
        changed(core.Lost, cancelled=(10**6,)),
        changed(core.Lost, applied=1),
        changed(core.Ticked, cancelled=(10**6,)),
        changed(core.Ticked, applied=1),
        lambda event: event._replace(reason="duplicate") if _is_applied(event) else None,
        lambda event: event._replace(weight=0.1) if _is_applied(event) else None,
        lambda event: event._replace(staleness=9) if _is_applied(event) else None,
        lambda event: event._replace(sent_weight=7.5) if _is_applied(event) else None,
        lambda event: (
            core.Waited(event.time, event.worker, "no")
            if isinstance(event, core.CheckedOut)
            else None
        ),
    ],
)
def test_a_changed_log_is_found_out(change: Callable[[core.Event], core.Event | None]) -> None:
    events = run(make()).events
    place = next(index for index, event in enumerate(events) if change(event) is not None)
    replacement = change(events[place])
    assert replacement is not None
    with pytest.raises(core.errors.ReplayMismatchError, match=f"event {place} "):
        core.replay(make(), [*events[:place], replacement, *events[place + 1 :]])


def test_a_log_with_an_event_missing_is_found_out() -> None:
    events = run(make()).events
    place = next(i for i, event in enumerate(events) if isinstance(event, core.CheckedOut))
    with pytest.raises(core.errors.ReplayMismatchError):
        core.replay(make(), events[:place] + events[place + 1 :])


def test_a_log_without_payloads_is_refused() -> None:
    events = run(make("events")).events
    with pytest.raises(core.errors.LogError, match="holds no payloads"):
        core.replay(make(), events)


def test_nothing_is_recorded_when_nothing_is_asked_for() -> None:
    silent, loud = run(make("nothing")), run(make())
    assert silent.events == []
    assert kit.same(silent.state_dict(), loud.state_dict())


def test_recorded_payloads_are_copies() -> None:
    server = core.Server(torch.zeros(1), kit.bare(), record="payloads")
    payload = torch.ones(1)
    kit.send(server, "a", kit.take(server, "a"), payload)
    payload.fill_(9.0)
    event = server.events[-1]
    assert isinstance(event, core.Submitted)
    assert event.payload is not None
    assert event.payload.tolist() == [1.0]


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=5)
jobs = st.lists(st.integers(0, 2**53)).map(tuple)
events = st.one_of(
    st.builds(core.Registered, numbers, st.lists(names).map(tuple)),
    st.builds(
        core.Registered,
        numbers,
        st.integers(0, 12).map(lambda count: tuple(f"client-{n}" for n in range(count))),
    ),
    st.builds(core.CheckedOut, numbers, names, st.integers(), st.integers(), st.booleans()),
    st.builds(core.Waited, numbers, names, names),
    st.builds(
        core.Submitted,
        numbers,
        names,
        st.integers(),
        names,
        names,
        st.integers(),
        numbers,
        st.integers(),
        st.integers(),
        st.integers(),
        st.integers(),
        st.dictionaries(names, numbers),
        jobs,
        st.booleans(),
        numbers,
        st.none() | st.integers(),
        st.integers(),
        st.none(),
        st.none(),
    ),
    st.builds(core.Lost, numbers, names, jobs, st.integers(), jobs, st.booleans(), st.integers()),
    st.builds(core.Ticked, numbers, st.integers(), st.booleans(), jobs, st.integers()),
    st.builds(core.Noted, numbers, names, st.dictionaries(names, numbers | names)),
)


@given(events)
def test_every_event_comes_back_from_its_record(event: core.Event) -> None:
    back = core.from_record(json.loads(json.dumps(core.to_record(event))))
    assert back == event
    assert type(back) is type(event)


def test_a_million_counted_names_are_one_short_record() -> None:
    event = core.Registered(0.0, tuple(f"client-{index}" for index in range(100_000)))
    assert len(json.dumps(core.to_record(event))) < 100
    assert core.from_record(core.to_record(event)) == event


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"event": "exploded"},
        {"event": "waited", "time": 0.0},
        {"event": "waited", "time": 0.0, "worker": "a", "reason": "", "more": 1},
        {"event": "lost", "time": 0.0, "worker": "a", "jobs": 3, "version": 0, "cancelled": []},
        {"event": "registered", "time": 0.0, "workers": {"prefix": "a"}},
        {"event": ["waited"]},
    ],
)
def test_a_damaged_record_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(core.errors.LogDamagedError):
        core.from_record(record)


def test_a_record_from_before_a_field_was_there_is_read() -> None:
    record = {"event": "ticked", "time": 1.0, "version": 2, "closing": False, "cancelled": []}
    assert core.from_record(record) == core.Ticked(1.0, 2, False, ())
