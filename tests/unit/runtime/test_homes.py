"""Clients that stay with the executor of their first job: how they are spread, and who never waits."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import algorithms, core
from headway.runtime import wire
from headway.runtime.deals import Deals, Given
from headway.runtime.encoded import Traffic
from headway.runtime.homes import PATIENCE_S
from headway.runtime.hub import Hub
from headway.runtime.members import Member
from headway.runtime.parcel import Parcel
from headway.runtime.porter import Porter


def people(count):
    return [Member(f"worker-{n}", n, "", None, 0.0, 0.0) for n in range(count)]


def names(count):
    return [f"client-{n}" for n in range(count)]


class Spread:
    """Deals with a clock, and a note of who got whom."""

    def __init__(self, num_clients, expected):
        self.now = 0.0
        self.deals = Deals(names(num_clients), pinned=expected)
        self.homes = {}

    def pair(self):
        pairs = []
        while (pair := self.deals.pair(lambda: self.now)) is not None:
            name, member = pair
            assert self.homes.setdefault(name, member) is member
            pairs.append((name, member.index))
        return pairs

    def ready(self, *names):
        for name in names:
            self.deals.ready(name)
        return self.pair()

    def asked(self, *members):
        for member in members:
            self.deals.asked(member)
        return self.pair()

    def left(self, member):
        self.homes = {name: home for name, home in self.homes.items() if home is not member}
        return list(self.deals.left(member, []))

    def counts(self):
        return Counter(member.index for member in self.homes.values())


def test_an_executor_that_is_first_leaves_the_others_their_share():
    one, two = people(2)
    spread = Spread(4, 2)
    assert spread.ready(*names(4)) == []
    assert spread.asked(one) == [("client-0", 0)]
    assert spread.asked(one) == [("client-1", 0)]
    assert spread.asked(one) == []
    assert not spread.deals.is_stuck
    assert spread.asked(two) == [("client-2", 1)]
    assert spread.asked(two) == [("client-3", 1)]
    assert spread.ready("client-1") == [("client-1", 0)]


def test_an_executor_that_asks_ahead_does_not_take_two_of_two():
    one, two = people(2)
    spread = Spread(2, 2)
    spread.ready(*names(2))
    assert spread.asked(one, one) == [("client-0", 0)]
    assert spread.asked(two, two) == [("client-1", 1)]
    # Both have asked for one more, and each gets its own.
    assert spread.ready("client-1", "client-0") == [("client-1", 1), ("client-0", 0)]


def test_a_client_without_a_home_goes_where_the_fewest_live():
    one, two, three = people(3)
    spread = Spread(6, 3)
    spread.asked(one, two, three)
    assert spread.ready(*names(3)) == [(f"client-{n}", n) for n in range(3)]
    spread.asked(one)
    spread.ready("client-3")
    assert spread.counts() == {0: 2, 1: 1, 2: 1}
    spread.asked(one, three)
    assert spread.ready("client-4") == [("client-4", 2)]


@pytest.mark.parametrize(("num_clients", "num_executors"), [(5, 4), (4, 3), (2, 3), (7, 1)])
def test_nobody_is_left_without_any_while_there_are_enough(num_clients, num_executors):
    team = people(num_executors)
    spread = Spread(num_clients, num_executors)
    spread.ready(*names(num_clients))
    # Each asks for all that it can get before the next one comes.
    for member in team:
        spread.asked(*[member] * num_clients)
    got = sorted((spread.counts()[member.index] for member in team), reverse=True)
    low, more = divmod(num_clients, num_executors)
    assert got == [low + (place < more) for place in range(num_executors)]


def test_whose_turn_it_is_first_goes_first():
    one, two = people(2)
    spread = Spread(4, 2)
    spread.asked(one, two)
    spread.ready("client-0", "client-1")
    spread.ready("client-2", "client-1", "client-0", "client-2")
    assert spread.asked(one) == [("client-2", 0)]
    assert spread.asked(one, two) == [("client-1", 1), ("client-0", 0)]


def test_shares_are_others_when_one_leaves():
    one, two = people(2)
    spread = Spread(4, 2)
    spread.ready(*names(4))
    spread.asked(one, one)
    spread.asked(two)
    spread.ready("client-2")
    assert spread.asked(one) == []
    assert spread.deals.due_s == PATIENCE_S
    assert spread.left(two) == []
    assert two.counts["homeless"] == 1
    # Nobody asks, and none comes back: it has to be looked at without that.
    assert spread.deals.due_s == 0.0
    assert spread.pair() == [("client-3", 0)]
    assert spread.asked(one) == [("client-2", 0)]
    assert spread.deals.due_s is None


def test_who_waits_at_home_keeps_its_turn_when_the_home_is_gone():
    one, two = people(2)
    spread = Spread(4, 2)
    spread.asked(one, two)
    spread.ready("client-0", "client-1")
    spread.ready("client-1", "client-2")
    spread.left(two)
    assert spread.asked(one, one) == [("client-1", 0), ("client-2", 0)]


def test_who_joins_later_gets_what_is_left_and_shares_that_evenly():
    one, two, three = people(3)
    spread = Spread(10, 1)
    spread.ready(*names(10))
    spread.asked(*[one] * 8)
    assert spread.asked(two) == [("client-8", 1)]
    # Of the third nothing is known yet: it takes what there is.
    spread = Spread(10, 1)
    spread.ready(*names(8))
    spread.asked(*[one] * 8)
    spread.asked(two, three)
    assert spread.ready("client-8", "client-9") == [("client-8", 1), ("client-9", 2)]


def test_one_that_never_asks_is_waited_for_once():
    one, _ = people(2)
    spread = Spread(8, 2)
    spread.ready(*names(8))
    assert len(spread.asked(*[one] * 6)) == 4
    spread.now = PATIENCE_S / 2
    assert spread.pair() == []
    assert spread.deals.due_s == PATIENCE_S
    spread.now = PATIENCE_S
    assert len(spread.pair()) == 2
    assert spread.deals.due_s is None
    assert len(spread.asked(one, one)) == 2


def test_a_slow_one_is_left_out_until_it_asks_again():
    one, two = people(2)
    spread = Spread(8, 2)
    spread.asked(one, two)
    spread.ready(*names(8))
    assert spread.counts() == {0: 1, 1: 1}
    assert len(spread.asked(*[one] * 4)) == 3
    spread.now = PATIENCE_S
    assert spread.pair() == [("client-5", 0)]
    assert spread.asked(one) == [("client-6", 0)]
    assert spread.asked(two) == [("client-7", 1)]
    assert spread.counts() == {0: 6, 1: 2}
    assert spread.ready("client-1") == []
    assert spread.asked(two) == [("client-1", 1)]


def test_a_slow_one_that_asks_again_is_waited_for_again():
    one, two = people(2)
    spread = Spread(12, 2)
    spread.asked(one, two)
    spread.ready(*names(12))
    spread.asked(*[one] * 6)
    spread.now = PATIENCE_S
    spread.pair()
    assert spread.counts() == {0: 7, 1: 1}
    spread.asked(two)
    assert spread.asked(one) == []
    assert spread.deals.due_s == 2 * PATIENCE_S


def test_while_nobody_is_idle_nothing_is_due():
    one, _ = people(2)
    spread = Spread(2, 2)
    spread.ready(*names(2))
    spread.asked(one)
    assert spread.asked(one) == []
    assert spread.deals.due_s == PATIENCE_S
    assert spread.ready("client-0") == [("client-0", 0)]
    assert spread.deals.due_s is None
    spread.now = 2 * PATIENCE_S
    assert spread.asked(one) == [("client-1", 0)]


def test_one_that_comes_back_is_not_counted_twice():
    one, two, three = people(3)
    spread = Spread(6, 3)
    spread.asked(one, two)
    spread.left(one)
    # The third is still expected, and two of them are here.
    spread.asked(one)
    spread.ready(*names(6))
    assert spread.counts() == {0: 1, 1: 1}
    assert len(spread.asked(one, one)) == 1
    assert len(spread.asked(two, two)) == 1
    assert len(spread.asked(three, three)) == 2


def test_stuck_is_who_has_nothing_to_do_and_nobody_to_wait_for():
    (one,) = people(1)
    spread = Spread(2, 1)
    spread.asked(one)
    assert spread.deals.is_stuck
    spread.ready("client-0")
    assert not spread.deals.is_stuck
    spread.deals.begin(Given(1, "client-0", 0, one, 0.0))
    spread.asked(one)
    assert not spread.deals.is_stuck
    spread.deals.end(1)
    assert spread.deals.is_stuck


def test_who_waits_for_its_busy_home_is_not_stuck():
    one, two = people(2)
    spread = Spread(2, 2)
    spread.asked(one, two)
    spread.ready("client-0")
    spread.ready("client-0")
    assert not spread.deals.is_stuck


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_whatever_happens_nobody_takes_more_than_its_share_and_nobody_starves(
    data, num_clients, num_executors
):
    team = people(num_executors)
    spread = Spread(num_clients, num_executors)
    here, met, ready = set(), set(), set()
    for _ in range(30):
        member = data.draw(st.sampled_from(team))
        what = data.draw(st.sampled_from(["ask", "ask", "ready", "ready", "leave"]))
        before = dict(spread.homes)
        if what == "ask":
            here.add(member)
            met.add(member)
            pairs = spread.asked(member)
        elif what == "ready":
            name = data.draw(st.sampled_from(names(num_clients)))
            ready.add(name)
            pairs = spread.ready(name)
        else:
            here.discard(member)
            pairs = []
            spread.left(member)
            before = dict(spread.homes)
            pairs += spread.pair()
        assert ready.issuperset(name for name, _ in pairs)
        ready.difference_update(name for name, _ in pairs)
        share = math.ceil(num_clients / max(1, len(here) + num_executors - len(met)))
        counts = Counter(home.index for home in before.values())
        for name, index in pairs:
            if name not in before:
                counts[index] += 1
                assert counts[index] <= share
    # All come again and again: each client that waits gets its turn at once.
    for _ in range(2 * num_clients):
        for member in team:
            pairs = spread.asked(member)
            ready.difference_update(name for name, _ in pairs)
    assert not ready


# --- the same, seen by a hub


class Caller:
    """A connection that keeps what it is sent."""

    carrier = "inline"

    def __init__(self):
        self.traffic = Traffic()
        self.jobs = []

    def send(self, header, vector=None, buffers=None):
        if header.HasField("job"):
            self.jobs.append(header.job)

    def welcome(self, header):
        pass

    def close(self):
        pass


class Office:
    """A hub for executors, with four clients and a clock that is set by hand."""

    def __init__(self, pinned=2):
        self.now = 0.0
        layout = core.ParameterLayout.flat(3, torch.float32)
        server = core.Server(
            torch.zeros(3),
            algorithms.async_sgd(learning_rate=0.5),
            layout=layout,
            scheduler=core.RandomOrder(concurrency=4),
        )
        self.hub = Hub(
            server, Porter(layout, {}), clients=names(4), pinned=pinned, clock=lambda: self.now
        )
        self.hub.turn()

    def say(self, session, vector=None, **fields):
        self.hub.post(session, Parcel(wire.ToServer(**fields), vector, None))
        self.hub.turn()

    def enter(self, asks):
        session = Caller()
        self.say(session, join=wire.Join(protocol=wire.PROTOCOL))
        for _ in range(asks):
            self.say(session, ask=wire.Ask())
        return session


def test_a_hub_gives_what_is_held_back_to_others_when_one_leaves():
    office = Office()
    one = office.enter(4)
    two = office.enter(1)
    assert (len(one.jobs), len(two.jobs)) == (2, 1)
    update = wire.Vectors(num_values=3)
    office.say(two, torch.ones(3), push=wire.Push(job=two.jobs[0].id, update=update))
    # It has nothing out, so that the server has nothing to give out anew.
    office.say(two, leave=wire.Leave())
    assert (len(one.jobs), len(two.jobs)) == (4, 1)


def test_a_hub_waits_no_longer_than_it_must_for_one_that_never_asks():
    office = Office()
    one = office.enter(4)
    office.enter(0)
    assert len(one.jobs) == 2
    assert office.hub._patience() == PATIENCE_S
    office.now = PATIENCE_S
    office.hub.turn()
    assert len(one.jobs) == 4
    assert office.hub._patience() > PATIENCE_S


def test_a_hub_that_stops_waits_for_no_client():
    office = Office()
    one = office.enter(4)
    assert office.hub._patience() == PATIENCE_S
    office.hub.stop("enough", drain=True, within_s=3 * PATIENCE_S)
    office.now = 2 * PATIENCE_S
    office.hub.turn()
    assert len(one.jobs) == 2
    assert office.hub._patience() == PATIENCE_S
