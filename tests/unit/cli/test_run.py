"""``headway run``: the same files as the simulator's, with real worker processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headway.cli import main
from headway.observe import RunFolder

CONFIG = """
[task]
kind = "quadratic"
dim = 8
num_clients = 5
[runtime]
num_workers = 2
slowdown = { "1" = 2.0 }
[run]
evaluate_every = 20
[stop]
updates = 40
"""
ONE = CONFIG + '[algorithm]\nname = "fedbuff"\nbuffer_size = 3\n'
TWO = (
    'seeds = [0]\ntarget = { metric = "loss", value = 1.0 }\n'
    + CONFIG
    + '[algorithms.late]\nname = "async_delta"\n'
    + '[algorithms.rounds]\nname = "fedavg"\nclients_per_round = 2\n'
)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "real.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stop.virtual_time_s=5", "no virtual time"),
        ("run.evaluate_every={ virtual_time_s = 5.0 }", "no virtual time"),
        ("run.checkpoint_every=5", "no checkpoints"),
        ("staleness={ max_staleness = 3 }", "not drawn"),
        ('runtime.slowdown={ "2" = 5.0 }', "no such worker"),
        ('runtime.slowdown={ "first" = 5.0 }', "slowdown"),
        ('runtime.slowdown={ "0" = 0.5 }', "slowdown"),
        ("runtime.num_workers=0", "num_workers"),
        ("runtime.workers=2", "num_workers"),
        ("runtime.name=threads", "processes"),
    ],
)
def test_what_a_real_run_cannot_do_is_refused(
    tmp_path: Path, capsys: Any, change: str, said: str
) -> None:
    out = tmp_path / "out"
    assert main(["run", written(tmp_path, ONE), "--out", str(out), "--set", change]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_run_is_replayed_by_the_command(tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "out")
    arguments = ["run", written(tmp_path, ONE), "--out", out, "--record", "payloads", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["updates"] == 40
    assert RunFolder.open(out).config()["runtime"]["num_workers"] == 2
    assert main(["replay", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bit_identical"] is True


@pytest.mark.slow
def test_a_run_says_real_seconds_and_leaves_no_folder_where_its_checkpoint_is_refused(
    tmp_path: Path, capsys: Any
) -> None:
    path, saved = written(tmp_path, ONE), ["--checkpoint-dir", str(tmp_path / "kept")]
    assert main(["run", path, "--out", str(tmp_path / "out"), *saved]) == 0
    told = capsys.readouterr().err
    assert "0 updates, 0 s, loss" in told
    assert "virtual" not in told
    other = tmp_path / "other"
    assert main(["run", path, "--out", str(other), *saved, "--set", "seed=3"]) == 2
    assert "another run" in capsys.readouterr().err
    assert not other.exists()


@pytest.mark.slow
def test_several_algorithms_go_on_from_their_checkpoints(tmp_path: Path, capsys: Any) -> None:
    path, out = written(tmp_path, TWO), tmp_path / "out"
    command = ["run", path, "--out", str(out), "--checkpoint-dir", str(tmp_path / "kept")]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "real time" in table
    assert "x the real time" in table
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "irtual time" not in table + report
    assert main([*command, "--json", "--set", "stop.updates=60"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == f"{out}-2"
    assert all(run["updates"] >= 60 for run in told["runs"])
    assert all("went on from" in run["warnings"][0] for run in told["runs"])


@pytest.mark.slow
def test_several_algorithms_are_compared(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["run", written(tmp_path, TWO), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in told["runs"]] == ["late", "rounds"]
    assert (out / "report.html").is_file()
    assert (out / "late-seed0/events.jsonl").is_file()
