"""Virtual time: the same algorithms with thousands of clients, and a clock that is computed.

What belongs here: the event queue, populations, random streams, the engine, and the executors that
train. What does not: what an update is worth (algorithms) and what is trained (task).
"""

from __future__ import annotations

from headway.observe import Comparison, Result
from headway.simulation import population
from headway.simulation.compare import Contender, compare
from headway.simulation.execution import Execution
from headway.simulation.population import Population
from headway.simulation.sampled import SimulatedStaleness
from headway.simulation.schedule import Every, every
from headway.simulation.serving import BusyServer
from headway.simulation.simulate import simulate
from headway.simulation.stop import Progress, Stop, Target, until

__all__ = [
    "BusyServer",
    "Comparison",
    "Contender",
    "Every",
    "Execution",
    "Population",
    "Progress",
    "Result",
    "SimulatedStaleness",
    "Stop",
    "Target",
    "compare",
    "every",
    "population",
    "simulate",
    "until",
]
