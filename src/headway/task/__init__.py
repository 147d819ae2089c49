"""What is trained: the same for the simulator, worker processes and the network.

Here belongs what a job is and how a client does it: :class:`Task`, :class:`LocalTraining` and the
contract :class:`Objective` that any other task fulfils too. Here does not belong who trains when
(:mod:`headway.simulation`, the runtimes), what an update is worth (:mod:`headway.algorithms`) or
where data come from (:mod:`headway.data`).
"""

from __future__ import annotations

from headway.task.chain import ClientChain
from headway.task.contract import (
    Assignment,
    Cancelled,
    LocalResult,
    LocalTrainer,
    Objective,
    Start,
    Stateful,
)
from headway.task.local import LocalTraining
from headway.task.metrics import LOSSES, METRICS
from headway.task.optimizers import OPTIMIZERS
from headway.task.supervised import Task

__all__ = [
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "Assignment",
    "Cancelled",
    "ClientChain",
    "LocalResult",
    "LocalTrainer",
    "LocalTraining",
    "Objective",
    "Start",
    "Stateful",
    "Task",
]
