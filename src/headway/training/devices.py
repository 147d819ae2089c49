"""Where a worker trains."""

from __future__ import annotations

import logging
from typing import Final

import torch

from headway.core.errors import ConfigurationError

__all__ = ["usable_device"]

_LOG: Final = logging.getLogger("headway")


def usable_device(device: str | torch.device) -> torch.device:
    """The device that a worker trains on; the CPU, with a notice, where it is not on this machine.

    Args:
        device: Its name, or torch's own object.

    Raises:
        ConfigurationError: Torch knows no device of this name, or nothing can be computed on it.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _unusable(device, "torch knows no device of this name") from error
    if found.type == "meta":
        raise _unusable(device, "it holds no numbers, so nothing trains there")
    try:
        torch.empty(1, device=found)
    # Torch has no error of its own for a device: a driver that fails is a RuntimeError, and where
    # CUDA was left out of the build it is an AssertionError.
    except (AssertionError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        _LOG.warning("Headway: training on the CPU; %s cannot be used here: %s", device, problem)
        return torch.device("cpu")
    return found


def _unusable(device: object, problem: str) -> ConfigurationError:
    return ConfigurationError(
        "this is no device to train on",
        where="AsyncWorker(device=...)",
        got=f"{device!r}: {problem}",
        expected='"cpu", "cuda", "cuda:1", "mps", ... or a torch.device',
        help='write device="cuda" for a GPU',
    )
