"""How clients are trained changes nothing but the last digits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headway as hw
from headway.algorithms import ALGORITHMS
from headway.core.errors import ConfigurationError
from headway.simulation import Execution, every, until
from headway.simulation import execution as rules
from headway.simulation import population as populations
from headway.simulation.execution import Choice
from headway.simulation.executor import OneByOne
from headway.simulation.lookahead import LookAhead
from headway.task import Assignment, LocalResult, LocalTraining, Task
from tests.core_kit import logged
from tests.simulation_kit import CPU, doubled, perceptron_task, precise, run_engine

SIZES = (23, 20, 3, 9, 14, 8, 11, 6, 17, 5, 10, 12)
POPULATION = populations.with_dropout(populations.lognormal(12, median_s=2.0, sigma=0.8), 0.05)
ONE_BY_ONE = Execution(mode="one_by_one")
GROUPS = Execution(mode="groups", group_size=5)


def precise_task(**local):
    training = LocalTraining(**{"epochs": 2, "batch_size": 8, **local})
    return Task(
        precise,
        "cross_entropy",
        [doubled(size, seed) for seed, size in enumerate(SIZES)],
        doubled(30, 99),
        local=training,
        server_data=doubled(20, 98),
    )


def assert_same_model(one, other):
    torch.testing.assert_close(
        one.server.parameters, other.server.parameters, rtol=1e-9, atol=1e-11
    )


def run(name, execution, task=None, **changes):
    changes.setdefault("stop", until(updates=60))
    task = task or precise_task()
    return run_engine(
        task,
        ALGORITHMS[name](),
        population=POPULATION,
        evaluate_every=every(updates=20),
        execution=execution,
        executor=None,
        **changes,
    )


def story(engine):
    """Who did what when, without the values of losses and weights."""
    events = []
    for event in logged(engine.server.events):
        for key in ("metrics", "data", "payload", "weight"):
            event.pop(key, None)
        events.append(event)
    return events


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_groups_give_the_run_that_one_by_one_gives(name):
    one, many = run(name, ONE_BY_ONE), run(name, GROUPS)
    assert story(one) == story(many)
    assert_same_model(one, many)
    about = many.choice.describe()
    if about["mode"] == "groups":
        assert 1.0 <= about["mean_group_size"] <= 5.0
        assert about["num_groups"] > 0
    else:
        assert about["reason"] == "a client transform of the algorithm has a state"


@pytest.mark.parametrize(
    "local",
    [
        {"proximal": 0.1},
        {"optimizer": "sgd", "options": {"momentum": 0.9}, "clip_norm": 0.1, "proximal": 0.3},
        {"optimizer": "adam", "learning_rate": 1e-2, "proximal": 0.7},
        {"epochs": 0.6, "drop_last": True, "optimizer": "rmsprop", "learning_rate": 1e-3},
    ],
)
def test_whatever_clients_do_groups_do_it_too(local):
    task = precise_task(**local)
    assert_same_model(run("fedbuff", ONE_BY_ONE, task), run("fedbuff", GROUPS, task))


def test_most_algorithms_train_in_groups():
    alone = {name for name in ALGORITHMS if any(_states(ALGORITHMS[name]()))}
    # DANA's slim form keeps momentum at the worker; the default, zero, does not.
    assert len(alone) < 3


def _states(algorithm):
    return [t.init(3, torch.float32, CPU) is not None for t in algorithm.client]


def test_the_same_execution_gives_the_same_bits():
    one, other = run("fedbuff", GROUPS), run("fedbuff", GROUPS)
    assert torch.equal(one.server.parameters, other.server.parameters)
    assert logged(one.server.events) == logged(other.server.events)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["groups", "one_by_one"])
def test_two_processes_give_what_one_gives(mode):
    one = run("fedbuff", ONE_BY_ONE)
    two = run("fedbuff", Execution(mode=mode, processes=2, group_size=4))
    try:
        assert story(one) == story(two)
        assert_same_model(one, two)
        if mode == "one_by_one":
            assert torch.equal(one.server.parameters, two.server.parameters)
        assert two.choice.describe()["processes"] == 2
    finally:
        two.choice.close()


# The rule.


def chosen(task, algorithm=None, execution=None, stop=None):
    result = hw.simulate(
        task,
        algorithm or hw.algorithms.async_delta(),
        stop=stop or until(updates=2),
        execution=execution,
    )
    return result.execution


def big(width, activation=nn.GELU):
    data = [(torch.randn(4, 10), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]
    return Task(
        lambda: nn.Sequential(nn.Linear(10, width), activation(), nn.Linear(width, 2)),
        "cross_entropy",
        data,
        data[0],
    )


def test_small_models_train_in_groups_and_large_ones_alone():
    small, large = chosen(big(8)), chosen(big(20_000))
    assert (small["mode"], small["reason"]) == ("groups", "a model of 106 parameters on the cpu")
    assert (large["mode"], large["group_size"]) == ("one_by_one", 1)
    assert large["reason"] == "a model of 260,002 parameters gains nothing from groups on the cpu"
    asked = chosen(big(20_000), execution=Execution(mode="groups"))
    assert (asked["mode"], asked["group_size"]) == ("groups", 32)
    # Their gradients are written out, which is faster at any size.
    assert chosen(big(20_000, nn.ReLU))["mode"] == "groups"
    assert (
        chosen(big(8), execution=Execution(mode="groups", memory_bytes=10_000))["group_size"] == 4
    )


def test_convolutions_are_trained_one_by_one_unless_groups_are_asked_for():
    data = [(torch.randn(4, 64), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]
    task = Task(hw.models.cnn(8, 8, 1, 2), "cross_entropy", data, data[0])
    alone, asked = chosen(task), chosen(task, execution=GROUPS)
    assert (alone["mode"], alone["group_size"]) == ("one_by_one", 1)
    assert alone["reason"] == "convolutions are faster one by one on the cpu"
    assert asked["mode"] == "groups"


class Grouping:
    """Of a trainer of groups, what the size of groups asks of it."""

    activation_bytes = 1_000


def test_on_an_accelerator_groups_are_as_large_as_memory_allows():
    away = torch.device("meta")  # No CPU, and so without caches that want small groups.

    def size(device, **options):
        return rules._size(Execution(**options), 50, device, Grouping())

    # A model, its start, gradient and optimizer are 5 x 50 numbers, and activations come on top.
    assert size(away, memory_bytes=1_000_000) == 1_000_000 // (1_000 + 1_000)
    assert size(away, memory_bytes=1_000_000, group_size=16) == 16
    assert size(away, memory_bytes=1) == 1
    assert size(CPU, memory_bytes=100_000) == 100
    assert size(CPU) == 256


def test_the_memory_of_an_accelerator_is_shared_by_a_fixed_rule(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (1, 8_000_000))
    assert rules._memory(torch.device("cuda")) == 2_000_000
    assert rules._memory(CPU) == 1 << 30


def test_what_cannot_be_grouped_falls_back_and_the_result_says_so():
    data = [(torch.randn(4, 10), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]
    task = Task(
        lambda: nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4)), "cross_entropy", data, data[0]
    )
    result = hw.simulate(task, hw.algorithms.async_delta(), stop=until(updates=2), execution=GROUPS)
    assert result.execution["mode"] == "one_by_one"
    assert "one by one: the model has buffers" in " ".join(str(result).split())
    slim = chosen(big(8), hw.algorithms.dana(variant="slim"))
    assert slim["reason"] == "a client transform of the algorithm has a state"
    assert (
        chosen(hw.tasks.quadratic(dim=3, num_clients=2))["reason"] == "the task trains one by one"
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"mode": "group"}, "groups"),
        ({"group_size": 0}, "group_size"),
        ({"processes": 0}, "processes"),
        ({"processes": 1.5}, "processes"),
        ({"memory_bytes": True}, "memory_bytes"),
    ],
)
def test_wrong_settings_are_refused(options, what):
    with pytest.raises(ConfigurationError, match=what):
        Execution(**options)


def test_what_is_no_execution_is_refused():
    with pytest.raises(TypeError, match="how clients are trained"):
        chosen(big(8), execution="groups")


# Look-ahead.


class Notes:
    def __init__(self):
        self.groups = []

    def __call__(self, assignments):
        self.groups.append([a.client for a in assignments])
        return [LocalResult(a.parameters, 1, 1, 1, {}) for a in assignments]


def begun(size, dues):
    notes = Notes()
    ahead = LookAhead(notes, size)
    for job, due in enumerate(dues):
        ahead.begin(job, Assignment(job, torch.full((1,), float(job))), due)
    return notes, ahead


def test_those_that_are_due_first_are_trained_first():
    notes, ahead = begun(3, [9.0, 1.0, 5.0, 3.0, 7.0])
    assert float(ahead.finish(1).payload) == 1.0
    assert notes.groups == [[1, 3, 2]]
    ahead.discard(4)
    assert [float(ahead.finish(job).payload) for job in (3, 2)] == [3.0, 2.0]
    assert notes.groups == [[1, 3, 2]]
    assert float(ahead.finish(0).payload) == 0.0
    assert notes.groups == [[1, 3, 2], [0]]
    assert (ahead.num_groups, ahead.num_trained) == (2, 4)


def test_what_is_pending_is_divided_into_groups_of_about_one_size():
    notes, ahead = begun(4, [float(due) for due in range(9)])
    for job in range(9):
        ahead.finish(job)
    assert notes.groups == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_the_one_that_is_needed_is_always_in_the_group():
    notes, ahead = begun(2, [1.0, 1.0, 1.0])
    assert float(ahead.finish(2).payload) == 2.0
    assert notes.groups == [[0, 2]]


def test_a_trained_job_that_is_discarded_is_forgotten():
    _, ahead = begun(5, [1.0, 2.0])
    ahead.finish(0)
    ahead.discard(1)
    ahead.discard(99)
    with pytest.raises(KeyError):
        ahead.finish(1)


def test_jobs_that_are_lost_are_never_trained():
    task = perceptron_task(SIZES)
    engine = run("async_delta", GROUPS, task)
    trained = engine.choice.describe()["num_groups"] * engine.choice.describe()["mean_group_size"]
    assert engine.server.counts["lost"] > 0
    assert trained <= engine.tally.updates + engine.server.num_in_flight


# What is told of it.


def test_another_process_that_does_not_compile_is_told_of():
    class Here:
        not_compiled = None

    class There:
        not_compiled = "not compiled: no C++ compiler"

    about = {"mode": "groups", "compiled": True, "reason": "as it was asked for"}
    choice = Choice(LookAhead(Notes(), 2), about, lambda: None, Here(), There())
    found = choice.describe()
    assert not found["compiled"]
    assert found["reason"] == "as it was asked for; not compiled: no C++ compiler"


def test_a_task_that_cannot_be_sent_is_refused_before_anything_is_trained():
    with pytest.raises(ConfigurationError, match="cannot be sent to another process"):
        chosen(big(8), execution=Execution(processes=2))


def test_one_by_one_is_what_it_says():
    engine = run("fedbuff", ONE_BY_ONE)
    assert isinstance(engine.executor, OneByOne)
    assert engine.choice.describe()["reason"] == "as it was asked for"


def test_a_loss_that_grows_out_of_proportion_is_told_of():
    result = hw.simulate(
        hw.tasks.quadratic(dim=5, num_clients=4),
        hw.algorithms.async_sgd(learning_rate=1.5),
        stop=hw.until(updates=60),
        evaluate_every=20,
    )
    assert result.final("loss") > 10.0 * result.history[0].metrics["loss"]
    assert any("the run diverged" in warning for warning in result.warnings)


@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError])
def test_where_nobody_tells_the_memory_a_fixed_share_is_taken(monkeypatch, error):
    def refuse(device):
        raise error("no such function")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse, raising=False)
    assert rules._memory(torch.device("mps")) == rules._MEMORY_BYTES


def test_one_by_one_asks_for_no_memory(monkeypatch):
    def refuse(device):
        raise AssertionError("nothing is trained ahead")

    monkeypatch.setattr(rules, "_memory", refuse)
    assert rules._size(ONE_BY_ONE, 1000, torch.device("mps"), None) == 1


def test_a_device_without_numbers_is_refused():
    task = hw.tasks.quadratic(num_clients=2)
    with pytest.raises(ConfigurationError, match="holds no numbers"):
        hw.simulate(task, hw.algorithms.fedasync(), stop=until(updates=2), device="meta")


def test_errors_say_what_helps():
    for options in ({"processes": 0}, {"compile": 1}, {"mode": "one_by_one", "compile": True}):
        with pytest.raises(ConfigurationError) as caught:
            Execution(**options)
        assert caught.value.help
