"""The gradients of many models of one architecture, as compiled code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from headway.task.metrics import Loss, mean_squared_error

__all__ = ["CompiledGradients", "padded_batch", "padded_lanes"]

_PER_EXAMPLE: Final[dict[Loss, Callable[..., Tensor]]] = {
    F.cross_entropy: F.cross_entropy,
    mean_squared_error: F.mse_loss,
}


def padded_batch(largest: int, batch_size: int | None) -> int:
    """The batch size that a group is filled up to, so that compiled code sees few shapes.

    Args:
        largest: The group's largest batch, at least 1.
        batch_size: The largest that there can be; ``None``: any.

    Example:
        >>> [padded_batch(n, 10) for n in (1, 3, 8, 9, 10)]
        [2, 4, 8, 10, 10]
    """
    # A size of 1 would be compiled as a constant, with other code than the rest.
    rounded = max(2, 1 << (largest - 1).bit_length())
    return rounded if batch_size is None else max(largest, min(batch_size, rounded))


def padded_lanes(lanes: int) -> int:
    """The number of lanes that so many are filled up to: at most a quarter more.

    A rule that looks at nothing else, so that a run that is resumed runs the same code.

    Args:
        lanes: At least 1.

    Example:
        >>> [padded_lanes(n) for n in (1, 3, 9, 50, 56, 57, 100, 128)]
        [2, 4, 10, 56, 56, 64, 112, 128]
    """
    step = max(2, 1 << max(0, lanes.bit_length() - 3))
    return -(-lanes // step) * step


@final
class CompiledGradients:
    """What ``torch.compile`` makes of a group's gradients, as long as it can.

    Each number of lanes and size of batch is compiled by itself, when it first comes. The first
    failure, say for want of a C++ compiler, ends it for good: one warning, and a reason.

    Args:
        call: ``(named parameters, inputs) -> outputs`` of one model.
        loss: Of the task.

    Attributes:
        obstacle: Why nothing is compiled; ``None``: it is, as far as is known.
    """

    def __init__(self, call: Callable[[dict[str, Tensor], Tensor], Any], loss: Loss) -> None:
        self._call = call
        self._loss = _PER_EXAMPLE.get(loss)
        self.obstacle: str | None = None
        if self._loss is None:
            self.refuse("not compiled: of this loss only the mean of a batch is known")
        lanes = vmap(grad_and_value(self._lane))
        # make_fx counts a method's self among the arguments.
        self._lanes = lambda named, fixed, x, y, w: lanes(named, fixed, x, y, w)
        self._compiled: dict[tuple[torch.Size, torch.Size], Any] = {}

    @property
    def num_shapes(self) -> int:
        """How many numbers of lanes and sizes of batch were compiled so far."""
        return len(self._compiled)

    def refuse(self, reason: str) -> None:
        """Compile nothing from here on.

        Args:
            reason: For the result.
        """
        self.obstacle = reason

    def __call__(
        self,
        trained: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> tuple[list[Tensor], Tensor] | None:
        """Gradients of the trained parameters and losses; ``None`` if that cannot be had.

        Args:
            trained: ``[lanes, *shape]`` each.
            fixed: Parameters that are not trained, likewise.
            inputs: ``[lanes, batch, *]``.
            targets: ``[lanes, batch, *]``.
            weights: ``[lanes, batch]``.
        """
        if self.obstacle is not None:
            return None
        arguments = trained, fixed, inputs, targets, weights
        shapes = inputs.shape, targets.shape
        try:
            with torch.no_grad():
                if shapes not in self._compiled:
                    self._compiled[shapes] = self._compile(arguments)
                gradients, losses = self._compiled[shapes](*arguments)
        except Exception as error:  # noqa: BLE001 (whatever it is, eager code will do or say it)
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.refuse(f"not compiled: {line}")
            warnings.warn(
                f"torch.compile failed, training goes on without it: {line}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return [gradients[name] for name in trained], losses

    def _compile(self, arguments: tuple[Any, ...]) -> Any:
        with warnings.catch_warnings():
            # Of torch's own old code, while it compiles.
            warnings.simplefilter("ignore")
            # A graph of its own for each shape, since dynamo keeps few forms of one function.
            compiled = torch.compile(make_fx(self._lanes)(*arguments), dynamic=False)
            compiled(*arguments)
        return compiled

    def _lane(
        self,
        trained: dict[str, Tensor],
        fixed: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        assert self._loss is not None
        found = self._loss(self._call({**trained, **fixed}, inputs), targets, reduction="none")
        if found.dim() > 1:
            found = found.flatten(1).mean(dim=1)
        return (found * weights).sum()
