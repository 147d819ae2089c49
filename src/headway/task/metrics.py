"""Losses and metrics that are known by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError

__all__ = [
    "LOSSES",
    "METRICS",
    "Loss",
    "Metric",
    "accuracy",
    "bits",
    "choose_loss",
    "mean_squared_error",
]

Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Any]


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of ``(outputs - targets)**2`` over all elements.

    Args:
        outputs: ``[n, *]``.
        targets: The same shape.

    Raises:
        ConfigurationError: Shapes that differ; broadcasting would give a wrong number.

    Example:
        >>> mean_squared_error(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)).item()
        5.0
    """
    if outputs.shape != targets.shape:
        raise ConfigurationError(
            "outputs and targets must have one shape",
            where="loss `mse`",
            got=f"outputs {list(outputs.shape)}, targets {list(targets.shape)}",
            help="reshape the targets, for example targets.unsqueeze(1)",
        )
    return F.mse_loss(outputs, targets)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of examples whose largest output is that of the target class.

    Args:
        outputs: ``[n, classes, *]``.
        targets: Class numbers ``[n, *]``.

    Raises:
        ConfigurationError: Shapes that are not those of a classification.

    Example:
        >>> outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 9.0]])
        >>> accuracy(outputs, torch.tensor([0, 1, 1, 1])).item()
        0.75
    """
    if outputs.dim() < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        raise ConfigurationError(
            "accuracy needs one output per class and one class number per example",
            where="metric `accuracy`",
            got=f"outputs {list(outputs.shape)}, targets {list(targets.shape)}",
            expected="outputs [n, classes], targets [n]",
            help="leave it out with metrics=('loss',), or give a mapping of name to function",
        )
    return (outputs.argmax(dim=1) == targets).to(torch.float64).mean()


def bits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in bits: for a model of bytes, the bits it needs for a byte.

    Args:
        outputs: Logits ``[n, classes, *]``.
        targets: Class numbers ``[n, *]``.

    Example:
        >>> bits(torch.zeros(3, 256, 5), torch.zeros(3, 5, dtype=torch.int64)).item()
        8.0
    """
    return F.cross_entropy(outputs, targets) / math.log(2.0)


LOSSES: Final[Mapping[str, Loss]] = {"cross_entropy": F.cross_entropy, "mse": mean_squared_error}
"""Losses by name; each returns the mean over the batch."""

METRICS: Final = ("accuracy", "bits", "loss")
"""Metrics by name; ``"loss"`` is the task's own."""


def choose_loss(loss: str | Loss, *, where: str = "Task(loss=...)") -> Loss:
    """Find a loss by name, or take a function as it is.

    Args:
        loss: A name of :data:`LOSSES`, or a function.
        where: The argument that errors name.

    Raises:
        UnknownNameError: No loss of this name.
        ArgumentTypeError: Neither a name nor a function.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise UnknownNameError.of("loss", loss, LOSSES, where=where)
        return LOSSES[loss]
    if not callable(loss):
        raise ArgumentTypeError(
            "that is not a loss",
            where=where,
            got=repr(loss),
            expected="a name, or a function (outputs, targets) -> mean loss",
        )
    return loss
