"""When a run is measured: exactly one clock."""

from __future__ import annotations

from typing import Any

import pytest

from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.simulation.schedule import Every, as_every, every


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"updates": 50}, "every 50 updates"),
        ({"versions": 3}, "every 3 versions"),
        ({"virtual_time_s": 2.5}, "every 2.5 virtual seconds"),
    ],
)
def test_one_clock(given: dict[str, Any], text: str) -> None:
    clock = every(**given)
    assert str(clock) == text
    assert clock == Every(**given)
    assert as_every(clock) is clock


def test_a_bare_number_counts_updates() -> None:
    assert as_every(7) == every(updates=7)


@pytest.mark.parametrize("given", [{}, {"updates": 5, "versions": 5}])
def test_none_or_several_clocks_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="exactly one clock"):
        every(**given)


@pytest.mark.parametrize(
    "given",
    [{"updates": 0}, {"versions": -1}, {"virtual_time_s": 0.0}, {"virtual_time_s": float("nan")}],
)
def test_a_distance_must_be_positive(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be"):
        every(**given)


@pytest.mark.parametrize("given", [{"updates": 1.5}, {"versions": "3"}, {"updates": True}])
def test_a_count_must_be_whole(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="whole number"):
        every(**given)
