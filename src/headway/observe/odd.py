"""Tensors that no sound update has, kept well enough that a replay refuses them for the same reason.

A careless worker may send a matrix, integers, or a tensor on another device. The server rejects it
and the log keeps it all the same: its bytes, and beside them the dtype and the shape. What is on
another device, or of a dtype whose bytes cannot be had, is kept as its description only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from headway.core.errors import LogDamagedError

__all__ = ["flatten", "restore"]

_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}
_PLAIN: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)


def flatten(tensor: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Any] | None]:
    """What to write for a tensor, and what to say of it if that is not the tensor itself.

    Args:
        tensor: Dense, of any dtype and shape, on any device.
        device: The server's.

    Returns:
        A flat tensor of a dtype that a payload file holds, and ``None`` or a plain tree from which
        :func:`restore` makes the tensor again.

    Example:
        >>> flatten(torch.ones(1, 2, dtype=torch.bool), torch.device("cpu"))
        (tensor([1, 1], dtype=torch.uint8), {'dtype': 'bool', 'shape': [1, 2], 'kept': True})
    """
    if tensor.dim() == 1 and tensor.dtype in _PLAIN and tensor.device == device:
        return tensor, None
    about = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if tensor.device == device:
        try:
            here = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            return here.view(torch.uint8), {**about, "kept": True}
        except (NotImplementedError, RuntimeError, TypeError):
            # Such as a quantized or sparse one, or of a class of somebody's own. Torch has no
            # narrower error for what a kind of tensor cannot do; the description is kept.
            pass
    return torch.empty(0, dtype=torch.uint8), {**about, "kept": False}


def restore(flat: Tensor, about: Mapping[str, Any] | None) -> Tensor:
    """The tensor behind what :func:`flatten` gave.

    Args:
        flat: What was written.
        about: What was said of it.

    Returns:
        The tensor. One that was not kept is on the ``meta`` device, where every server refuses it.

    Raises:
        LogDamagedError: The two do not fit each other.

    Example:
        >>> restore(*flatten(torch.eye(2, dtype=torch.int32), torch.device("cpu"))).tolist()
        [[1, 0], [0, 1]]
    """
    if about is None:
        return flat
    try:
        dtype, shape = _DTYPES[about["dtype"]], [int(size) for size in about["shape"]]
        if about["kept"]:
            return flat.view(dtype).reshape(shape)
        # No server has parameters of a dtype that cannot be made here.
        known = dtype if dtype in _PLAIN else torch.bool
        return torch.empty(shape, dtype=known, device="meta")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise LogDamagedError(
            "the description of a tensor does not fit it", got=repr(error)
        ) from error
