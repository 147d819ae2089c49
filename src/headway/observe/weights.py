"""A model in one safetensors file, under the names that its module gives to its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headway.core.errors import HeadwayError, RunFolderError
from headway.core.layout import Buffers, Entry, ParameterLayout
from headway.observe import files

__all__ = ["Weights", "load_weights", "save_weights"]


class Weights(NamedTuple):
    """What a file of weights holds.

    Attributes:
        parameters: Flat, shape ``[num_params]``.
        layout: Names and shapes.
        buffers: Where the model has any.
    """

    parameters: Tensor
    layout: ParameterLayout
    buffers: Buffers | None


def save_weights(path: Path, weights: Weights, *, metadata: Mapping[str, str]) -> None:
    """Write a model in one step: the old file or the new one is there, whatever happens.

    Args:
        path: The file.
        weights: The model.
        metadata: Text to keep in the file's header, beside the layout.

    Raises:
        RunFolderError: It cannot be written.
    """
    layout = weights.layout
    named = layout.views(weights.parameters.detach().cpu())
    if weights.buffers is not None:
        named |= _views(layout.floating_buffers, weights.buffers.floating.detach().cpu())
        named |= _views(layout.integer_buffers, weights.buffers.integer.detach().cpu())
    header = {**metadata, "format": "pt", "layout": json.dumps(layout.describe())}
    with files.replacing(path) as temporary:
        try:
            save_file(named, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_weights(path: Path) -> Weights:
    """Read a model that :func:`save_weights` has written.

    Raises:
        RunFolderError: It cannot be read, or is not such a file.
    """
    with files.working_on(path, "read"):
        path.open("rb").close()
        try:
            with safe_open(path, framework="pt") as file:
                layout = ParameterLayout.from_description(json.loads(file.metadata()["layout"]))
                parameters = _gather(file, layout.parameters, layout.dtype)
                floating = _gather(file, layout.floating_buffers, layout.dtype)
                integer = _gather(file, layout.integer_buffers, torch.int64)
        except (
            HeadwayError,
            KeyError,
            RuntimeError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as error:
            raise RunFolderError(
                f"{path.name} is not a model that Headway has saved",
                where=str(path),
                got=str(error),
                help="restore the file, or make the run again",
            ) from error
    has_buffers = bool(layout.floating_buffers or layout.integer_buffers)
    return Weights(parameters, layout, Buffers(floating, integer) if has_buffers else None)


def _views(entries: tuple[Entry, ...], flat: Tensor) -> dict[str, Tensor]:
    return {e.name: flat[e.offset : e.stop].view(e.shape) for e in entries}


def _gather(file: Any, entries: tuple[Entry, ...], dtype: torch.dtype) -> Tensor:
    flat = torch.empty(entries[-1].stop if entries else 0, dtype=dtype)
    for entry in entries:
        tensor = file.get_tensor(entry.name)
        if tuple(tensor.shape) != entry.shape or tensor.dtype != dtype:
            raise ValueError(f"{entry.name} is {tensor.dtype}{list(tensor.shape)}")
        flat[entry.offset : entry.stop].view(entry.shape).copy_(tensor)
    return flat
