"""The simulator against theory: staleness, timing, and what it must be the same as.

Every expected number comes from an equation or from a plain loop that knows nothing of Headway.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import headway as hw
from headway import algorithms, core
from headway.core import Bulk, CheckedOut
from headway.simulation import population as populations
from headway.simulation import until
from tests.simulation_kit import (
    Chase,
    arrivals,
    examples,
    perceptron_task,
    run_engine,
    same_bits,
)

null = hw.tasks.null


def harmonic(n):
    return sum(1.0 / i for i in range(1, n + 1))


# Staleness, and what is conserved.

LAWS = {
    "constant": populations.constant(30),
    "exponential": populations.exponential(30, mean_s=1.0),
    "lognormal": populations.lognormal(30, median_s=1.0, sigma=1.2),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("concurrency", [1, 7, 30])
@pytest.mark.parametrize("size", [1, 4, 10])
def test_staleness_is_conserved(law, concurrency, size):
    """``sum of staleness + sum of ages in flight = versions * (concurrency - 1)``, to the unit.

    Each new version makes every other job in flight one version older.
    """
    engine = run_engine(
        null(num_clients=30),
        algorithms.fedbuff(buffer_size=size),
        population=LAWS[law],
        concurrency=concurrency,
        stop=until(updates=997),
    )
    server = engine.server
    bases = [version for _, _, version, _, _ in server.state_dict()["jobs"]]
    assert len(bases) == concurrency
    spent = sum(event.staleness for event in arrivals(server.events))
    assert server.version == 997 // size
    assert spent + sum(server.version - base for base in bases) == server.version * (
        concurrency - 1
    )
    assert sum(tau * count for tau, count in engine.tally.staleness.items()) == spent


@pytest.mark.parametrize(("concurrency", "size"), [(20, 1), (20, 5), (9, 4)])
def test_mean_staleness_is_concurrency_less_one_over_the_buffer(concurrency, size):
    engine = run_engine(
        null(num_clients=50),
        algorithms.fedbuff(buffer_size=size),
        population=populations.exponential(50, mean_s=1.0),
        concurrency=concurrency,
        stop=until(updates=6000),
    )
    staleness = [event.staleness for event in arrivals(engine.server.events)]
    assert np.mean(staleness) == pytest.approx((concurrency - 1) / size, rel=0.02)


def test_memoryless_workers_have_geometric_staleness():
    """``P(tau = l) = (1/M) (1 - 1/M)^l``: whoever comes next is any of the M, whatever was before."""
    workers, count, warm_up = 8, 12_000, 400
    engine = run_engine(
        null(num_clients=workers),
        algorithms.async_sgd(),
        population=populations.exponential(workers, mean_s=1.0),
        stop=until(updates=count + warm_up),
    )
    seen = Counter(event.staleness for event in arrivals(engine.server.events)[warm_up:])
    chance = np.array([(1 / workers) * (1 - 1 / workers) ** lag for lag in range(40)])
    expected = np.append(chance, 1.0 - chance.sum()) * count
    observed = np.array([seen[lag] for lag in range(40)] + [sum(seen.values())], dtype=float)
    observed[-1] -= observed[:-1].sum()
    assert expected.min() > 5
    statistic = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1
    # Six standard deviations of the chi-square distribution.
    assert statistic < degrees + 6 * sqrt(2 * degrees)


@pytest.mark.parametrize("workers", [1, 2, 5, 16])
def test_equal_workers_take_turns(workers):
    """Round robin: the staleness is ``M - 1``, after a first round of 0, 1, ..., M - 1."""
    engine = run_engine(null(num_clients=workers), algorithms.async_sgd(), stop=until(updates=100))
    staleness = [event.staleness for event in arrivals(engine.server.events)]
    assert staleness[:workers] == list(range(workers))
    assert set(staleness[workers:]) == {workers - 1}
    order = [event.worker for event in arrivals(engine.server.events)]
    assert all(one == other for one, other in zip(order, order[workers:], strict=False))


# Timing.


def version_times(engine):
    """When each version came."""
    applied = [event for event in arrivals(engine.server.events) if event.status == "applied"]
    return np.array([event.time for event in applied])


def round_times(engine):
    return np.diff(version_times(engine), prepend=0.0)


@pytest.mark.parametrize("workers", [4, 12])
def test_a_synchronous_round_takes_the_harmonic_number(workers):
    rounds = 1500
    engine = run_engine(
        null(num_clients=workers),
        algorithms.minibatch_sgd(num_workers=workers),
        population=populations.exponential(workers, mean_s=1.0),
        stop=until(versions=rounds),
    )
    deviation = sqrt(sum(1 / i**2 for i in range(1, workers + 1)) / rounds)
    assert round_times(engine).mean() == pytest.approx(harmonic(workers), abs=4 * deviation)


@pytest.mark.parametrize(("first", "workers"), [(4, 8), (9, 12), (1, 6)])
def test_the_first_k_of_n_take_a_difference_of_harmonic_numbers(first, workers):
    """Over-selection: ``H_n - H_{n-K}``."""
    rounds = 1500
    engine = run_engine(
        null(num_clients=workers),
        algorithms.fedavg(clients_per_round=first, over_selection=workers / first),
        population=populations.exponential(workers, mean_s=1.0),
        stop=until(versions=rounds),
    )
    expected = harmonic(workers) - harmonic(workers - first)
    spread = sum(1 / i**2 for i in range(workers - first + 1, workers + 1))
    assert round_times(engine).mean() == pytest.approx(expected, abs=4 * sqrt(spread / rounds))
    assert engine.server.counts["cancelled"] == rounds * (workers - first)


@pytest.mark.parametrize(
    "population",
    [
        populations.exponential(20, mean_s=1.0),
        populations.uniform(20, low_s=0.5, high_s=1.5, per="job"),
    ],
    ids=["exponential", "uniform"],
)
def test_a_flush_comes_every_k_over_n_seconds(population):
    """For any durations of mean 1, in the long run."""
    engine = run_engine(
        null(num_clients=20),
        algorithms.fedbuff(buffer_size=5),
        population=population,
        stop=until(versions=2000),
    )
    assert engine.progress.virtual_time_s / 2000 == pytest.approx(5 / 20, rel=0.03)


def test_asynchronous_speed_is_the_sum_of_speeds():
    """``sum of 1/t_i`` jobs a second; against synchronous rounds ``(t_max / n) sum of 1/t_i``.

    All times divide the limit, so that these are counts without any rounding.
    """
    times, limit = [1.0, 2.0, 3.0, 4.0, 6.0], 120.0
    updates = {}
    for name, algorithm in (
        ("async", algorithms.async_sgd()),
        ("sync", algorithms.minibatch_sgd(num_workers=len(times))),
    ):
        engine = run_engine(
            null(num_clients=len(times)),
            algorithm,
            population=populations.from_times(times),
            stop=until(virtual_time_s=limit),
        )
        assert engine.progress.virtual_time_s == limit
        updates[name] = engine.tally.updates
        idle = engine.tally.idle_share(limit)
        busy = 1.0 if name == "async" else sum(times) / (len(times) * max(times))
        assert idle == pytest.approx(1.0 - busy, abs=1e-12)
    rate = sum(1.0 / time for time in times)
    assert updates["async"] == round(limit * rate)
    assert updates["sync"] == len(times) * round(limit / max(times))
    assert updates["async"] / updates["sync"] == pytest.approx(max(times) / len(times) * rate)


# What it must be the same as.


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_asynchronous_worker_is_sequential_sgd(momentum):
    """Bit by bit, with torch's own optimizer on a module of torch's own as the other side."""
    inputs, targets = examples(24, 5)
    task = hw.Task(
        hw.models.mlp(5, 7, 3),
        "cross_entropy",
        [(inputs, targets)],
        (inputs, targets),
        local=hw.LocalTraining(steps=1, batch_size=None, shuffle=False),
    )
    algorithm = algorithms.async_sgd(learning_rate=0.2, momentum=momentum)
    engine = run_engine(task, algorithm, stop=until(updates=30), seed=9)
    module = task.make_module(9)
    flat = nn.Parameter(task.layout.flatten(module))
    # The fused kernel rounds less often than the plain one; with momentum the server uses it.
    optimizer = torch.optim.SGD([flat], lr=0.2, momentum=momentum, fused=momentum > 0)
    for _ in range(30):
        views = task.layout.views(flat)
        loss = F.cross_entropy(torch.func.functional_call(module, views, (inputs,)), targets)
        flat.grad = torch.autograd.grad(loss, flat)[0]
        optimizer.step()
    assert same_bits(engine.server.parameters, flat.detach())


def test_one_worker_that_replaces_the_model_is_a_plain_training_loop():
    data = examples(22, 6)
    task = hw.Task(
        hw.models.mlp(5, 7, 3),
        "cross_entropy",
        [data],
        data,
        local=hw.LocalTraining(epochs=2, batch_size=8, learning_rate=0.3, shuffle=False),
    )
    replace_model = algorithms.fedasync(mixing=1.0, staleness=hw.staleness.constant(1.0))
    engine = run_engine(task, replace_model, stop=until(updates=7), seed=2)
    module = task.make_module(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(7 * 2):
        for start in (0, 8, 16):
            optimizer.zero_grad()
            inputs, targets = data[0][start : start + 8], data[1][start : start + 8]
            F.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
    assert same_bits(engine.server.parameters, task.layout.flatten(module))


def cohorts(engine):
    """Who trained in each round, in the order in which their updates arrived."""
    members: dict[int, list[int]] = {}
    for event in arrivals(engine.server.events):
        assert event.staleness == 0
        members.setdefault(event.base_version, []).append(int(event.worker.split("-")[1]))
    return [members[version] for version in sorted(members)]


def test_fedavg_is_the_plain_loop_with_the_same_cohorts():
    """A hand-written FedAvg: copy the module, run its epochs, average by examples."""
    sizes = (23, 20, 3, 9, 14, 8)
    clients = [examples(size, seed) for seed, size in enumerate(sizes)]
    factory = hw.models.mlp(5, 7, 3)
    task = hw.Task(
        factory,
        "cross_entropy",
        clients,
        examples(30, 99),
        local=hw.LocalTraining(epochs=2, batch_size=8, learning_rate=0.2, shuffle=False),
    )
    result = hw.simulate(
        task,
        algorithms.fedavg(clients_per_round=3),
        population=populations.lognormal(6, median_s=1.0, sigma=1.0),
        stop=until(versions=8),
        seed=4,
    )
    rounds: dict[int, list[int]] = {}
    for event in arrivals(result.events):
        rounds.setdefault(event.base_version, []).append(int(event.worker.split("-")[1]))
    assert [len(set(cohort)) for cohort in rounds.values()] == [3] * 8
    assert len({tuple(sorted(cohort)) for cohort in rounds.values()}) > 1
    module = task.make_module(4)
    for cohort in rounds.values():
        module = average([train(module, *clients[c]) for c in cohort], [sizes[c] for c in cohort])
    expected = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    assert result.parameters is not None
    torch.testing.assert_close(result.parameters, expected, rtol=1e-5, atol=1e-6)


def train(module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> nn.Module:
    local = deepcopy(module)
    optimizer = torch.optim.SGD(local.parameters(), lr=0.2)
    for _ in range(2):
        for rows in torch.arange(len(inputs)).split(8):
            optimizer.zero_grad()
            F.cross_entropy(local(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return local


def average(modules: list[nn.Module], sizes: list[int]) -> nn.Module:
    mean = deepcopy(modules[0])
    states = [module.state_dict() for module in modules]
    mean.load_state_dict(
        {
            name: sum(n * state[name] for n, state in zip(sizes, states, strict=True)) / sum(sizes)
            for name in states[0]
        }
    )
    return mean


@pytest.mark.parametrize("reduce", ["mean", "weighted_mean"])
def test_synchronous_rounds_on_quadratics_follow_the_closed_form(reduce):
    """Five local steps: ``x_i = c_i + (1 - rate A)^5 (x - c_i)``; all have one example a step."""
    task = hw.tasks.quadratic(
        dim=6,
        num_clients=9,
        dtype="float64",
        local=hw.LocalTraining(steps=5, learning_rate=0.3),
    )
    engine = run_engine(
        task,
        algorithms.fedavg(clients_per_round=4, reduce=reduce),
        population=populations.exponential(9, mean_s=1.0),
        stop=until(versions=12),
    )
    x = task.start(0, torch.device("cpu")).parameters.numpy()
    shrink = (1.0 - 0.3 * task.curvature.numpy()) ** 5
    for cohort in cohorts(engine):
        centers = task.centers.numpy()[cohort]
        x = (centers + shrink * (x - centers)).mean(axis=0)
    np.testing.assert_allclose(engine.server.parameters.numpy(), x, rtol=1e-12)


SIZES = np.array([10, 60])
SLOPES = np.array([1.0, 3.0])


def line_task(**local):
    """``y = w x``, from ``w = 1`` on: client ``i`` holds ``SIZES[i]`` times ``(1, SLOPES[i])``."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    ones = [torch.ones(size, 1, dtype=torch.float64) for size in SIZES]
    train = [(x, slope * x) for x, slope in zip(ones, SLOPES, strict=True)]
    training = hw.LocalTraining(batch_size=10, learning_rate=0.1, **local)
    return hw.Task(model, "mse", train, train[0], local=training, metrics="loss")


AMOUNTS = [({"steps": 5}, [5, 5]), ({"epochs": 1}, [1, 6]), ({"epochs": 5}, [5, 30])]


@pytest.mark.parametrize(("amount", "steps"), AMOUNTS)
def test_fedavg_weighs_clients_by_the_examples_that_they_hold(amount, steps):
    """The paper's ``n_k``, whatever the local work: ``x + sum of n_i delta_i / sum of n_i``.

    A step on ``(w x - b x)**2`` at ``x = 1`` multiplies ``w - b`` by ``1 - 2 * 0.1``.
    """
    result = hw.simulate(
        line_task(**amount),
        algorithms.fedavg(clients_per_round=2),
        stop=until(versions=4),
        record="events",
    )
    w = 1.0
    for _ in range(4):
        deltas = (w - SLOPES) * (0.8 ** np.array(steps) - 1.0)
        w += np.average(deltas, weights=SIZES)
    assert result.parameters.item() == pytest.approx(w, rel=1e-12)
    assert {e.num_examples for e in arrivals(result.events)} == set(SIZES)
    assert result.examples == 4 * 10 * sum(steps)
    assert [result.clients[i].examples for i in range(2)] == [4 * 10 * count for count in steps]


@pytest.mark.parametrize("form", ["weights", "delta"])
@pytest.mark.parametrize(("amount", "steps"), AMOUNTS)
def test_async_fedavg_damps_by_the_examples_that_a_client_holds(form, amount, steps):
    """``n_i / (n_i + damping)`` at staleness 0, whatever the local work."""
    algorithm = algorithms.async_fedavg(damping=40.0, form=form)
    task = line_task(**amount)
    result = hw.simulate(task, algorithm, concurrency=1, stop=until(updates=6), record="events")
    w = 1.0
    for event in arrivals(result.events):
        i = int(event.worker.removeprefix("client-"))
        share = SIZES[i] / (SIZES[i] + 40.0)
        assert event.weight == pytest.approx(share, rel=1e-15)
        w += share * (w - SLOPES[i]) * (0.8 ** steps[i] - 1.0)
    assert result.parameters.item() == pytest.approx(w, rel=1e-12)


def test_a_full_buffer_of_one_version_is_a_round():
    """FedBuff with K = n is FedAvg as long as all start from one version: to the bit."""
    task = perceptron_task()
    fedbuff = algorithms.fedbuff(buffer_size=6)
    fedavg = algorithms.fedavg(clients_per_round=6, reduce="mean")
    first = [run_engine(task, a, stop=until(versions=1)).server for a in (fedbuff, fedavg)]
    assert same_bits(first[0].parameters, first[1].parameters)
    # Behind a barrier all do start from one version, for the whole run.
    behind_a_barrier = replace(fedbuff, gate=Bulk(6))
    whole = [run_engine(task, a, stop=until(versions=9)) for a in (behind_a_barrier, fedavg)]
    assert same_bits(whole[0].server.parameters, whole[1].server.parameters)
    assert [w.progress.virtual_time_s for w in whole] == [9.0, 9.0]
    # Without one, who comes first starts again before the flush, from the version before it.
    free = run_engine(task, fedbuff, stop=until(versions=2))
    assert [e.staleness for e in arrivals(free.server.events)] == [0] * 6 + [1] * 5 + [0]


def test_a_synchronous_gate_never_mixes_versions():
    engine = run_engine(
        null(num_clients=20),
        algorithms.fedavg(clients_per_round=5, over_selection=1.6),
        population=populations.exponential(20, mean_s=1.0),
        stop=until(versions=60),
    )
    given = [event for event in engine.server.events if isinstance(event, CheckedOut)]
    assert Counter(event.version for event in given if event.version < 60) == dict.fromkeys(
        range(60), 8
    )
    assert all(one.version <= other.version for one, other in pairwise(given))


def test_every_applied_delta_is_in_the_model_exactly_once():
    """``x_T = x_0 + sum of deltas``, in integers, whatever the order and the staleness."""
    engine = run_engine(
        Chase([2.0**i for i in range(6)], dtype=torch.float64),
        algorithms.async_delta(),
        population=populations.lognormal(6, median_s=1.0, sigma=1.0),
        stop=until(updates=40),
        record="payloads",
    )
    sent = [event.payload for event in arrivals(engine.server.events)]
    total = sum(int(payload) for payload in sent if payload is not None)
    assert len(sent) == 40
    assert all(payload is not None and payload == payload.round() for payload in sent)
    assert int(engine.server.parameters) == total


def test_stale_synchronous_workers_stay_within_the_bound():
    """At any instant ``max clock - min clock <= s + 1``, for finished jobs."""
    bound, clients = 2, 5
    algorithm = replace(algorithms.async_sgd(), gate=core.StaleSynchronous(bound))
    engine = run_engine(
        null(num_clients=clients),
        algorithm,
        population=populations.from_times([1.0, 1.5, 2.0, 4.0, 7.0]),
        stop=until(updates=300),
    )
    clocks = dict.fromkeys(range(clients), 0)
    furthest = 0
    for event in arrivals(engine.server.events):
        clocks[int(event.worker.split("-")[1])] += 1
        furthest = max(furthest, max(clocks.values()) - min(clocks.values()))
    assert furthest == bound + 1
