"""What strangers may write instead of a message: refused by name, or read as a finite shape."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from headway import compression
from headway.core.errors import ProtocolError

CODECS = [
    compression.none(),
    compression.bf16(),
    compression.int8(block_size=4),
    compression.topk(0.5),
    compression.topk(0.25, values="bf16"),
    compression.topk(0.25, values="int8", block_size=2),
]
LENGTH = 40
HEAD = struct.Struct("<2sBBBBHQQ")


def vector(dtype=torch.float32):
    return torch.linspace(-2.0, 3.0, LENGTH, dtype=torch.float64).to(dtype)


def refused(codec, message, dtype=torch.float32, match=None):
    with pytest.raises(ProtocolError, match=match):
        codec.decode_into(message, torch.empty(LENGTH, dtype=dtype))


def selection(values, form, section, *, count=None, num_params=LENGTH):
    """A message of ``topk(0.5)`` written by hand."""
    body = np.asarray(values, np.float32).tobytes()
    head = HEAD.pack(b"H1", 4, 1, 1, form, 0, len(values) if count is None else count, num_params)
    return head + body + bytes(section)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_any_other_length_is_refused(codec):
    message = bytes(codec.encode(vector()))
    for cut in range(len(message)):
        if codec.kind != "topk" or cut < len(message) - 1:
            refused(codec, message[:cut])
    refused(codec, message + b"\0")
    refused(codec, message + bytes(10_000))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_other_vectors_and_codecs_are_refused(codec):
    message = bytes(codec.encode(vector()))
    refused(codec, message, torch.float64)
    with pytest.raises(ProtocolError):
        codec.decode_into(message, torch.empty(LENGTH + 1))
    for other in CODECS:
        if other != codec:
            refused(other, message)
    refused(codec, b"XX" + message[2:])
    refused(codec, "text")


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 3e38])
def test_scales_that_cannot_be_used_are_refused(scale):
    codec = compression.int8(block_size=4)
    message = bytearray(codec.encode(vector()))
    message[24:28] = struct.pack("<f", scale)
    refused(codec, message, match="a scale cannot be used")


def test_a_level_that_no_encoder_writes_is_refused():
    codec = compression.int8(block_size=4)
    message = bytearray(codec.encode(vector()))
    message[-1] = 0x80
    refused(codec, message, match="out of its range")


def test_a_selection_by_hand_is_read():
    out = torch.empty(LENGTH)
    compression.topk(0.5).decode_into(selection([1.0, 2.0], 1, [1, 39]), out)
    assert out.nonzero().squeeze(1).tolist() == [0, 39]


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (selection([1.0, 2.0], 1, [1, 40]), "out of its range"),
        (selection([1.0, 2.0], 1, [1, 0]), "do not increase"),
        (selection([1.0], 1, [0]), "do not increase"),
        (selection([1.0], 1, [0x81]), "does not end"),
        (selection([1.0], 1, [0x81, 0]), "longer than it need be"),
        (selection([], 1, [0x80] * 7 + [1]), "too long"),
        (selection([], 1, [0xFF] * 5 + [0x7F]), "out of its range"),
        (selection([1.0], 1, [1, 1]), "another number"),
        (selection([1.0, 2.0], 1, [1]), "another number"),
        (selection([1.0], 2, [0, 0, 0, 0, 0]), "another number"),
        (selection([1.0], 2, [3, 0, 0, 0, 0]), "another number"),
        (selection([1.0], 2, [1, 0, 0, 0]), "wrong length"),
        (selection([1.0], 3, [1]), "unknown form"),
        (selection([1.0], 0, [1]), "unknown form"),
        (selection([], 1, [], count=21), "larger than was agreed"),
        (selection([], 1, [], count=1 << 60), "larger than was agreed"),
        (selection([], 1, [], count=3), "too short"),
        (selection([1.0], 1, [1], num_params=1 << 50), "agreed upon"),
        (selection([], 255, [0]), "has no body"),
        (selection([], 255, [], count=1), "has no body"),
    ],
)
def test_selections_that_lie_are_refused(message, match):
    refused(compression.topk(0.5), message, match=match)


def test_bits_behind_the_end_of_a_bitmap_are_refused():
    message = HEAD.pack(b"H1", 4, 1, 1, 2, 0, 1, 3) + struct.pack("<f", 1.0) + b"\x08"
    with pytest.raises(ProtocolError, match="out of its range"):
        compression.topk(0.5).decode_into(message, torch.empty(3))


@given(
    st.sampled_from(CODECS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
# Found while this was written: the form of a message without a body.
@example(CODECS[0], [(5, 255)])
@example(CODECS[3], [(5, 255)])
@example(CODECS[3], [(8, 0)])
def test_damage_is_refused_or_read_as_a_vector(codec, damage):
    message = bytearray(codec.encode(vector()))
    for position, value in damage:
        message[position % len(message)] = value
    try:
        codec.decode_into(message, torch.empty(LENGTH))
    except ProtocolError:
        return
    assert len(message) <= codec.max_bytes(LENGTH, torch.float32)


@given(st.sampled_from(CODECS), st.binary(max_size=200))
def test_garbage_behind_a_good_header_never_raises_anything_else(codec, garbage):
    message = bytes(codec.encode(vector()))[:24] + garbage
    try:
        codec.decode_into(message, torch.empty(LENGTH))
    except ProtocolError:
        return


@given(st.integers(0, 3), st.integers(0, 20), st.binary(max_size=120))
@example(1, 1, b"\0\0\0\0\x80")
@example(1, 0, b"\xff" * 30)
def test_random_selections_never_raise_anything_else(form, count, body):
    message = HEAD.pack(b"H1", 4, 1, 1, form, 0, count, LENGTH) + body
    try:
        compression.topk(0.5).decode_into(message, torch.empty(LENGTH))
    except ProtocolError:
        return


def test_a_message_without_a_body_fills_the_vector_with_nan():
    message = bytes(compression.bf16().encode(torch.full((LENGTH,), math.nan)))
    refused(compression.bf16(), message + bytes(80))
    out = torch.zeros(LENGTH)
    compression.bf16().decode_into(message, out)
    assert torch.isnan(out).all()
