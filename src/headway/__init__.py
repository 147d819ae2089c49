"""Headway: asynchronous training for PyTorch.

Workers never wait for each other: each trains at its own pace, and the library decides what a late
update is worth. An algorithm is a value that does not know where it runs.

This file only names things. Each public name is loaded when it is first used, so that
``import headway`` loads nothing else, and a worker loads no server, simulator or command line.

Example:
    >>> import headway as hw
    >>> hw.__version__
    '0.1.0.dev0'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway import algorithms, core, data, models, tasks
    from headway.algorithms import schedulers, staleness
    from headway.core import Algorithm, Server, Update, errors
    from headway.runtime import compression
    from headway.runtime.processes import Processes
    from headway.runtime.security import ServerTLS, WorkerTLS
    from headway.runtime.timeouts import Retry, Timeouts
    from headway.simulation import (
        BusyServer,
        Comparison,
        Execution,
        Result,
        SimulatedStaleness,
        compare,
        every,
        population,
        simulate,
        until,
    )
    from headway.task import LocalTraining, Task, optim
    from headway.training.run import run
    from headway.training.server import ParameterServer
    from headway.training.worker import AsyncWorker

__version__ = "0.1.0.dev0"

__all__ = [
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

# "module" stands for the module itself, "module:name" for something in it.
_HOME = {
    "Algorithm": "headway.core:Algorithm",
    "AsyncWorker": "headway.training.worker:AsyncWorker",
    "BusyServer": "headway.simulation:BusyServer",
    "Execution": "headway.simulation:Execution",
    "Comparison": "headway.simulation:Comparison",
    "LocalTraining": "headway.task:LocalTraining",
    "ParameterServer": "headway.training.server:ParameterServer",
    "Processes": "headway.runtime.processes:Processes",
    "Retry": "headway.runtime.timeouts:Retry",
    "Result": "headway.simulation:Result",
    "Server": "headway.core:Server",
    "ServerTLS": "headway.runtime.security:ServerTLS",
    "SimulatedStaleness": "headway.simulation:SimulatedStaleness",
    "Task": "headway.task:Task",
    "Timeouts": "headway.runtime.timeouts:Timeouts",
    "Update": "headway.core:Update",
    "WorkerTLS": "headway.runtime.security:WorkerTLS",
    "algorithms": "headway.algorithms",
    "compare": "headway.simulation:compare",
    "compression": "headway.runtime.compression",
    "core": "headway.core",
    "data": "headway.data",
    "errors": "headway.core.errors",
    "every": "headway.simulation:every",
    "models": "headway.models",
    "optim": "headway.task.optim",
    "population": "headway.simulation.population",
    "run": "headway.training.run:run",
    "schedulers": "headway.algorithms.schedulers",
    "simulate": "headway.simulation:simulate",
    "staleness": "headway.algorithms.staleness",
    "tasks": "headway.tasks",
    "until": "headway.simulation:until",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(_unknown(name), name=name)
    module, _, attribute = home.partition(":")
    value: object = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *__all__})


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    known, within = list(__all__), ""
    if name.endswith("Error"):
        known, within = dir(import_module("headway.core.errors")), "errors."
    nearest = get_close_matches(name, known, n=1)
    hint = f". Did you mean: {within + nearest[0]!r}?" if nearest else ""
    return f"module {__name__!r} has no attribute {name!r}{hint}"
