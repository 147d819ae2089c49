"""Hashes: the same for the same run, another for any other."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from math import nan
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core import Buffers, CheckedOut, Event, Lost, Noted, Waited
from headway.observe import EventLog, LogHash, log_hash, read_events, weights_hash
from tests.unit.observe.kit import events, submission, with_payload


@given(st.lists(events, max_size=10), st.integers(0, 10), st.integers(0, 3))
def test_one_by_one_or_all_at_once_or_read_back(some: list[Event], cut: int, repeats: int) -> None:
    # Repeated, so that a block of 1,024 ends somewhere within.
    logged = some * (1 + repeats * 50)
    whole = log_hash(logged)
    piecewise = LogHash()
    piecewise.extend(logged[:cut])
    piecewise.hexdigest()
    for event in logged[cut:]:
        piecewise.update(event)
    assert piecewise.hexdigest() == whole
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with EventLog(path) as log:
            log.append(logged)
        assert log_hash(read_events(path)) == whole


@given(st.lists(events, min_size=1, max_size=6), st.data())
def test_another_order_another_length_another_hash(
    logged: list[Event], data: st.DataObject
) -> None:
    assert log_hash(logged) != log_hash(logged[:-1])
    shuffled = data.draw(st.permutations(logged))
    assert (log_hash(shuffled) == log_hash(logged)) == (repr(shuffled) == repr(logged))


def test_each_field_matters() -> None:
    event = submission(3)
    changes = {
        "time": 4.5000000000000009,
        "worker": "client-7",
        "job": 4,
        "status": "buffered",
        "reason": "full",
        "staleness": 1,
        "weight": nan,
        "version": 4,
        "base_version": 2,
        "num_examples": 31,
        "num_steps": 6,
        "metrics": {"loss": 0.5},
        "cancelled": (1,),
        "again": True,
        "sent_weight": 2.0,
        "fragment": 0,
        "payload_bytes": 44,
    }
    assert set(changes) == set(event._fields) - {"payload", "buffers"}
    hashes = {log_hash([event])} | {
        log_hash([event._replace(**{name: value})]) for name, value in changes.items()
    }
    assert len(hashes) == 1 + len(changes)


def test_kinds_with_the_same_fields_are_told_apart() -> None:
    alike: list[Event] = [
        CheckedOut(1.0, "a", 1, 2, False),
        Waited(1.0, "a", "b"),
        Lost(1.0, "a", (), 2, ()),
        Noted(1.0, "a", {}),
    ]
    assert len({log_hash([event]) for event in alike}) == len(alike)


def test_neighbouring_names_do_not_run_together() -> None:
    left = [Waited(0.0, "ab", "c"), Waited(0.0, "d", "c")]
    right = [Waited(0.0, "a", "c"), Waited(0.0, "bd", "c")]
    assert log_hash(left) != log_hash(right)


def test_wall_clock_and_payloads_do_not_matter() -> None:
    plain, kept = submission(3), with_payload(3, buffers=True)
    assert log_hash([kept]) == log_hash([plain])
    slow = Noted(1.0, "evaluated", {"loss": 0.5, "wall_time_s": 9.0})
    fast = Noted(1.0, "evaluated", {"loss": 0.5, "wall_time_s": 1.0})
    assert log_hash([slow]) == log_hash([fast])
    assert log_hash([slow]) != log_hash([Noted(1.0, "evaluated", {"loss": 0.25})])
    nested = [Noted(1.0, "evaluated", {"metrics": {"loss": 0.5, "wall_s": t}}) for t in (1.0, 2.0)]
    assert log_hash(nested[:1]) == log_hash(nested[1:])


def test_numbers_beyond_eight_bytes_are_hashed_too() -> None:
    huge = [submission(1, num_examples=2**70), submission(2)]
    assert log_hash(huge) != log_hash([submission(1, num_examples=2**71), submission(2)])


def test_the_bytes_are_those_of_the_documentation() -> None:
    logged = [Waited(1.5, "a", "full"), Waited(2.0, "b", "full")]
    expected = hashlib.sha256()
    # Both are of the third frequent kind; then times, workers and reasons.
    expected.update(b"\x03\x03" + struct.pack("<dd", 1.5, 2.0) + b'["a","b"]' + b'["full","full"]')
    assert log_hash(logged) == expected.hexdigest()
    assert log_hash([]) == hashlib.sha256().hexdigest()


def test_what_waits_to_be_hashed_keeps_no_payload_alive() -> None:
    waiting = LogHash()
    waiting.update(with_payload(1))
    assert all(getattr(event, "payload", None) is None for event in waiting._pending)


@pytest.mark.parametrize(
    ("dtype", "code"), [(torch.float32, "f"), (torch.float64, "d"), (torch.float16, "e")]
)
def test_weights_are_hashed_by_dtype_length_and_bytes(dtype: torch.dtype, code: str) -> None:
    values = [1.0, -2.5, 0.0]
    text = f"{dtype} 3\n".encode() + struct.pack(f"<3{code}", *values)
    found = weights_hash(torch.tensor(values, dtype=dtype))
    assert found == hashlib.sha256(text).hexdigest()


def test_any_change_of_the_weights_changes_their_hash() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0])
    buffers = Buffers(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    variants = [
        weights_hash(weights),
        weights_hash(weights.bfloat16()),
        weights_hash(torch.tensor([1.0, -0.0, 3.0])),
        weights_hash(torch.tensor([1.0, 0.0])),
        weights_hash(weights, buffers),
        weights_hash(weights, Buffers(buffers.floating, buffers.integer + 1)),
        weights_hash(torch.cat([weights, torch.zeros(1)])),
    ]
    assert len(set(variants)) == len(variants)
    assert weights_hash(weights.clone(), buffers.clone()) == weights_hash(weights, buffers)
