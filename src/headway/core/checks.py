"""What can be wrong with an update: each fault has its own code, and none is an exception."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from headway.core.context import Context
    from headway.core.update import Update

__all__ = ["FAULTS", "all_finite", "find_fault"]

FAULTS = {
    "unknown_worker": "no worker of this name has joined",
    "unknown_job": "this job was not given to this worker, or ended long ago",
    "cancelled": "the server had cancelled the job",
    "lost": "the worker had been declared lost",
    "future_version": "the base version is above the server's version",
    "wrong_version": "the base version is not the one that the job was given",
    "wrong_type": "the payload is not a dense tensor",
    "wrong_dtype": "the payload's dtype is not that of the parameters",
    "wrong_size": "the payload's length is not that of the parameters or the fragment",
    "wrong_device": "the payload is on another device than the parameters",
    "wrong_fragment": "the layout has no such fragment",
    "wrong_buffers": "the buffers' sizes or dtypes are not those of the server",
    "bad_weight": "the weight is negative or not finite",
    "bad_count": "num_examples or num_steps is negative",
    "not_finite": "the payload or the buffers contain NaN or infinity",
    "zero_weight": "the weight became 0: the update is worth nothing",
}
"""Reasons that the server itself gives for a rejection. Transforms add their own."""


def all_finite(vector: Tensor) -> bool:
    """Whether every element is finite, in one pass and without a temporary in the usual case.

    A sum is finite only if every term is, since NaN and infinity survive addition. The reverse
    fails only when finite terms overflow; then the elements are looked at one by one.
    """
    return isfinite(vector.sum().item()) or bool(torch.isfinite(vector).all())


def find_fault(update: Update, version: int, context: Context) -> str | None:
    """The first fault of an update that answers a known job; ``None`` when it is sound.

    Args:
        update: What arrived.
        version: The version that the job was given.
        context: Of the server.
    """
    if update.base_version != version:
        return "future_version" if update.base_version > context.version else "wrong_version"
    payload, parameters = update.payload, context.parameters
    if not isinstance(payload, Tensor) or payload.layout is not torch.strided:
        return "wrong_type"
    if payload.dtype is not parameters.dtype:
        return "wrong_dtype"
    fault = _size_fault(update, context)
    if fault is not None:
        return fault
    if payload.device != parameters.device:
        return "wrong_device"
    if not 0.0 <= update.weight < float("inf"):
        return "bad_weight"
    if update.num_examples < 0 or update.num_steps < 0:
        return "bad_count"
    if update.buffers is not None:
        fault = _buffer_fault(update, context)
        if fault is not None:
            return fault
    return None if all_finite(payload) else "not_finite"


def _size_fault(update: Update, context: Context) -> str | None:
    size = context.parameters.numel()
    if update.fragment is not None:
        if not 0 <= update.fragment < context.layout.num_fragments:
            return "wrong_fragment"
        span = context.layout.fragment(update.fragment)
        size = span.stop - span.start
    return None if update.payload.dim() == 1 and update.payload.numel() == size else "wrong_size"


def _buffer_fault(update: Update, context: Context) -> str | None:
    if context.buffers is None or update.buffers is None:
        return "wrong_buffers"
    for got, have in zip(update.buffers, context.buffers, strict=True):
        if got.shape != have.shape or got.dtype is not have.dtype:
            return "wrong_buffers"
    return None if all_finite(update.buffers.floating) else "not_finite"
