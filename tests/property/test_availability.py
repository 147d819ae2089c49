"""Whoever asks at the end of its hours is told a later time, whatever the numbers are."""

from __future__ import annotations

from math import inf, ulp

from hypothesis import given
from hypothesis import strategies as st

from headway.simulation.availability import Availability, Diurnal, Windows

PERIODS = st.sampled_from([24.0, 0.7, 0.1, 7.3, 86_400.0, 1e-3, 604_800.1]) | st.floats(1e-3, 1e6)
SHARES = st.lists(st.floats(0.01, 0.98), min_size=2, max_size=6, unique=True)
TIMES = st.floats(0.0, 1e7)


def check_ends(hours: Availability, client: int, time_s: float, share: float) -> None:
    begins = hours.opens_s(client, time_s, 0)
    assert time_s <= begins < inf
    # Some time inside the window, as late as its very end.
    now = min(begins + share * (hours.closes_s(client, begins, 0) - begins), 1e300)
    now = now if hours.opens_s(client, now, 0) == now else begins
    closes = hours.closes_s(client, now, 0)
    assert closes > now
    if closes < inf:
        assert hours.opens_s(client, closes, 0) > closes


@given(PERIODS, SHARES, TIMES, st.floats(0.0, 1.0))
def test_windows_are_shut_when_they_close(
    period: float, shares: list[float], time_s: float, share: float
) -> None:
    borders = [period * part for part in sorted(shares)]
    spans = tuple(
        (low, high) for low, high in zip(borders[::2], borders[1::2], strict=False) if low < high
    )
    if spans:
        check_ends(Windows((spans,), period), 0, time_s, share)


@given(PERIODS, st.floats(0.01, 0.99), st.floats(0.0, 1.0), TIMES, st.floats(0.0, 1.0))
def test_hours_of_the_day_are_shut_when_they_close(
    period: float, length: float, spread: float, time_s: float, share: float
) -> None:
    check_ends(Diurnal(length * period, period, spread), 3, time_s, share)


@given(PERIODS, st.floats(0.01, 0.9), TIMES)
def test_they_close_no_later_than_rounding_makes_them(
    period: float, length: float, time_s: float
) -> None:
    end = length * period
    windows = Windows((((0.0, end),),), period)
    begins = windows.opens_s(0, time_s, 0)
    local = begins % period
    assert abs(windows.closes_s(0, begins, 0) - (begins + (end - local))) <= 8 * ulp(begins + end)
