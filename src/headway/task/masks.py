"""Dropout for many jobs at once, each with the masks that it would have drawn alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headway.task.overlap import moved
from headway.task.randomness import model_generator

__all__ = ["MaskedDropout", "Masks", "masked"]


class MaskedDropout(nn.Module):
    """Multiplies by a mask that comes from outside, and is scaled already.

    Attributes:
        p: The probability of 0.
        mask: What it multiplies by; replaced for each call.
        shape: Of one example, as it was last seen.
    """

    mask: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.shape: tuple[int, ...] = ()
        self.register_buffer("mask", torch.ones(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        self.shape = tuple(inputs.shape[1:])
        return inputs * self.mask


def masked(module: nn.Module) -> list[tuple[str, MaskedDropout]]:
    """Put :class:`MaskedDropout` in the place of every ``nn.Dropout``, in place.

    Returns:
        The names of the mask buffers, and the modules, in the order of the module tree.
    """
    found: list[tuple[str, MaskedDropout]] = []
    for name, child in list(module.named_modules()):
        if type(child) is nn.Dropout and child.p > 0.0:
            replacement = MaskedDropout(child.p)
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, replacement)
            found.append((f"{name}.mask" if name else "mask", replacement))
    return found


class Masks:
    """Draws the masks of a group's jobs from each job's own stream.

    Args:
        layers: From :func:`masked`, in the order in which the model calls them.
        seeds: Of the jobs.
        dtype: Of the model.
        device: Of the model.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, MaskedDropout]],
        seeds: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layers = layers
        self._generators = [model_generator(seed) for seed in seeds]
        self._dtype, self._device = dtype, device

    def draw(self, counts: Sequence[int], size: int) -> dict[str, Tensor]:
        """The masks of the next step, ``[jobs, size, *]`` by buffer name.

        Args:
            counts: The size of each job's batch; 0 for those that are through.
            size: What batches are filled up to.
        """
        masks = {
            name: torch.zeros(len(counts), size, *layer.shape, dtype=self._dtype)
            for name, layer in self._layers
        }
        for index, count in enumerate(counts):
            if count:
                for name, layer in self._layers:
                    # As torch's own dropout on the CPU draws it.
                    drawn = torch.empty(count, *layer.shape, dtype=self._dtype)
                    drawn.bernoulli_(1.0 - layer.p, generator=self._generators[index])
                    masks[name][index, :count] = drawn.div_(1.0 - layer.p)
        return {name: moved(mask, self._device) for name, mask in masks.items()}
