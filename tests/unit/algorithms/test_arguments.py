"""The checks of arguments, and how arguments are described."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from headway import staleness
from headway.algorithms.arguments import check_choice, check_count, check_number, describe
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError


def test_numbers_in_their_range_come_back_as_floats():
    assert check_number("mixing", 1, maximum=1.0) == 1.0
    assert isinstance(check_number("mixing", np.float32(0.5)), float)
    assert check_number("rate", 0) == 0.0


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_numbers_out_of_their_range_are_errors(value):
    with pytest.raises(ConfigurationError) as caught:
        check_number("mixing", value, maximum=1.0)
    assert caught.value.expected == "a number, at least 0 and at most 1"


def test_an_open_end_is_told():
    with pytest.raises(ConfigurationError) as caught:
        check_number("decay", 0.0, above=True)
    assert caught.value.expected == "a number, above 0"


@pytest.mark.parametrize("value", ["1", None, True, [1]])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(ArgumentTypeError):
        check_number("rate", value)
    with pytest.raises(ArgumentTypeError):
        check_count("size", value)


def test_counts():
    assert check_count("size", np.int64(3)) == 3
    assert check_count("bound", 0, minimum=0) == 0
    with pytest.raises(ConfigurationError, match="`size` is out of its range"):
        check_count("size", 0)
    with pytest.raises(ArgumentTypeError, match="`size` must be an int"):
        check_count("size", 1.5)


def test_a_wrong_choice_names_the_nearest():
    check_choice("form", "delta", ("delta", "weights"))
    with pytest.raises(UnknownNameError) as caught:
        check_choice("form", "weight", ("delta", "weights"))
    assert caught.value.help == "did you mean `weights`?"


def test_settings_are_described_in_plain_values():
    described = describe(
        {
            "none": None,
            "count": 3,
            "weight": staleness.hinge(10, 4),
            "optimizer": torch.optim.Adam,
            "tuned": partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.9)),
        }
    )
    assert described == {
        "none": None,
        "count": 3,
        "weight": "hinge(a=10.0, b=4.0)",
        "optimizer": "Adam",
        "tuned": "Adam(lr=0.1, betas=(0.8, 0.9))",
    }
