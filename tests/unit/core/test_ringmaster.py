"""Ringmaster ASGD with stops, bare: a job whose delay reaches R is cancelled and starts anew.

The oracle is the paper's rule with delay counters, in numpy, on f(x) = x'Ax/2 - b'x with workers of
fixed speeds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from headway import core
from tests import core_kit as kit

DIM, RATE = 6, 0.1
A = (2 * np.eye(DIM) - np.eye(DIM, k=1) - np.eye(DIM, k=-1)) / 4
B = np.array([-0.25, 0, 0, 0, 0, 0])


def oracle(periods: Sequence[float], bound: int, updates: int) -> tuple[np.ndarray, int, list[int]]:
    """Where it ends, how many jobs were cancelled, and the delay of each applied update."""
    x = np.ones(DIM)
    start = [x.copy() for _ in periods]
    due = list(periods)
    delay = [0] * len(periods)
    cancelled, applied = 0, []
    while len(applied) < updates:
        worker = min(range(len(periods)), key=lambda index: (due[index], index))
        now = due[worker]
        x = x - RATE * (A @ start[worker] - B)
        applied.append(delay[worker])
        for other in range(len(periods)):
            delay[other] = 0 if other == worker else delay[other] + 1
            if other == worker or delay[other] >= bound:
                cancelled += other != worker
                delay[other] = 0
                start[other], due[other] = x.copy(), now + periods[other]
    return x, cancelled, applied


def simulate(periods: Sequence[float], bound: int, updates: int) -> tuple[core.Server, list[int]]:
    algorithm = kit.bare(
        kit.DropStale(bound),
        step=kit.Add(scale=-RATE),
        payload="gradient",
        gate=core.CancelStale(bound),
    )
    server = core.Server(torch.ones(DIM, dtype=torch.float64), algorithm)
    heap: list[tuple[float, int, core.Checkout]] = []
    running: dict[int, int] = {}

    def start(worker: int, now: float) -> None:
        ticket = kit.take(server, str(worker), now)
        running[worker] = ticket.job
        heapq.heappush(heap, (now + periods[worker], worker, ticket))

    for worker in range(len(periods)):
        start(worker, 0.0)
    applied: list[int] = []
    while len(applied) < updates:
        now, worker, ticket = heapq.heappop(heap)
        if running[worker] != ticket.job:
            continue
        assert ticket.parameters is not None
        gradient = torch.from_numpy(A @ ticket.parameters.numpy() - B)
        receipt = kit.send(server, str(worker), ticket, gradient, now, again=True)
        assert receipt.status == "applied"
        applied.append(receipt.staleness)
        for effect in receipt.effects:
            if isinstance(effect, core.Wake):
                start(int(effect.worker), now)
    return server, applied


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("periods", [(1.0, 1.3, 2.9, 7.1, 31.7), (1.0, 1.0, 1.0)])
def test_it_follows_the_paper(periods: tuple[float, ...], bound: int) -> None:
    x, cancelled, delays = oracle(periods, bound, 150)
    server, applied = simulate(periods, bound, 150)
    np.testing.assert_allclose(server.parameters.numpy(), x, rtol=0, atol=1e-12)
    assert applied == delays
    assert max(applied) <= bound - 1
    assert server.counts["cancelled"] == cancelled


def test_a_cancelled_worker_restarts_on_the_new_model_and_its_late_update_is_refused() -> None:
    server = core.Server(torch.zeros(1), kit.bare(gate=core.CancelStale(1)))
    slow, fast = kit.take(server, "slow"), kit.take(server, "fast")
    receipt = kit.send(server, "fast", fast, 1.0)
    assert receipt.effects == (core.Cancel(slow.job, "slow"), core.Wake("slow"))
    late = kit.send(server, "slow", slow, 100.0)
    assert (late.status, late.reason, late.staleness) == ("rejected", "cancelled", 1)
    restarted = kit.take(server, "slow")
    assert restarted.version == 1
    assert restarted.parameters is not None
    assert restarted.parameters.tolist() == [1.0]
