"""What is counted: work that counted, work that was thrown away, time, and bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headway.core import Buffers, Receipt, Update
from headway.observe import ClientCount
from headway.observe.tally import Tally


def update(buffers: Buffers | None = None) -> Update:
    # What it counts for in a mean is not the work that was done for it.
    return Update(torch.zeros(5), 0, "client-0", 1, num_examples=1000, buffers=buffers)


def receipt(status: Any = "applied", reason: str = "", staleness: int = 0) -> Receipt:
    return Receipt(status, reason, staleness, 1.0, 1, 1)


def test_every_job_is_counted_once_by_how_it_ended() -> None:
    tally = Tally()
    assert [tally.dispatch(0) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert tally.dispatch(7) == 0
    tally.arrive(0, update(), receipt(staleness=2), 10, 1.0)
    tally.arrive(0, update(), receipt("buffered", "waits", staleness=2), 20, 2.0)
    tally.arrive(0, update(), receipt("rejected", "stale", staleness=9), 30, 3.0)
    tally.cancel(0, 5, 4.0)
    tally.lose(0, 7, 5.0)
    tally.leave(7, 0.5)
    assert tally.per_client() == {
        0: ClientCount(6, 2, 1, 1, 1, 10 + 20 + 30 + 5 + 7, 15.0),
        7: ClientCount(1, 0, 0, 0, 0, 0, 0.5),
    }
    assert tally.updates == 3
    assert tally.examples == 72
    assert tally.discarded_examples == 30 + 5 + 7
    assert tally.reasons == {"stale": 1}
    # The staleness of those that counted.
    assert tally.staleness == {2: 2}


def test_bytes_are_those_of_parameters_and_buffers() -> None:
    tally = Tally()
    tally.dispatch(0)
    buffers = Buffers(torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    tally.send(torch.zeros(5), None)
    tally.send(torch.zeros(5), buffers)
    tally.arrive(0, update(), receipt(), 10, 1.0)
    tally.arrive(0, update(buffers=buffers), receipt("rejected", "stale"), 10, 1.0)
    assert tally.bytes_down == 2 * 20 + 12 + 16
    assert tally.bytes_up == 2 * 20 + 12 + 16


@pytest.mark.parametrize(
    ("busy_s", "places", "time_s", "idle"),
    [([10.0, 10.0], 2, 10.0, 0.0), ([10.0, 5.0], 2, 10.0, 0.25), ([], 0, 10.0, 0.0)],
)
def test_the_idle_share_is_that_of_the_places_in_flight(
    busy_s: list[float], places: int, time_s: float, idle: float
) -> None:
    tally = Tally()
    for client, seconds in enumerate(busy_s):
        tally.dispatch(client)
        tally.leave(client, seconds)
    tally.peak_in_flight = places
    assert tally.idle_share(time_s) == idle
    assert tally.idle_share(0.0) == 0.0


def versioned(status: Any, version: int, reason: str = "") -> Receipt:
    return Receipt(status, reason, 0, 1.0, version, 1)


def test_what_is_buffered_is_held_until_the_version_grows_and_lost_if_it_never_does() -> None:
    tally = Tally()
    tally.dispatch(0)
    tally.arrive(0, update(), versioned("buffered", 0), 1, 1.0)
    tally.arrive(0, update(), versioned("applied", 1), 2, 1.0)
    assert (tally.held, tally.held_examples, tally.discarded_examples) == (0, 0, 0)
    # A timer or a loss made version 2 out of this one, before the next arrived.
    tally.arrive(0, update(), versioned("buffered", 1), 4, 1.0)
    tally.arrive(0, update(), versioned("buffered", 2), 8, 1.0)
    assert (tally.held, tally.held_examples) == (1, 8)
    # A flush that is worth nothing takes with it what it was made of.
    tally.arrive(0, update(), versioned("rejected", 2, "zero_weight"), 16, 1.0)
    assert (tally.held, tally.unapplied, tally.discarded_examples) == (0, 1, 24)
    # Another rejection leaves the buffer as it is.
    tally.arrive(0, update(), versioned("buffered", 2), 32, 1.0)
    tally.arrive(0, update(), versioned("rejected", 2, "stale"), 64, 1.0)
    tally.close(2)
    assert (tally.unapplied, tally.discarded_examples) == (2, 24 + 64 + 32)


def test_a_close_that_applies_the_rest_discards_nothing() -> None:
    tally = Tally()
    tally.dispatch(0)
    tally.arrive(0, update(), versioned("buffered", 0), 1, 1.0)
    tally.close(1)
    assert (tally.unapplied, tally.discarded_examples) == (0, 0)
