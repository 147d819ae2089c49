"""Who may start when, and that a run keeps to it."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

import headway as hw
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.core.events import CheckedOut, Lost
from headway.simulation import population as hp
from headway.simulation.availability import Availability, Diurnal, Windows

WINDOWS = [[[0, 3], [10, 12]], [[5, 6]], [], [[0, 20]]]


def run(clients: hw.simulation.Population, **options: Any) -> hw.Result:
    task = hw.tasks.quadratic(num_clients=clients.num_clients, dim=3)
    options = {"stop": hw.until(updates=300), "evaluate_every": hw.every(updates=100), **options}
    return hw.simulate(
        task, hw.algorithms.async_sgd(learning_rate=0.05), population=clients, **options
    )


def is_open(spans: Any, now: float, period: float | None) -> bool:
    local = now if period is None else now % period
    return any(start <= local < end for start, end in spans)


@pytest.mark.parametrize("period", [None, 20.0, 24.0])
def test_windows_open_when_the_list_says_so(period: float | None) -> None:
    windows = Windows(tuple(tuple(map(tuple, spans)) for spans in WINDOWS), period)  # type: ignore[misc]
    for client, spans in enumerate(WINDOWS):
        for step in range(200):
            now = 0.25 * step
            opening = windows.opens_s(client, now, 0)
            ahead = [now + 0.25 * k for k in range(200)]
            expected = next((t for t in ahead if is_open(spans, t, period)), inf)
            assert opening == expected
            if opening == now:
                closing = windows.closes_s(client, now, 0)
                ends = (t for t in ahead if not is_open(spans, t, period))
                assert closing == next(ends, inf)


def test_each_client_may_have_its_own_period() -> None:
    windows = Windows((((0.0, 1.0),), ((0.0, 1.0),)), (4.0, 6.0))
    assert [windows.opens_s(client, 2.0, 0) for client in (0, 1)] == [4.0, 6.0]


@pytest.mark.parametrize(
    ("availability", "share"),
    [
        (Diurnal(8.0, 24.0), 1 / 3),
        (Diurnal(24.0, 24.0), 1.0),
        (Diurnal(1e-3, 86_400.0), 1e-3 / 86_400.0),
    ],
)
def test_the_same_share_is_available_at_any_hour(availability: Diurnal, share: float) -> None:
    clients = 4000
    for now in (0.0, 5.3, 1e6 + 0.1):
        count = sum(availability.opens_s(client, now, 7) == now for client in range(clients))
        assert abs(count - share * clients) <= 5.0 * (share * (1 - share) * clients) ** 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_beginning_is_inside_its_window_however_it_is_rounded(seed: int) -> None:
    for length in (1e-3, 7.7, 60_000.0):
        hours = Diurnal(length, 86_400.0, 0.9)
        for client in range(300):
            now = client * 1234.567
            opening = hours.opens_s(client, now, seed)
            assert now <= opening <= now + 86_400.0
            assert hours.opens_s(client, opening, seed) == opening
            closing = hours.closes_s(client, opening, seed)
            assert opening < closing <= opening + length + 1e-9


def test_without_spread_all_come_and_go_together() -> None:
    hours = Diurnal(8.0, 24.0, 0.0)
    assert {hours.opens_s(client, 9.0, 3) for client in range(50)} == {24.0}


@pytest.mark.parametrize(
    ("availability", "period"),
    [(Windows((((0.5, 3.0), (10.0, 12.0)), ((5.0, 6.0),), (), ((0.0, 20.0),)), 20.0), 20.0)],
)
@pytest.mark.parametrize("concurrency", [1, 2, None])
def test_nobody_starts_outside_a_window(
    availability: Windows, period: float, concurrency: int | None
) -> None:
    clients = hp.with_windows(
        hp.exponential(4, mean_s=0.7), availability.spans, period_s=availability.period_s
    )
    result = run(clients, concurrency=concurrency)
    starts = [event for event in result.events if isinstance(event, CheckedOut)]
    assert result.stop_reason == "updates >= 300"
    for event in starts:
        spans = availability.spans[hp.client_index(event.worker)]
        assert is_open(spans, event.time, period)
    assert {event.worker for event in starts} == {"client-0", "client-1", "client-3"}


@pytest.mark.parametrize("algorithm", ["async_sgd", "fedavg", "fedbuff"])
def test_a_daily_rhythm_is_kept_by_every_kind_of_algorithm(algorithm: str) -> None:
    clients = hp.with_diurnal(hp.lognormal(40, median_s=1.0, sigma=0.5), open_s=8, period_s=24)
    made = {
        "async_sgd": lambda: hw.algorithms.async_sgd(learning_rate=0.05),
        "fedavg": lambda: hw.algorithms.fedavg(clients_per_round=5),
        "fedbuff": lambda: hw.algorithms.fedbuff(buffer_size=5),
    }[algorithm]()
    result = hw.simulate(
        hw.tasks.quadratic(num_clients=40, dim=3),
        made,
        population=clients,
        concurrency=5,
        stop=hw.until(updates=400),
        seed=3,
    )
    assert result.stop_reason == "updates >= 400"
    hours = clients.availability
    assert hours is not None
    starts = [event for event in result.events if isinstance(event, CheckedOut)]
    for event in starts:
        client = hp.client_index(event.worker)
        assert hours.opens_s(client, event.time, 3) == event.time
    # Hours that begin at all times of the day: everybody has its turn in some days.
    assert len({event.worker for event in starts}) > 30


def test_a_job_that_outlasts_its_window_is_lost_when_it_closes() -> None:
    clients = hp.with_windows(
        hp.from_times([0.75, 4.0]), [[[0, 2]], [[1, 3]]], period_s=10, leaving="lose"
    )
    result = run(clients, stop=hw.until(virtual_time_s=20.0))
    lost = [(e.time, e.worker) for e in result.events if isinstance(e, Lost) and e.jobs]
    assert lost == [(2.0, "client-0"), (3.0, "client-1"), (12.0, "client-0"), (13.0, "client-1")]
    # Two of 0.75 s fit into two seconds, and the third is cut off.
    assert result.counts["applied"] == 4
    assert result.counts["lost"] == 4


@pytest.mark.parametrize(
    "surround",
    [
        lambda c: hp.with_windows(c, [[[3.3, 10.1]]] * 8, period_s=24.0, leaving="lose"),
        lambda c: hp.with_diurnal(c, open_s=10.0, period_s=24.0, leaving="lose"),
    ],
)
def test_whoever_loses_a_job_at_the_end_of_its_hours_is_away_until_they_begin(
    surround: Any,
) -> None:
    clients = surround(hp.uniform(8, low_s=0.5, high_s=3.0, per="job"))
    result = run(clients, stop=hw.until(updates=3000), evaluate_every=3000)
    assert result.updates == 3000
    lost = [(e.worker, e.time) for e in result.events if isinstance(e, Lost) and e.jobs]
    starts = {(e.worker, e.time) for e in result.events if isinstance(e, CheckedOut)}
    assert len(lost) == len(set(lost)) > 300
    # 3.3 to 10.1 is open at no instant at which it has closed.
    assert starts.isdisjoint(lost)


def test_windows_that_come_once_end_where_they_were_said_to() -> None:
    windows = Windows((((0.1, 0.7), (0.9, 1e9 + 0.3)),))
    assert windows.closes_s(0, 0.3, 0) == 0.7
    assert windows.closes_s(0, 7.7, 0) == 1e9 + 0.3


def test_one_that_drops_a_job_is_away_for_as_long_as_was_said() -> None:
    clients = hp.with_dropout(hp.constant(6), 0.3, away_s=5.0)
    result = run(clients)
    back: dict[str, float] = {}
    for event in result.events:
        if isinstance(event, Lost):
            back[event.worker] = event.time + 5.0
        if isinstance(event, CheckedOut) and event.worker in back:
            assert event.time >= back[event.worker]
            # There is room for all, so it starts at once when it is back.
            assert event.time == back.pop(event.worker)
    assert result.counts["lost"] > 50


def test_away_by_a_law_and_only_while_available() -> None:
    clients = hp.with_dropout(hp.constant(4), 0.3, away_s=hp.laws.Exponential(mean_s=3.0))
    clients = hp.with_diurnal(clients, open_s=8, period_s=24)
    result = run(clients)
    hours = clients.availability
    assert hours is not None
    for event in result.events:
        if isinstance(event, CheckedOut):
            client = hp.client_index(event.worker)
            assert hours.opens_s(client, event.time, 0) == event.time


def test_a_run_ends_when_nobody_comes_back() -> None:
    result = run(hp.with_windows(hp.constant(2), [[[0, 3]], [[7, 9]]]))
    assert result.stop_reason.startswith("stalled")
    # 0, 1, 2 and 7, 8: five starts, all of which end.
    assert result.counts["applied"] == 5
    assert result.virtual_time_s == 9.0


def test_many_who_may_not_start_are_turned_away_one_after_the_other() -> None:
    n = 5000
    windows = [[[0, 1]] if client < n - 1 else [[5, 90]] for client in range(n)]
    clients = hp.with_windows(hp.constant(n, time_s=2.0), windows)
    result = run(clients, concurrency=1, stop=hw.until(updates=3))
    assert result.counts["applied"] == 3
    assert result.virtual_time_s == 9.0


@pytest.mark.parametrize(
    "make",
    [
        lambda c: hp.with_windows(c, [[[0, 2]]]),
        lambda c: hp.with_windows(c, [[[2, 2]], []]),
        lambda c: hp.with_windows(c, [[[0, 2], [1, 3]], []]),
        lambda c: hp.with_windows(c, [[[0, 2]], []], period_s=1),
        lambda c: hp.with_windows(c, [[[0, 1, 2]], []]),
        lambda c: hp.with_windows(c, [[], []], period_s=[1.0]),
        lambda c: hp.with_windows(c, [[], []], period_s=0),
        lambda c: hp.with_diurnal(c, open_s=2, period_s=1),
        lambda c: hp.with_diurnal(c, open_s=2, spread=1.5),
        lambda c: hp.with_dropout(c, 0.1, away_s=-1),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\[population\.with_|at population\.with_|with_"):
        make(hp.constant(2))


@pytest.mark.parametrize(
    ("function", "options", "fault"),
    [
        ("with_windows", {"windows": 5}, "an entry for each client"),
        ("with_windows", {"windows": "ab"}, "an entry for each client"),
        ("with_windows", {"windows": [[[0, 2]], 5]}, "client 1 must have a list of windows"),
        ("with_windows", {"windows": [[1, 2], [3, 4]]}, "client 0 must have a list of windows"),
        ("with_windows", {"windows": [["ab"], []]}, "client 0 must have a list of windows"),
        ("with_dropout", {"probability": 0.1, "away_s": "x"}, "away_s must be a number"),
        ("with_dropout", {"probability": 0.1, "away_s": [1.0]}, "away_s must be a number"),
    ],
)
def test_what_is_of_another_kind_is_refused(
    function: str, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ArgumentTypeError, match=fault):
        getattr(hp, function)(hp.constant(2), **options)


def test_an_unknown_way_of_leaving_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="finish"):
        hp.with_diurnal(hp.constant(2), open_s=1, leaving="loose")  # type: ignore[arg-type]


def test_availabilities_are_described_without_their_windows() -> None:
    several = [[[0, 1]], [[0, 1], [2, 3]]]
    tree = hp.with_windows(hp.constant(2), several, period_s=4).describe()["availability"]
    assert (tree["num_windows"], tree["period_s"]) == (3, 4.0)
    other = hp.with_windows(hp.constant(2), several[::-1], period_s=4).describe()["availability"]
    assert other["digest"] != tree["digest"]
    hours: Availability = Diurnal(1.0, 24.0)
    assert hours.describe()["name"] == "diurnal"
