"""Each benchmark runs in a short form, and prints its table. What it measures is not judged here."""

from __future__ import annotations

import json
import logging
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"

# One run of each row of a published claim, with the first rates of its grid.
UNTUNED = ["--seeds", "1", "--tuning-seeds", "0", "--processes", "1"]

# The smallest arguments that each takes, and words of the first line of its table.
SHORT = {
    "batched_training": (
        [
            *[
                "--models",
                "60-16-10",
                "--processes",
                "1",
                "--eager",
                "--repeats",
                "2",
                "--share",
                "0.1",
            ]
        ],
        "one thread",
    ),
    "chaos": (
        [
            *["--minutes", "0.05", "--workers", "2", "--work-ms", "20"],
            *["--worker-faults", "2", "--server-faults", "1"],
        ],
        "of undisturbed",
    ),
    "claims_compensation": (
        [*UNTUNED, "--gradients", "40", "--workers", "1", "4"],
        "gradients of 32 examples",
    ),
    "claims_delay_adaptive": ([*UNTUNED, "--short"], "f - min f"),
    "claims_fedbuff": (
        [*UNTUNED, "--concurrency", "4", "--clients", "8", "--updates", "24"],
        "client updates",
    ),
    "claims_local_sgd": (
        [*UNTUNED, "--problems", "mnist", "--updates", "8"],
        "async, DN + DyLU",
    ),
    "claims_participation": (
        [*UNTUNED, "--clients", "10", "--updates", "40"],
        "distance to the optimum",
    ),
    "claims_ringmaster": ([*UNTUNED, "--workers", "20", "--dim", "20"], "R or B"),
    "compression": (
        [
            *["--seeds", "1", "--processes", "1", "--updates", "20"],
            *["--sizes", "1000", "--repeats", "2"],
        ],
        "times fewer bytes",
    ),
    "durable_log": (
        ["--sizes", "10", "1000", "--updates", "20", "--workers", "2", "--repeats", "1"],
        "of the bytes alone",
    ),
    "durable_server": (
        ["--sizes", "10", "--workers", "1", "2", "--repeats", "1", "--seconds", "0.1"],
        "log / sync",
    ),
    "exchange": (
        ["--sizes", "1000", "100000", "--repeats", "2", "--seconds", "0.01"],
        "of two copies",
    ),
    "local_training": (["--seconds", "0.02"], "jobs/s"),
    "million_clients": (
        ["--kinds", "mlp", "--clients", "20", "60", "--concurrency", "10", "--checkpoint"],
        "bytes_per_client",
    ),
    "null_model": (
        ["--clients", "100", "1000", "--completions", "500", "--repeats", "1"],
        "completions/s",
    ),
    # The peers are looked for where they cannot be.
    "peers": (
        [
            *["--models", "60-16-10", "--eager", "--cores", "1"],
            *["--repeats", "1", "--rounds", "1", "--folder", "nowhere"],
        ],
        "not installed",
    ),
    "server_memory": (
        ["--workers", "1", "2", "--size", "20000", "--rounds", "1"],
        "bytes per worker",
    ),
    # Ray is looked for where it cannot be.
    "restart": (["--sizes", "10", "--runs", "1", "--until-s", "0.01"], "serving after"),
    "steps": (["--steps", "100", "--repeats", "1", "--folder", "nowhere"], "not installed"),
    "stragglers": (
        [
            *[
                "--size",
                "1000",
                "--job-ms",
                "2",
                "--seconds",
                "0.2",
                "--repeats",
                "1",
                "--seeds",
                "0",
            ],
        ],
        "sum of speeds",
    ),
    "server_apply": (["--sizes", "1000", "20000", "--repeats", "2"], "GB/s"),
}


def run(name, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    # As for a script, whose own folder comes first.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_benchmark_has_a_short_form():
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_")}
    assert set(SHORT) == scripts, "say in SHORT how to run it with little work"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHORT)
def test_it_prints_its_table(name, monkeypatch, capsys):
    arguments, words = SHORT[name]
    printed = run(name, arguments, monkeypatch, capsys)
    assert words in printed
    # A script may do as it likes with its process, but this one has other tests to run.
    assert logging.getLogger("headway").level == logging.NOTSET
    # The heading says with what it was measured.
    assert printed.startswith("torch ")
    assert len(printed.splitlines()) > 4


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_groups_are_measured_by_their_size(monkeypatch, capsys):
    asked = ["--device", "cpu", "--groups", "1", "4", "--eager", "--repeats", "1"]
    small = ["--models", "60-16-10", "--share", "0.01"]
    printed = run("batched_training", [*asked, *small], monkeypatch, capsys)
    assert "| one_by_one, 1.0 |" in printed
    assert "| groups, 4.0 |" in printed


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("claims_fedbuff", marks=pytest.mark.slow),
        "durable_log",
        "null_model",
        "server_apply",
    ],
)
def test_it_prints_the_same_as_json(name, monkeypatch, capsys):
    printed = json.loads(run(name, [*SHORT[name][0], "--json"], monkeypatch, capsys))
    rows = printed["rows"] if isinstance(printed, dict) else printed
    assert len(rows) >= 4
    assert all(len(row) == len(rows[0]) for row in rows)
