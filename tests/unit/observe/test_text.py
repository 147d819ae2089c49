"""Numbers for people: few characters, and still the number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.observe import text

_POWERS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def read(shown: str) -> float:
    """What a person understands."""
    shown = shown.replace(",", "").removesuffix(" s").removesuffix("B").strip()
    power = _POWERS.get(shown[-1:], 1.0)
    return float(shown.rstrip("kMGTPE ")) * power


@given(st.floats(-1e17, 1e17))
def test_a_number_is_read_back_to_its_digits(value: float) -> None:
    for show in (text.number, text.compact):
        assert read(show(value)) == pytest.approx(value, rel=2e-3, abs=1e-300)
    assert len(text.compact(value)) <= 11


@given(st.integers(0, 10**20))
def test_bytes_are_read_back(count: int) -> None:
    shown = text.bytes_text(count)
    assert read(shown) == pytest.approx(count, rel=6e-3)
    assert len(shown) <= 8


@given(st.integers(-(10**14), 10**14))
def test_whole_numbers_keep_all_their_digits(value: int) -> None:
    assert int(text.number(value).replace(",", "")) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_named(value: float) -> None:
    assert text.number(value) == text.compact(value) == str(value)
