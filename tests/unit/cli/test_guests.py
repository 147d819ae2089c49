"""What ``headway server`` and ``headway status`` say of workers that come, go and are told to stop."""

from __future__ import annotations

import json
import logging
import threading

import pytest
import torch

import headway
from headway.cli import main
from headway.core.errors import ConfigurationError
from headway.runtime import wire
from headway.training.guestbook import COMINGS
from headway.training.learner import Learner
from tests.command_kit import CONFIG
from tests.unit.training import server_kit as kit


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(algorithm="async_delta", options=""), encoding="utf-8")
    return str(path)


@pytest.fixture
def one_visitor(monkeypatch):
    """Let a worker come to every server that is served, and stop it when that has gone."""

    def visit(server):
        session = kit.Raw(server, "ada")
        session.say(leave=wire.Leave())
        return server.stop()

    monkeypatch.setattr(headway.ParameterServer, "serve", visit)


def test_a_server_says_who_comes_and_goes_and_json_stays_json(config, one_visitor, capsys):
    before = logging.getLogger(COMINGS).handlers[:]
    assert main(["server", config, "--port", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["updates"] == 0
    left = "ada left without asking for a job: it did not say why; 0 here"
    assert err.splitlines()[1:] == ["ada joined; 1 here", left]
    assert logging.getLogger(COMINGS).handlers == before


def test_a_quiet_one_does_not(config, one_visitor, capsys):
    assert main(["server", config, "--port", "0", "--quiet", "--json"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_limit_is_an_option_and_0_is_none(config, monkeypatch):
    made = []

    def note(*_, **options):
        made.append(options["max_rejections"])
        raise ConfigurationError("that was all")

    monkeypatch.setattr("headway.training.server.ParameterServer", note)
    for given in ([], ["--max-rejections", "7"], ["--max-rejections", "0"]):
        assert main(["server", config, *given]) == 2
    assert made == [20, 7, None]


def test_a_worker_that_is_told_to_stop_says_why_and_ends_with_1(config, monkeypatch, capsys):
    model = headway.models.softmax_regression(inputs=64, classes=10)
    honest = Learner.train

    def broken(self, *arguments, **options):
        result = honest(self, *arguments, **options)
        result.payload.fill_(torch.nan)
        return result

    monkeypatch.setattr(Learner, "train", broken)
    with headway.ParameterServer(model, port=0, max_rejections=3) as server:
        assert main(["worker", server.address, config, "--epochs", "50", "--name", "bad"]) == 1
        assert "told to stop" in (told := capsys.readouterr().out)
        assert "the last 3 updates were rejected: 3 not_finite" in told
        assert main(["worker", server.address, config, "--epochs", "50", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["dismissed"] is True
        assert main(["status", server.address]) == 0
        table = capsys.readouterr().out
    (row,) = [line for line in table.splitlines() if line.startswith("bad")]
    assert "told to stop" in row
    assert row.endswith("3 not_finite; the last 3")


def test_lines_come_from_the_thread_that_waits_and_not_from_the_hubs(caplog):
    caplog.set_level("INFO", COMINGS)
    with kit.server(kit.line()) as server:
        kit.Raw(server, "ada").work()
        assert not [record for record in caplog.records if record.name == COMINGS]
        server._ledger.wait(0.0)
        (record,) = [record for record in caplog.records if record.name == COMINGS]
        assert record.threadName == threading.current_thread().name
