"""Which of several values wins, and that each knows where it came from."""

from __future__ import annotations

import pytest

from headway.config.layers import Merged, from_assignments, from_environment, from_file, merge
from headway.config.resolve import own_fields
from headway.core.errors import ConfigurationError

SECTIONS = ("algorithm", "algorithms", "data", "run", "seed", "task")


def merged(*layers):
    result = Merged()
    for layer in layers:
        merge(result, layer, own_fields=own_fields)
    return result


def of_file(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return from_file(path)


def test_argument_beats_file_beats_environment(tmp_path):
    variables = {"HEADWAY_SEED": "1", "HEADWAY_RUN__DEVICE": "cuda", "HEADWAY_RUN__THREADS": "4"}
    found = merged(
        from_environment(variables, SECTIONS),
        of_file(tmp_path, 'seed = 2\n[run]\ndevice = "cpu"\n'),
        from_assignments(["seed=3"]),
    )
    assert found.tree == {"seed": 3, "run": {"device": "cpu", "threads": 4}}
    assert found.origins["seed",] == ("argument", "--set seed=3")
    assert found.origins["run", "device"] == ("file", "run.toml, line 3")
    assert found.origins["run", "threads"] == ("environment", "HEADWAY_RUN__THREADS")


def test_variables_of_others_are_left_alone():
    variables = {"HEADWAY_DATA_CACHE": "x", "HEADWAY_": "x", "PATH": "x", "HEADWAY_RUN__": "x"}
    assert from_environment(variables, SECTIONS).tree == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("cpu", "cpu"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ('{ name = "SGD", lr = 1.0 }', {"name": "SGD", "lr": 1.0}),
        ("08", "08"),
        ("a=b", "a=b"),
        ("1\nx = 2", "1\nx = 2"),
    ],
)
def test_a_value_is_toml_if_it_can_be_and_text_otherwise(text, value):
    assert from_assignments([f"run.x={text}"]).tree == {"run": {"x": value}}


def test_of_two_arguments_the_last_counts():
    found = merged(from_assignments(["run.device=a", "run.device=b"]))
    assert found.tree == {"run": {"device": "b"}}
    assert found.origins["run", "device"].place == "--set run.device=b"


def test_an_empty_value_takes_an_option_back(tmp_path):
    found = merged(
        of_file(tmp_path, "[run]\nthreads = 2\nconcurrency = 3\n"),
        from_assignments(["run.threads="]),
    )
    assert found.tree == {"run": {"concurrency": 3}}
    assert ("run", "threads") not in found.origins


def test_a_label_may_be_quoted():
    tree = from_assignments(['algorithms."K=5".buffer_size=5']).tree
    assert tree == {"algorithms": {"K=5": {"buffer_size": 5}}}


@pytest.mark.parametrize("text", ["run.device", "=3", "", "run device=3"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(ConfigurationError, match="this sets nothing"):
        from_assignments([text])


def test_another_algorithm_brings_its_own_options(tmp_path):
    below = of_file(tmp_path, '[algorithm]\nname = "fedbuff"\nbuffer_size = 3\n')
    assert merged(below, from_assignments(["algorithm.name=fedasync"])).tree == {
        "algorithm": {"name": "fedasync"}
    }
    assert merged(below, from_assignments(["algorithm=fedasync"])).tree == {
        "algorithm": {"name": "fedasync"}
    }
    assert merged(below, from_assignments(["algorithm.name=fedbuff"])).tree == {
        "algorithm": {"name": "fedbuff", "buffer_size": 3}
    }


def test_another_data_set_keeps_the_partition(tmp_path):
    below = of_file(
        tmp_path,
        '[data]\nname = "fashion_mnist"\npart = "test"\ntest_fraction = 0.3\n'
        '[data.partition]\nname = "iid"\nnum_clients = 4\n',
    )
    assert merged(below, from_assignments(["data=digits"])).tree["data"] == {
        "name": "digits",
        "test_fraction": 0.3,
        "partition": {"name": "iid", "num_clients": 4},
    }


def test_an_option_on_top_of_a_bare_name_keeps_the_name(tmp_path):
    below = of_file(tmp_path, 'algorithm = "fedbuff"\n')
    found = merged(below, from_assignments(["algorithm.buffer_size=3"]))
    assert found.tree == {"algorithm": {"name": "fedbuff", "buffer_size": 3}}
    assert found.origins["algorithm", "name"].place == "run.toml, line 1"

    below = of_file(tmp_path, '[algorithm]\nname = "fedbuff"\nstaleness = "hinge"\n')
    found = merged(below, from_assignments(["algorithm.staleness.a=5"]))
    assert found.tree["algorithm"]["staleness"] == {"name": "hinge", "a": 5}


def test_one_way_to_say_an_amount_takes_the_place_of_the_other(tmp_path):
    below = of_file(
        tmp_path, "[local]\nepochs = 2\nbatch_size = 5\n[run]\nevaluate_every = { updates = 5 }\n"
    )
    found = merged(below, from_assignments(["local.steps=3", "run.evaluate_every.versions=1"]))
    assert found.tree == {
        "local": {"batch_size": 5, "steps": 3},
        "run": {"evaluate_every": {"versions": 1}},
    }


def test_broken_toml_names_its_line(tmp_path):
    with pytest.raises(ConfigurationError, match="not valid TOML") as caught:
        of_file(tmp_path, "seed = 0\n[run]\ndevice = cpu\n")
    assert caught.value.where.startswith("run.toml, line 3")
    assert caught.value.got == "device = cpu"


@pytest.mark.parametrize("text", ["seed = ", "[run", 'x = """'])
def test_toml_that_breaks_off_is_an_error_too(tmp_path, text):
    with pytest.raises(ConfigurationError, match="not valid TOML") as caught:
        of_file(tmp_path, text)
    assert caught.value.where.startswith("run.toml")


def test_a_run_folder_stands_for_its_configuration(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 4\n", encoding="utf-8")
    assert from_file(tmp_path).tree == {"seed": 4}


def test_no_file_and_a_file_that_is_no_text(tmp_path):
    with pytest.raises(ConfigurationError, match="no such configuration"):
        from_file(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        from_file(tmp_path / "binary.toml")
