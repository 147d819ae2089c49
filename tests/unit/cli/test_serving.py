"""``headway server``, ``headway worker`` and ``headway status``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import torch

import headway
from headway.cli import main
from headway.core.errors import ConfigurationError, ServerLostError
from headway.runtime.connect import fetch_status
from tests.command_kit import CONFIG


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("sklearn")

    def write(algorithm="async_delta"):
        path = tmp_path / "run.toml"
        path.write_text(CONFIG.format(algorithm=algorithm, options=""), encoding="utf-8")
        return str(path)

    return write


def test_a_worker_trains_for_a_server_of_its_configurations_model(config, capsys):
    model = headway.models.softmax_regression(inputs=64, classes=10)
    with headway.ParameterServer(model, port=0) as server:
        arguments = ["worker", server.address, config(), "--client", "1", "--epochs", "2"]
        assert main([*arguments, "--name", "ada", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["worker"], told["receipts"]) == ("ada", {"applied": 2})
        assert main(["status", server.address, "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert [worker["name"] for worker in status["workers"]] == ["ada"]
        assert main(["status", server.address]) == 0
        assert "ada" in capsys.readouterr().out


def test_what_a_server_cannot_write_is_shown(monkeypatch, capsys):
    told = {"log": {"error": "no room:\n  at log-1"}, "checkpoint_error": "the disk failed"}
    monkeypatch.setattr("headway.runtime.connect.fetch_status", lambda *_, **__: told)
    assert main(["status", "localhost:1"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is taken: no room: at log-1" in shown
    assert "it could not be written: the disk failed" in shown
    told.update(log={"error": None}, checkpoint_error=None, folder_error="no room at\nrun-1")
    assert main(["status", "localhost:1"]) == 0
    shown = capsys.readouterr().out
    assert "run folder" in shown
    assert "cannot be written: no room at run-1" in shown
    told.update(folder_error=None)
    assert main(["status", "localhost:1"]) == 0
    assert "written" not in capsys.readouterr().out


def test_a_status_and_a_server_show_the_policies(config, monkeypatch, capsys):
    monkeypatch.setattr(headway.ParameterServer, "serve", lambda server: server.stop())
    asked = ["--port", "0", "--staleness-policy", "adaptive_lr", "--max-staleness", "9"]
    assert main(["server", config(), *asked]) == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("serving async_delta(")
    assert "staleness_policy=filter(9), adaptive_lr(0.9)" in said
    told = {"algorithm": "async_delta", "settings": {"staleness_policy": "ssp(3)"}}
    monkeypatch.setattr("headway.runtime.connect.fetch_status", lambda *_, **__: told)
    assert main(["status", "localhost:1"]) == 0
    assert any(line.split() == ["policy", "ssp(3)"] for line in capsys.readouterr().out.split("\n"))
    told["settings"] = {}
    assert main(["status", "localhost:1"]) == 0
    assert "policy" not in capsys.readouterr().out


def test_a_status_says_how_many_wait_and_why(monkeypatch, capsys):
    why = "ahead of the slowest worker (bound 2)"
    workers = [{"name": name, "state": "waiting", "waits": why} for name in ("ada", "bob")]
    # Who has a job asks for the next one, which is no loss.
    workers.append({"name": "eve", "state": "working", "waits": "waits for its turn"})
    told = {"algorithm": "async_delta", "workers": workers}
    monkeypatch.setattr("headway.runtime.connect.fetch_status", lambda *_, **__: told)
    assert main(["status", "localhost:1"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.split("\n")]
    assert [line for line in lines if line.startswith("waiting")] == [f"waiting 2 ({why})"]
    assert not any("its turn" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "asked"),
    [([], "127.0.0.1:5000"), (["some.host"], "some.host:5000"), (["::1"], "[::1]:5000")],
)
def test_the_address_of_a_status_has_the_servers_default_for_what_is_left_out(
    monkeypatch, given, asked
):
    addresses = []

    def fetch(address, **_):
        addresses.append(address)
        return {}

    monkeypatch.setattr("headway.runtime.connect.fetch_status", fetch)
    assert main(["status", *given]) == 0
    assert addresses == [asked]


def test_a_missing_token_is_asked_for_in_the_words_of_the_command(config, capsys):
    with headway.ParameterServer(torch.nn.Linear(2, 1), port=0, token="secret") as server:
        assert main(["status", server.address]) == 1
        assert main(["worker", server.address, config()]) == 1
    assert capsys.readouterr().err.count("--token-file") == 2


def test_a_worker_of_an_algorithm_with_gradients_has_no_optimizer(config, capsys):
    model = headway.models.softmax_regression(inputs=64, classes=10)
    with headway.ParameterServer(model, port=0, update_rule="async_momentum") as server:
        assert main(["worker", server.address, config("async_sgd"), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    assert set(told["receipts"]) == {"applied"}
    assert told["updates"] == told["batches"] > 1


@pytest.mark.parametrize("how", [["--compression", "topk"], ["--set", "compression.pushes=topk"]])
def test_a_worker_compresses_and_says_what_travelled(config, capsys, how):
    model = headway.models.softmax_regression(inputs=64, classes=10)
    with headway.ParameterServer(model, port=0, shared_memory=False) as server:
        arguments = ["worker", server.address, config(), "--epochs", "30", *how]
        assert main(arguments) == 0
        (told,) = server.status()["workers"]
    out = capsys.readouterr().out
    assert "compression" in out
    assert "topk(0.06, values='int8', block_size=256) (as was asked for)" in out
    up, raw = told["bytes_up"], told["bytes_up_raw"]
    assert raw == 30 * 650 * 4
    assert up < raw / 10
    assert f" up for {raw:,}: " in out


def test_the_command_line_beats_the_file_in_what_is_compressed(config, capsys):
    model = headway.models.softmax_regression(inputs=64, classes=10)
    with headway.ParameterServer(
        model, port=0, shared_memory=False, compression=["bf16"]
    ) as server:
        arguments = ["worker", server.address, config(), "--set", "compression.pushes=topk"]
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert "does not offer" in told
        assert "--compression" in told
        assert main([*arguments, "--compression", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoding"] == "bf16() (as was asked for)"


@pytest.mark.parametrize(
    ("asked", "kinds", "pulls"),
    [
        ([], ("none", "bf16", "int8", "topk"), "exact"),
        (["--compression", "none", "--compression", "int8", "--pulls", "whole"],
         ("none", "int8"), None),
        (["--set", "compression.offered=['bf16']", "--set", "compression.pulls='int8'"],
         ("bf16",), headway.compression.int8()),
    ],
)  # fmt: skip
def test_a_server_offers_what_it_was_told_to(config, monkeypatch, asked, kinds, pulls):
    made = {}

    def note(*_, **options):
        made.update(options)
        raise ConfigurationError("that was all")

    monkeypatch.setattr("headway.training.server.ParameterServer", note)
    assert main(["server", config(), *asked]) == 2
    assert (tuple(made["compression"]), made["pulls"]) == (kinds, pulls)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker", "127.0.0.1:1", "CONFIG", "--compression", "gzip"], "bf16"),
        (["server", "CONFIG", "--compression", "gzip"], "bf16"),
        (["server", "CONFIG", "--pulls", "all"], "whole"),
        (["server", "CONFIG", "--set", "compression.pulls=all"], "whole"),
        (["worker", "127.0.0.1:1", "CONFIG", "--client", "7"], "0 to 2"),
        (["worker", "127.0.0.1:1", "CONFIG", "--certificate", "x.pem"], "belong together"),
        (["worker", "127.0.0.1:1", "CONFIG", "--token-file", "absent"], "token cannot be read"),
        (["server", "CONFIG", "--host", "0.0.0.0"], "without TLS"),
        (["server", "CONFIG", "--certificate", "x.pem"], "belong together"),
        (["server", "CONFIG", "--staleness-policy", "fliter"], "filter"),
        (["server", "CONFIG", "--staleness-lr-factor", "0.5"], "adaptive_lr alone"),
        (["server", "CONFIG", "--max-rejections", "-1"], "equal to 0"),
        (["server", "CONFIG", "--workers", "0"], "equal to 1"),
        (["server", "CONFIG", "--port", "70000"], "0 to 65535"),
        (["status", "localhost:1", "--token-file", "nowhere"], "the token cannot be read"),
        (["server", "CONFIG", "--durability", "log"], "--checkpoint-dir"),
    ],
)
def test_what_is_wrong_is_said_in_a_few_lines(config, capsys, arguments, words):
    written = config()
    assert main([written if part == "CONFIG" else part for part in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_task_without_data_is_refused(tmp_path, capsys):
    path = tmp_path / "quadratic.toml"
    path.write_text(
        '[task]\nkind = "quadratic"\n[algorithm]\nname = "async_delta"\n[stop]\nupdates = 1\n'
    )
    assert main(["server", str(path)]) == 2
    assert "train a model on data" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_in_order_at_a_signal_with_exit_code_0(config, tmp_path, number):
    command = [sys.executable, "-m", "headway", "server", config(), "--port", "0"]
    command += ["--checkpoint-dir", str(tmp_path / "ckpt"), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        line = run.stderr.readline()
        address = line.rpartition(" at ")[2].strip()
        assert main(["worker", address, config()]) == 0
        assert fetch_status(address)["version"] == 1
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert json.loads(out)["versions"] == 1
    assert list((tmp_path / "ckpt").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        (["--port", "99999"], "--port"),
        (["--port", "-1"], "--port"),
        (["--max-staleness", "-1"], "--max-staleness"),
        (["--staleness-policy", "foo"], "--staleness-policy"),
        (["--staleness-lr-factor", "0.5"], "--staleness-lr-factor"),
        (["--checkpoint-frequency", "0"], "--checkpoint-frequency"),
        (["--durability", "disk"], "--durability"),
        (["--durability", "log"], "--durability"),
        (["--compression", "zip"], "--compression"),
        (["--record", "payloads"], "--record"),
        (["--host", "0.0.0.0"], "--host"),
        (["--token-file", "/dev/null"], "--token-file"),
        # What was typed in other words stays in those.
        (["--set", "serving.max_staleness=-1"], "--set serving.max_staleness=-1"),
        (["--port", "0", "--certificate", "gone.pem", "--key", "gone.key"], "gone.key"),
    ],
)
def test_an_error_names_the_option_that_was_typed(config, capsys, typed, place):
    assert main(["server", config(), *typed]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("  in ")] == [f"  in     {place}"]
    names = {"--port": "`port`", "--max-staleness": "serving.max_staleness"}
    assert place not in names or names[place] not in said[0]


def test_a_worker_and_a_status_name_options_too(config, capsys):
    assert main(["worker", "127.0.0.1:1", config(), "--compression", "zip"]) == 2
    assert "  in     --compression" in capsys.readouterr().err
    assert main(["status", "127.0.0.1:1", "--key", "gone.key"]) == 2
    assert "  in     --key" in capsys.readouterr().err


def test_a_watch_in_json_is_a_document_a_line_and_ends_in_words_that_fit(monkeypatch, capsys):
    answers = iter([{"version": 1, "workers": []}, {"version": 2, "workers": []}])

    def fetch(*_, **__):
        told = next(answers, None)
        if told is None:
            raise ServerLostError(
                "nobody listens there", where="localhost:1", help="start it first"
            )
        return told

    monkeypatch.setattr("headway.runtime.connect.fetch_status", fetch)
    monkeypatch.setattr("headway.cli.serving._EVERY_S", 0.0)
    assert main(["status", "localhost:1", "--watch", "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["version"] for line in captured.out.splitlines()] == [1, 2]
    assert captured.err.splitlines()[0] == (
        "error: the server has ended, or cannot be reached any more"
    )
    assert "first" not in captured.err
    # A server that was never there is another matter.
    assert main(["status", "localhost:1", "--watch"]) == 1
    assert "start it first" in capsys.readouterr().err
