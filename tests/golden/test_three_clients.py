"""A run of three clients, worked out by hand, event by event.

Client 0 takes 2 s, client 1 takes 3 s and client 2 takes 5 s; they want the model to be 1, 2 and 4.
All start at 0 s from x = 0, version 0, in the order of their names. Each delta is the client's
target minus the x that it started from, and is added as it comes:

======  ======  =============  =====  =========  ====================
time    client  started from   delta  staleness  model afterwards
======  ======  =============  =====  =========  ====================
2       0       x=0, v0         1     0          x=1, v1
3       1       x=0, v0         2     1          x=3, v2
4       0       x=1, v1         0     1          x=3, v3
5       2       x=0, v0         4     3          x=7, v4
6       1       x=3, v2        -1     2          x=6, v5
6       0       x=3, v3        -2     2          x=4, v6
======  ======  =============  =====  =========  ====================

At 6 s client 1 comes first, because its job was given out at 3 s and the other's at 4 s. The run
ends at 6 s, with the jobs 7, 8 and 9 in flight.
"""

from __future__ import annotations

import struct
from hashlib import sha256

import headway as hw
from headway.core import CheckedOut, FirstCome, Noted, Registered, Submitted, Ticked, to_record
from headway.observe import RunFolder, log_hash
from tests.simulation_kit import Chase

NAMES = ("client-0", "client-1", "client-2")


def given(time, client, job, version):
    return CheckedOut(time, NAMES[client], job, version, False)


def arrived(time, client, job, staleness, version):
    return Submitted(
        time=time,
        worker=NAMES[client],
        job=job,
        status="applied",
        reason="",
        staleness=staleness,
        weight=1.0,
        version=version,
        base_version=version - 1 - staleness,
        num_examples=1,
        num_steps=1,
        metrics={"loss": float(client)},
        cancelled=(),
        again=True,
        sent_weight=1.0,
        fragment=None,
        payload_bytes=4,
        payload=None,
        buffers=None,
    )


BY_HAND = [
    Noted(0.0, "evaluated", {"updates": 0, "metrics": {"value": 0.0}}),
    Registered(0.0, NAMES),
    given(0.0, 0, 1, 0),
    given(0.0, 1, 2, 0),
    given(0.0, 2, 3, 0),
    arrived(2.0, 0, 1, 0, 1),
    given(2.0, 0, 4, 1),
    arrived(3.0, 1, 2, 1, 2),
    given(3.0, 1, 5, 2),
    Noted(3.0, "evaluated", {"updates": 2, "metrics": {"value": 3.0}}),
    arrived(4.0, 0, 4, 1, 3),
    given(4.0, 0, 6, 3),
    arrived(5.0, 2, 3, 3, 4),
    given(5.0, 2, 7, 4),
    Noted(5.0, "evaluated", {"updates": 4, "metrics": {"value": 7.0}}),
    arrived(6.0, 1, 5, 2, 5),
    given(6.0, 1, 8, 5),
    arrived(6.0, 0, 6, 2, 6),
    given(6.0, 0, 9, 6),
    Noted(6.0, "evaluated", {"updates": 6, "metrics": {"value": 4.0}}),
    Ticked(6.0, 6, True, ()),
    Noted(6.0, "stopped", {"reason": "virtual_time_s >= 6"}),
]


def race(**options):
    return hw.simulate(
        Chase([1.0, 2.0, 4.0]),
        hw.algorithms.async_delta(),
        population=hw.population.from_times([2.0, 3.0, 5.0]),
        scheduler=FirstCome(),
        stop=hw.until(virtual_time_s=6.0),
        evaluate_every=2,
        **options,
    )


def test_the_log_is_the_one_worked_out_by_hand():
    assert [to_record(e) for e in race().events] == [to_record(e) for e in BY_HAND]


def test_the_hashes_are_those_of_the_log_and_weights_worked_out_by_hand():
    result = race()
    assert result.log_hash == log_hash(BY_HAND)
    assert result.weights_hash == sha256(b"torch.float32 1\n" + struct.pack("<f", 4.0)).hexdigest()


def test_the_result_counts_what_the_table_says():
    result = race()
    assert [(p.updates, p.versions, p.virtual_time_s) for p in result.history] == [
        (0, 0, 0.0),
        (2, 2, 3.0),
        (4, 4, 5.0),
        (6, 6, 6.0),
    ]
    assert result.staleness == {0: 1, 1: 2, 2: 2, 3: 1}
    assert {client: count.dispatched for client, count in result.clients.items()} == {
        0: 4,
        1: 3,
        2: 2,
    }
    assert [result.clients[client].accepted for client in range(3)] == [3, 2, 1]
    # All are busy from 0 s to 6 s, finished or not.
    assert [result.clients[client].busy_s for client in range(3)] == [6.0, 6.0, 6.0]
    assert result.idle_share == 0.0
    assert (result.examples, result.discarded_examples) == (6, 0)
    # Nine models of one 4-byte number went down, six updates came up.
    assert (result.bytes_down, result.bytes_up) == (36, 24)
    assert result.virtual_time_s == 6.0


def test_the_log_in_a_run_folder_is_the_same_one(tmp_path):
    result = race(folder=tmp_path / "run")
    read = hw.Result.load(tmp_path / "run")
    assert [to_record(e) for e in read.events] == [to_record(e) for e in BY_HAND]
    assert [to_record(e) for e in result.events] == [to_record(e) for e in BY_HAND]
    assert (read.log_hash, read.weights_hash) == (result.log_hash, result.weights_hash)
    assert list(RunFolder.open(tmp_path / "run").points()) == result.history
