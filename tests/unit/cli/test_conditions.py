"""What cannot run under the conditions of a configuration is refused before anything is written."""

from __future__ import annotations


def test_a_synchronous_algorithm_has_no_simulated_staleness(headway, here):
    done = headway("compare", "quick.toml", "--out", "race", "--set", "staleness.max_staleness=4")
    assert done.code == 2
    assert "the staleness of `fedavg` cannot be drawn" in done.err
    assert "staleness.max_staleness=4" in done.err
    assert not (here / "race").exists()


def test_simulated_staleness_takes_one_client_at_a_time(headway, here):
    done = headway(
        *("simulate", "quick.toml", "--out", "run", "--set", "staleness.max_staleness=4"),
        *("--set", "run.concurrency=2"),
    )
    assert done.code == 2
    assert "one client train at a time" in done.err
    assert not (here / "run").exists()


def test_clients_that_come_once_are_not_waited_for(headway, here):
    done = headway(
        *("simulate", "quick.toml", "--out", "run", "--set", "algorithm=ssp"),
        *("--set", "algorithm.bound=2", "--set", "population.arrival.rate_per_s=1.0"),
    )
    assert done.code == 2
    assert "waits for its slowest worker" in done.err
    assert not (here / "run").exists()


def test_a_run_with_simulated_staleness_is_labelled_and_can_be_replayed(headway, here):
    options = ["--set", "staleness.max_staleness=4", "--record", "payloads"]
    done = headway("simulate", "quick.toml", "--out", "run", *options)
    assert done.code == 0, done.err
    assert "simulated: drawn from 0 to 4" in done.out
    assert "max_staleness = 4" in (here / "run" / "config.toml").read_text(encoding="utf-8")
    assert headway("replay", "run").code == 0


def test_a_run_whose_clients_come_by_themselves_can_be_replayed(headway):
    options = ["--set", "population.arrival.rate_per_s=2.0", "--record", "payloads"]
    done = headway("simulate", "quick.toml", "--out", "run", *options)
    assert done.code == 0, done.err
    assert headway("replay", "run").code == 0
