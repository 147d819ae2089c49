"""What a configuration can name is read from signatures and docstrings."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Literal

import pytest
import torch

from headway.algorithms import ALGORITHMS, staleness
from headway.config import values
from headway.config.factories import KINDS, REQUIRED, Factory, factories, find
from headway.core.errors import UnknownNameError


def everything():
    return [(kind, name, factory) for kind in KINDS for name, factory in factories(kind).items()]


@pytest.mark.parametrize(
    ("kind", "name", "factory"), everything(), ids=lambda value: str(value)[:40]
)
def test_every_option_is_documented_and_its_default_is_accepted(kind, name, factory):
    assert factory.summary
    for option in factory.options.values():
        assert option.text, f"{name}({option.name}) has no text in the docstring's Args"
        default = values.plain(option.default)
        if option.default is not REQUIRED and default is not None:
            assert values.accepts(option.annotation, default)


def test_the_algorithms_are_those_of_the_catalog_with_their_arguments():
    found = factories("algorithms")
    assert list(found) == sorted(ALGORITHMS)
    for name, factory in found.items():
        assert list(factory.options) == list(inspect.signature(ALGORITHMS[name]).parameters)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_an_algorithm_made_from_its_plain_defaults_is_the_default_one(name):
    factory = find("algorithms", name)
    plain = {option.name: values.plain(option.default) for option in factory.options.values()}
    made = {
        option: values.make(factory.options[option].annotation, value)
        for option, value in plain.items()
        if value is not None
    }
    assert factory.make(**made).settings == ALGORITHMS[name]().settings


def test_an_algorithm_from_anywhere_needs_no_change_here():
    def own(*, size: int, mode: Literal["a", "b"] = "a", rate: float | None = None) -> None:
        """Do it.

        Args:
            size: How large,
                in examples.
            mode: Which.
            rate: How fast.
        """

    factory = Factory.of(own)
    assert factory.summary == "Do it."
    assert factory.options["size"].default is REQUIRED
    assert factory.options["size"].text == "How large, in examples."
    assert values.type_text(factory.options["mode"].annotation) == '"a" or "b"'
    assert values.accepts(factory.options["rate"].annotation, 1)
    assert not values.accepts(factory.options["rate"].annotation, "1")


@pytest.mark.parametrize(
    ("annotation", "value", "is_accepted"),
    [
        (int, 3, True),
        (int, 3.0, False),
        (int, True, False),
        (int, "3", False),
        (float, 3, True),
        (float, True, False),
        (float | None, "none", True),
        (float, "none", False),
        (str, "x", True),
        (list[int], [1, 2], True),
        (list[int], [1, "2"], False),
        (tuple[int, ...] | list[int], [1], True),
        (Literal["drop", "apply"], "drop", True),
        (Literal["drop", "apply"], "keep", False),
    ],
)
def test_values_are_taken_strictly(annotation, value, is_accepted):
    assert values.accepts(annotation, value) is is_accepted


def test_a_staleness_weight_is_a_name_or_a_table():
    annotation = find("algorithms", "fedbuff").options["staleness"].annotation
    assert values.make(annotation, "inverse") == staleness.inverse()
    table = {"name": "hinge", "a": 5.0, "b": 2.0}
    assert values.make(annotation, table) == staleness.hinge(5.0, 2.0)
    assert values.plain(staleness.hinge(5.0, 2.0)) == table
    assert not values.accepts(annotation, 0.5)
    with pytest.raises(UnknownNameError, match="staleness weight `hing`"):
        values.make(annotation, "hing")
    with pytest.raises(UnknownNameError, match="option of hinge `c`"):
        values.make(annotation, {"name": "hinge", "c": 1})


def test_an_optimizer_is_a_name_of_torch_optim_or_a_table():
    annotation = find("algorithms", "fedbuff").options["server_optimizer"].annotation
    for name in ("SGD", "sgd"):
        made = values.make(annotation, {"name": name, "lr": 0.5})
        assert (made.func, made.keywords) == (torch.optim.SGD, {"lr": 0.5})
    assert values.plain(partial(torch.optim.Adam, lr=0.1)) == {"name": "Adam", "lr": 0.1}
    with pytest.raises(UnknownNameError, match="optimizer `SDG`"):
        values.make(annotation, "SDG")
    with pytest.raises(UnknownNameError, match="option of SGD `momentun`"):
        values.make(annotation, {"name": "SGD", "momentun": 0.9})


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        find("populations", "log_normal")
    assert "lognormal" in caught.value.known
    assert caught.value.help == "did you mean `lognormal`?"
