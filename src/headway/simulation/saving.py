"""A simulation between two of its events, as a plain tree, and back.

Everything that a run's future depends on is here, but for what its settings make again: the task,
the streams of random numbers (a number is a function of its job, so there is no generator), and the
models that jobs in flight started from, which are the server's and the workers' own.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from headway.core import Buffers, WorkOrder, tree
from headway.core.errors import StateError
from headway.observe import Point
from headway.simulation.executor import Given
from headway.simulation.flight import Flight
from headway.simulation.stop import Progress
from headway.task.contract import Stateful

if TYPE_CHECKING:
    from headway.simulation.engine import Engine

__all__ = ["dump", "load"]

_FORM: Final = 3


def dump(engine: Engine) -> dict[str, Any]:
    """Take down a run between two events.

    Args:
        engine: It has begun, and carries out no event at present.

    Returns:
        A plain tree that shares no memory with it. The events of the log are not in it.

    Raises:
        StateError: A part of the run has a state that cannot be saved.
    """
    progress = asdict(engine.progress)
    return {
        "form": _FORM,
        "server": engine.server.state_dict(),
        "queue": engine.queue.state_dict(),
        "tally": engine.tally.state_dict(),
        "executor": engine.executor.state_dict(),
        "flights": [
            [job, *flight._replace(work=list(flight.work))]  # type: ignore[arg-type]
            for job, flight in engine._flights.items()
        ],
        "num_timers": engine._num_timers,
        "parts": {name: part.state_dict() for name, part in _parts(engine).items()},
        "progress": {**progress, "metrics": tree.dump(dict(progress["metrics"]))},
        "history": [[*p[:-1], tree.dump(dict(p.metrics))] for p in engine.history],
        "next_versions": engine._next_versions,
        "warnings": list(engine.warnings),
        "ailing": sorted(engine._ailing),
        "in_a_row": engine._in_a_row,
        "lost_in_a_row": engine._lost_in_a_row,
    }


def load(engine: Engine, state: dict[str, Any]) -> None:
    """Make a fresh engine the one that was taken down.

    Args:
        engine: Of the same settings. It has not begun, and shall only :meth:`~Engine.run` now.
        state: From :func:`dump`.

    Raises:
        StateError: It is not such a state, or of another run. The engine is of no use then.
    """
    try:
        if state["form"] != _FORM:
            raise StateError("this run was saved in another form", got=f"form {state['form']}")
        engine.server.load_state_dict(state["server"])
        _load_parts(engine, state["parts"])
        engine.queue.load_state_dict(state["queue"])
        engine.tally.load_state_dict(state["tally"])
        engine.executor.load_state_dict(state["executor"], _given(engine))
        engine._flights = {job: _flight(values) for job, *values in state["flights"]}
        engine._num_timers = int(state["num_timers"])
        _load_progress(engine, state)
        engine._next_versions = int(state["next_versions"])
        engine.warnings = list(state["warnings"])
        engine._ailing, engine._in_a_row = set(state["ailing"]), int(state["in_a_row"])
        engine._lost_in_a_row = int(state["lost_in_a_row"])
    except StateError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise StateError(
            "the saved run is damaged, or was saved by another version of Headway",
            got=repr(error),
            help="use an older checkpoint, or start anew",
        ) from error


def _parts(engine: Engine) -> dict[str, Stateful]:
    """What only some runs have. A population, a trainer or a line without a state is not here."""
    parts = {
        "trainer": engine.trainer,
        "population": engine._times,
        "replicas": engine._replicas,
        "line": engine.line,
        "attendance": engine.attendance,
    }
    return {name: part for name, part in parts.items() if isinstance(part, Stateful)}


def _load_parts(engine: Engine, saved: dict[str, Any]) -> None:
    parts = _parts(engine)
    if parts.keys() != saved.keys():
        raise StateError(
            "the saved run is not like this one",
            got=", ".join(saved) or "no parts with a state",
            expected=", ".join(parts) or "none",
            help="load it with the settings that it was saved with",
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])


def _given(engine: Engine) -> Given:
    server, replicas = engine.server, engine._replicas

    def given(job: int, client: int) -> tuple[Tensor, Buffers | None]:
        parameters, buffers = server.given(job)
        if replicas is not None:
            parameters = replicas.of(client)
        assert parameters is not None, "only a view can send nothing"
        return parameters, buffers

    return given


def _flight(values: list[Any]) -> Flight:
    flight = Flight(*values)
    return flight._replace(work=WorkOrder(*flight.work))


def _load_progress(engine: Engine, state: dict[str, Any]) -> None:
    progress = Progress(**state["progress"])
    progress.metrics = tree.copy(progress.metrics)
    engine.progress = progress
    engine.history = [Point._make(tree.copy(values)) for values in state["history"]]
    # The clock on the wall goes on from where it stood.
    engine._started_at = time.perf_counter() - progress.wall_time_s
    # Due already where an interruption came with the last event.
    engine._end = None if engine._stop is None else engine._stop.reason(progress)
