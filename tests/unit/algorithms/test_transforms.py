"""The transforms without much memory: admission, weights, clipping, mixing, the proximal term."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headway import algorithms, core, staleness
from headway.algorithms.transforms import (
    Stateless,
    clip,
    drop_stale,
    mix,
    proximal,
    reweighted,
    saturate,
    scale_by_examples,
    scale_by_staleness,
    stateless,
)
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.core.layout import Entry


def update(payload=None, **fields):
    return core.Update(torch.ones(3) if payload is None else payload, 0, "worker-0", 1, **fields)


def moment(tau=0, parameters=None, **options):
    context = core.Context(torch.zeros(3) if parameters is None else parameters, **options)
    context.staleness = tau
    return context


def test_drop_stale_lets_the_bound_itself_through():
    transform = drop_stale(2)
    outcomes = [transform.apply(update(), None, moment(tau)) for tau in range(5)]
    assert [type(outcome).__name__ for outcome in outcomes] == ["Pass"] * 3 + ["Dropped"] * 2
    assert outcomes[3].reason == "too_stale"
    assert transform.needs == core.Needs()


def test_a_weight_of_exactly_one_passes_the_update_itself():
    sent = update(weight=0.5)
    transform = scale_by_staleness(staleness.hinge(10, 4))
    assert transform.apply(sent, None, moment(4)).update is sent


def test_scale_by_staleness_multiplies_what_is_there():
    sent = update(weight=0.5, num_examples=7)
    got = scale_by_staleness(staleness.inverse()).apply(sent, None, moment(4)).update
    assert got.weight == 0.125
    assert got._replace(weight=0.5) == sent
    assert sent.weight == 0.5


def test_scale_by_staleness_refuses_a_bad_function_before_training():
    with pytest.raises(ConfigurationError):
        scale_by_staleness(lambda tau: 1.0 - tau)
    with pytest.raises(ArgumentTypeError):
        scale_by_staleness(staleness.polynomial)


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -1.0])
def test_a_weight_that_turns_bad_at_some_staleness_rejects_the_update(bad):
    # Good wherever it is tried out before training.
    transform = scale_by_staleness(lambda tau: bad if tau == 3 else 0.5)
    sent = update()
    assert transform.apply(sent, None, moment(3)) == core.Dropped("bad_staleness_weight")
    assert transform.apply(sent, None, moment(4)).update.weight == 0.5
    server = core.Server(
        torch.zeros(1), algorithms.async_sgd(staleness=lambda tau: bad if tau == 3 else 0.5)
    )
    tickets = {name: server.checkout(name, now=0.0) for name in "abcd"}
    receipts = [
        server.submit(core.Update(torch.ones(1), 0, name, ticket.job), now=1.0)
        for name, ticket in tickets.items()
    ]
    assert [receipt.status for receipt in receipts] == ["applied"] * 3 + ["rejected"]
    assert (receipts[3].reason, receipts[3].weight) == ("bad_staleness_weight", 0.0)
    np.testing.assert_allclose(server.parameters, [-3 * 0.1 * 0.5], rtol=1e-6)


def test_a_weight_that_grows_out_of_range_rejects_the_update():
    sent = update(weight=1e300, num_examples=10**9)
    dropped = core.Dropped("bad_weight")
    assert scale_by_examples().apply(sent, None, moment()) == dropped
    assert scale_by_staleness(staleness.constant(1e9)).apply(sent, None, moment()) == dropped


def test_reweighted_is_replace():
    sent = update(num_examples=5, num_steps=6, fragment=0, metrics={"loss": 1.0})
    assert reweighted(sent, 0.25) == sent._replace(weight=0.25)
    assert type(reweighted(sent, 0.25)) is core.Update


def test_scale_by_examples_and_saturate():
    chain = [scale_by_examples(), saturate(30.0)]
    got = update(weight=0.5, num_examples=20)
    for transform in chain:
        got = transform.apply(got, None, moment()).update
    assert got.weight == 10.0 / 40.0
    assert saturate(0.0).apply(update(weight=3.0), None, moment()).update.weight == 1.0
    assert saturate(0.0).apply(update(weight=0.0), None, moment()).update.weight == 0.0
    assert saturate(2.0).apply(update(weight=0.0), None, moment()).update.weight == 0.0


class TestClip:
    def test_shortens_to_the_norm_and_keeps_the_direction(self):
        transform, sent = clip(1.0), update(torch.tensor([3.0, 0.0, -4.0]))
        state = transform.init(moment(payload="gradient"))
        got = transform.apply(sent, state, moment()).update
        np.testing.assert_allclose(got.payload, [0.6, 0.0, -0.8], rtol=1e-6)
        assert got.weight == 1.0
        assert torch.equal(sent.payload, torch.tensor([3.0, 0.0, -4.0]))

    def test_leaves_a_short_one_as_it_is(self):
        transform, sent = clip(5.0), update(torch.tensor([3.0, 0.0, -4.0]))
        assert transform.apply(sent, transform.init(moment()), moment()).update is sent

    def test_a_fragment_is_shorter_than_the_scratch(self):
        transform, sent = clip(1.0), update(torch.tensor([2.0]), fragment=0)
        got = transform.apply(sent, transform.init(moment()), moment()).update
        assert got.payload.tolist() == [1.0]

    def test_an_all_zero_one_passes(self):
        transform, sent = clip(1.0), update(torch.zeros(3))
        assert transform.apply(sent, transform.init(moment()), moment()).update is sent

    def test_finite_values_with_an_infinite_sum_of_squares_are_clipped_too(self):
        transform, sent = clip(1.0), update(torch.tensor([3e30, 0.0, -4e30]))
        got = transform.apply(sent, transform.init(moment()), moment()).update
        np.testing.assert_allclose(got.payload, [0.6, 0.0, -0.8], rtol=1e-5)

    def test_whole_weights_are_refused(self):
        with pytest.raises(ConfigurationError, match="norm of whole weights"):
            clip(1.0).init(moment(payload="weights"))

    def test_declares_its_scratch_and_saves_none_of_it(self):
        state = clip(1.0).init(moment())
        assert clip(1.0).needs.copies == 1
        assert core.tree.dump(state) == {}

    @pytest.mark.parametrize("norm", [0.0, -1.0, float("inf")])
    def test_a_norm_that_is_not_above_0_is_an_error(self, norm):
        with pytest.raises(ConfigurationError, match="`max_norm`"):
            clip(norm)


class TestMix:
    @pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
    def test_moves_by_its_share(self, share):
        context = moment(parameters=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        target = torch.tensor([5.0, -2.0, 0.0], dtype=torch.float64)
        mix(share).apply(update(target, weight=0.5), None, context)
        expected = (1 - 0.5 * share) * np.array([1, 2, 3]) + 0.5 * share * np.array([5, -2, 0])
        np.testing.assert_allclose(context.parameters, expected, rtol=1e-15)

    def test_a_share_above_one_is_a_replacement(self):
        context, target = moment(), torch.tensor([0.1, 0.2, 0.3])
        mix(0.5).apply(update(target, weight=100.0), None, context)
        assert torch.equal(context.parameters, target)

    def test_a_fragment_changes_its_part_alone(self):
        layout = core.ParameterLayout((Entry("a", (1,), 0), Entry("b", (2,), 1))).with_fragments(2)
        context = moment(layout=layout)
        mix(1.0).apply(update(torch.tensor([7.0, 8.0]), fragment=1), None, context)
        assert context.parameters.tolist() == [0.0, 7.0, 8.0]

    def test_takes_weights_only(self):
        assert mix(0.5).accepts == {"weights"}
        with pytest.raises(ConfigurationError, match="cannot apply this payload"):
            core.Algorithm(name="wrong", payload="delta", step=mix(0.5))

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
    def test_a_share_out_of_its_range_is_an_error(self, share):
        with pytest.raises(ConfigurationError, match="`mixing`"):
            mix(share)


class TestProximal:
    def test_is_the_gradient_of_the_penalty(self):
        rng = np.random.default_rng(0)
        gradient, y, base = (torch.from_numpy(rng.standard_normal(5)) for _ in range(3))
        # By automatic differentiation of rho/2 |y - base|^2.
        variable = y.clone().requires_grad_()
        penalty = 0.3 / 2 * ((variable - base) ** 2).sum()
        (pull,) = torch.autograd.grad(penalty, variable)
        got = gradient.clone()
        proximal(0.3).gradient(got, y, base, None)
        np.testing.assert_allclose(got, gradient + pull, rtol=1e-13)

    @pytest.mark.parametrize(("rho", "at"), [(1.0, 1000.3), (0.01, 1.3)])
    def test_a_pull_of_zero_leaves_a_small_gradient_as_it_is(self, rho, at):
        gradient, y = torch.full((3,), 1e-5), torch.full((3,), at)
        proximal(rho).gradient(gradient, y, y.clone(), None)
        assert torch.equal(gradient, torch.full((3,), 1e-5))

    def test_leaves_the_payload_and_its_inputs_alone(self):
        transform = proximal(0.3)
        y, base, payload = torch.ones(3), torch.zeros(3), torch.ones(3)
        assert transform.init(3, torch.float32, torch.device("cpu")) is None
        transform.gradient(torch.zeros(3), y, base, None)
        transform.receipt(core.Receipt("applied", "", 0, 1.0, 1, 1), None)
        assert transform.payload(payload, None) is payload
        assert torch.equal(y, torch.ones(3))
        assert torch.equal(base, torch.zeros(3))

    def test_a_negative_strength_is_an_error(self):
        with pytest.raises(ConfigurationError, match="`rho`"):
            proximal(-1.0)


class TestStateless:
    def test_a_function_becomes_a_factory_of_transforms(self):
        @stateless
        def only_worker(update, context, *, name):
            """Keep one worker."""
            return core.Pass(update) if update.worker == name else core.Dropped("other")

        transform = only_worker(name="worker-0")
        assert isinstance(transform, Stateless)
        assert repr(transform) == "only_worker(name='worker-0')"
        assert transform == only_worker(name="worker-0")
        assert transform != only_worker(name="worker-1")
        assert only_worker.__doc__ == "Keep one worker."
        assert transform.apply(update(), None, moment()).update.worker == "worker-0"
        assert only_worker(name="b").apply(update(), None, moment()) == core.Dropped("other")
        assert transform.needs == core.Needs()
        assert transform.init(moment()) is None

    def test_wrong_options_fail_when_it_is_made(self):
        with pytest.raises(TypeError, match="missing a required argument"):
            stateless(lambda update, context, *, name: core.Pass(update))()
        with pytest.raises(TypeError, match="unexpected keyword"):
            stateless(lambda update, context: core.Pass(update))(name=1)
        with pytest.raises(ArgumentTypeError, match="given by name"):
            stateless(lambda update, context, *, name: core.Pass(update))("worker-0")
