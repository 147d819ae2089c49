"""Clients that come by themselves: how often, who, and what becomes of a run."""

from __future__ import annotations

from collections import Counter
from math import ceil, sqrt
from typing import Any

import pytest

import headway as hw
from headway.core import replay
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.core.events import CheckedOut, Submitted, Waited
from headway.simulation import population as hp
from headway.simulation.arrival import Arrival, Visits
from headway.simulation.engine import server_for
from headway.simulation.resolve import resolve

NUM = 50
TASK = hw.tasks.quadratic(num_clients=NUM, dim=3)
ALGORITHM = hw.algorithms.async_sgd(learning_rate=0.01)


def run(clients: hw.simulation.Population, **options: Any) -> hw.Result:
    options = {"stop": hw.until(virtual_time_s=40.0), "evaluate_every": 10**9, **options}
    return hw.simulate(
        options.pop("task", TASK),
        options.pop("algorithm", ALGORITHM),
        population=clients,
        **options,
    )


def coming(rate: float, process: Any = "poisson", clients: Any = None) -> hw.simulation.Population:
    return hp.with_arrival(clients or hp.constant(NUM), rate_per_s=rate, process=process)


def begins(result: hw.Result) -> list[CheckedOut]:
    return [event for event in result.events if isinstance(event, CheckedOut)]


def test_regular_clients_come_after_each_interval_and_do_one_job_each() -> None:
    result = run(coming(4.0, "regular", hp.constant(NUM, time_s=1.5)))
    assert [event.time for event in begins(result)] == [k / 4 for k in range(1, 161)]
    ends = [event for event in result.events if isinstance(event, Submitted)]
    # Those who came by 38.5 s are back by 40 s.
    assert [event.time for event in ends] == [k / 4 + 1.5 for k in range(1, 155)]
    assert not any(event.again for event in ends)
    assert result.counts["arrived"] == 160


def test_poisson_arrivals_have_their_rate_and_exponential_gaps() -> None:
    arrival, times, now = Arrival(rate_per_s=5.0), [], 0.0
    for number in range(20_000):
        now = arrival.comes_s(number, now, seed=3)
        times.append(now)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    # The mean of n exponential gaps has a relative standard deviation of 1 / sqrt(n).
    assert abs(5.0 * mean - 1.0) < 4 / sqrt(len(gaps))
    second = sum(gap * gap for gap in gaps) / len(gaps)
    assert second / mean**2 == pytest.approx(2.0, rel=0.1)
    # In windows of a second they are Poisson: the variance is the mean.
    seconds = Counter(ceil(t) for t in times)
    counts = [seconds[k] for k in range(1, int(times[-1]))]
    average = sum(counts) / len(counts)
    variance = sum((count - average) ** 2 for count in counts) / len(counts)
    assert variance / average == pytest.approx(1.0, rel=0.1)


def test_the_mean_number_in_flight_is_rate_times_duration() -> None:
    task = hw.tasks.quadratic(num_clients=1000, dim=1)
    clients = coming(20.0, clients=hp.exponential(1000, mean_s=0.5))
    result = run(clients, task=task, stop=hw.until(virtual_time_s=200.0))
    busy_s = sum(count.busy_s for count in result.clients.values())
    # Little's law: 20 a second for half a second each.
    assert busy_s / 200.0 == pytest.approx(10.0, rel=0.06)
    assert result.counts["arrived"] == pytest.approx(4000, abs=4 * sqrt(4000))


def test_everyone_is_as_likely_to_come() -> None:
    visits = Visits(Arrival(rate_per_s=1.0), 0, range(8), None)
    came: Counter[int | None] = Counter()
    for _ in range(8000):
        client = visits.come(0.0)
        assert client is not None
        came[client] += 1
        visits.leave(client)
    assert all(abs(count - 1000) < 4 * sqrt(1000 * 7 / 8) for count in came.values())


def test_nobody_comes_twice_at_once_and_the_last_one_is_found() -> None:
    visits = Visits(Arrival(rate_per_s=1.0), 0, range(500), None)
    assert {visits.come(0.0) for _ in range(500)} == set(range(500))
    assert visits.is_full
    assert visits.come(0.0) is None
    assert (visits.num_arrived, visits.num_missed) == (500, 1)


def test_a_limit_lets_those_who_come_wait_their_turn() -> None:
    result = run(coming(10.0, "regular"), concurrency=2, stop=hw.until(virtual_time_s=4.0))
    # Two places, a second each: two at a time from 0.1 s and 0.2 s on.
    starts = [event.time for event in begins(result)]
    assert starts == pytest.approx([0.1, 0.2, 1.1, 1.2, 2.1, 2.2, 3.1, 3.2])
    assert sum(isinstance(event, Waited) for event in result.events) == 40 - 2


def test_only_those_come_whose_window_is_open() -> None:
    windows = [[[0, 10]] if client < 5 else [[10, 20]] for client in range(NUM)]
    clients = hp.with_windows(coming(2.0), windows, period_s=20.0)
    for event in begins(run(clients)):
        assert (int(event.worker[7:]) < 5) == (event.time % 20.0 < 10.0)


def test_a_run_ends_when_nobody_will_ever_come_again() -> None:
    clients = hp.with_windows(coming(2.0), [[[0, 5]]] * NUM)
    result = run(clients, stop=hw.until(updates=10**6))
    assert result.stop_reason.startswith("stalled")
    assert 5.0 <= result.virtual_time_s < 12.0


def test_a_client_that_is_away_does_not_come() -> None:
    clients = hp.with_dropout(coming(8.0), 0.5, away_s=5.0)
    result = run(clients)
    assert result.counts["lost"] > 50
    gone: dict[str, float] = {}
    for event in result.events:
        if isinstance(event, CheckedOut):
            assert event.time >= gone.get(event.worker, 0.0)
        elif type(event).__name__ == "Lost":
            gone[event.worker] = event.time + 5.0  # type: ignore[union-attr]


def test_who_is_missed_is_counted_and_told() -> None:
    result = run(coming(4.0, "regular", hp.constant(NUM, time_s=100.0)))
    assert (result.counts["arrived"], result.counts["missed"]) == (50, 110)
    assert any("110 of 160" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "algorithm",
    [
        hw.algorithms.fedbuff(buffer_size=3),
        hw.algorithms.fedavg(clients_per_round=3),
        hw.algorithms.ringmaster(delay_bound=2, learning_rate=0.01),
    ],
    ids=str,
)
def test_other_algorithms_train_too(algorithm: hw.Algorithm) -> None:
    result = run(coming(6.0, clients=hp.exponential(NUM, mean_s=1.0)), algorithm=algorithm)
    assert result.versions > 10


def test_the_log_can_be_replayed() -> None:
    options: dict[str, Any] = {"population": coming(5.0), "stop": hw.until(updates=60)}
    options |= {"concurrency": 3, "record": "payloads"}
    result = hw.simulate(TASK, ALGORITHM, **options)
    server = server_for(resolve(TASK, ALGORITHM, options.pop("stop"), **options))
    replay(server, result.events)
    assert server.parameters.equal(result.parameters)  # type: ignore[arg-type]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="slowest"):
        run(coming(1.0), algorithm=hw.algorithms.ssp(bound=2, learning_rate=0.1))
    with pytest.raises(ConfigurationError, match="rate_per_s"):
        coming(0.0)
    with pytest.raises(ArgumentTypeError, match="rate_per_s"):
        coming("often")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="poison"):
        coming(1.0, "poison")


def test_it_stands_in_the_description() -> None:
    described = coming(2.5).describe()
    assert described["arrival"] == {"rate_per_s": 2.5, "process": "poisson"}
    assert run(coming(2.5)).population["arrival"]["rate_per_s"] == 2.5
