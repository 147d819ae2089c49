"""Elastic averaging, bare: replicas that stay with their workers, and a server that answers.

e = alpha (x_i - x);   x <- x + e;   answer = x_i - e
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import core
from tests import core_kit as kit

TABLE = "answer"
NEEDS = core.Needs(tables=(TABLE,))


@dataclass(frozen=True, slots=True)
class Elastic:
    alpha: float
    needs: core.Needs = NEEDS
    accepts: frozenset[str] = frozenset({"weights"})
    mixing: float = 0.0

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> Tensor:
        row = context.tables[TABLE].row(context.worker)
        torch.sub(update.payload, context.parameters, out=row)
        row.mul_(self.alpha * update.weight)
        context.parameters.add_(row)
        return torch.sub(update.payload, row, out=row)


def first_time_only(context: core.Context, states: tuple[Any, ...]) -> Any:
    """A worker is sent the centre once, and then keeps its replica."""
    if context.tables[TABLE].get(context.worker) is None:
        return context.parameters, context.version
    return core.KEEP


def elastic(alpha: float, **fields: Any) -> core.Server:
    algorithm = kit.bare(step=Elastic(alpha), payload="weights", view=first_time_only)
    return core.Server(torch.zeros(2, dtype=torch.float64), algorithm, **fields)


class Worker:
    def __init__(self, server: core.Server, name: str) -> None:
        self.server, self.name = server, name
        self.replica = torch.zeros(2, dtype=torch.float64)

    def exchange(self, gradient: np.ndarray | None = None) -> core.Receipt:
        ticket = kit.take(self.server, self.name)
        if ticket.parameters is not None:
            self.replica.copy_(ticket.parameters)
        if gradient is not None:
            self.replica.sub_(torch.from_numpy(gradient))
        receipt = kit.send(self.server, self.name, ticket, self.replica.clone())
        assert receipt.answer is not None
        self.replica.copy_(receipt.answer)
        return receipt


alphas = st.sampled_from([0.0, 0.1, 0.5, 0.9])
steps = st.lists(st.tuples(st.integers(0, 2), st.floats(-2, 2), st.floats(-2, 2)), max_size=30)


@given(steps, alphas)
def test_it_follows_the_rule(steps: list[tuple[int, float, float]], alpha: float) -> None:
    server = elastic(alpha)
    workers = [Worker(server, str(index)) for index in range(3)]
    x, replicas = np.zeros(2), [None, None, None]
    for index, *gradient in steps:
        workers[index].exchange(np.array(gradient))
        mine = (x if replicas[index] is None else replicas[index]) - np.array(gradient)
        e = alpha * (mine - x)
        x, replicas[index] = x + e, mine - e
        np.testing.assert_allclose(server.parameters.numpy(), x, atol=1e-12)
        np.testing.assert_allclose(workers[index].replica.numpy(), replicas[index], atol=1e-12)


@given(st.lists(st.integers(0, 2), max_size=40), alphas)
def test_the_sum_is_conserved_when_nobody_trains(order: list[int], alpha: float) -> None:
    server = elastic(alpha)
    workers = [Worker(server, str(index)) for index in range(3)]
    for index, worker in enumerate(workers):
        worker.exchange(np.array([1.0 + index, -3.0 * index]))
    before = server.parameters + sum(worker.replica for worker in workers)
    for index in order:
        workers[index].exchange()
    after = server.parameters + sum(worker.replica for worker in workers)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_a_kept_replica_is_as_new_as_its_last_answer() -> None:
    server = elastic(0.5)
    a, b = Worker(server, "a"), Worker(server, "b")
    assert [w.exchange().staleness for w in (a, b, a, a, b, b, b)] == [0, 0, 1, 0, 2, 0, 0]
    kept = [event.kept for event in server.events if isinstance(event, core.CheckedOut)]
    assert kept == [False, False, True, True, True, True, True]


def test_an_answer_is_given_again_until_the_next_one() -> None:
    server = elastic(0.5)
    ticket = kit.take(server, "a")
    first = kit.send(server, "a", ticket, 4.0)
    assert first.answer is not None
    assert first.answer.tolist() == [2.0, 2.0]
    other = elastic(0.5)
    other.load_state_dict(server.state_dict())
    for holder in (server, other):
        again = kit.send(holder, "a", ticket, 100.0)
        assert again.answer is not None
        assert again.answer.tolist() == [2.0, 2.0]
        assert again._replace(answer=None) == first._replace(answer=None)
        second = kit.take(holder, "a")
        kit.send(holder, "a", second, 9.0)
        stale = kit.send(holder, "a", ticket, 100.0)
        assert (stale.status, stale.answer) == ("applied", None)
