"""How a run on this machine goes on from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from headway.observe import weights_hash
from headway.observe.folder import free_part
from headway.simulation.settings import Settings, server_for
from headway.task.fingerprint import Fingerprinted
from headway.training.home import Home
from headway.training.saving import Keeper

__all__ = ["Saved", "free_part", "keeper_for"]


class Saved(NamedTuple):
    """Where a run's checkpoints go.

    Attributes:
        folder: The folder.
        every: The distance between two, in versions, at least 1.
    """

    folder: Path
    every: int


def keeper_for(settings: Settings, saved: Saved, beside: Callable[[], Mapping[str, Any]]) -> Keeper:
    """Make what writes a run's checkpoints, and finds the one to go on from.

    Args:
        settings: What is run. Its task, algorithm and seed have to be those of the checkpoint.
        saved: Where, and how often.
        beside: Makes what else is to be in a checkpoint.
    """
    task = settings.task
    server = server_for(replace(settings, device=torch.device("cpu")))
    about = {
        "task": task.describe(),
        "seed": settings.seed,
        "initial_weights": weights_hash(server.parameters, server.buffers),
        "data": task.data_fingerprint() if isinstance(task, Fingerprinted) else "",
    }
    home = Home(saved.folder, settings.algorithm, server.layout, "checkpoint", about)
    return Keeper(home, saved.every, beside)
