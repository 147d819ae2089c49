"""Checks of numbers that a user gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.simulation.arguments import check_count, check_number, check_positive


def test_numbers_of_other_libraries_become_plain_ones() -> None:
    for value in (2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0)):
        number = check_number("x", value, where="f")
        assert type(number) is float
        assert number == 2.0
    for value in (2, np.int64(2), torch.tensor(2)):
        count = check_count("n", value, where="f")
        assert type(count) is int
        assert count == 2


@pytest.mark.parametrize("value", [2.0, "2", None, True])
def test_a_count_is_an_integer(value: object) -> None:
    with pytest.raises(ArgumentTypeError, match="n must be a whole number"):
        check_count("n", value, where="f")


@pytest.mark.parametrize("value", [0, -3, 11])
def test_a_count_stays_in_its_range(value: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_count("n", value, where="f", maximum=10)
    assert caught.value.expected == "an int, at least 1 and at most 10"


def test_the_error_says_what_where_and_what_next() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_number("sigma", -1, where="population.lognormal", minimum=0)
    assert str(caught.value).splitlines() == [
        "sigma cannot be -1",
        "  in     population.lognormal",
        "  got    -1",
        "  wanted a finite number, at least 0",
        "  help   give another sigma",
    ]


@pytest.mark.parametrize("value", [0.0, -0.0, -1, float("nan"), float("inf")])
def test_positive_excludes_zero(value: float) -> None:
    with pytest.raises(ConfigurationError):
        check_positive("time_s", value, where="f")
