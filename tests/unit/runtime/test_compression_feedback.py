"""Error feedback: nothing is lost, whatever becomes of the updates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import headway as hw
from headway import compression
from headway.core import tree
from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError

CODECS = [
    compression.none(),
    compression.bf16(),
    compression.int8(block_size=16),
    compression.topk(0.1),
    compression.topk(0.1, values="int8", block_size=4),
]
LENGTH = 200


def updates(count, dtype=torch.float64, length=LENGTH):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(length, generator=generator).to(dtype) for _ in range(count)]


def read(codec, message, like):
    out = torch.empty_like(like)
    codec.decode_into(message, out)
    return out


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_server_less_the_residual_is_the_uncompressed_path(codec, dtype):
    # x_t - rate * e_t, step by step: Karimireddy et al. 2019, proof of theorem II.
    wide = torch.float32 if dtype is torch.bfloat16 else dtype
    eps = torch.finfo(wide).eps
    feedback = compression.ErrorFeedback(codec, LENGTH, dtype=dtype)
    server = torch.zeros(LENGTH, dtype=torch.float64)
    plain = torch.zeros(LENGTH, dtype=torch.float64)
    for job, gradient in enumerate(updates(60, dtype)):
        message = feedback.encode(job, gradient)
        server -= 0.1 * read(codec, message, gradient).double()
        plain -= 0.1 * gradient.double()
        assert feedback.settled(job, taken=True)
        drift = (server - 0.1 * feedback.residual.double() - plain).abs().max()
        assert drift <= 100 * (job + 1) * eps


@given(
    st.lists(st.tuples(st.sampled_from(["send", "take", "lose"]), st.integers(0, 5)), max_size=40)
)
def test_what_was_taken_is_under_way_or_is_left_adds_up(steps):
    codec = compression.topk(0.1, values="int8", block_size=4)
    feedback = compression.ErrorFeedback(codec, LENGTH, dtype=torch.float64)
    given_, taken = torch.zeros(2, LENGTH, dtype=torch.float64)
    under_way = {}
    for job, ((what, which), update) in enumerate(zip(steps, updates(40), strict=False)):
        if what == "send":
            given_ += update
            under_way[job] = read(codec, feedback.encode(job, update), update)
        elif under_way:
            known = list(under_way)[which % len(under_way)]
            content = under_way.pop(known)
            assert feedback.settled(known, taken=what == "take")
            taken += content if what == "take" else 0.0
        assert feedback.outstanding == tuple(under_way)
        total = taken + feedback.residual + sum(under_way.values())
        torch.testing.assert_close(total, given_, rtol=0.0, atol=1e-12)


def test_an_update_is_settled_once():
    feedback = compression.ErrorFeedback(compression.topk(0.5), 2)
    feedback.encode(3, torch.tensor([4.0, 1.0]))
    assert feedback.settled(3, taken=False)
    assert not feedback.settled(3, taken=False)
    assert not feedback.settled(99, taken=False)
    assert feedback.residual.tolist() == [4.0, 1.0]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_bad_update_is_sent_as_such_and_leaves_no_trace(codec):
    feedback = compression.ErrorFeedback(codec, 4)
    feedback.encode(1, torch.tensor([1.0, 0.3, 0.2, 0.1]))
    feedback.settled(1, taken=True)
    before = feedback.residual.clone()
    bad = torch.tensor([0.0, float("nan"), 0.0, 1.0])
    assert torch.isnan(read(codec, feedback.encode(2, bad), bad)).all()
    assert feedback.outstanding == ()
    assert torch.equal(feedback.residual, before)


def test_fragments_have_their_part_of_the_residual():
    codec = compression.topk(0.5)
    feedback = compression.ErrorFeedback(codec, 4)
    feedback.encode(1, torch.tensor([3.0, 1.0]), span=slice(2, 4))
    assert feedback.residual.tolist() == [0.0, 0.0, 0.0, 1.0]
    feedback.settled(1, taken=False)
    assert feedback.residual.tolist() == [0.0, 0.0, 3.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_another_goes_on_where_one_left_off(dtype):
    codec = compression.topk(0.1, values="bf16")
    one = compression.ErrorFeedback(codec, LENGTH, dtype=dtype)
    *first, last = updates(4, dtype)
    for job, update in enumerate(first):
        one.encode(job, update)
    one.settled(0, taken=True)
    two = compression.ErrorFeedback(codec, LENGTH, dtype=dtype)
    # By way of a plain tree, as a checkpoint holds it.
    tree.load(two, tree.dump(one))
    for feedback in (one, two):
        feedback.settled(1, taken=False)
    assert one.encode(9, last) == two.encode(9, last)
    assert torch.equal(one.residual, two.residual)
    assert one.outstanding == two.outstanding == (2, 9)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("residual"),
        lambda state: state.update(residual=torch.zeros(LENGTH + 1)),
        lambda state: state.update(residual=torch.full((LENGTH,), float("nan"))),
        lambda state: state.update(sent=[[1, None, None, torch.zeros(5, dtype=torch.uint8)]]),
        lambda state: state.update(sent=[[1, 0, 3, state["sent"][0][3]]]),
        lambda state: state.update(sent=[[1]]),
    ],
)
def test_another_state_is_refused_and_changes_nothing(spoil):
    feedback = compression.ErrorFeedback(compression.bf16(), LENGTH)
    feedback.encode(1, updates(1, torch.float32)[0])
    state = feedback.state_dict()
    before = feedback.residual.clone()
    spoil(state)
    with pytest.raises(StateError):
        feedback.load_state_dict(state)
    assert torch.equal(feedback.residual, before)
    assert feedback.outstanding == (1,)


def test_mistakes_are_told():
    feedback = compression.ErrorFeedback(compression.bf16(), 3)
    feedback.encode(1, torch.zeros(3))
    with pytest.raises(ConfigurationError, match="sent already"):
        feedback.encode(1, torch.zeros(3))
    with pytest.raises(ConfigurationError, match="wrong length"):
        feedback.encode(2, torch.zeros(4))
    with pytest.raises(ArgumentTypeError, match="another dtype"):
        feedback.encode(2, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ArgumentTypeError):
        compression.ErrorFeedback(compression.bf16(), 3, dtype=torch.float16)


def least_squares(client, num_updates=200):
    """The final loss of asynchronous SGD on quadratics, with clients that compress."""
    algorithm = hw.algorithms.async_sgd(learning_rate=0.02)
    return hw.simulate(
        hw.tasks.quadratic(dim=50, num_clients=4, noise=0.0, seed=1),
        replace(algorithm, client=client),
        population=hw.population.constant(4),
        stop=hw.until(updates=num_updates),
        seed=0,
    )


def test_a_simulation_compresses_and_its_residuals_are_saved_with_it():
    chain = compression.compressed_pushes(compression.topk(0.1, values="int8"))
    state = chain.init(20, torch.float32, torch.device("cpu"))
    for update in updates(3, torch.float32, 20):
        chain.payload(update, state)
    copy = chain.init(20, torch.float32, torch.device("cpu"))
    tree.load(copy, tree.dump(state))
    (last,) = updates(1, torch.float32, 20)
    assert torch.equal(chain.payload(last, state), chain.payload(last, copy))
    assert (copy.sent, copy.sent_bytes) == (state.sent, state.sent_bytes) == (4, state.sent_bytes)


def test_feedback_is_what_makes_a_selection_converge():
    codec = compression.topk(0.1)
    plain = least_squares(()).final("loss")
    kept = least_squares((compression.compressed_pushes(codec),)).final("loss")
    lost = least_squares((compression.compressed_pushes(codec, feedback=False),)).final("loss")
    assert abs(kept - plain) < abs(lost - plain)
