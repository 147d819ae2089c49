"""Exact equivalences between algorithms, and with torch's own optimizers.

Where both sides do the same operations in the same order, they agree to the bit.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from headway import algorithms, staleness
from tests.algorithm_kit import Rig, quadratic_payload, random_run

SIZE = 17
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def start(dtype=torch.float64, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SIZE)).to(dtype)


def rig(name, dtype=torch.float64, **options):
    return Rig(algorithms.ALGORITHMS[name](**options), start(dtype))


def run(one, steps=30, **options):
    for _ in random_run(one, steps, **options):
        pass
    return one.x


def curvature(dtype):
    return torch.linspace(0.5, 1.5, SIZE, dtype=dtype)


@DTYPES
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.3),
        partial(torch.optim.SGD, lr=0.3, momentum=0.9, fused=True),
        partial(torch.optim.Adam, lr=0.3, fused=True),
    ],
    ids=["plain", "momentum", "adam"],
)
def test_one_asynchronous_worker_is_sequential_training_to_the_bit(dtype, optimizer):
    own = start(dtype)
    theirs = optimizer([own])
    if optimizer.func is torch.optim.Adam:
        one = rig("async_delta", dtype, server_optimizer=optimizer)
    else:
        momentum = optimizer.keywords.get("momentum", 0.0)
        one = rig("async_sgd", dtype, learning_rate=0.3, momentum=momentum)
    for _ in range(40):
        own.grad = curvature(dtype) * own
        theirs.step()
        one.checkout("only")
        gradient = curvature(dtype) * one.base("only")
        one.submit("only", gradient if one.algorithm.payload == "gradient" else -gradient)
        assert torch.equal(one.x, own)


@pytest.mark.parametrize("reduce", ["mean", "weighted_mean"])
def test_workers_with_a_barrier_are_minibatch_sgd(reduce):
    """The mean: M asynchronous steps with the same rate move M times as far."""
    one = rig("minibatch_sgd", num_workers=4, learning_rate=0.2, reduce=reduce)
    own = start().numpy()
    rng = np.random.default_rng(0)
    for _ in range(6):
        names = ["a", "b", "c", "d"]
        one.checkout(*names)
        gradients, counts = rng.standard_normal((4, SIZE)), rng.integers(1, 9, 4)
        for worker, gradient, count in zip(names, gradients, counts, strict=True):
            one.submit(worker, torch.from_numpy(gradient), num_examples=int(count))
        weights = counts if reduce == "weighted_mean" else np.ones(4)
        own = own - 0.2 * np.average(gradients, axis=0, weights=weights)
        np.testing.assert_allclose(one.x, own, rtol=1e-13)


def test_minibatch_sgd_with_m_times_the_rate_is_m_fresh_asynchronous_steps():
    sync = rig("minibatch_sgd", num_workers=3, learning_rate=0.3)
    free = rig("async_sgd", learning_rate=0.1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        # The gradients of a linear loss do not depend on the model, so staleness does not matter.
        for name, gradient in zip("abc", rng.standard_normal((3, SIZE)), strict=True):
            for one in (sync, free):
                one.checkout(*"abc")
                one.submit(name, torch.from_numpy(gradient))
    np.testing.assert_allclose(sync.x, free.x, rtol=1e-12)


@DTYPES
@pytest.mark.parametrize("server_optimizer", [None, partial(torch.optim.SGD, lr=0.5, momentum=0.9)])
def test_fedbuff_with_all_from_one_version_is_fedavg_to_the_bit(dtype, server_optimizer):
    options = {} if server_optimizer is None else {"server_optimizer": server_optimizer}
    free = rig("fedbuff", dtype, buffer_size=3, **options)
    sync = rig("fedavg", dtype, clients_per_round=3, reduce="mean", **options)
    rng = np.random.default_rng(0)
    for _ in range(4):
        free.checkout(*"abc")
        sync.checkout(*"abc")
        assert torch.equal(free.base("a"), sync.base("a"))
        for name in "abc":
            payload = quadratic_payload("delta", free.base(name), rng)
            assert free.submit(name, payload).staleness == 0
            sync.submit(name, payload)
        assert torch.equal(free.x, sync.x)


def test_fedavg_of_deltas_is_the_weighted_average_of_weights():
    sync, rng = rig("fedavg", clients_per_round=3), np.random.default_rng(0)
    sync.checkout(*"abc")
    base = sync.base("a").numpy().copy()
    local, counts = rng.standard_normal((3, SIZE)), np.array([5, 1, 20])
    for name, y, count in zip("abc", local, counts, strict=True):
        sync.submit(name, torch.from_numpy(y - base), num_examples=int(count))
    np.testing.assert_allclose(sync.x, np.average(local, axis=0, weights=counts), rtol=1e-12)


@DTYPES
@pytest.mark.parametrize("weight", [staleness.constant(), staleness.polynomial(0.5)], ids=str)
def test_fedbuff_of_one_is_the_delta_form(dtype, weight):
    buffered = run(rig("fedbuff", dtype, buffer_size=1, staleness=weight))
    direct = run(rig("async_delta", dtype, staleness=weight))
    if weight == staleness.constant():
        assert torch.equal(buffered, direct)
    else:
        # The buffer rounds weight * delta before it is added, a fused addition does not.
        tolerance = 30 * torch.finfo(dtype).eps
        np.testing.assert_allclose(buffered, direct, rtol=tolerance, atol=tolerance)


def test_mixing_is_the_delta_form_plus_a_pull_towards_the_clients_start():
    """x + a s (y - x) = x + a s (y - x_v) + a s (x_v - x), and the pull is 0 only when fresh."""
    alpha, s = 0.6, staleness.polynomial(0.5)
    one, rng = rig("fedasync", mixing=alpha, staleness=s), np.random.default_rng(0)
    stale = 0
    for _ in range(25):
        one.checkout(*"abc")
        name = "abc"[int(rng.integers(3))]
        base, before = one.base(name).numpy().copy(), one.x.numpy().copy()
        y = quadratic_payload("weights", one.base(name), rng)
        receipt = one.submit(name, y)
        share = alpha * s(receipt.staleness)
        delta_form = before + share * (y.numpy() - base)
        np.testing.assert_allclose(one.x, delta_form + share * (base - before), rtol=1e-12)
        if receipt.staleness == 0:
            np.testing.assert_allclose(one.x, delta_form, rtol=1e-12)
        else:
            stale += 1
            assert not np.allclose(one.x, delta_form, rtol=1e-6)
    assert stale > 5


@DTYPES
def test_fedasync_with_mixing_one_replaces_the_model_to_the_bit(dtype):
    one = rig("fedasync", dtype, mixing=1.0)
    for seed in range(5):
        y = start(dtype, seed)
        one.turn("a", y)
        assert torch.equal(one.x, y)


@DTYPES
def test_async_fedavg_without_damping_replaces_the_model_to_the_bit(dtype):
    one = rig("async_fedavg", dtype, damping=0.0)
    y = start(dtype, 5)
    one.turn("a", y, num_examples=3)
    assert torch.equal(one.x, y)


def test_the_two_forms_of_async_fedavg_agree_on_fresh_updates_alone():
    mixed, added = rig("async_fedavg", form="weights"), rig("async_fedavg", form="delta")
    y = start(seed=5)
    for one, payload in ((mixed, y), (added, y - added.x)):
        one.turn("a", payload, num_examples=100)
    np.testing.assert_allclose(mixed.x, added.x, rtol=1e-13)
    assert mixed.receipts[0].weight == added.receipts[0].weight == 100 / 600


def test_local_sgd_of_one_step_is_minibatch_sgd():
    local = rig("fedavg", clients_per_round=2, reduce="mean")
    batch = rig("minibatch_sgd", num_workers=2, learning_rate=0.25)
    rng = np.random.default_rng(0)
    for _ in range(5):
        for one in (local, batch):
            one.checkout("a", "b")
        for name in "ab":
            gradient = quadratic_payload("gradient", batch.base(name), rng)
            batch.submit(name, gradient)
            local.submit(name, -0.25 * gradient)
    np.testing.assert_allclose(local.x, batch.x, rtol=1e-12)


def test_a_bound_of_infinity_is_plain_asynchronous_sgd_and_of_zero_takes_fresh_ones_only():
    free, wide = rig("async_sgd"), rig("bounded_staleness_sgd", max_staleness=10**6)
    assert torch.equal(run(free), run(wide))
    fresh = rig("bounded_staleness_sgd", max_staleness=0)
    run(fresh)
    for receipt in fresh.receipts:
        assert (receipt.status == "applied") == (receipt.staleness == 0)
    assert fresh.server.counts["rejected"] > 5


def test_fedavg_with_an_outer_nesterov_is_torchs_nesterov_on_the_mean():
    outer = partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)
    one = rig("fedavg", clients_per_round=4, reduce="mean", server_optimizer=outer)
    own, rng = start(), np.random.default_rng(0)
    theirs = outer([own])
    for _ in range(6):
        one.checkout(*"abcd")
        deltas = rng.standard_normal((4, SIZE))
        for name, delta in zip("abcd", deltas, strict=True):
            one.submit(name, torch.from_numpy(delta))
        own.grad = torch.from_numpy(-deltas.mean(axis=0))
        theirs.step()
        np.testing.assert_allclose(one.x, own, rtol=1e-12)


def test_four_naive_nesterov_steps_go_six_times_as_far_as_one_on_the_mean():
    """Why an outer rate must not be taken over from synchronous training (arXiv:2401.09135)."""
    outer = partial(torch.optim.SGD, lr=1.0, momentum=0.9, nesterov=True)
    naive = Rig(algorithms.async_delta(server_optimizer=outer), torch.zeros(1).double())
    together = Rig(
        algorithms.fedavg(clients_per_round=4, server_optimizer=outer), torch.zeros(1).double()
    )
    for one in (naive, together):
        one.checkout(*"abcd")
        for name in "abcd":
            one.submit(name, torch.ones(1).double())
    b = 0.9
    assert naive.x.item() == pytest.approx(4 + 4 * b + 3 * b**2 + 2 * b**3 + b**4, rel=1e-12)
    assert naive.x.item() / together.x.item() == pytest.approx(12.1441 / 1.9, rel=1e-4)
