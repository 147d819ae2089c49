"""Descriptions from a sender who means harm: refused, and before memory is taken for them."""

from __future__ import annotations

import copy
import json
import resource
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headway.core.errors import StateError
from headway.models import build, describe, transformer
from headway.models.assembly import MAX_DEPTH
from headway.models.stock import kinds

LIMITS = {"max_params": 20_000, "max_modules": 200}


def tree(model: object, **entries: Any) -> dict[str, Any]:
    plain = {"format": 1, "dtype": "float32", "model": model, "frozen": [], "tied": []}
    return {**plain, **entries}


def layer(name: object, **arguments: Any) -> dict[str, Any]:
    return {"class": name, "arguments": arguments}


def sequence(*children: Any) -> dict[str, Any]:
    return {"class": "Sequential", "children": [[str(i), c] for i, c in enumerate(children)]}


LINEAR = layer("Linear", in_features=2, out_features=2)
ENCODER = layer("TransformerEncoderLayer", d_model=4, nhead=2)


def deep(levels: int) -> dict[str, Any]:
    node = LINEAR
    for _ in range(levels):
        node = sequence(node)
    return node


def doubling(levels: int) -> dict[str, Any]:
    node, path = LINEAR, "0." * levels
    for level in range(levels):
        node = sequence(node, {"same": path[: 2 * (levels - level) - 1]})
    return node


def repeated(times: int, inner: object) -> dict[str, Any]:
    return layer("TransformerEncoder", encoder_layer=inner, num_layers=times)


BOMBS = {
    "a wide layer": layer("Linear", in_features=10**12, out_features=2),
    "a square layer": layer("Linear", in_features=2**40, out_features=2**40),
    "an integer beyond 64 bits": layer("Linear", in_features=10**4000, out_features=2),
    "buffers only": layer("BatchNorm1d", num_features=10**12, affine=False),
    "many middling layers": sequence(
        *(layer("Linear", in_features=20_000, out_features=20_000) for _ in range(4))
    ),
    "tied copies": tree(
        sequence(*(layer("Linear", in_features=20_000, out_features=20_000) for _ in range(4))),
        tied=[[f"{i}.weight" for i in range(4)]],
    ),
    "an embedding": layer("Embedding", num_embeddings=10**9, embedding_dim=64),
    "a recurrent tower": layer("LSTM", input_size=1, hidden_size=1, num_layers=10**9),
    "a deep encoder": repeated(10**9, ENCODER),
    "encoders of encoders": repeated(100, repeated(100, repeated(100, ENCODER))),
    "our transformer": layer("headway.transformer", layers=10**9, dim=4, heads=1),
    "our wide transformer": layer("headway.transformer", dim=10**8, heads=1),
    "many modules": sequence(*(layer("ReLU") for _ in range(10_001))),
    "a kernel": layer("Conv3d", in_channels=1, out_channels=1, kernel_size=10**5),
    "a long list": layer("LayerNorm", normalized_shape=[1] * 257),
    "a deep tree": deep(MAX_DEPTH + 1),
    "references that double": doubling(40),
    "a wide tail": layer(
        *("AdaptiveLogSoftmaxWithLoss",), in_features=9, n_classes=99, cutoffs=[5], div_value=1e-12
    ),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_without_memory(name: str) -> None:
    bomb = BOMBS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StateError, match="cannot be built"):
        build(bomb if "format" in bomb else tree(bomb))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 256 * 2**20


ODD = {
    "no object": [1, 2],
    "nothing": None,
    "another format": tree(LINEAR, format=2),
    "more entries": tree(LINEAR, code="print()"),
    "an entry less": {"format": 1, "dtype": "float32", "model": LINEAR, "frozen": []},
    "a dtype that is a function": tree(LINEAR, dtype="load"),
    "a dtype that is none": tree(LINEAR, dtype=["float32"]),
    "no class": tree({"arguments": {}}),
    "a class of Python": tree(layer("os.system")),
    "a class of another module": tree(layer("DataParallel", module=LINEAR)),
    "a base class": tree(layer("Module")),
    "a loss": tree(layer("CrossEntropyLoss")),
    "a lazy layer": tree(layer("LazyLinear", out_features=3)),
    "a function of torch.nn": tree(layer("factory_kwargs")),
    "a dunder": tree(layer("__builtins__")),
    "a number for a class": tree(layer(3)),
    "an unknown argument": tree(layer("ReLU", hook="os.system")),
    "a device": tree(layer("Linear", in_features=2, out_features=2, device="cuda")),
    "an argument less": tree(layer("Linear", in_features=2)),
    "a word that is none": tree(layer("GELU", approximate="exec")),
    "a word for a number": tree(layer("Linear", in_features="2", out_features=2)),
    "an object for a number": tree(layer("Linear", in_features={"a": 1}, out_features=2)),
    "a module for a number": tree(layer("Linear", in_features=LINEAR, out_features=2)),
    "a module in a list": tree(layer("Unflatten", dim=1, unflattened_size=[LINEAR])),
    "a negative size": tree(layer("Linear", in_features=-2, out_features=2)),
    "a fraction": tree(layer("Linear", in_features=2.5, out_features=2)),
    "a float that is no number": tree(layer("Dropout", p={"float": "1e5"})),
    "a float of a list": tree(layer("Dropout", p={"float": ["inf"]})),
    "arguments in a list": tree({"class": "ReLU", "arguments": []}),
    "children in an object": tree({"class": "Sequential", "children": {}}),
    "children of a layer": tree({"class": "ReLU", "children": [["0", LINEAR]]}),
    "a child that is no pair": tree({"class": "Sequential", "children": [LINEAR]}),
    "a child without a name": tree({"class": "Sequential", "children": [["", LINEAR]]}),
    "a child's name with a dot": tree({"class": "Sequential", "children": [["a.b", LINEAR]]}),
    "a child by a method's name": tree({"class": "Sequential", "children": [["forward", LINEAR]]}),
    "a child by an escape": tree({"class": "Sequential", "children": [["\x1b[2J", LINEAR]]}),
    "a child twice": tree({"class": "Sequential", "children": [["a", LINEAR], ["a", LINEAR]]}),
    "a list out of order": tree({"class": "ModuleList", "children": [["1", LINEAR]]}),
    "a reference forward": tree(sequence({"same": "1"}, LINEAR)),
    "a reference to itself": tree(sequence({"same": ""})),
    "a reference with more": tree(sequence(LINEAR, {"same": "0", "class": "ReLU"})),
    "a reference to a list": tree(sequence(LINEAR, {"same": ["0"]})),
    "frozen by no name": tree(LINEAR, frozen=["nothing"]),
    "frozen by a number": tree(LINEAR, frozen=[0]),
    "frozen by a word": tree(LINEAR, frozen="weight"),
    "tied to nothing": tree(LINEAR, tied=[["weight", "__class__"]]),
    "tied alone": tree(LINEAR, tied=[["weight"]]),
    "tied out of shape": tree(LINEAR, tied=[["weight", "bias"]]),
    "tied by a word": tree(LINEAR, tied=["weight"]),
    "heads that do not divide": tree(layer("MultiheadAttention", embed_dim=5, num_heads=2)),
    "our transformer, out of range": tree(layer("headway.transformer", dim=5, heads=2)),
    "a division by zero": tree(
        layer(
            *("AdaptiveLogSoftmaxWithLoss",), in_features=9, n_classes=9, cutoffs=[5], div_value=0.0
        )
    ),
    "an overflow": tree(
        layer(
            *("AdaptiveLogSoftmaxWithLoss",),
            in_features=9,
            n_classes=9,
            cutoffs=[5, 6],
            div_value=1e300,
        )
    ),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_what_is_odd_is_refused(name: str) -> None:
    with pytest.raises(StateError, match="cannot be built") as caught:
        build(ODD[name])
    text = str(caught.value)
    assert "model=" in text
    assert len(text) < 2000
    assert "\x1b" not in text


def test_an_unknown_layer_names_its_neighbour() -> None:
    with pytest.raises(StateError, match="did you mean `Linear`"):
        build(tree(layer("Linar", in_features=2, out_features=2)))


def test_limits_hold_to_the_number() -> None:
    description = describe(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    numbers = 3 * 2 + 2 + 2 + 2 + 2 + 2 + 1
    build(description, max_params=numbers, max_modules=3)
    with pytest.raises(StateError, match="too large"):
        build(description, max_params=numbers - 1)
    with pytest.raises(StateError, match="too many modules"):
        build(description, max_modules=2)


def test_on_meta_nothing_is_taken_at_all() -> None:
    description = describe(nn.Linear(3, 2))
    description["model"]["arguments"]["in_features"] = 10**12
    built = build(description, device="meta", max_params=10**13)
    assert next(built.parameters()).shape == (2, 10**12)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers()
    | st.floats()
    | st.sampled_from(["same", "relu", "zeros", "float", "class", "weight", "0", ""])
    | st.text(max_size=5)
)
KEYS = st.sampled_from(
    sorted(
        {"class", "arguments", "children", "same", "format", "dtype", "model", "frozen", "tied"}
        | {option for kind in kinds().values() for option in kind.options}
    )
) | st.text(max_size=3)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def arguments_for(name: str, values: Any) -> Any:
    options = sorted(kinds()[name].options)
    given = st.fixed_dictionaries({}, optional=dict.fromkeys(options, values))
    return given.map(lambda arguments: {"class": name, "arguments": arguments})


NODES = st.recursive(
    st.sampled_from(sorted(kinds())).flatmap(
        lambda name: arguments_for(name, SCALARS | st.lists(SCALARS, max_size=3))
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda children: sequence(*children))
        | st.sampled_from(["TransformerEncoder", "TransformerDecoder", "Transformer"]).flatmap(
            lambda name: arguments_for(name, inner | SCALARS)
        )
        | st.sampled_from([{"same": "0"}, {"same": ""}])
    ),
    max_leaves=6,
)


def built_or_refused(description: object) -> nn.Module | None:
    try:
        return build(description, **LIMITS)  # type: ignore[arg-type]
    except StateError:
        return None


@given(JSON)
def test_any_json_is_built_or_refused(value: Any) -> None:
    built_or_refused(value)
    built_or_refused(tree(value))


@given(NODES, JSON, JSON)
def test_any_nodes_are_built_or_refused(node: Any, frozen: Any, tied: Any) -> None:
    built_or_refused(tree(node, frozen=frozen, tied=tied))
    module = built_or_refused(tree(node))
    if module is not None:
        assert sum(p.numel() for p in module.parameters()) <= LIMITS["max_params"]
        assert sum(1 for _ in module.modules()) <= 20 * LIMITS["max_modules"]


def sound() -> dict[str, Any]:
    tied = nn.Linear(4, 4)
    module = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4), tied, nn.GELU(), tied),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2, nn.LayerNorm(4)
        ),
        nn.GRU(4, 3, 2),
        transformer(5, 4, 1, 2, 3)(),
    )
    module[2].weight.requires_grad_(False)
    return describe(module)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [path, *(p for key in keys for p in places(value[key], (*path, key)))]


SOUND = sound()
PLACES = places(SOUND)[1:]


def test_the_sound_description_is_built() -> None:
    assert built_or_refused(json.loads(json.dumps(SOUND))) is not None


@given(st.sampled_from(PLACES), JSON | NODES)
def test_a_sound_description_with_one_thing_changed(place: tuple[Any, ...], value: Any) -> None:
    damaged = copy.deepcopy(SOUND)
    inner: Any = damaged
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    module = built_or_refused(damaged)
    if module is not None:
        assert all(p.device == torch.device("cpu") for p in module.parameters())
