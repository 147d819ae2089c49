"""Models as differences: workers' copies, tags that are unknown, bounded memory, strangers."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import compression
from headway.core.errors import ArgumentTypeError, ConfigurationError, ProtocolError
from headway.runtime.compression.words import add_difference, difference

LENGTH = 1000
FULL = 32 + 4 * LENGTH


def drawn(seed, length=LENGTH, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, generator=generator, dtype=torch.float64).to(dtype)


def same_bits(one, other):
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def pair(**options):
    coder = compression.PullCoder(LENGTH, **options)
    return coder, compression.PullDecoder(LENGTH, codec=options.get("codec"))


@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 3),
    st.floats(0.0, 1.0),
    st.integers(0, 140_000),
)
def test_a_difference_loses_nothing(dtype, seed, share, length):
    old = drawn(seed, length, dtype)
    new = old.clone()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(length, generator=generator) < share**3
    new[chosen] += 0.001
    if length > 3:
        new[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    parts = difference(new, old, 10 * new.nbytes + 1000)
    assert parts is not None
    target = old.clone()
    add_difference(np.frombuffer(b"".join(parts) or b"", np.uint8), target)
    assert same_bits(target, new)


def test_few_changes_are_short_and_many_are_not_sent_as_a_difference():
    coder, decoder = pair()
    model = drawn(0)
    assert len(coder.encode("a", model, version=0)) == FULL
    decoder.decode(coder.encode("a", model, version=0))
    unchanged = coder.encode("a", model, version=0, has=decoder.tag)
    assert len(unchanged) == 32
    decoder.decode(unchanged)
    model[::100] += 1.0
    few = coder.encode("a", model, version=1, has=decoder.tag)
    assert len(few) < 120
    assert same_bits(decoder.decode(few), model)
    # Signs and exponents differ too.
    model = -1e20 * drawn(1)
    assert len(coder.encode("a", model, version=2, has=decoder.tag)) == FULL


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=40))
def test_workers_have_the_model_whatever_was_lost(steps):
    coder = compression.PullCoder(LENGTH, max_models=3)
    decoders = [compression.PullDecoder(LENGTH) for _ in range(5)]
    model = drawn(0)
    for version, (worker, arrives, restarts) in enumerate(steps):
        model[version] += 1.0
        if restarts:
            decoders[worker] = compression.PullDecoder(LENGTH)
        decoder = decoders[worker]
        message = coder.encode(f"worker-{worker}", model, version=version, has=decoder.tag)
        if arrives:
            assert same_bits(decoder.decode(message), model)
        assert coder.memory_bytes <= 3 * 4 * LENGTH


@pytest.mark.parametrize(
    "codec",
    [compression.int8(), compression.bf16(), compression.topk(0.3, values="int8")],
    ids=repr,
)
def test_a_lossy_copy_converges_to_a_model_that_stays(codec):
    coder, decoder = pair(codec=codec)
    decoder.decode(coder.encode("a", drawn(0), version=0))
    model = drawn(1)
    errors = []
    for _ in range(12):
        message = coder.encode("a", model, version=1, has=decoder.tag)
        assert len(message) < FULL
        errors.append(float((decoder.decode(message) - model).abs().max()))
    assert errors[-1] <= 1e-6 * float(model.abs().max())
    assert all(late <= early + 1e-6 for early, late in pairwise(errors))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("alr")), max_size=40))
def test_the_server_knows_each_copy_whatever_was_lost(steps):
    codec = compression.int8(block_size=16)
    # Room for two workers of four.
    coder = compression.PullCoder(LENGTH, codec=codec, max_models=5)
    decoders = [compression.PullDecoder(LENGTH, codec=codec) for _ in range(4)]
    model = drawn(0)
    before = [torch.zeros(LENGTH)] * 4
    for version, (worker, what) in enumerate(steps):
        model += 0.01 * drawn(version + 1)
        if what == "r":
            decoders[worker] = compression.PullDecoder(LENGTH, codec=codec)
        decoder = decoders[worker]
        base = decoder.tag and before[worker]
        message = coder.encode(f"worker-{worker}", model, version=version, has=decoder.tag)
        assert coder.memory_bytes <= 5 * 4 * LENGTH
        if what == "l":
            continue
        got = decoder.decode(message)
        if len(message) == FULL:
            assert same_bits(got, model)
        else:
            # Half a level of the largest difference in the vector.
            assert (got - model).abs().max() <= (model - base).abs().max() / 254 + 1e-5
        before[worker] = got.clone()


@pytest.mark.parametrize("codec", [None, compression.int8()], ids=repr)
def test_a_thousand_workers_leave_nothing_behind(codec):
    coder = compression.PullCoder(LENGTH, codec=codec, max_models=4)
    for number in range(1000):
        coder.encode(f"worker-{number}", drawn(0), version=number)
        if number % 2:
            coder.forget(f"worker-{number}")
    assert coder.memory_bytes <= 4 * 4 * LENGTH
    coder.forget("nobody")


@pytest.mark.parametrize("codec", [None, compression.int8()], ids=repr)
def test_another_life_of_the_server_knows_no_copy(codec):
    coder, decoder = pair(codec=codec, incarnation=1)
    decoder.decode(coder.encode("a", drawn(0), version=5))
    later = compression.PullCoder(LENGTH, codec=codec, incarnation=2)
    later.encode("b", drawn(1), version=5)
    message = later.encode("a", drawn(2), version=6, has=decoder.tag)
    assert len(message) == FULL
    assert same_bits(decoder.decode(message), drawn(2))


def test_a_model_that_is_not_finite_comes_whole():
    coder, decoder = pair(codec=compression.int8())
    decoder.decode(coder.encode("a", drawn(0), version=0))
    bad = drawn(1)
    bad[7] = float("nan")
    assert same_bits(decoder.decode(coder.encode("a", bad, version=1, has=decoder.tag)), bad)
    # The difference to what is not finite is not finite either: once more the whole.
    good = decoder.decode(coder.encode("a", drawn(2), version=2, has=decoder.tag))
    assert same_bits(good, drawn(2))


def test_after_an_error_the_whole_model_is_asked_for():
    coder, decoder = pair()
    model = drawn(0)
    decoder.decode(coder.encode("a", model, version=0))
    model[3] = 9.0
    message = coder.encode("a", model, version=1, has=decoder.tag)
    with pytest.raises(ProtocolError):
        decoder.decode(bytes(message)[:-1])
    assert decoder.tag == 0
    with pytest.raises(ProtocolError, match="not here"):
        decoder.decode(message)
    whole = coder.encode("a", model, version=1, has=decoder.tag)
    assert same_bits(decoder.decode(whole), model)


@pytest.mark.parametrize("codec", [None, compression.int8(), compression.topk(0.1)], ids=repr)
@given(data=st.data())
def test_damage_is_refused_or_read_as_a_model(codec, data):
    coder, decoder = pair(codec=codec)
    model = drawn(0)
    decoder.decode(coder.encode("a", model, version=0))
    model[::7] += 0.5
    message = bytearray(coder.encode("a", model, version=1, has=decoder.tag))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, 80) | st.integers(0, len(message) - 1))
        message[position % len(message)] = data.draw(st.integers(0, 255))
    try:
        decoder.decode(message)
    except ProtocolError:
        assert decoder.tag == 0


@given(st.binary(max_size=120), st.integers(0, 3))
def test_garbage_is_refused(garbage, kind):
    _, decoder = pair()
    head = struct.pack("<2sBBIQQQ", b"P1", kind, 1, 0, LENGTH, 0, 1)
    for message in (garbage, head + garbage):
        with pytest.raises(ProtocolError):
            decoder.decode(message)
    try:
        add_difference(np.frombuffer(b"\0" + garbage, np.uint8), torch.zeros(10))
    except ProtocolError:
        return


def piece(count, form, section, rows):
    return struct.pack("<IBI", count, form, len(section)) + bytes(section) + bytes(rows)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (piece(4, 0, [], [0, 0, 0, 0]), "wrong number"),
        (piece(3, 0, [1], [0, 0, 0, 0]), "wrong number"),
        (piece(3, 0, [], [3, 0, 0, 0]), "unknown mode"),
        (piece(3, 0, [], [1, 0x0F, 1, 1, 1, 1, 0, 0, 0]), "more bytes than elements"),
        (piece(3, 0, [], [2, 1, 1]), "ends too soon"),
        (piece(3, 0, [], [0, 0, 0, 0, 0]), "goes on"),
        (piece(1, 1, [4], [0, 0, 0, 0]), "out of its range"),
        (piece(2, 1, [1], [0, 0, 0, 0]), "another number"),
        (struct.pack("<IBI", 1, 1, 1 << 31), "ends too soon"),
        (b"", "ends too soon"),
    ],
)
def test_differences_that_lie_are_refused(body, match):
    with pytest.raises(ProtocolError, match=match):
        add_difference(np.frombuffer(body + b"", np.uint8), torch.zeros(3))


def test_mistakes_are_told():
    coder, _ = pair()
    with pytest.raises(ConfigurationError, match="another one"):
        coder.encode("a", torch.zeros(LENGTH + 1), version=0)
    with pytest.raises(ConfigurationError, match="out of its range"):
        coder.encode("a", torch.zeros(LENGTH), version=-1)
    with pytest.raises(ConfigurationError, match="out of its range"):
        compression.PullCoder(LENGTH, incarnation=1 << 23)
    with pytest.raises(ConfigurationError, match="out of its range"):
        compression.PullCoder(LENGTH, max_models=1)
    with pytest.raises(ArgumentTypeError):
        compression.PullDecoder(LENGTH, dtype=torch.float16)
