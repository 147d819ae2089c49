"""Who is let in, and who works for whom."""

from __future__ import annotations

import json

import pytest
from torch import nn

from headway import __version__
from headway.core import ParameterLayout, Receipt
from headway.runtime import wire
from headway.runtime.deals import Deals, Given
from headway.runtime.encoded import Traffic
from headway.runtime.members import Members
from headway.runtime.porter import Porter

LAYOUT = ParameterLayout.of(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))


def join(**fields):
    return wire.Join(**{"protocol": wire.PROTOCOL, "library": __version__, **fields})


@pytest.fixture
def porter():
    return Porter(LAYOUT, {"payload": "delta"}, model={"class": "Linear"})


def test_who_fits_is_let_in(porter):
    assert porter.refusal(join()) is None
    assert porter.refusal(join(layout=json.dumps(LAYOUT.describe()))) is None
    assert porter.refusal(join(worker="Jürgen's phone " * 8, instance="0" * 128)) is None


def test_how_a_server_cuts_its_model_is_no_affair_of_a_workers():
    porter = Porter(LAYOUT.with_fragments(2), {})
    assert porter.refusal(join(layout=json.dumps(LAYOUT.describe()))) is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"protocol": 2}, "protocol"),
        ({"library": "9.9"}, "library"),
        ({"worker": "a" * 129}, "name"),
        ({"worker": "a\nb"}, "name"),
        ({"instance": "a" * 129}, "name"),
        ({"layout": "{"}, "layout"),
        ({"layout": "[]"}, "layout"),
        ({"layout": json.dumps(ParameterLayout.flat(11).describe())}, "layout"),
    ],
)
def test_who_does_not_fit_is_told_why(porter, fields, code):
    refusal = porter.refusal(join(**fields))
    assert refusal.code == code


def test_a_welcome_says_what_to_do(porter):
    welcome = porter.welcome("ada", 3)
    assert (welcome.worker, welcome.incarnation, welcome.library) == ("ada", 3, __version__)
    assert json.loads(welcome.instructions) == {"payload": "delta"}
    assert json.loads(welcome.model) == {"class": "Linear"}
    assert ParameterLayout.from_description(json.loads(welcome.layout)) == LAYOUT


class Nobody:
    """A connection that goes nowhere."""

    carrier = "inline"

    def __init__(self):
        self.traffic = Traffic()


def now():
    return 0.0


def people(*names):
    members = Members()
    return [members.join(name, "", Nobody(), 0.0) for name in names]


def test_executors_take_clients_in_turn():
    deals = Deals(["a", "b", "c"], pinned=False)
    one, two = people("one", "two")
    for name in ("b", "a"):
        deals.ready(name)
    assert deals.pair(now) is None
    deals.asked(one)
    deals.asked(two)
    assert deals.pair(now) == ("b", one)
    assert deals.pair(now) == ("a", two)
    assert deals.pair(now) is None
    assert [deals.index(name) for name in "abc"] == [0, 1, 2]


def test_a_client_stays_where_its_things_are():
    deals = Deals(["a", "b"], pinned=True)
    one, two = people("one", "two")
    deals.asked(one)
    deals.ready("a")
    assert deals.pair(now) == ("a", one)
    deals.asked(two)
    deals.ready("a")
    assert deals.pair(now) is None
    deals.ready("b")
    assert deals.pair(now) == ("b", two)
    deals.asked(one)
    assert deals.pair(now) == ("a", one)


def test_what_an_executor_had_is_free_when_it_is_gone():
    deals = Deals(["a", "b"], pinned=True)
    one, two = people("one", "two")
    deals.asked(one)
    deals.ready("a")
    deals.pair(now)
    given = Given(7, "a", 0, one, 0.0)
    deals.begin(given)
    assert deals.end(7) == given
    assert deals.end(7) is None
    assert list(deals.left(one, [given])) == [("a", True)]
    deals.asked(two)
    deals.ready("a")
    assert deals.pair(now) == ("a", two)


def test_a_worker_of_its_own_is_lost_itself():
    (ada,) = people("ada")
    assert list(Deals(None, pinned=False).left(ada, [])) == [("ada", False)]


def test_what_is_told_of_a_worker():
    (ada,) = people("ada")
    ada.carrier = "inline"
    for status, reason, staleness in (
        ("applied", "", 4),
        ("rejected", "stale", 9),
        ("buffered", "", 6),
    ):
        ada.note(Receipt(status, reason, staleness, 1.0, 1, 1))
    told = ada.describe(2.5)
    assert (told["applied"], told["buffered"], told["rejected"]) == (1, 1, 1)
    assert told["reasons"] == {"stale": 1}
    # The first counts whole, the second with a tenth: 4 + (6 - 4) / 10.
    assert told["staleness"] == 4.2
    assert told["carrier"] == "inline"
    assert told["seen_s_ago"] == 2.5
    assert json.loads(json.dumps(told)) == told


def test_free_names_are_nobodys():
    members = Members()
    members.join("worker-1", "", Nobody(), 0.0)
    assert members.free_name() == "worker-2"
