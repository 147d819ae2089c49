"""Workers that are not let in are seen by whoever runs the server, however often they try."""

from __future__ import annotations

import json
import threading

import pytest

import headway
from headway import __version__
from headway.cli import main
from headway.core.errors import ExchangeError, RefusedError
from headway.runtime import wire
from headway.runtime.connect import NetworkLink
from headway.runtime.parcel import Parcel
from headway.runtime.refusals import Refusals
from headway.training.guestbook import COMINGS, Guestbook
from tests.unit.training import server_kit as kit

SGD = headway.optim.SGD(lr=0.01)
NO_TOKEN = "the token is missing or wrong"


def knock(server, **options):
    """Try to train there, in vain."""
    with pytest.raises(RefusedError):
        kit.worker(server, **options).train(dataset=kit.regression(), loss_fn="mse", optimizer=SGD)


def join(server, **fields):
    """What a server says to a worker that joins with these words: its code."""
    link = NetworkLink(server.address)
    try:
        said = {"protocol": wire.PROTOCOL, "library": __version__, **fields}
        link.send(Parcel(wire.ToServer(join=wire.Join(**said))))
        return link.receive(kit.WAIT_S).header.refused.code
    finally:
        link.close()


def test_a_wrong_token_and_another_model_are_in_the_status_the_error_and_the_result():
    with kit.server(kit.line(), token="right") as server:
        assert server.status()["refused"] == {"total": 0, "reasons": {}, "newest": []}
        knock(server, token="wrong")
        knock(server)
        knock(server, token="right", model=kit.line([0.0] * 3))
        told = json.loads(json.dumps(server.status()["refused"]))
        assert (told["total"], told["reasons"]) == (3, {"layout": 1, "token": 2})
        newest, before = told["newest"]
        assert (newest["code"], newest["from"]) == ("layout", "127.0.0.1")
        assert "weight[1, 2] against weight[1, 3]" in newest["message"]
        assert (before["code"], before["message"]) == ("token", NO_TOKEN)
        assert 0.0 <= newest["ago_s"] <= before["ago_s"]
        assert server.status()["workers"] == []
        with pytest.raises(ExchangeError, match="not finished") as caught:
            server.wait_for_workers(2, timeout_s=0.01)
        text = f"workers were refused 3 times: layout 1 ({newest['message']}), token 2 ({NO_TOKEN})"
        assert caught.value.got == f"after 0.01 seconds 0 had joined, and 0 are still here; {text}"
        assert caught.value.expected == "2 to have joined, and nobody to be here any more"
        assert text in server.stop().warnings


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"protocol": 999}, "protocol"),
        ({"library": "0.0.0"}, "library"),
        ({"worker": "\n"}, "name"),
    ],
)
def test_another_version_or_name(fields, code):
    with kit.server(kit.line()) as server:
        assert join(server, **fields) == code
        assert server.status()["refused"]["reasons"] == {code: 1}
        (warning,) = server.stop().warnings
    assert warning.startswith(f"a worker was refused: {code} (")


def test_a_server_that_is_full():
    with kit.server(kit.line(), max_workers=1) as server:
        link = NetworkLink(server.address)
        said = wire.Join(protocol=wire.PROTOCOL, library=__version__)
        link.send(Parcel(wire.ToServer(join=said)))
        assert link.receive(kit.WAIT_S).header.HasField("welcome")
        assert join(server) == "full"
        assert server.status()["refused"]["reasons"] == {"full": 1}
        link.close()


def test_words_that_are_none_are_told_though_the_worker_was_in():
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server, "ada")
        raw.say(join=wire.Join(protocol=wire.PROTOCOL))
        assert server.status()["refused"]["reasons"] == {"protocol_error": 1}
        assert server.status()["refused"]["newest"][0]["from"] is None


def test_a_server_where_nobody_was_refused_says_nothing_of_it():
    with kit.server(kit.line()) as server:
        kit.train(server, optimizer=SGD)
        with pytest.raises(ExchangeError) as caught:
            server.wait_for_workers(2, timeout_s=0.0)
        assert "refused" not in str(caught.value)
        assert not [warning for warning in server.stop().warnings if "refused" in warning]


def test_each_is_a_line_of_the_log(caplog):
    with kit.server(kit.line(), token="right") as server:
        knock(server, token="wrong")
        assert not [record for record in caplog.records if record.name == COMINGS]
        server._ledger.wait(0.0)
    (record,) = [record for record in caplog.records if record.name == COMINGS]
    assert record.levelname == "WARNING"
    told = f"Headway: a worker from 127.0.0.1 was refused, token: {NO_TOKEN}"
    assert record.getMessage() == told


def test_plain_status_shows_how_many_and_the_newest(capsys):
    with kit.server(kit.line()) as server:
        assert main(["status", server.address]) == 0
        assert "refused" not in capsys.readouterr().out
        for _ in range(2):
            knock(server, model=kit.line([0.0] * 3))
        join(server, library="0.0.0")
        assert main(["status", server.address]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "refused 3 (layout 2, library 1)" in lines
    told = (
        f"library from 127.0.0.1: the server runs Headway {__version__}, the worker Headway 0.0.0"
    )
    assert f"the newest {told}" in lines


# --- many of them


def test_who_tries_a_thousand_times_fills_neither_the_log_nor_the_memory():
    now = [0.0]
    book, refusals = Guestbook(lambda: now[0]), Refusals(lambda: now[0])
    refusals.noticed = book.refused
    for _ in range(1000):
        refusals.note("token", NO_TOKEN, "ipv4:10.0.0.3:1")
    assert len(refusals._rows) == 1
    assert book.take() == [f"a worker from 10.0.0.3 was refused, token: {NO_TOKEN}"] * 10
    refusals.note("layout", "another model")
    now[0] = 59.0
    assert book.take() == []
    now[0] = 61.0
    assert book.take() == ["and more were refused: 1 layout, 990 token"]
    assert refusals.describe()["reasons"] == {"layout": 1, "token": 1000}
    assert refusals.text == (
        f"workers were refused 1,001 times: layout 1 (another model), token 1,000 ({NO_TOKEN})"
    )


def test_strangers_leave_the_lines_of_the_others_as_they_are():
    from headway.runtime.members import Member

    book = Guestbook(lambda: 0.0)
    for _ in range(1000):
        book.refused("token", "refused")
    ada = Member("ada", 0, "", None, 0.0, 0.0)
    for _ in range(20):
        book.note(ada, "joined", 1)
    assert book.take() == ["refused"] * 10 + ["ada joined; 1 here"] * 20


def test_threads_that_refuse_at_the_same_time_are_all_counted():
    refusals, start = Refusals(), threading.Barrier(8)

    def refuse(code):
        start.wait()
        for _ in range(500):
            refusals.note(code, "words")

    threads = [threading.Thread(target=refuse, args=("ab"[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals.describe()["reasons"] == {"a": 2000, "b": 2000}


def test_what_a_stranger_has_written_is_one_line_of_bounded_length():
    refusals = Refusals()
    lines = []
    refusals.noticed = lambda _, line: lines.append(line)
    refusals.note("layout", "a layer\r\n\x1b[2Jnamed \ud800 " + "x" * 5000, "ipv6:%5B::1%5D:41812")
    (line,) = lines
    assert line.isprintable()
    assert line.startswith("a worker from ::1 was refused, layout: a layer ?[2Jnamed ? xxx")
    assert len(line) < 400


@pytest.mark.parametrize("peer", ["", "unix:/tmp/x", "nonsense", "ipv4:", "ipv4:\n"])
def test_a_place_that_cannot_be_read_is_none(peer):
    refusals = Refusals()
    refusals.note("token", NO_TOKEN, peer)
    assert refusals.describe()["newest"][0]["from"] is None


@pytest.mark.parametrize("code", ["stopping", "failed"])
def test_the_end_of_a_server_is_no_refusal(code):
    refusals = Refusals()
    refusals.note(code, "the server is about to end")
    assert refusals.text == ""
    assert refusals.describe()["total"] == 0
