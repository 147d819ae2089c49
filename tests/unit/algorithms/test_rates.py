"""The server's rate and momentum, by the staleness of what arrives."""

from __future__ import annotations

from functools import partial
from math import nan

import numpy as np
import pytest
import torch

from headway import core, optim, staleness
from headway.algorithms import extending
from headway.algorithms.transforms import (
    adaptive_step,
    amsgrad_step,
    buffer,
    correct_momentum,
    gap_aware_step,
    is_proportional,
    mix,
    scale_rate,
    server_rate,
    server_step,
    slow_momentum_step,
    worker_momentum,
)
from headway.core.errors import ArgumentTypeError, ConfigurationError
from tests.algorithm_kit import Rig, owned_vectors

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def update(**fields):
    return core.Update(torch.ones(3), 0, "worker-0", 1, **fields)


def moment(tau):
    context = core.Context(torch.zeros(3))
    context.staleness = tau
    return context


def test_a_rate_is_multiplied_whoever_gave_it():
    transform = scale_rate(staleness.exponential(0.5), 0.25)
    assert transform.apply(update(), None, moment(2)).update.learning_rate == 0.0625
    given = transform.apply(update(learning_rate=8.0), None, moment(2)).update
    assert (given.learning_rate, given.weight) == (2.0, 1.0)


def test_of_a_flush_the_largest_staleness_counts():
    flush = update(contributions=core.Contributions(3, 4, 3.0))
    transform = scale_rate(staleness.exponential(0.5), 1.0)
    assert transform.apply(flush, None, moment(1)).update.learning_rate == 0.5**4


@pytest.mark.parametrize("bad", [nan, -1.0, float("inf")])
def test_a_function_that_goes_wrong_later_rejects_the_update(bad):
    transform = scale_rate(lambda tau: bad if tau == 7 else 1.0, 0.1)
    assert transform.apply(update(), None, moment(7)) == core.Dropped("bad_staleness_weight")


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (server_step(partial(torch.optim.SGD, lr=0.5)), 0.5),
        (server_step(MOMENTUM), 0.1),
        (server_step(torch.optim.Adam), 1e-3),
        (server_step(partial(torch.optim.Adam, lr=torch.tensor(0.5))), 0.5),
        (correct_momentum(server_step(MOMENTUM)), 0.1),
        (adaptive_step(learning_rate=0.3), 0.3),
        (amsgrad_step(learning_rate=0.3), 0.3),
        (gap_aware_step(learning_rate=0.3), 0.3),
        (worker_momentum(learning_rate=0.3), 0.3),
    ],
    ids=repr,
)
def test_the_rate_of_a_step_is_what_an_override_stands_in_for(step, rate):
    assert server_rate(step) == rate
    algorithm = core.Algorithm(name="own", payload="gradient", step=step)
    doubled = extending.extended(algorithm, after=[scale_rate(lambda tau: 2.0, rate)])
    moves = []
    for each in (algorithm, doubled):
        rig = Rig(each, torch.zeros(4, dtype=torch.float64))
        rig.turn("worker", torch.arange(4).double() / 4)
        moves.append(rig.x.clone())
    torch.testing.assert_close(moves[1], 2.0 * moves[0])


@pytest.mark.parametrize(
    "step",
    [
        mix(0.5),
        slow_momentum_step(),
        server_step(torch.optim.Rprop),
        server_step(torch.optim.ASGD),
    ],
    ids=repr,
)
def test_some_steps_have_no_rate_for_one_update(step):
    assert server_rate(step) is None


def test_weight_and_rate_are_the_same_where_nothing_is_remembered():
    assert is_proportional(mix(0.5))
    assert is_proportional(server_step(partial(torch.optim.SGD, lr=0.5)))
    assert not any(map(is_proportional, (server_step(MOMENTUM), adaptive_step())))


def test_momentum_is_corrected_in_each_fragment_by_one_measure():
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)).double()
    layout = core.ParameterLayout.of(model).with_fragments(2)
    algorithm = core.Algorithm(
        name="own", payload="gradient", step=correct_momentum(server_step(MOMENTUM), memory=4)
    )
    rig = Rig(algorithm, torch.zeros(6, dtype=torch.float64), {"layout": layout})
    spans = [layout.fragment(number) for number in range(2)]
    rng, x, u, mean, count = np.random.default_rng(0), np.zeros(6), np.zeros(6), 0.0, 0
    for _ in range(40):
        rig.checkout("a", "b", "c")
        number = int(rng.integers(2))
        span = spans[number]
        gradient = rng.standard_normal(span.stop - span.start)
        worker = "abc"[int(rng.integers(3))]
        tau = rig.submit(worker, torch.from_numpy(gradient), fragment=number).staleness
        count = min(count + 1, 4)
        mean += (tau - mean) / count
        u[span] = max(0.0, 0.9 - mean / (1 + mean)) * u[span] + gradient
        x[span] -= 0.1 * u[span]
        np.testing.assert_allclose(rig.x.numpy(), x, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_old_gradient_is_left_where_asynchrony_adds_more_than_the_target(dtype):
    step = correct_momentum(server_step(partial(torch.optim.SGD, lr=1.0, momentum=0.1)))
    rig = Rig(
        core.Algorithm(name="own", payload="gradient", step=step), torch.zeros(3, dtype=dtype)
    )
    rig.checkout("late", "later")
    rig.turn("quick", torch.full((3,), 8.0, dtype=dtype))
    rig.turn("quick", torch.full((3,), 8.0, dtype=dtype))
    before = rig.x.clone()
    rig.submit("late", torch.ones(3, dtype=dtype))
    # The mean staleness is 2/3, and 0.1 is less than 0.4.
    assert torch.equal(rig.x, before - 1.0)


def test_it_needs_what_the_step_needs():
    step = correct_momentum(server_step(MOMENTUM))
    assert step.needs == server_step(MOMENTUM).needs
    rig = Rig(core.Algorithm(name="own", payload="delta", step=step), torch.zeros(1000))
    rig.turn("worker", torch.ones(1000), weight=0.5)
    assert round(owned_vectors(rig.step_state, 1000, [rig.x])) == step.needs.copies


def test_what_the_user_asked_for_is_what_is_saved():
    step = correct_momentum(server_step(optim.Adam(lr=0.1, betas=(0.8, 0.9))))
    rig = Rig(core.Algorithm(name="own", payload="gradient", step=step), torch.zeros(3))
    rig.checkout("late")
    rig.turn("quick", torch.ones(3))
    rig.submit("late", torch.ones(3))
    (group,) = rig.step_state.optimizers.of(None).optimizer.param_groups
    assert tuple(group["betas"]) == (0.8, 0.9)
    assert rig.step_state.implicit_momentum == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "step",
    [server_step(partial(torch.optim.SGD, lr=0.1)), server_step(torch.optim.Adagrad), mix(0.5)],
    ids=repr,
)
def test_where_there_is_no_momentum_none_can_be_taken(step):
    with pytest.raises(ConfigurationError, match="no momentum"):
        correct_momentum(step)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigurationError, match="memory"):
        correct_momentum(server_step(MOMENTUM), memory=0)
    with pytest.raises(ConfigurationError, match="learning_rate"):
        scale_rate(staleness.inverse(), -0.1)
    with pytest.raises(ArgumentTypeError, match="makes staleness weights"):
        scale_rate(staleness.inverse, 0.1)
    with pytest.raises(ConfigurationError, match="does not work"):
        correct_momentum(server_step(partial(torch.optim.Adam, betas=(2.0, 0.9))))


def test_nothing_is_added_to_an_algorithm_that_gets_nothing():
    algorithm = core.Algorithm(name="own", payload="delta", step=server_step(MOMENTUM))
    assert extending.extended(algorithm) is algorithm
    longer = extending.extended(algorithm, before=[buffer(2)], after=[buffer(3)])
    assert repr(longer.chain) == f"({buffer(2)!r}, {buffer(3)!r})"
