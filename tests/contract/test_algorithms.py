"""One table for all algorithms: what each must do, whatever it computes."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from headway import algorithms, core, staleness
from headway.algorithms import ALGORITHMS
from headway.algorithms.arguments import describe
from tests.algorithm_kit import Rig, owned_vectors, quadratic_payload, random_run

NESTEROV = partial(torch.optim.SGD, lr=0.3, momentum=0.9, nesterov=True)
ADAM = partial(torch.optim.Adam, lr=0.05)
RMSPROP = partial(torch.optim.RMSprop, lr=0.01, momentum=0.5)
SIZE = 12


# Plain NumPy statements of the rules: each is fed what arrived, in order, and knows nothing of us.


class Statement:
    """Called with each arrival: payload, staleness, number of examples."""

    def __init__(self, x):
        self.x = x.copy()


class AsyncSGD(Statement):
    def __init__(self, x, lr, beta=0.0, s=lambda tau: 1.0, max_norm=None):
        super().__init__(x)
        self.lr, self.beta, self.s, self.max_norm = lr, beta, s, max_norm
        self.u = None

    def __call__(self, g, tau, n):
        if self.max_norm is not None:
            g = g * min(1.0, self.max_norm / np.sqrt((g * g).sum()))
        g = self.s(tau) * g
        self.u = g if self.u is None else self.beta * self.u + g
        self.x = self.x - self.lr * (self.u if self.beta else g)


class BoundedSGD(Statement):
    def __init__(self, x, lr, bound):
        super().__init__(x)
        self.lr, self.bound = lr, bound

    def __call__(self, g, tau, n):
        if tau <= self.bound:
            self.x = self.x - self.lr * g


class FedAsync(Statement):
    def __init__(self, x, alpha, s, bound=np.inf):
        super().__init__(x)
        self.alpha, self.s, self.bound = alpha, s, bound

    def __call__(self, y, tau, n):
        if tau <= self.bound:
            share = self.alpha * self.s(tau)
            self.x = (1 - share) * self.x + share * y


class AsyncFedAvg(Statement):
    def __init__(self, x, decay, damping, bound, form):
        super().__init__(x)
        self.decay, self.damping, self.bound, self.form = decay, damping, bound, form

    def __call__(self, p, tau, n):
        if tau > self.bound:
            return
        w = self.decay**tau * n
        share = w / (w + self.damping)
        self.x = self.x + share * (p - self.x if self.form == "weights" else p)


class FedBuff(Statement):
    def __init__(self, x, k, s, optimizer="add", bound=np.inf):
        super().__init__(x)
        self.k, self.s, self.optimizer, self.bound = k, s, optimizer, bound
        self.held, self.m, self.v, self.t = [], 0.0, 0.0, 0

    def __call__(self, delta, tau, n):
        if tau > self.bound:
            return
        self.held.append(self.s(tau) * delta)
        if len(self.held) == self.k:
            pseudo = -np.sum(self.held, axis=0) / self.k
            self.held = []
            self.x = self.x - getattr(self, self.optimizer)(pseudo)

    def add(self, g):
        return g

    def nesterov(self, g):
        self.t += 1
        self.m = g if self.t == 1 else 0.9 * self.m + g
        return 0.3 * (g + 0.9 * self.m)

    def adam(self, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        mean, square = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return 0.05 * mean / (np.sqrt(square) + 1e-8)


class AsyncDelta(FedBuff):
    def __init__(self, x, s=lambda tau: 1.0, optimizer="add", bound=np.inf):
        super().__init__(x, 1, s, optimizer, bound)


class Rounds(Statement):
    """Synchronous: the first `size` of a round, all from the same model."""

    def __init__(self, x, size, rate, weighted, sign, optimizer=None):
        super().__init__(x)
        self.size, self.rate, self.weighted, self.sign = size, rate, weighted, sign
        self.held, self.u, self.optimizer = [], None, optimizer

    def __call__(self, p, tau, n):
        assert tau == 0
        self.held.append((p, n if self.weighted else 1))
        if len(self.held) < self.size:
            return
        total = sum(n for _, n in self.held)
        step = sum(n * p for p, n in self.held) / total
        self.held = []
        if self.optimizer:
            self.u = step if self.u is None else self.optimizer * self.u + step
            step = self.u
        self.x = self.x + self.sign * self.rate * step


def poly(tau):
    return 1 / np.sqrt(1 + tau)


def hinge(tau):
    return 1.0 if tau <= 1 else 1 / (10 * (tau - 1) + 1)


@dataclass
class Case:
    name: str
    options: dict
    statement: object
    copies: int
    buffer: int = 1

    def make(self):
        return ALGORITHMS[self.name](**self.options)

    def rig(self, size=SIZE, dtype=torch.float64, **options):
        initial = torch.from_numpy(np.random.default_rng(7).standard_normal(size)).to(dtype)
        return Rig(self.make(), initial, options)

    def __str__(self):
        shown = describe(self.options).items()
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in shown)})"


CASES = [
    Case("async_sgd", {}, partial(AsyncSGD, lr=0.1), 0),
    Case("async_sgd", {"momentum": 0.5}, partial(AsyncSGD, lr=0.1, beta=0.5), 1),
    Case(
        "async_sgd",
        {"learning_rate": 0.2, "momentum": 0.5, "staleness": staleness.polynomial()},
        partial(AsyncSGD, lr=0.2, beta=0.5, s=poly),
        2,
    ),
    Case("async_sgd", {"max_norm": 0.5}, partial(AsyncSGD, lr=0.1, max_norm=0.5), 1),
    Case("bounded_staleness_sgd", {}, partial(BoundedSGD, lr=0.1, bound=8), 0),
    Case("bounded_staleness_sgd", {"max_staleness": 1}, partial(BoundedSGD, lr=0.1, bound=1), 0),
    Case("fedasync", {}, partial(FedAsync, alpha=0.6, s=poly), 0),
    Case(
        "fedasync",
        {"mixing": 0.9, "staleness": staleness.hinge(10, 1), "max_staleness": 3, "proximal": 0.01},
        partial(FedAsync, alpha=0.9, s=hinge, bound=3),
        0,
    ),
    Case(
        "async_fedavg",
        {},
        partial(AsyncFedAvg, decay=0.9, damping=500.0, bound=20, form="weights"),
        0,
    ),
    Case(
        "async_fedavg",
        {"decay": 0.5, "damping": 20.0, "max_staleness": 2, "form": "delta"},
        partial(AsyncFedAvg, decay=0.5, damping=20.0, bound=2, form="delta"),
        0,
    ),
    Case("fedbuff", {}, partial(FedBuff, k=10, s=poly), 1, buffer=10),
    Case("fedbuff", {"buffer_size": 1}, partial(FedBuff, k=1, s=poly), 1),
    Case(
        "fedbuff",
        {"buffer_size": 2, "server_optimizer": NESTEROV, "max_staleness": 1},
        partial(FedBuff, k=2, s=poly, optimizer="nesterov", bound=1),
        2,
        buffer=2,
    ),
    Case(
        "fedbuff",
        {"buffer_size": 3, "server_optimizer": ADAM, "staleness": staleness.threshold(0)},
        partial(FedBuff, k=3, s=lambda tau: float(tau == 0), optimizer="adam"),
        3,
        buffer=3,
    ),
    Case("fedbuff", {"buffer_size": 3, "server_optimizer": RMSPROP}, None, 3, buffer=3),
    Case("async_delta", {}, AsyncDelta, 0),
    Case(
        "async_delta",
        {"server_optimizer": NESTEROV, "staleness": staleness.inverse(), "max_staleness": 5},
        partial(AsyncDelta, s=lambda tau: 1 / max(1, tau), optimizer="nesterov", bound=5),
        2,
    ),
    Case(
        "async_delta",
        {"server_optimizer": ADAM},
        partial(AsyncDelta, optimizer="adam"),
        3,
    ),
    Case(
        "minibatch_sgd",
        {"num_workers": 3},
        partial(Rounds, size=3, rate=0.1, weighted=False, sign=-1),
        1,
        buffer=3,
    ),
    Case(
        "minibatch_sgd",
        {"num_workers": 2, "momentum": 0.9, "reduce": "weighted_mean", "over_selection": 1.5},
        partial(Rounds, size=2, rate=0.1, weighted=True, sign=-1, optimizer=0.9),
        2,
        buffer=2,
    ),
    Case(
        "fedavg",
        {"clients_per_round": 3},
        partial(Rounds, size=3, rate=1.0, weighted=True, sign=1),
        1,
        buffer=3,
    ),
    Case(
        "fedavg",
        {"clients_per_round": 2, "over_selection": 1.3, "reduce": "mean"},
        partial(Rounds, size=2, rate=1.0, weighted=False, sign=1),
        1,
        buffer=2,
    ),
]

everyone = pytest.mark.parametrize("case", CASES, ids=str)
stated = pytest.mark.parametrize("case", [case for case in CASES if case.statement], ids=str)


def equal_trees(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_trees(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal_trees, a, b))
    return a == b


def test_every_algorithm_is_in_the_table():
    assert {case.name for case in CASES} == set(ALGORITHMS)
    assert list(ALGORITHMS) == sorted(ALGORITHMS)
    assert set(ALGORITHMS) < set(algorithms.__all__)


@everyone
def test_it_says_what_it_is(case):
    algorithm = case.make()
    assert algorithm.name == case.name
    assert json.loads(json.dumps(algorithm.settings)) == algorithm.settings
    assert set(algorithm.settings) == set(inspect.signature(ALGORITHMS[case.name]).parameters)
    assert str(algorithm).startswith(f"{case.name}(")
    assert case.make() == case.make()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_options_are_given_by_name_and_have_defaults(name):
    for parameter in inspect.signature(ALGORITHMS[name]).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty


@stated
def test_it_computes_its_plain_statement(case):
    rig = case.rig()
    statement = case.statement(rig.x.numpy())
    for payload, receipt, extra in random_run(rig, 60):
        statement(payload, receipt.staleness, extra["num_examples"])
        np.testing.assert_allclose(rig.x.numpy(), statement.x, rtol=1e-11, atol=1e-12)
    assert rig.server.version > 0


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_workers", [3, 7])
def test_the_model_stays_finite_and_keeps_its_form(case, dtype, num_workers):
    rig = case.rig(dtype=dtype)
    before = rig.x
    for _ in random_run(rig, 50, num_workers=num_workers):
        pass
    assert rig.x is before
    assert rig.x.dtype is dtype
    assert rig.x.shape == (SIZE,)
    assert torch.isfinite(rig.x).all()
    assert rig.server.version > 0


@everyone
def test_float32_follows_float64(case):
    single, double = case.rig(dtype=torch.float32), case.rig()
    for _ in zip(random_run(single, 30), random_run(double, 30), strict=True):
        pass
    np.testing.assert_allclose(single.x, double.x, rtol=2e-3, atol=2e-4)


@everyone
def test_one_worker_is_enough_for_an_asynchronous_one(case):
    rig = case.rig()
    if isinstance(rig.algorithm.gate, core.Bulk):
        rig.checkout("worker-0")
        rig.submit("worker-0", torch.zeros(SIZE, dtype=torch.float64))
        assert rig.checkout("worker-0") == [False]
        return
    for _, receipt, _ in random_run(rig, 20, num_workers=1):
        assert receipt.staleness == 0
        assert receipt.status in ("applied", "buffered")
    assert rig.server.version == 20 // case.buffer


@stated
def test_without_staleness_it_is_its_synchronous_form(case):
    """All of a buffer from the same model, one buffer after the other."""
    rig = case.rig()
    statement = case.statement(rig.x.numpy())
    rng = np.random.default_rng(3)
    names = [f"worker-{index}" for index in range(case.buffer)]
    for _ in range(5):
        assert all(rig.checkout(*names))
        for worker in names:
            payload = quadratic_payload(rig.algorithm.payload, rig.base(worker), rng)
            statement(payload.numpy().copy(), 0, 10)
            assert rig.submit(worker, payload, num_examples=10).staleness == 0
        np.testing.assert_allclose(rig.x.numpy(), statement.x, rtol=1e-12, atol=1e-13)
    assert rig.server.version == 5


@everyone
@pytest.mark.parametrize("cut", [1, 13, 28])
def test_a_save_and_a_load_in_the_middle_change_no_bit(case, cut):
    straight, first, second = case.rig(), case.rig(), case.rig()
    run = list(zip(random_run(straight, 40), range(40), strict=True))
    assert len(run) == 40
    # The same arrivals again; after `cut` of them another server goes on from the saved state.
    rng, names = np.random.default_rng(0), [f"worker-{index}" for index in range(3)]
    rig = first
    for number in range(40):
        if number == cut:
            second.server.load_state_dict(first.server.state_dict())
            second.tickets, second.now = dict(first.tickets), first.now
            second.tickets = {
                name: ticket._replace(parameters=ticket.parameters.clone())
                for name, ticket in first.tickets.items()
            }
            rig = second
        rig.checkout(*names)
        busy = sorted(rig.tickets)
        worker = busy[int(rng.integers(len(busy)))]
        payload = quadratic_payload(rig.algorithm.payload, rig.base(worker), rng)
        rig.submit(worker, payload, num_examples=int(rng.integers(1, 50)))
    assert torch.equal(second.x, straight.x)
    assert second.server.version == straight.server.version
    saved, expected = second.server.state_dict(), straight.server.state_dict()
    assert equal_trees(saved["chain"], expected["chain"])
    assert equal_trees(saved["step"], expected["step"])


@everyone
def test_weight_0_moves_neither_model_nor_momentum(case):
    rig = case.rig()
    for _ in random_run(rig, 10 * case.buffer):
        pass
    rig.tickets.clear()
    before, version = rig.x.clone(), rig.server.version
    step = rig.server.state_dict()["step"]
    rng = np.random.default_rng(1)
    for number in range(2 * case.buffer):
        worker = f"late-{number}"
        if rig.checkout(worker) == [False]:
            continue
        payload = quadratic_payload(rig.algorithm.payload, rig.base(worker), rng)
        receipt = rig.submit(worker, payload, weight=0.0)
        # What was in the buffer already may be flushed by it, and may move the model.
        if receipt.status == "applied":
            before, version = rig.x.clone(), rig.server.version
            step = rig.server.state_dict()["step"]
        assert receipt.weight == 0.0
    assert torch.equal(rig.x, before)
    assert rig.server.version == version
    assert equal_trees(rig.server.state_dict()["step"], step)


@pytest.mark.parametrize("case", [case for case in CASES if case.buffer > 1], ids=str)
def test_weight_0_counts_in_a_buffer(case):
    rig = case.rig()
    names = [f"worker-{index}" for index in range(case.buffer)]
    before = rig.x.clone()
    rig.checkout(*names)
    zeros = [rig.submit(worker, torch.ones_like(rig.x), weight=0.0) for worker in names]
    assert [receipt.status for receipt in zeros] == ["buffered"] * (case.buffer - 1) + ["rejected"]
    assert zeros[-1].reason == "zero_weight"
    assert torch.equal(rig.x, before)
    assert rig.chain_states[-1].count == 0
    # The next buffer is not spoilt by it.
    statement = case.statement(rig.x.numpy()) if case.statement else None
    rig.checkout(*names)
    for worker in names:
        receipt = rig.submit(worker, torch.full_like(rig.x, 0.5))
        if statement:
            statement(np.full(SIZE, 0.5), 0, 1)
    assert receipt.status == "applied"
    if statement:
        np.testing.assert_allclose(rig.x.numpy(), statement.x, rtol=1e-12)


@everyone
def test_the_memory_is_what_it_declares(case):
    size = 300_000
    rig = case.rig(size, dtype=torch.float32, record="nothing")
    assert rig.algorithm.needs.copies == case.copies
    rng = np.random.default_rng(0)
    names = [f"worker-{index}" for index in range(case.buffer + 1)]
    for _ in range(3):
        rig.checkout(*names)
        for worker in [name for name in names if name in rig.tickets]:
            if worker in rig.tickets:
                payload = quadratic_payload(rig.algorithm.payload, rig.base(worker), rng)
                rig.submit(worker, payload, weight=0.75)
    owned = owned_vectors([rig.chain_states, rig.step_state], size, foreign=[rig.x])
    # A sent weight that is not 1 costs async_sgd the copy that it saves while all weights are 1.
    saved = (
        case.name == "async_sgd"
        and case.options.get("momentum")
        and "staleness" not in case.options
    )
    assert owned == pytest.approx(case.copies + bool(saved), abs=0.01)


@everyone
def test_the_same_order_of_equal_times_gives_the_same_model(case):
    def run(order):
        rig = case.rig()
        rng = np.random.default_rng(5)
        for _ in range(4):
            rig.checkout(*order)
            for worker in [name for name in order if name in rig.tickets]:
                if worker in rig.tickets:
                    payload = quadratic_payload(rig.algorithm.payload, rig.base(worker), rng)
                    rig.now = 1.0
                    rig.submit(worker, payload, num_examples=rng.integers(1, 9).item())
        log = [
            (e.time, e.worker, e.status) for e in rig.server.events if isinstance(e, core.Submitted)
        ]
        return rig.x.clone(), log

    order = ["b", "a", "d", "c"]
    (x, log), (again, log_again) = run(order), run(order)
    assert torch.equal(x, again)
    assert log == log_again
    # All at one time, and taken in the order in which they were handed in.
    assert {time for time, _, _ in log} == {2.0}
    assert [worker for _, worker, _ in log][:2] == order[:2]


@everyone
def test_nothing_that_comes_in_is_written_to(case):
    rig = case.rig()
    for _ in random_run(rig, 5):
        pass
    rng = np.random.default_rng(2)
    names = [f"worker-{index}" for index in range(case.buffer + 2)]
    rig.checkout(*names)
    kept = {worker: rig.base(worker).clone() for worker in names if worker in rig.tickets}
    for worker in list(kept):
        if worker not in rig.tickets:
            continue
        base = rig.base(worker)
        assert torch.equal(base, kept[worker])
        payload = quadratic_payload(rig.algorithm.payload, base, rng)
        copy = payload.clone()
        rig.submit(worker, payload, weight=0.5)
        assert torch.equal(payload, copy)
        assert not payload.requires_grad


@everyone
def test_a_job_submitted_twice_counts_once(case):
    once, twice = case.rig(), case.rig()
    for _ in random_run(once, 25):
        pass
    rng = np.random.default_rng(0)
    names = [f"worker-{index}" for index in range(3)]
    for _ in range(25):
        twice.checkout(*names)
        busy = sorted(twice.tickets)
        worker = busy[int(rng.integers(len(busy)))]
        ticket = twice.tickets[worker]
        payload = quadratic_payload(twice.algorithm.payload, ticket.parameters, rng)
        receipt = twice.submit(worker, payload, num_examples=int(rng.integers(1, 50)))
        update = core.Update(payload, ticket.version, worker, ticket.job)
        assert twice.server.submit(update, twice.now)[:7] == receipt[:7]
    assert torch.equal(once.x, twice.x)


@everyone
def test_a_replay_gives_the_same_model(case):
    rig = case.rig(record="payloads", seed=3)
    for _ in random_run(rig, 30):
        pass
    rig.server.tick(rig.now, closing=True)
    fresh = case.rig(seed=3).server
    core.replay(fresh, rig.server.events)
    assert torch.equal(fresh.parameters, rig.x)
