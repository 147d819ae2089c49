"""Bytes of strangers into what reads them: messages, a server's word to a worker, checkpoints."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from headway import core
from headway.checkpoint import CheckpointStore
from headway.core.errors import CheckpointError, ProtocolError, StateError
from headway.models import build
from headway.runtime import wire
from headway.runtime.chunks import Rooms, as_chunk, chunk_data
from headway.runtime.exchange import Exchange
from headway.runtime.rooms import Sizes
from headway.runtime.vectors import Offer, ServerVectors, WorkerVectors
from tests.core_kit import same

SIZE = 40
LAYOUT = core.ParameterLayout.flat(SIZE)
HUGE = 2**64 - 1
counts = st.integers(0, SIZE + 2) | st.sampled_from([2**31, 2**32, 2**63, HUGE])
vectors = st.builds(
    wire.Vectors,
    num_values=counts,
    buffers=st.booleans(),
    inline=st.binary(max_size=200) | st.just(bytes(4 * SIZE)),
    encoding=st.integers(0, 3),
    encoded_bytes=counts,
    codec=st.text(max_size=9)
    | st.sampled_from(
        [
            '{"kind":"bf16"}',
            '{"kind":"\\ud800"}',
            '{"kind":"topk","fraction":0.1}',
            '{"kind":"topk","fraction":1e400}',
            '{"kind":"int8","block_size":18446744073709551616}',
            "[" * 300,
        ]
    ),
)
replies = st.lists(
    st.binary(max_size=170) | st.binary(max_size=170).map(lambda b: as_chunk(memoryview(b)))
)


def hearing(messages: list[bytes]) -> Callable[[], bytes]:
    """What a link hears: these, and then the end of the stream."""
    left = iter(messages)
    return lambda: next(left)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda rest: b"\x7a" + rest))
@example(b"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x7a")
@example(b"\x7a\x02\x0a\x00")
def test_a_chunk_is_what_protobuf_takes_it_for_or_an_error(data: bytes) -> None:
    try:
        found = chunk_data(data)
    except ProtocolError:
        return
    if found is not None:
        assert wire.ToServer.FromString(data).chunk.data == bytes(found)


@given(vectors, replies)
def test_a_servers_reader_fills_a_vector_or_refuses(told: wire.Vectors, said: list[bytes]) -> None:
    rooms = Rooms(Sizes(LAYOUT))
    reader = ServerVectors(Offer(rooms.sizes, ("bf16", "int8", "none", "topk"), "exact"))
    try:
        reader.check(told)
        vector, buffers = reader.fill(rooms.take(), told, hearing(said))
    except (ProtocolError, StopIteration):
        return
    assert vector is not None
    assert vector.numel() == told.num_values <= SIZE
    assert buffers is None


@given(vectors, replies, st.sampled_from(["", "{}", '{"kind":"bf16"}', '{"kind":"\\ud800"}', "x"]))
def test_a_workers_reader_fills_a_vector_or_refuses(
    told: wire.Vectors, said: list[bytes], pulls: str
) -> None:
    rooms = Rooms(Sizes(LAYOUT))
    reader = WorkerVectors()
    try:
        reader.attach(wire.Welcome(pulls=pulls), rooms.sizes)
        reader.check(told)
        vector, _ = reader.fill(rooms.take(), told, hearing(said), 100)
    except (ProtocolError, StopIteration):
        return
    assert vector is not None
    assert vector.numel() == told.num_values <= SIZE


@given(st.binary(max_size=80))
def test_messages_are_read_or_refused(data: bytes) -> None:
    for kind in (wire.ToServer, wire.ToWorker):
        try:
            kind.FromString(data)
        except DecodeError:
            continue


# --- what a server tells a worker

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, "Linear", "float32", "\ud800", "model"])
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def joined(welcome: wire.Welcome) -> Any:
    """A worker that is answered with this."""
    delivery = SimpleNamespace(header=wire.ToWorker(welcome=welcome))
    link: Any = SimpleNamespace(
        send=lambda parcel: None,
        receive=lambda timeout_s: delivery,
        attach=lambda welcome, layout: False,
    )
    return Exchange(link).join()


@given(*[values.map(json.dumps) | st.text(max_size=8)] * 3)
@example("1", "1", "1")
@example("", "[[1]]", '[["a"]]')
@example("null", json.dumps(LAYOUT.describe()), "[1]")
def test_a_welcome_is_read_or_refused(model: str, layout: str, told: str) -> None:
    for described in (layout, json.dumps(LAYOUT.describe())):
        try:
            joined(wire.Welcome(model=model, layout=described, instructions=told))
        except (ProtocolError, StateError):
            continue


@given(values)
@example({"format": 1, "dtype": "float32", "model": {"class": "Linear"}, "frozen": 1, "tied": []})
def test_a_models_description_is_built_or_refused(description: Any) -> None:
    with pytest.raises(StateError):
        build(description)


@given(st.sampled_from(["dtype", "model", "frozen", "tied"]), values)
def test_a_models_description_with_something_else_in_it(key: str, value: Any) -> None:
    linear = {"class": "Linear", "arguments": {"in_features": 3, "out_features": 2}}
    whole = {"format": 1, "dtype": "float32", "model": linear, "frozen": [], "tied": []}
    try:
        built = build(whole | {key: value})
    except StateError:
        return
    assert sum(parameter.numel() for parameter in built.parameters()) == 8


# --- checkpoints

TREE = {"parameters": torch.arange(6.0), "version": 3, "deep": [{"a": torch.ones(2)}]}
FILES = ("manifest.json", "state.json", "tensors.safetensors")
damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert"]), st.integers(0, 2000), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, place, value in damage:
        at = place % (len(out) + 1)
        if kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = bytes((value,))
        elif at < len(out):
            out[at] ^= 1 << value % 8
    return bytes(out)


@given(st.sampled_from(FILES), damages)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(name: str, damage: Any) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        store = CheckpointStore(folder)
        store.save(1, TREE | {"version": 1})
        path = store.save(2, TREE) / name
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, damage))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = store.load()
        if path.read_bytes() == whole or found.number == 2:
            assert same(found.tree, TREE)
        else:
            with pytest.raises(CheckpointError):
                store.load(2)
            assert same(found.tree, TREE | {"version": 1})
    finally:
        shutil.rmtree(folder)
