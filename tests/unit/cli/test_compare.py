"""`headway compare`: a folder with a folder for each run, and a table."""

from __future__ import annotations

import json

from headway import Comparison, Result, config

RUNS = {"fedavg-seed0", "fedavg-seed1", "fedbuff-seed0", "fedbuff-seed1"}


def test_a_comparison_leaves_a_folder_with_a_folder_for_each_run(headway, here):
    done = headway("compare", "quick.toml", "--out", "race")
    assert done.code == 0
    names = {path.name for path in (here / "race").iterdir()}
    assert names == RUNS | {"comparison.json", "config.toml", "environment.json", "report.html"}
    for name in RUNS:
        assert (here / "race" / name / "report.html").is_file()
    assert set(Comparison.load(here / "race").groups) == {"fedavg", "fedbuff"}
    for word in ("fedavg", "fedbuff", "against fedavg", "race/report.html"):
        assert word in done.out


def test_each_of_its_runs_can_be_run_alone_and_gives_the_same(headway, here):
    headway("compare", "quick.toml", "--out", "race")
    headway("simulate", "race/fedavg-seed1", "--out", "alone")
    wanted, found = Result.load(here / "race/fedavg-seed1"), Result.load(here / "alone")
    assert wanted.weights_hash == found.weights_hash
    assert wanted.log_hash == found.log_hash
    assert config.load(here / "alone", environment={}).config.run.concurrency == 2


def test_a_comparison_can_be_made_again_from_its_folder(headway, here):
    headway("compare", "quick.toml", "--out", "race")
    done = headway("compare", "race", "--out", "again", "--set", "seeds=[1]", "--json")
    told = json.loads(done.out)
    first = Result.load(here / "race/fedbuff-seed1")
    assert [run["label"] for run in told["runs"]] == ["fedavg", "fedbuff"]
    assert told["runs"][1]["weights_hash"] == first.weights_hash


def test_json_has_a_row_for_each_label_on_each_axis(headway):
    done = headway("compare", "quick.toml", "--json", "--set", "target={metric='loss', value=1e9}")
    told = json.loads(done.out)
    assert told["target"] == ["loss", 1e9]
    assert {axis: len(rows) for axis, rows in told["table"].items()} == dict.fromkeys(
        ("updates", "versions", "examples", "bytes", "virtual_time_s", "wall_time_s"), 2
    )
    assert done.err == ""


def test_there_must_be_something_to_compare(headway, here):
    done = headway("compare", "digits.toml")
    assert done.code == 2
    assert "there is nothing to compare" in done.err
    assert "headway simulate" in done.err
    assert not (here / "runs").exists()


def test_a_mistake_in_one_algorithm_is_found_before_any_run(headway, here):
    done = headway("compare", "quick.toml", "--set", "algorithms.fedbuff.buffer_size=0")
    assert done.code == 2
    assert "buffer_size" in done.err
    assert not (here / "runs").exists()


def test_a_run_that_diverges_does_not_stop_the_others(headway):
    done = headway(
        *("compare", "quick.toml", "--set", "stop.updates=2000", "--set", "seeds=[0]"),
        *("--set", "algorithms.fedavg.local={learning_rate=1e30}"),
    )
    assert done.code == 1
    assert "fedavg, seed 0: diverged" in done.err
    assert "fedbuff, seed 0: updates >= 2000" in done.err


def test_a_run_that_fails_leaves_the_finished_ones_in_the_comparison(headway, here, monkeypatch):
    from headway import Comparison
    from headway.tasks import quadratic

    task = type(quadratic(dim=2, num_clients=2))
    evaluate, calls = task.evaluate, []

    def fails(self, *arguments):
        calls.append(1)
        if len(calls) > 8:
            raise ValueError("no luck")
        return evaluate(self, *arguments)

    monkeypatch.setattr(task, "evaluate", fails)
    assert headway("compare", "quick.toml", "--out", "race").code == 1
    assert [result.label for result in Comparison.load(here / "race").results] == ["fedavg"]
    assert headway("report", "race").code == 0
