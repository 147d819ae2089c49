"""Judging a model on the test set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.task.metrics import METRICS, Loss, Metric, accuracy, bits
from headway.task.randomness import own_randomness

if TYPE_CHECKING:
    from headway.core import Buffers
    from headway.task.replica import Replica

__all__ = ["Evaluator", "choose_metrics"]


def choose_metrics(
    metrics: str | Sequence[str] | Mapping[str, Metric],
    loss: Loss,
    *,
    where: str = "Task(metrics=...)",
) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """Divide metrics into means over examples and functions of all outputs.

    Args:
        metrics: Names, or a mapping of name to function.
        loss: What ``"loss"`` stands for.
        where: The argument that errors name.

    Returns:
        Those that are averaged over batches, and those that need all outputs at once.

    Raises:
        UnknownNameError: No metric of this name.
        ConfigurationError: There are none.
        ArgumentTypeError: Not a name or function where one is due.
    """
    if not metrics:
        raise ConfigurationError("at least one metric is needed", where=where, got=repr(metrics))
    if isinstance(metrics, Mapping):
        for name, metric in metrics.items():
            if not isinstance(name, str):
                raise ArgumentTypeError("a metric's name is text", where=where, got=repr(name))
            if not callable(metric):
                raise ArgumentTypeError(
                    f"metric `{name}` is not a function", where=where, got=metric
                )
        return {}, dict(metrics)
    if not isinstance(metrics, Iterable):
        raise ArgumentTypeError(
            "that is no choice of metrics",
            where=where,
            got=repr(metrics),
            expected="a name, a list of names, or a mapping of names to functions",
            help='write metrics=["accuracy", "loss"]',
        )
    known: dict[str, Metric] = {"accuracy": accuracy, "bits": bits, "loss": loss}
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in list(known):
            raise UnknownNameError.of("metric", str(name), METRICS, where=where)
    return {name: known[name] for name in names}, {}


@final
class Evaluator:
    """Judges models on one device, with one reused module.

    Args:
        replica: The module; it is put into eval mode.
        test: Inputs and targets, moved to the device once.
        batch_size: Examples in a forward pass.
        means: Metrics whose mean over batches, weighted by their size, is right.
        wholes: Metrics that get all outputs and targets at once.
    """

    def __init__(
        self,
        replica: Replica,
        test: tuple[Tensor, Tensor],
        *,
        batch_size: int,
        means: Mapping[str, Metric],
        wholes: Mapping[str, Metric],
    ) -> None:
        self._replica = replica
        self._replica.module.eval()
        self._device = replica.parameters.device
        inputs, targets = (part.to(self._device) for part in test)
        self._inputs = inputs.split(batch_size)
        self._batches = targets.split(batch_size)
        self._targets = targets
        self._means = means
        self._wholes = wholes

    def evaluate(self, parameters: Tensor, buffers: Buffers | None) -> dict[str, float]:
        """Return each metric's value.

        Args:
            parameters: Flat ``[num_params]``; copied.
            buffers: The model's buffers; copied.
        """
        self._replica.load(parameters, buffers)
        # Nothing in eval mode should be random; what is all the same gives the same each time.
        with torch.no_grad(), own_randomness(0, self._device):
            totals = dict.fromkeys(self._means, 0.0)
            outputs: list[Any] = []
            for inputs, targets in zip(self._inputs, self._batches, strict=True):
                # A copy, because a model may begin with an operation in place.
                output = self._replica.module(inputs.clone())
                for name, metric in self._means.items():
                    totals[name] += float(metric(output, targets)) * len(inputs)
                if self._wholes:
                    outputs.append(output)
            values = {name: total / len(self._targets) for name, total in totals.items()}
            return {**values, **self._whole(outputs)}

    def _whole(self, outputs: list[Tensor]) -> dict[str, float]:
        if not self._wholes:
            return {}
        together = torch.cat(outputs)
        functions: Mapping[str, Callable[[Tensor, Tensor], Any]] = self._wholes
        return {name: float(metric(together, self._targets)) for name, metric in functions.items()}
