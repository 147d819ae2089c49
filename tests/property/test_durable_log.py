"""Whatever is asked of a server, and wherever it crashes: it goes on as it was."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway import core
from headway.checkpoint import LogCutWarning
from headway.core.errors import CheckpointError
from tests.core_kit import same
from tests.log_kit import (
    ALGORITHMS,
    WORKERS,
    House,
    a_town,
    newest_segment,
    without_incarnation,
)

DOORS = (
    *["checkout", "submit", "submit", "repeat", "lose", "tick", "bad", "register"],
    "checkpoint",
)
actions = st.lists(
    st.tuples(
        st.sampled_from(DOORS),
        st.sampled_from(WORKERS),
        st.sampled_from([-1.5, 0.25, 2.0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)
SEGMENT_HEADER = 36
# For each algorithm.
FEW = max(5, settings().max_examples // 10)


@pytest.fixture(autouse=True, scope="module")
def _disk_is_quick() -> Iterator[None]:
    # What the disk does when the machine stops is not what these tests are about.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            if hasattr(os, name):
                patch.setattr(os, name, lambda fd: None)
        yield


def lived(house: House, todo: list[Any]) -> House:
    for action in [("checkout", WORKERS[0], 1.0, False), *todo]:
        house.act(*action)
    return house


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=FEW)
@given(data=st.data())
def test_a_crash_at_any_byte_gives_the_state_after_the_last_whole_record(
    algorithm: str, data: st.DataObject
) -> None:
    with a_town() as town:
        house = lived(town.house(algorithm), data.draw(actions))
        first = int(newest_segment(house.folder).stem.removeprefix("log-"))
        ends = {n: end for n, end in house.ends.items() if n >= first}
        stop = data.draw(st.integers(SEGMENT_HEADER, max([SEGMENT_HEADER, *ends.values()])))
        whole = max([first - 1, *(n for n, end in ends.items() if end <= stop)])
        torn = stop not in (SEGMENT_HEADER, *ends.values())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = town.after_a_crash(house, stop)
        assert [w.category for w in caught] == [LogCutWarning] * torn
        assert again.journal.sequence == whole + 1
        state = again.states[whole + 1]
        assert same(without_incarnation(state), without_incarnation(house.states[whole]))
        # Job ids are never given out twice, whoever got one before the crash.
        assert again.server.incarnation == house.server.incarnation + 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=FEW)
@given(before=actions, between=actions, after=actions)
def test_three_lives_are_one(algorithm: str, before: Any, between: Any, after: Any) -> None:
    with a_town() as town:
        one = lived(town.house(algorithm), before)
        two = lived(town.after_a_crash(one), between)
        three = town.after_a_crash(two)
        newest = max(two.states)
        assert same(
            without_incarnation(three.states[newest + 1]), without_incarnation(two.states[newest])
        )
        given_out = set(one.tickets) | set(two.tickets)
        assert given_out.isdisjoint(lived(three, after).tickets)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_push_that_is_repeated_after_a_crash_gets_its_first_receipt(algorithm: str) -> None:
    with a_town() as town:
        house = lived(town.house(algorithm), [])
        (job,) = house.owners
        update = core.Update(torch.ones(3), house.tickets[job].version, "w0", job)
        first = house.submit(update, again=False)
        assert first.status in ("applied", "buffered")
        again = town.after_a_crash(house)
        version, counts = again.server.version, again.server.counts.copy()
        second = again.submit(update, again=False)
        assert same(list(second)[:-1], list(first)[:-1])
        assert again.server.version == version
        assert again.server.counts - counts == {"duplicates": 1}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_work_in_flight_is_taken_after_a_crash(algorithm: str) -> None:
    with a_town() as town:
        house = lived(town.house(algorithm), [])
        again = town.after_a_crash(house)
        (job,) = again.owners
        ticket = house.tickets[job]
        given, _ = again.server.given(job)
        assert (given is None) == (ticket.parameters is None)
        assert given is None or torch.equal(given, ticket.parameters)
        for one in (house, again):
            one.submit(core.Update(torch.ones(3), ticket.version, "w0", job), again=False)
        one, two = (without_incarnation(h.server.state_dict()) for h in (house, again))
        assert same(one, two)


# Files that once did something else than they should, or might have.
SEEDS = [
    b"",
    b"\x89HWLOG\r\n",
    b"\x89HWLOG\r\n\x01\0\0\0" + bytes(28),
    b"HLOG" * 30,
    b"\xff" * 100,
]


@pytest.mark.parametrize("seed", SEEDS)
def test_files_that_are_no_segments_are_refused(seed: bytes) -> None:
    with a_town() as town:
        (town.folder / f"log-{1:020d}.hwlog").write_bytes(seed)
        with pytest.raises(CheckpointError, match="record 1 of the log was acknowledged"):
            list(town.read(town.folder))


@given(data=st.data())
def test_no_flipped_bit_gives_another_call_or_another_kind_of_error(data: st.DataObject) -> None:
    with a_town() as town:
        house = town.house()
        for number, worker in enumerate(WORKERS):
            house.act("checkout", worker, 1.0, True)
            house.act("submit", worker, float(number), True)
            house.journal.sync()
        house.close()
        path = newest_segment(house.folder)
        sound = list(town.read(house.folder / "log"))
        town.leave()
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place] ^= 1 << data.draw(st.integers(0, 7))
        if data.draw(st.booleans()):
            raw += data.draw(st.binary(max_size=80))
        path.write_bytes(raw)
        got = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LogCutWarning)
            try:
                got.extend(town.read(house.folder / "log"))
            except CheckpointError as error:
                # Whatever is wrong, it says what can be used.
                refused = str(error)
                assert "checkpoint 0 and the" in refused
        assert len(got) <= len(sound)
        for one, other in zip(got, sound, strict=False):
            assert one.sequence == other.sequence
            assert one.call.door == other.call.door
            assert one.call.arguments == other.call.arguments
            assert same(dict(one.call.tensors), dict(other.call.tensors))


@given(st.binary(max_size=300))
def test_any_bytes_after_sound_records_are_cut_off(tail: bytes) -> None:
    with a_town() as town:
        house = lived(town.house(), [])
        with newest_segment(house.folder).open("ab") as file:
            file.write(tail)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = town.after_a_crash(house)
        assert len(caught) == bool(tail)
        assert same(
            without_incarnation(again.server.state_dict()),
            without_incarnation(house.server.state_dict()),
        )
