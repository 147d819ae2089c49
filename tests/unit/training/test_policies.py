"""Staleness policies: each against its equation in NumPy, and what contradicts what."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from headway import algorithms, core, optim, staleness
from headway.algorithms import transforms
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.training import apply_policies, choose_algorithm
from tests.algorithm_kit import Rig

SIZE = 5
FACTOR = 0.8


def play(algorithm, rule, *, arrivals=60, num_workers=4, seed=0):
    """Workers hand in noise in random turns, to the server and to ``rule(x, payload, ...)``."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(SIZE)
    rig = Rig(algorithm, torch.from_numpy(x.copy()))
    names = [f"worker-{number}" for number in range(num_workers)]
    seen = []
    for _ in range(arrivals):
        rig.checkout(*names)
        worker = names[int(rng.integers(num_workers))]
        base = rig.base(worker).numpy().copy()
        payload = rng.standard_normal(SIZE)
        receipt = rig.submit(worker, torch.from_numpy(payload.copy()))
        seen.append(receipt)
        if receipt.status == "applied":
            x = rule(x, payload, base, receipt.staleness)
        np.testing.assert_allclose(rig.x.numpy(), x, rtol=1e-11, atol=1e-12)
    assert max(receipt.staleness for receipt in seen) >= 3
    return seen


class Adam:
    """Kingma and Ba's algorithm 1, with a rate and a first moment's decay for each step."""

    def __init__(self):
        self.m, self.v, self.t = np.zeros(SIZE), np.zeros(SIZE), 0

    def __call__(self, x, gradient, rate, beta=0.9):
        self.t += 1
        self.m = beta * self.m + (1 - beta) * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        mean, square = self.m / (1 - beta**self.t), self.v / (1 - 0.999**self.t)
        return x - rate * mean / (np.sqrt(square) + 1e-8)


class MeasuredMomentum:
    """What asynchrony adds, from the mean staleness of the last updates."""

    def __init__(self, memory):
        self.mean, self.count, self.memory = 0.0, 0, memory

    def __call__(self, tau):
        self.count = min(self.count + 1, self.memory)
        self.mean += (tau - self.mean) / self.count
        return self.mean / (1 + self.mean)


def adaptive(rule="async_sgd", **options):
    return choose_algorithm(
        rule, staleness_policy="adaptive_lr", staleness_lr_factor=FACTOR, **options
    )


def test_adaptive_lr_makes_the_step_of_adam_shorter():
    adam = Adam()
    play(
        adaptive("async_adam", learning_rate=0.05),
        lambda x, g, base, tau: adam(x, g, 0.05 * FACTOR**tau),
    )


def test_adaptive_lr_under_adam_is_not_a_weight_which_would_change_nothing():
    initial, gradient = torch.zeros(SIZE, dtype=torch.float64), torch.ones(SIZE).double()
    lengths = []
    for late in range(3):
        rig = Rig(adaptive("async_adam", learning_rate=0.1), initial)
        rig.checkout("slow")
        for _ in range(late):
            rig.turn("quick", gradient)
        before = rig.x.clone()
        receipt = rig.submit("slow", gradient)
        assert receipt.staleness == late
        lengths.append(float((rig.x - before).norm()))
    # With equal gradients Adam's steps are all of the same length but for the rate.
    np.testing.assert_allclose(lengths, [lengths[0] * FACTOR**late for late in range(3)], rtol=1e-7)


def test_adaptive_lr_leaves_the_momentum_whole():
    u = np.zeros(SIZE)

    def rule(x, gradient, base, tau):
        nonlocal u
        u = 0.9 * u + gradient
        return x - 0.01 * FACTOR**tau * u

    play(adaptive("async_momentum"), rule)


def test_adaptive_lr_of_deltas_is_their_weight():
    seen = play(adaptive(), lambda x, delta, base, tau: x + FACTOR**tau * delta)
    assert [receipt.weight for receipt in seen] == [FACTOR**r.staleness for r in seen]


def test_adaptive_lr_of_mixing_is_its_weight_in_place_of_the_usual_one():
    def rule(x, weights, base, tau):
        share = 0.6 * FACTOR**tau
        return (1 - share) * x + share * weights

    play(adaptive("fedasync"), rule)


def test_adaptive_lr_of_a_buffer_weighs_each_delta():
    held = []

    def rule(x, delta, base, tau):
        mean = sum(held) / 10
        held.clear()
        return x + mean

    def note(receipt, delta):
        held.append(FACTOR**receipt.staleness * delta)

    rng = np.random.default_rng(1)
    rig, x = Rig(adaptive("fedbuff"), torch.zeros(SIZE, dtype=torch.float64)), np.zeros(SIZE)
    for _ in range(100):
        rig.checkout(*"abcdefghijklmnopqrstuvwxyz")
        worker = sorted(rig.tickets)[int(rng.integers(26))]
        delta = rng.standard_normal(SIZE)
        receipt = rig.submit(worker, torch.from_numpy(delta.copy()))
        note(receipt, delta)
        if receipt.status == "applied":
            x = rule(x, delta, None, receipt.staleness)
        np.testing.assert_allclose(rig.x.numpy(), x, atol=1e-12)
    assert rig.server.version == 10
    assert max(receipt.staleness for receipt in rig.receipts) >= 3


def test_adaptive_lr_behind_a_buffer_with_adam_takes_the_largest_staleness():
    algorithm = apply_policies(
        algorithms.fedbuff(
            buffer_size=2,
            staleness=staleness.constant(),
            server_optimizer=partial(torch.optim.Adam, lr=0.1),
        ),
        "adaptive_lr",
        staleness_lr_factor=0.5,
    )
    rig = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    rig.checkout("late")
    for _ in range(4):
        rig.turn("quick", torch.ones(SIZE).double())
    before = rig.x.clone()
    rig.submit("late", torch.ones(SIZE).double())
    rig.turn("quick", torch.ones(SIZE).double())
    assert [receipt.staleness for receipt in rig.receipts[-2:]] == [2, 0]
    np.testing.assert_allclose((rig.x - before).numpy(), 0.1 * 0.5**2, rtol=1e-6)


def test_a_function_of_the_staleness_stands_in_for_the_power():
    adam = Adam()
    algorithm = choose_algorithm("async_adam", staleness_policy=staleness.inverse())
    play(algorithm, lambda x, g, base, tau: adam(x, g, 1e-3 / max(1, tau)))


def test_two_weights_multiply():
    algorithm = choose_algorithm(
        staleness_policy=["adaptive_lr", staleness.inverse()], staleness_lr_factor=FACTOR
    )
    play(algorithm, lambda x, d, base, tau: x + FACTOR**tau / max(1, tau) * d)


def test_filter_rejects_what_is_later_than_the_bound():
    algorithm = choose_algorithm(staleness_policy="filter", max_staleness=2)
    seen = play(algorithm, lambda x, delta, base, tau: x + delta)
    assert [r.status for r in seen] == ["applied" if r.staleness <= 2 else "rejected" for r in seen]
    assert {r.reason for r in seen if r.status == "rejected"} == {"too_stale"}


@pytest.mark.parametrize("policy", ["none", "adaptive_lr"])
def test_a_bound_filters_with_other_policies_too(policy):
    algorithm = choose_algorithm(staleness_policy=policy, max_staleness=10)
    assert repr(algorithm.chain[0]) == "drop_stale(10)"


@pytest.mark.parametrize("target", [0.9, 0.5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_correction_takes_the_measured_momentum_from_the_target(target, nesterov):
    u, measured, used = np.zeros(SIZE), MeasuredMomentum(100), []

    def rule(x, gradient, base, tau):
        nonlocal u
        beta = max(0.0, target - measured(tau))
        used.append(beta)
        u = beta * u + gradient
        return x - 0.02 * (gradient + beta * u if nesterov else u)

    algorithm = choose_algorithm(
        "async_momentum",
        staleness_policy="momentum_correction",
        server_optimizer=optim.SGD(lr=0.02, momentum=target, nesterov=nesterov),
    )
    play(algorithm, rule, arrivals=300)
    assert (min(used) == 0.0) == (target == 0.5)


def test_momentum_correction_of_adam_is_of_its_first_beta():
    adam, measured = Adam(), MeasuredMomentum(100)
    algorithm = choose_algorithm("async_adam", staleness_policy="momentum_correction")
    play(algorithm, lambda x, g, base, tau: adam(x, g, 1e-3, max(0.0, 0.9 - measured(tau))))


def test_workers_in_random_turns_add_the_momentum_of_theory():
    algorithm = choose_algorithm("async_momentum", staleness_policy="momentum_correction")
    rig = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    rng, values = np.random.default_rng(0), []
    names = [f"worker-{number}" for number in range(4)]
    for _ in range(3000):
        rig.checkout(*names)
        rig.submit(names[int(rng.integers(4))], torch.zeros(SIZE).double())
        values.append(rig.step_state.implicit_momentum)
    # A mean over 100 staleness values, each with the variance M (M - 1).
    assert np.mean(values[100:]) == pytest.approx(1 - 1 / 4, abs=0.02)


def test_adaptive_lr_and_momentum_correction_compose():
    u, measured = np.zeros(SIZE), MeasuredMomentum(100)

    def rule(x, gradient, base, tau):
        nonlocal u
        u = max(0.0, 0.9 - measured(tau)) * u + gradient
        return x - 0.01 * FACTOR**tau * u

    algorithm = choose_algorithm(
        "async_momentum",
        staleness_policy=("adaptive_lr", "momentum_correction"),
        staleness_lr_factor=FACTOR,
    )
    play(algorithm, rule)


def test_a_corrected_momentum_survives_saving():
    algorithm = choose_algorithm("async_momentum", staleness_policy="momentum_correction")
    rng = np.random.default_rng(3)
    gradients = [torch.from_numpy(rng.standard_normal(SIZE)) for _ in range(8)]

    def half(rig, part):
        rig.checkout("slow")
        for gradient in part:
            rig.turn("quick", gradient)
        rig.submit("slow", part[0])

    whole = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    half(whole, gradients[:4])
    resumed = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    resumed.server.load_state_dict(whole.server.state_dict())
    for rig in (whole, resumed):
        rig.now = 100.0
        half(rig, gradients[4:])
    torch.testing.assert_close(resumed.x, whole.x, rtol=0, atol=0)
    assert resumed.step_state.mean_staleness == whole.step_state.mean_staleness > 0.0


def test_delay_compensation_adds_what_a_gradient_has_missed():
    u = np.zeros(SIZE)

    def rule(x, gradient, base, tau):
        nonlocal u
        u = 0.9 * u + gradient + 0.04 * gradient * gradient * (x - base)
        return x - 0.01 * u

    play(choose_algorithm("async_momentum", staleness_policy="delay_compensation"), rule)


def test_ssp_holds_back_who_is_ahead():
    rig = Rig(choose_algorithm(staleness_policy="ssp", max_staleness=2), torch.zeros(SIZE))
    assert rig.checkout("slow") == [True]
    for _ in range(3):
        assert rig.checkout("quick") == [True]
        rig.submit("quick", torch.ones(SIZE))
    assert rig.checkout("quick") == [False]
    rig.submit("slow", torch.ones(SIZE))
    assert rig.checkout("quick") == [True]


def test_ssp_alone_rejects_nothing_and_with_the_filter_it_does():
    alone = choose_algorithm(staleness_policy="ssp", max_staleness=2)
    both = choose_algorithm(staleness_policy=["ssp", "filter"], max_staleness=2)
    assert alone.chain == ()
    assert repr(both.chain) == "(drop_stale(2),)"
    assert alone.gate == both.gate == core.StaleSynchronous(2)


def test_values_stand_beside_names():
    gate = core.StaleSynchronous(1)
    algorithm = choose_algorithm(
        staleness_policy=[transforms.clip(2.0), gate, "adaptive_lr"], max_staleness=7
    )
    assert [repr(part) for part in algorithm.chain] == [
        "drop_stale(7)",
        "clip(2.0)",
        "scale_by_staleness(exponential(decay=0.9))",
    ]
    assert algorithm.gate is gate
    shown = algorithm.settings["staleness_policy"]
    assert shown == "filter(7), clip(2.0), StaleSynchronous(bound=1), adaptive_lr(0.9)"


def test_no_policy_leaves_the_algorithm_as_it_is():
    algorithm = algorithms.fedbuff()
    assert apply_policies(algorithm) is algorithm


def test_views_and_orders_see_the_states_that_they_were_made_for():
    for own in (
        algorithms.dana(),
        algorithms.easgd(),
        algorithms.dynamic_local_work(algorithms.async_delta(), steps=5),
    ):
        longer = apply_policies(own, transforms.drop_stale(100))
        outcomes = []
        for algorithm in (own, longer):
            rig = Rig(algorithm, torch.arange(6.0))
            rng = np.random.default_rng(0)
            for _ in range(20):
                rig.checkout("a", "b")
                worker = "ab"[int(rng.integers(2))]
                rig.submit(worker, torch.from_numpy(rng.standard_normal(6)).float())
            outcomes.append(rig.x.clone())
        torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


ERRORS = [
    ({"staleness_policy": "filter"}, ConfigurationError, "filter needs a bound"),
    ({"staleness_policy": "ssp"}, ConfigurationError, "ssp needs a bound"),
    ({"staleness_policy": "adaptive"}, UnknownNameError, "did you mean `adaptive_lr`"),
    ({"staleness_policy": 3}, ArgumentTypeError, "no staleness policy"),
    ({"staleness_policy": staleness.inverse}, ArgumentTypeError, "call it first"),
    ({"staleness_policy": core.StaleSynchronous}, ArgumentTypeError, "no staleness policy"),
    ({"staleness_policy": ["none", "adaptive_lr"]}, ConfigurationError, "`none` stands among"),
    ({"staleness_policy": ["adaptive_lr"] * 2}, ConfigurationError, "given twice"),
    ({"staleness_lr_factor": 0.5}, ConfigurationError, "adaptive_lr alone"),
    (
        {"staleness_policy": "adaptive_lr", "staleness_lr_factor": 1.5},
        ConfigurationError,
        "staleness_lr_factor",
    ),
    ({"staleness_policy": "filter", "max_staleness": -1}, ConfigurationError, "max_staleness"),
    ({"staleness_policy": "delay_compensation"}, ConfigurationError, "workers send deltas"),
    (
        {"update_rule": "fedasync", "staleness_policy": "delay_compensation"},
        ConfigurationError,
        "workers send weights",
    ),
    (
        {"update_rule": "dc_asgd", "staleness_policy": "delay_compensation"},
        ConfigurationError,
        "`dc_asgd` compensates for delays already",
    ),
    (
        {"update_rule": algorithms.dc_asgd(), "staleness_policy": transforms.delay_compensation(1)},
        ConfigurationError,
        "already",
    ),
    (
        {
            "update_rule": "async_momentum",
            "staleness_policy": ["delay_compensation", transforms.delay_compensation(1)],
        },
        ConfigurationError,
        "twice",
    ),
    ({"staleness_policy": "momentum_correction"}, ConfigurationError, "no momentum"),
    (
        {"staleness_policy": "momentum_correction"},
        ConfigurationError,
        'update_rule="async_momentum"',
    ),
    ({"staleness_policy": "momentum_correction"}, ConfigurationError, "staleness_policy"),
    (
        {
            "update_rule": "async_adam",
            "server_optimizer": "adagrad",
            "staleness_policy": "momentum_correction",
        },
        ConfigurationError,
        "no momentum",
    ),
    (
        {"update_rule": algorithms.fedbuff(), "staleness_policy": "adaptive_lr"},
        ConfigurationError,
        "already",
    ),
    (
        {
            "update_rule": "async_adam",
            "server_optimizer": "rprop",
            "staleness_policy": "adaptive_lr",
        },
        ConfigurationError,
        "no learning rate",
    ),
    (
        {"update_rule": "easgd", "staleness_policy": "adaptive_lr"},
        ConfigurationError,
        "no learning rate",
    ),
    (
        {"update_rule": "ssp", "staleness_policy": "ssp", "max_staleness": 3},
        ConfigurationError,
        "two gates",
    ),
]


@pytest.mark.parametrize(("options", "kind", "words"), ERRORS)
def test_what_contradicts_itself_is_refused(options, kind, words):
    with pytest.raises(kind) as caught:
        choose_algorithm(**options)
    assert words in str(caught.value)
