"""What a worker that ends says, and what is said of it: at the server, and where it ran."""

from __future__ import annotations

import logging
import re
import socket
from functools import partial

import pytest
import torch

import headway
from headway.core.errors import ConfigurationError, ExchangeError, ServerLostError
from headway.runtime import wire
from headway.runtime.connect import NetworkLink
from headway.runtime.members import Member
from headway.training.guestbook import COMINGS, Guestbook
from headway.training.history import History
from tests.unit.training import server_kit as kit
from tests.waiting_kit import until

SGD = headway.optim.SGD(lr=0.01)
NOTHING = "came and left without asking for a job"


def gone(server):
    """The rows of the workers, when none of them is there any more."""
    until(lambda: all(row["state"] in ("left", "lost") for row in server.status()["workers"]))
    return server.status()["workers"]


def told(server, caplog):
    """The lines of the log of who comes and goes."""
    server._ledger.wait(0.0)
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == COMINGS
    ]


# --- at the server


def test_a_worker_that_fails_on_its_own_configuration_is_seen_with_its_reason(caplog):
    adam = headway.optim.Adam(lr=0.01)
    with kit.server(kit.line(), update_rule="async_adam", server_optimizer=adam) as server:
        with pytest.raises(ConfigurationError) as caught:
            kit.train(server, optimizer=SGD, worker={"name": "ada"})
        why = f"ConfigurationError: {caught.value.message}"
        (row,) = gone(server)
        assert (row["state"], row["updates"], row["farewell"]) == ("left", 0, why)
        with pytest.raises(ExchangeError, match="not finished") as late:
            server.wait_for_workers(1, timeout_s=0.0)
        assert late.value.got == (
            f"after 0 seconds 0 had joined, and 0 are still here; 1 {NOTHING}: ada ({why})"
        )
        line = f"Headway: ada left without asking for a job: {why}; 0 here"
        assert told(server, caplog).count(("WARNING", line)) == 1
        assert f"1 {NOTHING}: ada ({why})" in server.stop().warnings


def test_who_comes_again_and_works_is_no_longer_counted():
    with kit.server(kit.line(), update_rule="async_sgd") as server:
        with pytest.raises(ConfigurationError):
            kit.train(server, worker={"name": "ada"})
        gone(server)
        assert server._ledger.guests.idle
        kit.train(server, optimizer=SGD, worker={"name": "ada"})
        gone(server)
        assert server._ledger.guests.idle == ""
        assert server.status()["workers"][0]["farewell"] is None


class Own(torch.nn.Module):
    """A model that a server cannot describe."""

    def __init__(self):
        super().__init__()
        self.inner = kit.line()

    def forward(self, inputs):
        return self.inner(inputs)


def test_a_look_is_no_such_case_also_one_that_fails(caplog):
    with kit.server(Own()) as server:
        kit.worker(server, model=Own()).evaluate(kit.regression(), metrics="loss", loss_fn="mse")
        with pytest.raises(ConfigurationError, match="model"):
            kit.worker(server).evaluate(kit.regression(), metrics="loss", loss_fn="mse")
        assert len(gone(server)) == 2
        assert server._ledger.guests.idle == ""
        assert not [line for level, line in told(server, caplog) if level == "WARNING"]


def test_of_an_error_that_is_the_users_only_its_kind_leaves_the_worker(caplog):
    caplog.set_level("INFO", COMINGS)
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("ada, born in 1815")
        return (outputs - targets).square().mean()

    with kit.server(kit.line()) as server:
        with pytest.raises(ValueError, match="1815"):
            kit.train(server, optimizer=SGD, loss_fn=loss, worker={"name": "ada"})
        assert gone(server)[0]["farewell"] == "ValueError"
        assert ("INFO", "Headway: ada left, 2 updates (ValueError); 0 here") in told(server, caplog)


def test_what_a_worker_says_is_one_line_of_bounded_length():
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server, "ada")
        raw.say(leave=wire.Leave(reason="a\r\n\x1b[2Jb" + "x" * 5000))
        said = server.status()["workers"][0]["farewell"]
        assert said.isprintable()
        assert said.startswith("a ?[2Jbxxx")
        assert len(said) < 400
        assert server._ledger.guests.idle == f"1 {NOTHING}: ada ({said})"


def test_any_number_of_them_is_counted_and_few_are_named():
    book = Guestbook(lambda: 0.0)
    for number in range(3000):
        book.note(Member(f"w{number}", number, "", None, 0.0, 0.0, left="left"), "left", 0)
    assert book.idle == f"3,000 {NOTHING}: w2999, w2998, w2997, w2996, w2995, ..."
    assert len(book._idle) < 3000


def test_a_worker_that_is_lost_or_stays_is_not_counted():
    book, ada = Guestbook(lambda: 0.0), Member("ada", 0, "", None, 0.0, 0.0)
    book.note(ada, "joined", 1)
    ada.left = "lost"
    book.note(ada, "lost", 0)
    assert book.take() == ["ada joined; 1 here", "ada is lost, 0 updates; 0 here"]
    assert book.idle == ""


# --- where it ran


@pytest.mark.parametrize(
    ("updates", "receipts", "words"),
    [
        (0, 0, "0 updates"),
        (1, 0, "0 updates with a receipt and 1 without one"),
        (1, 1, "1 update"),
        (3, 1, "1 update with a receipt and 2 without one"),
        (3, 3, "3 updates"),
    ],
)
def test_updates_are_told_apart_by_their_receipts(updates, receipts, words):
    history = History(worker="ada", updates=updates)
    history.receipts["applied"] = receipts
    assert history.done() == words
    assert "History(ada: 1 update, " in repr(History(worker="ada", updates=1))


def test_an_update_that_the_server_never_took_is_not_counted_as_done(caplog):
    def loss(outputs, targets):
        # The server has gone when this batch is done.
        server.stop()
        return (outputs - targets).square().mean()

    caplog.set_level(logging.WARNING, "headway")
    with kit.server(kit.line(), drain_s=0.0) as server:
        history = kit.train(server, optimizer=SGD, loss_fn=loss)
    assert history.receipts.total() == 0
    assert f"Headway: ended after {history.done()}: stopped" in caplog.messages
    assert re.match(r"0 updates( with a receipt and 1 without one)?$", history.done())


def test_a_server_that_stays_away_is_told_from_one_that_was_never_there():
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    elsewhere = f"127.0.0.1:{nobody.getsockname()[1]}"
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 3:
            worker._dial = partial(NetworkLink, elsewhere)
            for session in list(server._network._sessions):
                session._cancel()
        return (outputs - targets).square().mean()

    retry = headway.Retry(first_s=0.01, max_s=0.02, give_up_s=0.1)
    with nobody, kit.server(kit.line()) as server:
        worker = kit.worker(server, local_batch_size=6, retry=retry)
        with pytest.raises(ServerLostError) as caught:
            worker.train(kit.regression(), epochs=10, loss_fn=loss, optimizer=SGD)
        error = caught.value
        assert re.match(
            r"the connection to the server was lost after 2 updates with a receipt and [01] without "
            r"one; tried again for [0-9.]+ seconds, and the server is not there$",
            error.message,
        )
        assert "at the last attempt: nobody listens there (Connection refused)" in error.got
        assert (error.where, error.__cause__.message) == (elsewhere, "nobody listens there")
        for words in ("durability", "checkpoint_dir", "give_up_s"):
            assert words in error.help
        assert "start the server first" not in str(error)
        assert "0.0.0.0" not in str(error)
        with pytest.raises(ServerLostError, match="nobody listens") as first:
            headway.AsyncWorker(elsewhere, connect_timeout_s=0.01).train(
                kit.regression(), loss_fn="mse", optimizer=SGD
            )
        assert "start the server first" in first.value.help
