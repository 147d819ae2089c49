"""Which codec two parties use, and codecs as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import compression
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ProtocolError,
    UnknownNameError,
)

CODECS = [
    compression.none(),
    compression.bf16(),
    compression.int8(block_size=64),
    compression.topk(0.01),
    compression.topk(0.02, values="bf16"),
    compression.topk(0.03, values="int8", block_size=32),
]
LINK = compression.Link(1e9, 1000)
LADDER = [
    compression.none(),
    compression.bf16(),
    compression.int8(),
    compression.topk(0.1, values="int8"),
    compression.topk(0.01, values="int8"),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_descriptions_come_back(codec):
    told = json.loads(json.dumps(codec.describe()))
    assert compression.from_description(told) == codec
    assert eval(repr(codec), vars(compression)) == codec


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"kind": "zip"},
        {"kind": ["none"]},
        {"kind": "none", "more": 1},
        {"kind": "int8"},
        {"kind": "int8", "block_size": 0},
        {"kind": "int8", "block_size": "256"},
        {"kind": "int8", "block_size": 1e300},
        {"kind": "topk", "fraction": 2.0, "values": "none"},
        {"kind": "topk", "fraction": float("nan"), "values": "none"},
        {"kind": "topk", "fraction": 0.1, "values": "topk"},
        {"kind": "topk", "fraction": 0.1, "values": ["none"]},
        ["none"],
        "none",
        None,
    ],
)
def test_a_strangers_description_is_refused(told):
    with pytest.raises(ProtocolError, match="not the description"):
        compression.from_description(told)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)


@given(
    st.sampled_from(compression.KINDS),
    st.dictionaries(st.sampled_from(["fraction", "values", "block_size"]), json_values),
)
def test_any_description_is_read_or_refused(kind, options):
    try:
        compression.from_description({"kind": kind, **options})
    except ProtocolError:
        return


def test_what_is_wanted_is_taken_if_it_is_offered():
    one, other = compression.topk(0.5), compression.bf16()
    assert compression.choose(one, compression.KINDS, LINK) == one
    assert compression.choose([one, other], ["none", "bf16"], LINK) == other
    with pytest.raises(ConfigurationError, match="does not offer"):
        compression.choose([one], ["none", "bf16"], LINK)
    with pytest.raises(ConfigurationError, match="does not offer"):
        compression.choose("auto", ["zip"], LINK)
    with pytest.raises(UnknownNameError):
        compression.choose("topk", compression.KINDS, LINK)
    with pytest.raises(ArgumentTypeError):
        compression.choose([3], compression.KINDS, LINK)
    with pytest.raises(ConfigurationError, match="no link"):
        compression.choose("auto", compression.KINDS, compression.Link(0.0, 10))


@given(
    st.floats(1.0, 1e9),
    st.floats(0.01, 100.0),
    st.integers(0, 10_000_000),
    st.sets(st.sampled_from(compression.KINDS), min_size=1),
)
def test_auto_takes_the_most_exact_that_is_in_time(rate, patience, num_params, offered):
    link = compression.Link(rate, num_params, torch.float32, patience)
    chosen = compression.choose("auto", offered, link)
    usable = [codec for codec in LADDER if codec.kind in offered]
    seconds = [codec.max_bytes(num_params, torch.float32) / rate for codec in usable]
    in_time = [codec for codec, s in zip(usable, seconds, strict=True) if s <= patience]
    if in_time:
        assert chosen == in_time[0]
    else:
        assert seconds[usable.index(chosen)] == min(seconds)


def test_the_worker_side_loads_no_server():
    code = (
        "import sys; from headway import compression; "
        "print(*(m for m in sys.modules if m.startswith('headway.')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert loaded == {"core", "algorithms", "runtime"}
    inner = {".".join(n.split(".")[2:3]) for n in done.stdout.split() if ".runtime." in n}
    assert inner == {"compression"}
