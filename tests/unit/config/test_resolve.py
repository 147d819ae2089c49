"""A whole configuration: its defaults, its errors, and that it reads back as it was written."""

from __future__ import annotations

import inspect
import tomllib

import pytest

from headway import config
from headway.algorithms import fedbuff
from headway.core.errors import ConfigurationError, UnknownNameError
from headway.task import LocalTraining


def problem(loaded, *assignments):
    with pytest.raises(ConfigurationError) as caught:
        loaded(*assignments)
    return str(caught.value)


def test_an_unknown_option_is_the_error_that_the_design_shows(load):
    text = (
        'task = "quadratic"\n[run]\nthreads = 1\n\n[algorithm]\nname = "fedbuff"\nbufer_size = 10\n'
    )
    with pytest.raises(UnknownNameError) as caught:
        load(text)
    known = ", ".join(sorted(inspect.signature(fedbuff).parameters))
    assert str(caught.value) == (
        "unknown option `algorithm.bufer_size`\n"
        "  in     run.toml, line 7\n"
        "  got    bufer_size = 10\n"
        f"  known  {known}\n"
        "  help   did you mean `buffer_size`?"
    )


@pytest.mark.parametrize(
    ("assignment", "lines"),
    [
        ("run.concurency=3", ["unknown option `run.concurency`", "did you mean `concurrency`?"]),
        ("rum=3", ["unknown option `rum`", "did you mean `run`?"]),
        ("run.concurrency=many", ['got    concurrency = "many"', "wanted a whole number"]),
        ("run.concurrency=1.5", ["without a decimal point"]),
        ('run.concurrency="8"', ["write numbers without quotes"]),
        ("run.concurrency=0", ["wanted a number of at least 1"]),
        ("run.record=all", ['wanted "nothing", "events" or "payloads"']),
        ("run.evaluate_every=often", ["wanted a number of updates, or a table"]),
        (
            "algorithm.name=async_adam",
            ["ParameterServer(...)", 'server_optimizer = { name = "Adam"'],
        ),
        ("algorithm.name=fedbuf", ["unknown algorithm `fedbuf`", "did you mean `fedbuff`?"]),
        ("algorithm.buffer_size=ten", ["`algorithm.buffer_size` cannot", "wanted a whole number"]),
        ("algorithm.staleness=3", ["wanted a staleness weight"]),
        ("algorithm.on_close=keep", ['wanted "drop" or "apply"']),
        ("population.sigma=", ["`population.sigma` is missing", "wanted a number"]),
        ("population.scale_s=1", ["unknown option `population.scale_s`"]),
        ("population=log", ["unknown population `log`"]),
        ("local.learning_rat=1", ["unknown option `local.learning_rat`"]),
        ("local.learning_rate=fast", ["wanted a number"]),
        ("stop.target={metric='loss', value='x'}", ["`stop.target.value` cannot"]),
        ("stop.target={metric='loss'}", ["`stop.target.value` is missing"]),
        ("seeds=[1, 'x']", ['got    seeds[1] = "x"', "wanted a whole number"]),
        ("seeds=[1, 1]", ["got    seeds = [1, 1]", "wanted each seed once"]),
        ("seed=-1", ["wanted a number of at least 0"]),
        ("model=mlp", ["a task of kind `quadratic` has no model"]),
        ("task=learning", ["`data` is missing"]),
        ("task=quad", ['wanted "learning", "quadratic" or "null"']),
        ("algorithms.a/b.name=fedbuff", ["this sets nothing"]),
        ('algorithms."a/b".name=fedbuff', ["cannot be a label"]),
        ("algorithms.x.local.rate=1", ["`algorithms.x.name` is missing"]),
    ],
)
def test_each_mistake_says_what_where_and_what_to_do(quadratic, assignment, lines):
    said = problem(quadratic, assignment)
    for line in lines:
        assert line in said
    assert "\n  in     " in said


def test_a_mistake_in_a_variable_names_the_variable(quadratic):
    with pytest.raises(UnknownNameError) as caught:
        quadratic(environment={"HEADWAY_RUN__DEVISE": "cpu"})
    assert caught.value.where == "HEADWAY_RUN__DEVISE"


def test_every_default_is_filled_in(learning):
    tree = learning().tree
    local = LocalTraining(epochs=2, batch_size=10)
    described = {k: v for k, v in local.describe().items() if v is not None and v != {}}
    assert tree["local"] == described
    assert tree["data"]["test_fraction"] == 0.2
    assert tree["run"]["device"] == "cpu"
    assert tree["algorithms"]["fedbuff"]["staleness"] == {"name": "polynomial", "exponent": 0.5}
    assert tree["algorithms"]["fedbuff"]["server_optimizer"] == {"name": "SGD", "lr": 1.0}


def test_a_resolved_configuration_reads_back_as_itself(learning, quadratic, load):
    for resolved in (learning(), quadratic(), quadratic("algorithm.max_staleness=4")):
        again = load(resolved.toml())
        assert again.tree == resolved.tree == tomllib.loads(resolved.toml())


def test_each_run_of_a_comparison_reads_back_as_a_run_of_its_own(learning, load):
    resolved = learning()
    tree = resolved.tree_of("sync (3)", 1)
    assert (tree["seed"], tree["run"]["concurrency"]) == (1, 3)
    assert tree["algorithm"]["clients_per_round"] == 3
    assert tree["local"]["steps"] == 5
    assert "epochs" not in tree["local"]
    from headway.observe.toml import dumps

    again = load(dumps(tree))
    assert again.tree == tree
    assert resolved.tree_of("fedbuff", 0)["local"]["epochs"] == 2


def test_each_value_knows_where_it_came_from(quadratic):
    resolved = quadratic("run.threads=1", environment={"HEADWAY_RUN__CONCURRENCY": "2"})
    assert resolved.origin(("algorithm", "buffer_size")) == ("file", "run.toml, line 14")
    assert resolved.origin(("run", "threads")) == ("argument", "--set run.threads=1")
    assert resolved.origin(("run", "concurrency")) == ("environment", "HEADWAY_RUN__CONCURRENCY")
    assert resolved.origin(("run", "device")) == ("default", "default")


def test_the_environment_of_the_process_counts_if_no_other_is_given(tmp_path, monkeypatch):
    path = tmp_path / "run.toml"
    path.write_text('task = "null"\n', encoding="utf-8")
    monkeypatch.setenv("HEADWAY_SEED", "17")
    assert config.load(path).config.seed == 17
