"""From a configuration to tasks, algorithms and populations, and the errors on the way."""

from __future__ import annotations

import pytest
import torch

from headway import algorithms, config, population, until
from headway.core.errors import ConfigurationError, DataError, MissingExtraError
from headway.simulation import Target, every


def test_a_configuration_makes_what_the_functions_make(quadratic):
    resolved = quadratic("run.evaluate_every={versions=2}", "stop.target=[]", "stop.target=")
    assert config.make_algorithm(resolved).settings == algorithms.fedbuff(buffer_size=4).settings
    wanted = population.lognormal(6, median_s=2.0, sigma=0.5)
    assert config.make_population(resolved, 6) == wanted
    assert config.make_stop(resolved) == until(updates=20)
    assert config.make_every(resolved) == every(versions=2)
    task = config.make_task(resolved, config.make_data(resolved))
    assert (task.num_clients, task.start(0, torch.device("cpu")).parameters.numel()) == (6, 5)


def test_a_model_learns_from_the_data_what_it_needs_to_know(learning):
    resolved = learning()
    data = config.make_data(resolved)
    task = config.make_task(resolved, data)
    assert data.num_clients == task.num_clients == 8
    parameters = task.start(0, torch.device("cpu")).parameters
    assert parameters.numel() == (64 + 1) * 16 + (16 + 1) * 10
    assert config.make_stop(resolved).target == Target("accuracy", 0.9)


def test_a_model_that_does_not_fit_the_data_is_refused(learning):
    resolved = learning("model.classes=7")
    with pytest.raises(ConfigurationError, match="does not fit") as caught:
        config.make_task(resolved, config.make_data(resolved))
    assert caught.value.where == "--set model.classes=7"


def test_an_algorithm_may_have_its_own_local_training(learning):
    resolved = learning()
    data = config.make_data(resolved)
    common = config.make_task(resolved, data, label="fedbuff").describe()
    own = config.make_task(resolved, data, label="sync (3)").describe()
    assert common["local"]["epochs"] == 2
    assert (own["local"]["steps"], own["local"]["batch_size"]) == (5, 10)


def test_a_value_that_the_function_refuses_names_its_line(quadratic):
    resolved = quadratic("algorithm.buffer_size=0")
    with pytest.raises(ConfigurationError) as caught:
        config.make_algorithm(resolved)
    assert caught.value.where == "--set algorithm.buffer_size=0"
    assert caught.value.message == "`buffer_size` is out of its range"
    assert caught.value.got == "buffer_size = 0"
    resolved = quadratic("algorithm.staleness=hing")
    with pytest.raises(ConfigurationError, match="staleness weight `hing`") as caught:
        config.make_algorithm(resolved)
    assert caught.value.where == "--set algorithm.staleness=hing"
    resolved = quadratic("population.sigma=-1")
    with pytest.raises(ConfigurationError) as caught:
        config.make_population(resolved, 6)
    assert caught.value.where == "--set population.sigma=-1"


def test_the_clients_are_those_of_the_task(quadratic):
    resolved = quadratic("population.num_clients=6")
    assert config.make_population(resolved, 6).num_clients == 6
    resolved = quadratic("population.num_clients=7")
    with pytest.raises(ConfigurationError, match="same number of clients") as caught:
        config.make_population(resolved, 6)
    assert caught.value.where == "--set population.num_clients=7"


def test_clients_may_drop_out_and_be_slow(quadratic):
    resolved = quadratic(
        "population=constant", "population.dropout=0.5", 'population.slowdown={"2" = 5.0}'
    )
    made = config.make_population(resolved, 6)
    assert (made.dropout, dict(made.slowdown)) == (0.5, {2: 5.0})
    resolved = quadratic('population.slowdown={"x" = 5.0}')
    with pytest.raises(ConfigurationError, match="no client"):
        config.make_population(resolved, 6)


def test_more_in_flight_than_there_are_clients(quadratic):
    resolved = quadratic("run.concurrency=7")
    task = config.make_task(resolved, None)
    with pytest.raises(ConfigurationError, match="more clients in flight") as caught:
        config.check_clients(resolved, task, config.make_algorithm(resolved))
    assert caught.value.where == "--set run.concurrency=7"
    assert "at most 6" in caught.value.expected


def test_a_run_that_nothing_would_end(quadratic):
    with pytest.raises(ConfigurationError, match="nothing would ever end"):
        config.make_stop(quadratic("stop.updates="))


def test_no_algorithm_is_chosen(learning):
    with pytest.raises(ConfigurationError, match="no algorithm is chosen") as caught:
        config.make_algorithm(learning())
    assert "headway compare" in caught.value.help


def test_a_missing_package_is_named_with_its_install_line(learning, monkeypatch):
    monkeypatch.setattr("headway.data.packaged.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        config.make_data(learning())
    assert caught.value.help == "Install it with: pip install 'headway[data]'"


def test_clients_without_examples_are_a_data_error(learning):
    resolved = learning("data.partition={name='iid', num_clients=5000}")
    with pytest.raises(DataError, match="no examples"):
        config.make_data(resolved)


def test_none_is_said_in_words(learning):
    resolved = learning("local.batch_size=none")
    task = config.make_task(resolved, config.make_data(resolved), label="fedbuff")
    assert task.describe()["local"]["batch_size"] is None
