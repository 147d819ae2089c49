"""What can be wrong with an update: each fault has its own code, and none is an exception."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan, sqrt
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headway.core.layout import Buffers
from headway.core.update import NO_METRICS, Update

if TYPE_CHECKING:
    from headway.core.context import Context

__all__ = ["FAULTS", "all_finite", "find_fault", "readable"]

_FEW = 32
_COUNT_LIMIT = 1 << 40
_STRIDED = torch.strided

FAULTS = {
    "unknown_worker": "the server knows no worker of this name, or was restarted and has forgotten it",
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
    "wrong_buffers": "the buffers' sizes, dtypes or device are not those of the server",
    "bad_weight": "the weight is negative, not a number, or above the root of the largest float",
    "bad_count": "num_examples or num_steps is not an int from 0 to 2**40 - 1",
    "not_finite": "the payload or the buffers contain NaN or infinity",
    "mean_not_finite": "finite updates add up to a mean that is not: the flush is thrown away",
    "zero_weight": "the weight became 0: the update is worth nothing",
    "transform_failed": "a transform or the step raised an exception",
}
"""Reasons that the server itself gives for a rejection. Transforms add their own."""


def all_finite(vector: Tensor) -> bool:
    """Whether every element is finite, in one pass and without a temporary in the usual case.

    A sum is finite only if every term is, since NaN and infinity survive addition. The reverse
    fails only when finite terms overflow; then the elements are looked at one by one.
    """
    if vector.numel() <= _FEW:
        # Two calls of torch take longer than adding up a few numbers here.
        return isfinite(sum(vector.tolist())) or bool(torch.isfinite(vector).all())
    return isfinite(vector.sum().item()) or bool(torch.isfinite(vector).all())


def readable(update: Update) -> Update:
    """The update with each field of its own type: itself, where that is so already.

    A careless worker can put anything anywhere. What has a plain meaning is converted (the numbers
    of numpy; a payload that autograd still tracks is detached), what has none becomes a value that
    :func:`find_fault` refuses, and a metric that is not a number becomes NaN. So nothing after this
    looks at types, and the event can be written as JSON and replayed. What only the server's own
    transforms may set (``contributions``, ``learning_rate``) is ignored.
    """
    # Taken apart once, because this runs for every update that arrives.
    payload: Any
    (
        payload,
        base,
        worker,
        sequence,
        examples,
        steps,
        weight,
        fragment,
        buffers,
        metrics,
        contributions,
        learning_rate,
    ) = update
    if (
        type(sequence) is int
        and type(worker) is str
        and type(base) is int
        and type(examples) is int
        and type(steps) is int
        and type(weight) is float
        and isfinite(weight)
        and (fragment is None or type(fragment) is int)
        and contributions is None
        and learning_rate is None
        and isinstance(payload, Tensor)
        and payload.layout is _STRIDED
        and not payload.is_nested
        and not payload.requires_grad
        and (buffers is None or _are_buffers(buffers))
        and (metrics is NO_METRICS or _are_metrics(metrics))
    ):
        return update
    return _converted(update)


def _converted(update: Update) -> Update:
    worker: Any = update.worker
    weight = _number(update.weight)
    fields: dict[str, Any] = {
        "payload": update.payload.detach() if _is_dense(update.payload) else None,
        "base_version": _integer(update.base_version),
        "worker": str(worker) if isinstance(worker, str) else f"<{type(worker).__name__}>",
        "sequence": _integer(update.sequence),
        "num_examples": _integer(update.num_examples),
        "num_steps": _integer(update.num_steps),
        "weight": weight if isfinite(weight) else -1.0,
        "fragment": None if update.fragment is None else _integer(update.fragment),
        "buffers": None if update.buffers is None else _detached(update.buffers),
        "metrics": _numbers(update.metrics),
        "contributions": None,
        "learning_rate": None,
    }
    return update._replace(**fields)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def _are_buffers(buffers: Any) -> bool:
    return (
        isinstance(buffers, Buffers)
        and all(map(_is_dense, buffers))
        and not buffers.floating.requires_grad
    )


def _are_metrics(metrics: Any) -> bool:
    if type(metrics) is not dict:
        return False
    for name, value in metrics.items():
        if type(name) is not str or type(value) is not float:
            return False
    return True


def _detached(buffers: Any) -> Buffers:
    if isinstance(buffers, Buffers) and all(map(_is_dense, buffers)):
        return Buffers(buffers.floating.detach(), buffers.integer.detach())
    # No server has buffers of this dtype, so these are refused, here and in a replay.
    nothing = torch.empty(0, dtype=torch.bool)
    return Buffers(nothing, nothing)


def _numbers(metrics: Any) -> Mapping[str, float]:
    if isinstance(metrics, Mapping):
        return {str(name): _number(value) for name, value in metrics.items()}
    return NO_METRICS if metrics is None else {"unreadable_metrics": nan}


def _number(value: Any) -> float:
    try:
        # A numpy number or a tensor of one element, which ``float`` alone would warn about.
        plain = value.item() if hasattr(value, "item") else value
        return nan if isinstance(plain, str | bytes) else float(plain)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return nan


def _integer(value: Any) -> int:
    # True would be job 1, and one example.
    if isinstance(value, bool):
        return -1
    try:
        return index(value)
    except (TypeError, ValueError, RuntimeError):
        return -1


def find_fault(update: Update, version: int, context: Context) -> str | None:
    """The first fault of an update that answers a known job; ``None`` when it is sound.

    A weight may be at most ``sqrt(torch.finfo(dtype).max)``, about 1.8e19 for float32 and 256 for
    float16: torch refuses a factor that does not fit the dtype, and a rate or a number of examples
    is still to be multiplied with it.

    Args:
        update: What arrived, made :func:`readable`.
        version: The version that the job was given.
        context: Of the server.
    """
    if update.base_version != version:
        return "future_version" if update.base_version > context.version else "wrong_version"
    payload: Any = update.payload
    parameters = context.parameters
    if not isinstance(payload, Tensor):
        return "wrong_type"
    if payload.dtype is not parameters.dtype:
        return "wrong_dtype"
    if update.fragment is not None or payload.shape != parameters.shape:
        fault = _size_fault(update, context)
        if fault is not None:
            return fault
    if payload.device != parameters.device:
        return "wrong_device"
    weight = update.weight
    # Almost every weight is 1 or less, so that the limit is seldom looked up.
    if not 0.0 <= weight <= 1.0 and not 0.0 <= weight <= _weight_limit(parameters.dtype):
        return "bad_weight"
    if not (0 <= update.num_examples < _COUNT_LIMIT and 0 <= update.num_steps < _COUNT_LIMIT):
        return "bad_count"
    if update.buffers is not None:
        fault = _buffer_fault(update, context)
        if fault is not None:
            return fault
    return None if all_finite(payload) else "not_finite"


def _weight_limit(dtype: torch.dtype) -> float:
    return sqrt(torch.finfo(dtype).max)


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
        same = got.shape == have.shape and got.dtype is have.dtype and got.device == have.device
        if not same:
            return "wrong_buffers"
    return None if all_finite(update.buffers.floating) else "not_finite"
