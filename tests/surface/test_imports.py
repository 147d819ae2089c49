"""What an import loads. Asserted by lists of modules: seconds depend on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

# The packages of the extras, and what these bring along.
OPTIONAL = {"joblib", "matplotlib", "mlxtend", "pandas", "scipy", "sklearn"}
# What only the command line, the configuration and the display need.
FRONT = {"click", "pydantic", "rich", "typer"}

# Prints, for each statement given, what is in sys.modules once it has run.
PROBE = """
import json, sys
loaded = []
for statement in sys.argv[1:]:
    exec(statement)
    loaded.append(sorted(sys.modules))
print(json.dumps(loaded))
"""


def loaded_after(*statements):
    """Run the statements one after the other in one new process; the modules loaded after each."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, "pass", *statements],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
    return [set(modules) for modules in json.loads(done.stdout)]


def third_party(modules):
    """The names of the installed packages among the modules, Headway left out."""
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    # Extension modules that Cython has built share these, which belong to no package.
    return {top for top in tops if not top.startswith(("_", "cython_runtime"))} - {"headway"}


def rooms(modules):
    """The packages and modules that stand directly in Headway."""
    return {module.split(".")[1] for module in modules if module.startswith("headway.")}


def test_import_headway_loads_nothing_else():
    before, after = loaded_after("import headway")
    assert {module for module in after if module.startswith("headway")} == {"headway"}
    assert third_party(after - before) == set()


@pytest.fixture(scope="module")
def steps():
    """What is loaded after torch, and after each public name in turn, the lowest layer first."""
    order = ["Update", "staleness", "Task", "data", "tasks", "population", "simulate"]
    _, torch, *rest = loaded_after("import torch, headway as hw", *(f"hw.{name}" for name in order))
    return {"torch": torch, **dict(zip(order, rest, strict=True))}


def test_the_core_adds_only_itself_to_torch(steps):
    assert rooms(steps["Update"]) == {"core"}
    assert third_party(steps["Update"] - steps["torch"]) <= {"numpy"}


def test_the_algorithms_add_only_themselves_to_the_core(steps):
    assert rooms(steps["staleness"]) == {"core", "algorithms"}
    assert third_party(steps["staleness"] - steps["torch"]) <= {"numpy"}


@pytest.mark.parametrize("name", ["Task", "data", "tasks"])
def test_tasks_and_data_load_no_simulator(steps, name):
    assert rooms(steps[name]).isdisjoint({"simulation", "runtime", "training", "cli", "config"})


@pytest.mark.parametrize("name", ["Task", "data", "tasks", "population", "simulate"])
def test_a_simulation_needs_no_command_line_and_no_extra(steps, name):
    assert rooms(steps[name]).isdisjoint({"cli", "config"})
    assert third_party(steps[name] - steps["torch"]).isdisjoint(FRONT | OPTIONAL)


def test_a_worker_process_loads_no_server_and_no_simulator():
    _, torch, worker = loaded_after(
        "import torch", "import headway.runtime.processes, headway.runtime.trainee"
    )
    assert rooms(worker).isdisjoint({"simulation", "training", "cli", "config", "checkpoint"})
    unwanted = {"headway.runtime.hub", "headway.runtime.porter", "headway.observe.report"}
    assert worker.isdisjoint(unwanted)
    assert third_party(worker - torch).isdisjoint(FRONT | OPTIONAL | {"grpc"})


def test_a_worker_of_a_parameter_server_loads_no_server_and_no_simulator():
    _, torch, worker = loaded_after("import torch", "import headway; headway.AsyncWorker")
    assert rooms(worker).isdisjoint({"simulation", "cli", "config", "checkpoint", "tasks"})
    unwanted = {f"headway.{name}" for name in ("runtime.hub", "runtime.network", "training.server")}
    assert worker.isdisjoint(unwanted | {"headway.observe.report", "headway.observe.html"})
    assert third_party(worker - torch).isdisjoint(FRONT | OPTIONAL)


def test_no_module_of_headway_loads_an_optional_package():
    modules = [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in sorted((SOURCE / "headway").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    _, torch, everything = loaded_after("import torch", "import " + ", ".join(modules))
    assert third_party(everything - torch).isdisjoint(OPTIONAL)


def test_tests_run_on_one_torch_thread():
    import torch

    assert torch.get_num_threads() == 1
