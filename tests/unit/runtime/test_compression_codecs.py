"""Codecs: what is read against the written rule, bounds of errors and lengths, and dtypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import compression
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.runtime.compression import indices as index_coding
from headway.runtime.compression.message import DTYPES

CODECS = [
    compression.none(),
    compression.bf16(),
    compression.int8(),
    compression.int8(block_size=3),
    compression.topk(0.01),
    compression.topk(0.2, values="bf16"),
    compression.topk(0.05, values="int8", block_size=7),
    compression.topk(1.0, values="int8"),
]
LENGTHS = [0, 1, 2, 7, 256, 1000, 70_001]


def read(codec, vector, message=None):
    out = torch.full_like(vector, 17.0)
    codec.decode_into(codec.encode(vector) if message is None else message, out)
    return out


def drawn(length, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(length, generator=generator, dtype=torch.float64)
    return vector.mul_(torch.rand(length, generator=generator) ** 4).to(dtype)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lengths_are_known_beforehand_and_inputs_are_left_alone(codec, dtype):
    for length in LENGTHS:
        vector = drawn(length, dtype)
        before = vector.clone()
        message = codec.encode(vector)
        most = codec.max_bytes(length, dtype)
        assert len(message) <= most
        if codec.kind != "topk":
            assert len(message) == most
        assert torch.equal(vector, before)
        assert message == codec.encode(vector), "one vector has one encoding"
        assert torch.isfinite(read(codec, vector)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_none_is_exact(dtype, length):
    vector = drawn(length, dtype)
    assert torch.equal(read(compression.none(), vector), vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bf16_rounds_by_at_most_one_part_in_256(dtype):
    vector = torch.cat([drawn(50_000, dtype), torch.tensor([3.4e38, -3.4e38], dtype=dtype)])
    error = (read(compression.bf16(), vector).double() - vector.double()).abs()
    assert torch.all(error <= vector.double().abs() * 2.0**-8)


def test_bf16_of_a_number_beyond_its_range_is_its_largest():
    vector = torch.tensor([1e300, -1e300], dtype=torch.float64)
    most = torch.finfo(torch.bfloat16).max
    assert read(compression.bf16(), vector).tolist() == [most, -most]


def int8_by_hand(values, block_size):
    """The rule in NumPy, block by block."""
    out = np.zeros_like(values)
    for start in range(0, len(values), block_size):
        block = values[start : start + block_size]
        scale = np.abs(block).max() / values.dtype.type(127)
        if scale:
            out[start : start + block_size] = np.rint(block / scale) * scale
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_size", [1, 3, 256, 32_768])
def test_int8_is_the_rule(dtype, block_size):
    vector = drawn(70_001 if block_size > 3 else 2001, dtype)
    vector[512:1024] = 0.0
    got = read(compression.int8(block_size=block_size), vector)
    np.testing.assert_array_equal(got.numpy(), int8_by_hand(vector.numpy(), block_size))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40),
    st.integers(1, 9),
)
def test_int8_errs_by_at_most_half_a_level(values, block_size):
    vector = torch.tensor(values, dtype=torch.float32)
    got = read(compression.int8(block_size=block_size), vector)
    assert torch.isfinite(got).all()
    for start in range(0, len(vector), block_size):
        block = vector[start : start + block_size].double()
        error = (got[start : start + block_size].double() - block).abs().max()
        # Rounding of the scale, and of a scale below the normal range, come on top.
        assert error <= block.abs().max() / 254 * (1 + 1e-4) + 127 * 2.0**-149


def topk_by_hand(vector, count):
    """The largest by magnitude, the first of equal ones; zeros never."""
    order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))[:count]
    return [value if i in set(order) else 0.0 for i, value in enumerate(vector)]


@given(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 2.0, -3.0]), max_size=60),
    st.floats(0.001, 1.0),
)
def test_topk_is_the_rule_with_ties(values, fraction):
    vector = torch.tensor(values, dtype=torch.float32)
    count = min(len(values), math.ceil(fraction * len(values)))
    assert read(compression.topk(fraction), vector).tolist() == topk_by_hand(values, count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fraction", [1e-5, 0.001, 0.01, 0.1, 0.5])
def test_topk_of_a_long_vector_keeps_the_largest(dtype, fraction):
    # Large where a sample with a fixed stride does not look, and the other way round.
    for stride, offset in [(1, 0), (6, 1), (6, 0)]:
        vector = drawn(200_003, dtype)
        vector[offset::stride] *= 100.0
        kept = read(compression.topk(fraction), vector)
        count = math.ceil(fraction * len(vector))
        assert int((kept != 0).sum()) == count
        assert torch.equal(kept[kept != 0], vector[kept != 0])
        assert vector[kept == 0].abs().max() <= kept[kept != 0].abs().min()


def test_topk_leaves_at_most_its_share_of_the_square():
    vector = drawn(10_000, torch.float64)
    rest = (vector - read(compression.topk(0.1), vector)).square().sum()
    assert rest <= 0.9 * vector.square().sum()


def test_values_within_a_selection_are_written_by_their_codec():
    vector = drawn(5000, torch.float32)
    kept = read(compression.topk(0.1), vector)
    where = kept.nonzero().squeeze(1)
    for name, codec in [("bf16", compression.bf16()), ("int8", compression.int8(block_size=16))]:
        got = read(compression.topk(0.1, values=name, block_size=16), vector)
        assert torch.equal(got[where], read(codec, kept[where]))
        assert int((got != 0).sum()) <= len(where)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_arrives_as_such(codec, bad):
    vector = torch.zeros(300)
    vector[123] = bad
    message = codec.encode(vector)
    assert len(message) == 24
    assert torch.isnan(read(codec, vector, message)).all()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_any_buffer_is_read_at_any_address(codec):
    vector = drawn(999, torch.float64)
    message = bytes(codec.encode(vector))
    wanted = read(codec, vector)
    for buffer in (message, bytearray(message), memoryview(b"abc" + message)[3:]):
        assert torch.equal(read(codec, vector, buffer), wanted)


@given(st.sets(st.integers(0, 300_000)), st.integers(0, 100_000))
def test_indices_come_back(chosen, more):
    indices = np.array(sorted(chosen), np.int64)
    num_params = (int(indices[-1]) + 1 if len(indices) else 0) + more
    for form in (index_coding.GAPS, index_coding.BITMAP):
        best, length = index_coding.choose_form(indices, num_params)
        if form != best:
            length = -(-num_params // 8) if form == index_coding.BITMAP else gaps_by_hand(indices)
        section = np.empty(length, np.uint8)
        index_coding.write_indices(form, indices, num_params, section)
        found = list(index_coding.read_indices(form, section, len(indices), num_params))
        assert np.concatenate([np.empty(0, np.int64), *found]).tolist() == indices.tolist()
    assert length_bound_holds(indices, num_params)


def gaps_by_hand(indices):
    gaps = np.diff(indices, prepend=-1).tolist()
    return sum(-(-gap.bit_length() // 7) for gap in gaps)


def length_bound_holds(indices, num_params):
    _, length = index_coding.choose_form(indices, num_params)
    shortest = min(gaps_by_hand(indices), -(-num_params // 8))
    return length == shortest <= index_coding.max_index_bytes(len(indices), num_params)


def test_gaps_longer_than_a_piece_and_beyond_32_bits():
    indices = np.cumsum(np.tile([1, 127, 128, 20_000, 3_000_000, 70_000_000], 40_000)) - 1
    num_params = int(indices[-1]) + 1
    assert num_params > 1 << 33
    form, length = index_coding.choose_form(indices, num_params)
    assert (form, length) == (index_coding.GAPS, gaps_by_hand(indices))
    section = np.empty(length, np.uint8)
    index_coding.write_indices(form, indices, num_params, section)
    found = list(index_coding.read_indices(form, section, len(indices), num_params))
    assert len(found) > 1
    np.testing.assert_array_equal(np.concatenate(found), indices)


def test_a_hundredth_in_int8_is_shorter_by_more_than_a_hundred_times():
    vector = drawn(159_010, torch.float32)
    message = compression.topk(0.01, values="int8").encode(vector)
    assert vector.nbytes > 100 * len(message)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: compression.int8(block_size=0), ConfigurationError),
        (lambda: compression.int8(block_size=40_000), ConfigurationError),
        (lambda: compression.int8(block_size=2.5), ArgumentTypeError),
        (lambda: compression.topk(0.0), ConfigurationError),
        (lambda: compression.topk(1.5), ConfigurationError),
        (lambda: compression.topk("all"), ArgumentTypeError),
        (lambda: compression.topk(0.1, values="int4"), UnknownNameError),
        (lambda: compression.bf16().encode([1.0]), ArgumentTypeError),
        (lambda: compression.bf16().encode(torch.zeros(2, 2)), ArgumentTypeError),
        (lambda: compression.bf16().encode(torch.zeros(2, dtype=torch.int64)), ArgumentTypeError),
        (lambda: compression.bf16().encode(torch.zeros(4)[::2]), ArgumentTypeError),
    ],
)
def test_mistakes_are_told(make, error):
    with pytest.raises(error):
        make()
