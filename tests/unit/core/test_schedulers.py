"""The orders of the simple schedulers, each told by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headway import core, schedulers
from headway.core import tree
from headway.core.errors import UsageError
from tests.core_kit import bare

SIMPLE = [
    core.FirstCome(),
    core.LeastRecentlyUsed(),
    core.RandomOrder(),
    core.RoundRobin(),
]


def waiting(scheduler: core.Scheduler, *workers: int) -> Any:
    """A state in which these wait."""
    state = scheduler.init(seed=0)
    for worker in workers:
        scheduler.add(worker, state)
    return state


def picks(scheduler: core.Scheduler, state: Any, count: int) -> list[int | None]:
    return [scheduler.pick(state) for _ in range(count)]


@pytest.mark.parametrize("scheduler", SIMPLE, ids=repr)
def test_nobody_is_picked_where_nobody_waits(scheduler: core.Scheduler) -> None:
    state = waiting(scheduler)
    assert picks(scheduler, state, 2) == [None, None]
    scheduler.add(7, state)
    assert picks(scheduler, state, 2) == [7, None]


@pytest.mark.parametrize("scheduler", SIMPLE, ids=repr)
def test_who_is_lost_is_not_picked_and_who_returns_is_picked_once(
    scheduler: core.Scheduler,
) -> None:
    state = waiting(scheduler, 0, 1, 2)
    scheduler.remove(1, state)
    scheduler.remove(2, state)
    scheduler.add(2, state)
    assert sorted(picks(scheduler, state, 2), key=str) == [0, 2]
    assert scheduler.pick(state) is None
    scheduler.add(1, state)
    assert picks(scheduler, state, 2) == [1, None]


def test_round_robin_goes_on_from_the_last() -> None:
    robin = core.RoundRobin()
    state = waiting(robin, 3, 0, 2)
    assert picks(robin, state, 2) == [0, 2]
    # 1 has missed its turn; 3 has not; 0 waits again, for the next time round.
    robin.add(1, state)
    robin.add(0, state)
    assert picks(robin, state, 4) == [3, 0, 1, None]


def test_round_robin_keeps_the_place_of_who_is_lost_and_returns() -> None:
    robin = core.RoundRobin()
    state = waiting(robin, 0, 1, 2)
    robin.remove(0, state)
    assert robin.pick(state) == 1
    # Its turn has passed while it was gone.
    robin.add(0, state)
    assert picks(robin, state, 2) == [2, 0]


def test_the_least_recently_used_is_the_one_whose_turn_is_longest_ago() -> None:
    least = core.LeastRecentlyUsed()
    state = waiting(least, 2, 0, 1)
    # Nobody had a turn: in the order of joining.
    assert picks(least, state, 3) == [0, 1, 2]
    # Who comes back first does not go first.
    for worker in (2, 1):
        least.add(worker, state)
    assert least.pick(state) == 1
    least.add(1, state)
    least.add(0, state)
    # A newcomer goes before all of them.
    least.add(3, state)
    assert picks(least, state, 5) == [3, 0, 2, 1, None]


def test_the_order_of_equals_is_that_of_their_index_far_out_too() -> None:
    least = core.LeastRecentlyUsed()
    far = 1 << 31
    state = waiting(least, far + 1, far)
    assert picks(least, state, 2) == [far, far + 1]


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
@pytest.mark.parametrize("concurrency", [0, -3])
def test_somebody_must_be_allowed_to_start(name: str, concurrency: int) -> None:
    with pytest.raises(core.errors.ConfigurationError, match="concurrency"):
        schedulers.SCHEDULERS[name](concurrency=concurrency)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_they_are_values(name: str) -> None:
    make = schedulers.SCHEDULERS[name]
    assert make(concurrency=3) == make(concurrency=3) != make(concurrency=4)
    assert make(concurrency=3).concurrency == 3
    assert make().concurrency is None


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_server_that_is_saved_goes_on_with_the_same_picks(name: str) -> None:
    """Through the server, so that what learns has something to learn from."""

    def make() -> core.Server:
        scheduler = schedulers.SCHEDULERS[name](concurrency=2)
        return core.Server(torch.zeros(1), bare(), scheduler=scheduler, seed=5)

    def play(server: core.Server, until: int) -> list[str]:
        order = []
        while len(order) < until:
            (worker,) = server.woken[:1]
            ticket = server.checkout(worker, now=server.now + 1.0)
            assert isinstance(ticket, core.Checkout)
            metrics = {"loss": float(worker.removeprefix("w"))}
            update = core.Update(torch.ones(1), ticket.version, worker, ticket.job, metrics=metrics)
            server.submit(update, now=server.now + 1.0 + len(order) % 3, again=True)
            order.append(worker)
        return order

    server = make()
    server.register([f"w{i}" for i in range(8)], now=0.0)
    play(server, 50)
    other = make()
    other.load_state_dict(server.state_dict())
    assert play(server, 100) == play(other, 100)


def test_a_million_who_wait_are_saved_as_numbers() -> None:
    robin = core.RoundRobin()
    state = waiting(robin, *range(1000))
    saved = tree.dump(state)
    assert saved["ahead"] == list(range(1000))


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_never_more_are_in_flight_than_it_allows(name: str) -> None:
    server = core.Server(
        torch.zeros(1), bare(), scheduler=schedulers.SCHEDULERS[name](concurrency=2)
    )
    flying: dict[str, core.Checkout] = {}

    def ask(worker: str, now: float) -> None:
        ticket = server.checkout(worker, now)
        if isinstance(ticket, core.Checkout):
            flying[worker] = ticket
        assert len(flying) <= 2

    for number in range(5):
        ask(f"w-{number}", 0.0)
    assert len(flying) == 2
    for turn in range(20):
        worker, ticket = next(iter(flying.items()))
        del flying[worker]
        update = core.Update(torch.ones(1), ticket.version, worker, ticket.job)
        receipt = server.submit(update, float(turn))
        woken = [effect.worker for effect in receipt.effects if isinstance(effect, core.Wake)]
        # One place is free, and one of the three who wait is told so.
        assert len(woken) == 1
        ask(worker, float(turn))
        ask(woken[0], float(turn))
        assert len(flying) == 2


@pytest.mark.parametrize("value", [1.5, True, float("nan"), "2", 0, -1])
@pytest.mark.parametrize("scheduler", [type(s) for s in SIMPLE])
def test_a_limit_that_is_no_whole_number_above_0_is_refused(scheduler: Any, value: Any) -> None:
    with pytest.raises(UsageError, match="concurrency must be") as caught:
        scheduler(concurrency=value)
    error = caught.value
    assert error.got == repr(value)
    assert all((error.where, error.expected, error.help))
