"""Workers that come back to a server which had given them jobs that never reached them."""

from __future__ import annotations

import pytest

from headway.core import Wake
from headway.observe.tally import Tally
from headway.runtime.deals import Deals
from headway.runtime.encoded import Traffic
from headway.runtime.members import Members
from headway.runtime.returning import Returning


class Connection:
    """As much of one as a member keeps."""

    def __init__(self):
        self.traffic = Traffic()


class Server:
    """Notes what a hub would be asked for."""

    def __init__(self):
        self.members, self.lost, self.woken = Members(), [], []
        deals, tally = Deals(None, pinned=False), Tally()
        self.returning = Returning(self.members, deals, tally, self._lose, self.woken.extend)

    def _lose(self, member, again):
        self.lost.append(again)
        member.jobs = set()

    def expects(self, *jobs):
        self.returning.expect({"ada": jobs}, {"ada"}, 0.0)
        return self.members.join("ada", "instance", Connection(), 0.0)


@pytest.mark.parametrize("again", [True, False])
def test_who_was_turned_away_for_a_job_that_it_never_had_gets_another(again):
    server = Server()
    ada = server.expects(1, 2)
    server.returning.joined(ada, [1])
    # It has one job, and asks for the next, which is on its way as far as the server knows.
    assert server.returning.asked(ada)
    assert (server.lost, server.woken) == ([], [])
    ada.jobs.discard(1)
    server.returning.pushed(ada, again=again)
    assert (server.lost, server.woken) == ([again], [Wake("ada")])
    server.returning.pushed(ada, again=again)
    assert (server.lost, server.woken) == ([again], [Wake("ada")])


def test_who_has_all_its_jobs_is_given_no_other():
    server = Server()
    ada = server.expects(1, 2)
    server.returning.joined(ada, [1, 2])
    assert not server.returning.asked(ada)
    ada.jobs.discard(1)
    server.returning.pushed(ada, again=True)
    assert (server.lost, server.woken) == ([], [])


def test_who_has_left_is_owed_nothing():
    server = Server()
    ada = server.expects(1, 2)
    server.returning.joined(ada, [1])
    server.returning.asked(ada)
    server.returning.left(ada)
    ada.jobs.discard(1)
    server.returning.pushed(ada, again=True)
    assert (server.lost, server.woken) == ([], [])


def test_who_has_none_of_its_jobs_keeps_its_place_until_it_asks():
    server = Server()
    ada = server.expects(1, 2)
    server.returning.joined(ada, [])
    # What it says again of before is no question.
    server.returning.pushed(ada, again=False)
    assert (server.lost, ada.jobs) == ([], {1, 2})
    assert server.returning.asked(ada)
    assert server.lost == [True]
    assert not server.returning.asked(ada)


def test_who_asks_with_what_it_says_again_is_not_left_waiting():
    server = Server()
    ada = server.expects(1)
    server.returning.joined(ada, [])
    server.returning.pushed(ada, again=True)
    server.returning.pushed(ada, again=True)
    assert server.lost == [True]
    assert not server.returning.asked(ada)
