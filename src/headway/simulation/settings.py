"""What a run is made of, and the server that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from headway.core import Algorithm, Memory, ParameterLayout, Recording, Scheduler, Server
from headway.simulation.execution import Execution
from headway.simulation.population import Population
from headway.simulation.reference import reference_for
from headway.simulation.sampled import SimulatedStaleness
from headway.simulation.schedule import Every
from headway.simulation.serving import BusyServer
from headway.simulation.stop import Stop
from headway.task import Objective

__all__ = ["Settings", "server_for"]

_AUTO: Final = Execution()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is made of, all of it resolved and checked.

    Where the staleness is simulated, the algorithm already sends the older models.
    """

    task: Objective
    algorithm: Algorithm
    population: Population
    scheduler: Scheduler
    stop: Stop
    evaluate_every: Every
    seed: int
    device: torch.device
    record: Recording
    server: BusyServer | None = None
    execution: Execution = _AUTO
    staleness: SimulatedStaleness | None = None


def server_for(
    settings: Settings,
    memory: Callable[[ParameterLayout], Memory] | None = None,
    *,
    incarnation: int = 0,
) -> Server:
    """Make the server of a run, as it is before anything has happened.

    Replaying the run's log on it (:func:`headway.core.replay`) gives the run's model again.

    Args:
        settings: Of the run.
        memory: Makes where parameters and snapshots of a layout lie; by default in memory of
            this process.
        incarnation: Which life of the server this is, part of every job's id.
    """
    start = settings.task.start(settings.seed, settings.device)
    reference = reference_for(settings.task, settings.algorithm)
    server = Server(
        start.parameters,
        settings.algorithm,
        layout=start.layout,
        scheduler=settings.scheduler,
        buffers=start.buffers,
        seed=settings.seed,
        record=settings.record,
        reference_gradient=reference,
        incarnation=incarnation,
        memory=None if memory is None else memory(start.layout),
    )
    if reference is not None:
        reference.server = server
    return server
