"""Jobs that take too long: when they are lost, what their clients do, and how they are counted."""

from __future__ import annotations

from typing import Any

import pytest

import headway as hw
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.core.events import CheckedOut, Lost, Submitted
from headway.simulation import population as hp


def run(clients: hw.simulation.Population, **options: Any) -> hw.Result:
    options = {"stop": hw.until(virtual_time_s=20.0), "evaluate_every": 10**9, **options}
    task = hw.tasks.quadratic(num_clients=clients.num_clients, dim=2)
    return hw.simulate(task, hw.algorithms.fedasync(), population=clients, **options)


def test_a_slow_client_is_freed_after_the_timeout_again_and_again() -> None:
    result = run(hp.with_timeout(hp.from_times([2.0, 7.0]), 3.0))
    lost = [event.time for event in result.events if isinstance(event, Lost)]
    assert lost == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    begun = [e.time for e in result.events if isinstance(e, CheckedOut) and e.worker == "client-1"]
    assert begun == [0.0, *lost]
    assert (result.counts["lost"], result.counts["lost:timed_out"]) == (6, 6)
    assert result.clients[1].lost == 6
    assert "lost 6 (timed_out 6)" in str(result)
    # Client 0 is back every two seconds.
    assert result.updates == 10


def test_one_that_is_back_exactly_then_counts() -> None:
    result = run(hp.with_timeout(hp.constant(1, time_s=2.0), 2.0))
    assert (result.updates, result.counts["lost:timed_out"]) == (10, 0)


def test_the_share_of_lost_jobs_is_that_of_the_tail() -> None:
    clients = hp.with_timeout(hp.uniform(20, low_s=1.0, high_s=2.0, per="job"), 1.75)
    result = run(clients, stop=hw.until(updates=4000))
    lost = result.counts["lost:timed_out"]
    share = lost / (lost + result.updates)
    # A quarter of the times lies above; 5333 jobs have a standard deviation of 0.006.
    assert share == pytest.approx(0.25, abs=0.024)


def test_the_way_counts_too() -> None:
    # Two parameters of four bytes, a second down and one up: three seconds together.
    connected = hp.with_link(hp.constant(1), down_bps=64.0, up_bps=64.0)
    assert run(hp.with_timeout(connected, 3.0)).counts["lost"] == 0
    assert run(hp.with_timeout(connected, 2.9)).updates == 0


def test_a_dropped_job_is_missed_at_the_timeout_and_its_client_stays_away() -> None:
    clients = hp.with_timeout(hp.with_dropout(hp.constant(8, time_s=4.0), 0.5, away_s=1.0), 3.0)
    result = run(clients)
    assert result.updates == 0
    dropped = result.counts["lost"] - result.counts["lost:timed_out"]
    assert 0 < dropped < result.counts["lost"]
    gaps = set()
    ends: dict[str, float] = {}
    for event in result.events:
        if isinstance(event, CheckedOut) and event.worker in ends:
            gaps.add(event.time - ends[event.worker])
        elif isinstance(event, Lost):
            ends[event.worker] = event.time
    assert gaps == {0.0, 1.0}


def test_a_job_that_will_be_late_is_never_trained_and_counts_as_waste() -> None:
    result = run(hp.with_timeout(hp.from_times([2.0, 7.0]), 3.0))
    trained = [event.worker for event in result.events if isinstance(event, Submitted)]
    assert set(trained) == {"client-0"}
    assert result.discarded_examples == result.clients[1].examples


@pytest.mark.parametrize(("value", "error"), [(0.0, ConfigurationError), ("3", ArgumentTypeError)])
def test_what_is_no_timeout_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout_s"):
        hp.with_timeout(hp.constant(2), value)


def test_it_stands_in_the_description() -> None:
    assert hp.with_timeout(hp.constant(2), 3).describe()["timeout_s"] == 3.0


@pytest.mark.parametrize(
    "clients",
    [
        hp.with_timeout(hp.constant(4), 0.5),
        hp.with_windows(hp.constant(4), [[[0, 0.5]]] * 4, period_s=2, leaving="lose"),
        hp.with_timeout(hp.with_link(hp.constant(4), down_bps=1.0, up_bps=1.0), 2.0),
    ],
    ids=["slow", "short windows", "slow link"],
)
def test_a_run_whose_jobs_are_all_lost_ends_and_says_so(clients: hw.simulation.Population) -> None:
    result = run(clients, stop=hw.until(updates=20))
    assert result.updates == 0
    assert result.stop_reason == "stalled: the last 10,000 jobs were all lost"
    assert any("allow more time or longer windows" in warning for warning in result.warnings)


def test_one_client_that_comes_back_keeps_a_run_going() -> None:
    # Twenty jobs are lost for each that comes back: more than 10,000, but never in a row.
    clients = hp.with_timeout(hp.from_times([3.0] + [7.0] * 20), 3.0)
    result = run(clients, stop=hw.until(updates=520))
    assert (result.updates, result.counts["lost"]) == (520, 519 * 20)


def test_a_run_whose_windows_are_over_names_them() -> None:
    clients = hp.with_windows(hp.constant(2), [[[0.0, 3.0]]] * 2)
    result = run(clients, stop=hw.until(updates=20))
    assert result.stop_reason.startswith("stalled")
    assert "windows of availability are over" in result.warnings[-1]
