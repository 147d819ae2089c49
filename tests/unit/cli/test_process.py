"""The command as a process: Ctrl-C, pipes, and `python -m headway`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from headway import Comparison, Result

LONG = ["--set", "stop.updates=1000000000", "--set", "run.evaluate_every=50"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX"),
]


def first_line(process):
    """Wait for the first evaluation to be shown."""
    line = process.stderr.readline()
    assert "0 updates" in line, line + process.stderr.read()


def test_ctrl_c_leaves_a_run_folder_that_can_be_used(start, headway, here):
    process = start("simulate", "quick.toml", "--out", "run", "--record", "payloads", *LONG)
    first_line(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after the present job; Ctrl-C again aborts" in err
    assert "interrupted: run holds everything up to here" in err
    assert "stopped by    interrupted" in out
    result = Result.load(here / "run")
    assert result.interrupted
    assert result.history[-1].updates == result.updates
    assert headway("replay", "run").code == 0
    assert headway("report", "run").code == 0


def test_ctrl_c_ends_a_comparison_with_what_there_is(start, here):
    process = start("compare", "quick.toml", "--out", "race", *LONG)
    first_line(process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "race/report.html" in out
    assert len(Comparison.load(here / "race").results) == 1


def test_a_reader_that_leaves_is_no_error(start):
    process = start("config", "schema")
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    process.stdout = None
    assert err == ""


def test_python_m_headway_is_the_command(here):
    done = subprocess.run(
        [sys.executable, "-m", "headway", "simulate", "quick.toml", "--json"],
        cwd=here, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 20
    assert done.stderr == ""
