"""The examples run, use the public names only, and come to what they say."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import headway
from headway import config
from headway.cli import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CONFIGS = sorted(EXAMPLES.glob("*.toml"))
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
SHORT = {"mnist_python.py": ["5"]}


def name(path):
    return path.name


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_configuration_can_be_used_and_says_how(path):
    resolved = config.load(path, environment={})
    assert resolved.config.algorithm or resolved.config.algorithms
    assert f"examples/{path.name}" in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_comparison_runs_in_a_short_form(path, tmp_path, capsys):
    short = ["--set", "stop={ virtual_time_s = 5 }", "--set", "seeds=[0]"]
    arguments = ["compare", str(path), "--out", str(tmp_path / "out"), "--json", *short]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in told["runs"]] == list(config.load(path).config.algorithms)
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_a_program_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path), *SHORT.get(path.name, [])],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "updates" in done.stdout


@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_a_program_imports_only_what_is_public(path):
    """The package itself, its public modules, and what those export."""
    modules = {f"headway.{name}" for name in headway.__all__ if not name.startswith("_")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("headway."), alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headway"):
            assert node.module == "headway" or node.module in modules
            source = __import__(node.module, fromlist=["*"])
            assert {alias.name for alias in node.names} <= set(source.__all__)


@pytest.mark.slow
def test_the_custom_algorithm_trains(tmp_path):
    code = (
        "import runpy, headway as hw\n"
        f"cautious = runpy.run_path({str(EXAMPLES / 'custom_algorithm.py')!r})['cautious']\n"
        "r = hw.simulate(hw.tasks.quadratic(dim=10, num_clients=8), cautious(buffer_size=4),\n"
        "                stop=hw.until(updates=200))\n"
        "assert r.final('loss') < r.history[0].metrics['loss'] / 2, r\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=100)
