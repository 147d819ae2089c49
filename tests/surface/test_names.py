"""The public names: which there are, that each is there, and that types and table agree."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import headway

PUBLIC = [
    "Algorithm",
    "AsyncWorker",
    "BusyServer",
    "Comparison",
    "Execution",
    "LocalTraining",
    "ParameterServer",
    "Processes",
    "Result",
    "Retry",
    "Server",
    "ServerTLS",
    "SimulatedStaleness",
    "Task",
    "Timeouts",
    "Update",
    "WorkerTLS",
    "__version__",
    "algorithms",
    "compare",
    "compression",
    "core",
    "data",
    "errors",
    "every",
    "models",
    "optim",
    "population",
    "run",
    "schedulers",
    "simulate",
    "staleness",
    "tasks",
    "until",
]


def test_the_public_names_are_these():
    # A change here is a change of what users can write: it belongs in CHANGELOG.md too.
    assert headway.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves(name):
    assert getattr(headway, name) is getattr(headway, name)


def test_star_import_brings_every_public_name():
    namespace = {}
    exec("from headway import *", namespace)
    assert set(PUBLIC) <= set(namespace)


def test_dir_lists_the_public_names():
    assert set(PUBLIC) <= set(dir(headway))


MODULES = [name for name, home in headway._HOME.items() if ":" not in home]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_module_is_imported_by_its_public_name_too(is_first):
    """Whichever is written first: it is one module, with one set of factories."""
    program = ["import importlib, headway"]
    for name in MODULES:
        ways = [f"import headway.{name} as imported", f"from headway import {name} as found"]
        program += ways if is_first else reversed(ways)
        program += [
            f"home = importlib.import_module({headway._HOME[name]!r})",
            f"assert imported is found is home is headway.{name}, {name!r}",
        ]
    run = [sys.executable, "-W", "error", "-c", "\n".join(program)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_what_stands_for_another_module_is_not_loaded_by_its_file():
    source = Path(headway.__file__).parent
    stands = {file.stem for file in source.glob("*.py") if file.stem in MODULES}
    told = (source.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    options = tomllib.loads(told)["tool"]["pytest"]["ini_options"]["addopts"]
    assert {f"--ignore=src/headway/{name}.py" for name in stands} <= set(options)


def test_an_unknown_name_is_an_ordinary_attribute_error_with_the_nearest_name():
    with pytest.raises(AttributeError, match=r"'simulat'\. Did you mean: 'simulate'\?") as caught:
        _ = headway.simulat
    assert caught.value.name == "simulat"
    assert not hasattr(headway, "no_such_name_at_all")


def test_a_name_that_is_like_no_other_gets_no_suggestion():
    with pytest.raises(AttributeError, match=r"has no attribute 'zzzz'$"):
        _ = headway.zzzz


def test_type_checkers_are_told_the_same_homes_as_the_lazy_table():
    tree = ast.parse(Path(headway.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    told = {
        alias.name: (statement.module, alias.name)
        for statement in block.body
        for alias in statement.names
    }
    table = {}
    for name, home in headway._HOME.items():
        module, _, attribute = home.partition(":")
        table[name] = (module, attribute) if attribute else tuple(module.rsplit(".", 1))
    assert told == table
    assert sorted([*table, "__version__"]) == PUBLIC


def test_python_m_headway_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "headway", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout
