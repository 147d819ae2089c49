"""What holds for every command: errors in a few lines, exit codes, a quick start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import headway as hw
from headway.cli import app, main


def test_version(headway):
    assert headway("--version").out == f"headway {hw.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["config"]])
def test_help_lists_the_commands(headway, arguments):
    done = headway(*arguments)
    assert "Commands:" in done.out + done.err


def test_the_app_itself_exits_as_the_command_does(here):
    runner = CliRunner()
    assert runner.invoke(app, ["list", "data"]).exit_code == 0
    done = runner.invoke(app, ["simulate", "absent.toml"])
    assert done.exit_code == 2
    assert "there is no such configuration" in done.stderr


def test_an_unknown_command_names_the_nearest(headway):
    done = headway("simulat")
    assert done.code == 2
    assert "simulate" in done.err


def test_an_error_is_a_few_lines_and_debug_adds_the_traceback(headway):
    wrong = ("simulate", "quick.toml", "--set", "run.devise=cpu")
    done = headway(*wrong)
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 5
    for arguments in (("--debug", *wrong), (*wrong, "--debug")):
        done = headway(*arguments)
        assert done.code == 2
        assert "Traceback" in done.err
        assert "UnknownNameError" in done.err


def test_an_error_that_nobody_expected_asks_for_debug(headway, monkeypatch):
    def fail(resolved, **options):
        raise RuntimeError("the sky fell\nand more")

    monkeypatch.setattr("headway.cli.jobs.plan", fail)
    done = headway("simulate", "quick.toml")
    assert done.code == 1
    assert done.err.splitlines()[0] == "error: RuntimeError: the sky fell"
    assert "--debug" in done.err


def test_ctrl_c_before_a_run_is_130(headway, monkeypatch):
    def interrupt(resolved, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("headway.cli.jobs.plan", interrupt)
    done = headway("simulate", "quick.toml")
    assert (done.code, done.err) == (130, "aborted\n")


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from headway.cli import main; "
        f"assert main({arguments}) == 0; "
        "heavy = {'torch', 'numpy', 'headway.core', 'headway.config'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_main_takes_arguments_and_returns_the_code(here, capsys):
    assert main(["list", "models", "--json"]) == 0
    assert {model["name"] for model in json.loads(capsys.readouterr().out)} >= {"mlp", "cnn"}
