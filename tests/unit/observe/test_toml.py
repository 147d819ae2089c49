"""The TOML writer: Python's own reader reads the same tree back."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import ArgumentTypeError
from headway.observe import toml
from tests.unit.observe.kit import same

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = texts | st.booleans() | st.integers() | st.floats()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
trees = st.dictionaries(texts, values, max_size=5)


def unordered(tree: Any) -> Any:
    """TOML puts the tables of a table after its plain entries."""
    if isinstance(tree, dict):
        return {name: unordered(tree[name]) for name in sorted(tree)}
    return [unordered(item) for item in tree] if isinstance(tree, list) else tree


@given(trees)
def test_a_tree_comes_back(tree: dict[str, Any]) -> None:
    text = toml.dumps(tree)
    assert same(unordered(tomllib.loads(text)), unordered(tree))
    assert not text or (text.endswith("\n") and not text.startswith("\n"))


@given(trees)
def test_what_is_none_is_left_out(tree: dict[str, Any]) -> None:
    with_nothing = {**tree, "nothing": None, "table": {"also": None, "inline": [{"a": None}]}}
    expected = {**tree, "table": {"inline": [{}]}}
    expected.pop("nothing", None)
    assert same(unordered(tomllib.loads(toml.dumps(with_nothing))), unordered(expected))


def test_it_is_what_a_person_would_write() -> None:
    tree = {
        "seed": 0,
        "algorithms": [{"name": "fedbuff", "options": {"buffer_size": 10}}, {"name": "fedavg"}],
        "run": {"stop": {"updates": 100, "target": ("accuracy", 0.85, "max")}, "quiet": True},
        "empty": {},
    }
    expected = """\
seed = 0

[[algorithms]]
name = "fedbuff"

[algorithms.options]
buffer_size = 10

[[algorithms]]
name = "fedavg"

[run]
quiet = true

[run.stop]
updates = 100
target = ["accuracy", 0.85, "max"]

[empty]
"""
    assert toml.dumps(tree) == expected
    assert toml.dumps({}) == ""


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"a": {"b": object()}}, "a.b"),
        ({"a": [1, None]}, "a"),
        ({"a": {"b": [{"c": {1, 2}}]}}, "a.b.c"),
        ({"a": {3: 1}}, "a"),
        ({3: 1}, "the top level"),
        ({"a": [[{3: 1}]]}, "a"),
        ({"a": "\ud800"}, "a"),
    ],
)
def test_what_toml_cannot_hold_is_named(tree: Any, where: str) -> None:
    with pytest.raises(ArgumentTypeError, match="cannot be written as TOML") as caught:
        toml.dumps(tree)
    assert caught.value.where == where
