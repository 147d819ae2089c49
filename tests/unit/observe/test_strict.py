"""Strict JSON: whatever goes in comes back, and any JSON reader can read it."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.observe import strict
from tests.unit.observe.kit import plain, same


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


@given(plain, st.none() | st.just(2))
def test_a_tree_comes_back_and_is_strict(tree: Any, indent: int | None) -> None:
    text = strict.dumps(tree, indent=indent)
    json.loads(text, parse_constant=_refuse)
    assert text.isascii()
    assert ("\n" in text) <= (indent is not None)
    assert same(strict.loads(text), tree)


def test_the_names_are_those_that_other_languages_read() -> None:
    values = [float("nan"), float("inf"), float("-inf")]
    assert strict.dumps(values) == '["NaN","Infinity","-Infinity"]'
    assert same([float(name) for name in ("NaN", "Infinity", "-Infinity")], values)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":-Infinity}', "{", "", '{"a":1}}'])
def test_what_is_not_strict_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        strict.loads(text)


@pytest.mark.parametrize("other", [5.0, float("nan")])
def test_scalars_and_mappings_of_other_kinds_are_written_as_plain_ones(other: float) -> None:
    tree = MappingProxyType({"a": torch.tensor(3), "b": np.float32(1.5), "c": other})
    assert same(strict.loads(strict.dumps(tree)), {"a": 3, "b": 1.5, "c": other})


@pytest.mark.parametrize("other", [object(), {1, 2}, 1j, b"bytes"])
@pytest.mark.parametrize("beside", [0.0, float("nan")])
def test_anything_else_is_refused(other: object, beside: float) -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        strict.dumps([beside, other])
