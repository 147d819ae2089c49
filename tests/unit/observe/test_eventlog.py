"""The event log: what is written comes back, and what is damaged is named."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core import CheckedOut, Event, Noted, Registered, Submitted, Waited, to_record
from headway.core.errors import LogDamagedError, RunFolderError
from headway.observe import EventLog, LogTruncatedWarning, encode_events, read_events, strict
from tests.unit.observe.kit import events, same, submission


def write(path: Path, *logged: Event) -> Path:
    with EventLog(path) as log:
        log.append(logged)
    return path


@given(st.lists(events, max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_events_come_back_however_they_are_appended(logged: list[Event], cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        bounds = sorted([0, *cuts, len(logged)])
        with EventLog(path) as log:
            for start, stop in pairwise(bounds):
                log.append(logged[start:stop])
        assert same(list(read_events(path)), logged)


@given(st.lists(events, max_size=12))
def test_a_line_is_the_strict_json_of_the_record(logged: list[Event]) -> None:
    for line, event in zip(encode_events(logged), logged, strict=True):
        assert "\n" not in line
        assert same(strict.loads(line), json.loads(json.dumps(to_record(event))))


def test_a_line_of_each_kind_that_is_written_in_columns_is_that_of_plain_json() -> None:
    logged = [
        CheckedOut(1.5, "client-é", 3, 2, True),
        submission(4, metrics={"loss": 0.1, "acc": 1e-30}, cancelled=(1, 2), fragment=2),
        Waited(2.5, 'quo"te', "a\nb"),
        submission(5, metrics={}, again=True),
        CheckedOut(0.1 + 0.2, "client-1", 2**60, 2, False),
    ]
    expected = [json.dumps(to_record(event), separators=(",", ":")) for event in logged]
    assert encode_events(logged) == expected


def test_many_blocks_keep_their_order(tmp_path: Path) -> None:
    logged: list[Event] = []
    for job in range(3000):
        logged += [CheckedOut(float(job), f"client-{job % 7}", job, job, False), submission(job)]
    assert list(read_events(write(tmp_path / "events.jsonl", *logged))) == logged


def test_numbers_of_other_kinds_are_written_as_plain_ones() -> None:
    odd = submission(
        1,
        time=np.float64(1.5),
        weight=torch.tensor(0.5),
        num_examples=np.int64(32),
        num_steps=2.5,
        metrics={"loss": np.float32(0.5)},
    )
    record = strict.loads(encode_events([odd])[0])
    assert (record["time"], record["weight"], record["num_examples"]) == (1.5, 0.5, 32)
    assert (record["num_steps"], record["metrics"]) == (2.5, {"loss": 0.5})


def test_the_rest_of_a_log_is_used_when_its_last_line_is_cut_off(tmp_path: Path) -> None:
    logged = [submission(job) for job in range(3)]
    path = write(tmp_path / "events.jsonl", *logged)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for stop in range(last + 1, len(whole) - 1):
        path.write_bytes(whole[:stop])
        with pytest.warns(LogTruncatedWarning, match=r"events.jsonl, line 3.*2 lines") as caught:
            assert list(read_events(path)) == logged[:2]
        assert len(caught) == 1


@pytest.mark.parametrize("keep", [0, -1])
def test_a_log_that_ends_with_a_whole_line_needs_no_warning(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "events.jsonl", submission(0), submission(1))
    data = path.read_bytes()
    # Only the end of the line is missing: everything that it says is there.
    path.write_bytes(data[:keep] if keep else data)
    assert list(read_events(path)) == [submission(0), submission(1)]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"event":"waited","time":1.0,"worker":"client-1"',
        b'{"event":"unheard","time":1.0}',
        b'{"event":"waited","time":1.0}',
        b"[1, 2]",
        b'{"event":"waited","time":NaN,"worker":"a","reason":"b"}',
        b"\xff\xfe",
        b"",
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "events.jsonl", submission(0), submission(1))
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, second, b""]))
    found = read_events(path)
    assert next(found) == submission(0)
    with pytest.raises(LogDamagedError, match=r"events.jsonl, line 2:") as caught:
        next(found)
    assert caught.value.where == f"{path}, line 2"
    assert caught.value.help is not None
    assert "first 1 lines" in caught.value.help


@given(st.data())
def test_no_flipped_byte_gives_another_kind_of_failure(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logged = [submission(0), Waited(1.0, "a", "b"), Noted(2.0, "end", {"x": [1]})]
        path = write(Path(folder) / "events.jsonl", *logged)
        damaged = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 2))] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        # Lines have no checksum: another digit is another number. More than that it cannot be.
        with suppress(LogDamagedError):
            assert len(list(read_events(path))) <= 4


def test_a_log_is_appended_to_and_safe_after_a_flush(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", submission(0))
    log = EventLog(path)
    log.append([submission(1)])
    log.flush()
    assert list(read_events(path)) == [submission(0), submission(1)]
    log.close()
    log.close()


def test_payloads_stay_out_of_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", submission(0, payload=torch.ones(3)))
    assert list(read_events(path)) == [submission(0)]
    assert "payload" not in strict.loads(path.read_text())


def test_a_million_names_that_count_up_are_one_short_line() -> None:
    event = Registered(0.0, tuple(f"client-{index}" for index in range(100_000)))
    (line,) = encode_events([event])
    assert len(line) < 100


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot read"):
        list(read_events(tmp_path / "absent.jsonl"))
    with pytest.raises(RunFolderError, match="cannot write"):
        EventLog(tmp_path)


def test_every_field_of_the_frequent_kinds_is_written() -> None:
    record = strict.loads(encode_events([submission(3)])[0])
    assert set(record) == {*Submitted._fields, "event"} - {"payload", "buffers"}
