"""`headway simulate`, from a file to a run folder, and what is said when something is wrong."""

from __future__ import annotations

import json

import pytest

from headway import Result, config

FOLDER = {
    "checkpoints",
    "config.toml",
    "environment.json",
    "events.jsonl",
    "metrics.jsonl",
    "report.html",
    "result.json",
    "run.json",
}


def test_a_run_leaves_a_whole_folder_and_says_where(headway, here):
    done = headway("simulate", "quick.toml")
    assert done.code == 0
    assert {path.name for path in (here / "runs/quick-1").iterdir()} == FOLDER
    assert "runs/quick-1/report.html" in done.out
    assert "updates       20:" in done.out
    assert Result.load(here / "runs/quick-1").updates == 20


def test_the_next_run_gets_the_next_folder(headway, here):
    for number in (1, 2):
        assert headway("simulate", "quick.toml", "-q").code == 0
        assert (here / f"runs/quick-{number}/result.json").is_file()


def test_a_run_folder_can_be_run_again_and_gives_the_same(headway, here):
    headway("simulate", "quick.toml", "--out", "first", "--set", "algorithm.buffer_size=3")
    done = headway("simulate", "first", "--out", "second")
    assert done.code == 0
    assert (here / "first/config.toml").read_text() == (here / "second/config.toml").read_text()
    first, second = Result.load(here / "first"), Result.load(here / "second")
    assert (first.log_hash, first.weights_hash) == (second.log_hash, second.weights_hash)


def test_the_folder_holds_the_resolved_configuration(headway, here):
    headway("simulate", "quick.toml", "--out", "run", "--set", "seed=5")
    resolved = config.load(here / "quick.toml", assignments=["seed=5"], environment={})
    assert config.load(here / "run", environment={}).tree == resolved.tree_of()


def test_json_is_all_that_is_on_stdout(headway):
    done = headway("simulate", "quick.toml", "--json")
    told = json.loads(done.out)
    assert (told["updates"], told["folder"]) == (20, "runs/quick-1")
    assert done.err == ""


def test_quiet_shows_the_result_only(headway):
    done = headway("simulate", "quick.toml", "--quiet")
    assert done.out.startswith("fedbuff on quadratic")
    assert done.err == ""


def test_progress_in_a_pipe_is_plain_lines_on_stderr(headway):
    done = headway("simulate", "quick.toml")
    lines = done.err.splitlines()
    assert lines[0].startswith("fedbuff, seed 0: 0 updates, 0 s virtual, loss ")
    assert lines[-1].startswith("fedbuff, seed 0: updates >= 20 after 20 updates: loss ")
    assert "\x1b" not in done.err + done.out


def test_a_used_folder_is_not_written_unless_told_so(headway, here):
    headway("simulate", "quick.toml", "--out", "run")
    done = headway("simulate", "quick.toml", "--out", "run")
    assert done.code == 1
    assert "--overwrite" in done.err
    assert "--resume" in done.err
    done = headway("simulate", "quick.toml", "--out", "run", "--overwrite", "--set", "seed=9")
    assert done.code == 0
    assert Result.load(here / "run").seed == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "algorithm.bufer_size=1"], "did you mean `buffer_size`?"),
        (["--set", "algorithm.buffer_size=0"], "got    buffer_size = 0"),
        (["--set", "run.concurrency=7"], "more clients in flight than there are"),
        (["--set", "run.device=abacus"], "the device `abacus` cannot be used here"),
        (["--set", "stop.updates="], "nothing would ever end this run"),
        (["--record", "everything"], "`run.record` cannot have this value"),
        (["--set", "data=digits"], "`data.partition` is missing"),
    ],
)
def test_a_wrong_configuration_is_2_and_writes_nothing(headway, here, arguments, said):
    done = headway("simulate", "quick.toml", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert said in done.err
    assert done.out == ""
    assert not (here / "runs").exists()


def test_a_target_that_is_never_measured(headway):
    done = headway("simulate", "quick.toml", "--set", "stop.target={metric='accuracy', value=1}")
    assert done.code == 2
    assert "unknown metric `accuracy`" in done.err


def test_a_missing_data_package_comes_with_its_install_line(headway, here, monkeypatch):
    monkeypatch.setattr("headway.data.packaged.find_spec", lambda name: None)
    done = headway("simulate", "digits.toml")
    assert done.code == 2
    assert "need scikit-learn" in done.err
    assert "pip install 'headway[data]'" in done.err
    assert not (here / "runs").exists()


def test_empty_clients_are_named(headway):
    done = headway("simulate", "digits.toml", "--set", "data.partition.num_clients=3000")
    assert done.code == 2
    assert "no examples" in done.err


def test_clients_may_be_empty_if_that_is_allowed(headway):
    settings = ["data.partition={name='iid', num_clients=1500, allow_empty=true}"]
    done = headway("simulate", "digits.toml", "--set", *settings)
    assert done.code == 0
    assert "clients have no data and never train" in " ".join(done.out.split())


def test_a_run_that_diverges_says_so_and_leaves_its_folder(headway, here):
    done = headway("simulate", "quick.toml", "--set", "local.learning_rate=1e30", "--set",
                   "stop.updates=5000", "--out", "run")  # fmt: skip
    assert done.code == 1
    assert "not_finite" in done.out
    assert "warning" in done.out
    assert "diverged" in done.err
    assert {path.name for path in (here / "run").iterdir()} == FOLDER


def test_a_folder_that_cannot_be_written(headway, here):
    (here / "file").write_text("")
    done = headway("simulate", "quick.toml", "--out", "file/run")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "help" in done.err


def test_a_data_set_is_trained_on(headway):
    done = headway("simulate", "digits.toml", "--json")
    told = json.loads(done.out)
    assert set(told["history"][-1]["metrics"]) == {"accuracy", "loss"}
    assert told["num_clients"] == 4
