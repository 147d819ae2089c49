"""Compression within an algorithm's client chain, so that a simulation shows what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from headway.core import Receipt
from headway.core.errors import ConfigurationError
from headway.runtime.compression.feedback import ErrorFeedback
from headway.runtime.compression.message import Codec

__all__ = ["CompressedPushes", "compressed_pushes"]


@dataclass(slots=True)
class CompressedPushes:
    """What a worker has sent.

    Attributes:
        feedback: Its residual; ``None``: what is left out is lost.
        sent: How many updates.
        sent_bytes: Their messages' bytes.
    """

    feedback: ErrorFeedback | None
    sent: int = 0
    sent_bytes: int = 0


@final
@dataclass(frozen=True, slots=True)
class _Compress:
    codec: Codec
    feedback: bool = field(kw_only=True)

    def init(self, num_params: int, dtype: torch.dtype, device: torch.device) -> CompressedPushes:
        if device.type != "cpu":
            raise ConfigurationError("compression works on the CPU", got=device)
        feedback = ErrorFeedback(self.codec, num_params, dtype=dtype) if self.feedback else None
        return CompressedPushes(feedback)

    def gradient(
        self, gradient: Tensor, parameters: Tensor, base: Tensor, state: CompressedPushes
    ) -> None:
        return

    def payload(self, payload: Tensor, state: CompressedPushes) -> Tensor:
        feedback = state.feedback
        if feedback is None:
            message = self.codec.encode(payload)
        else:
            for job in feedback.outstanding:
                # There was no receipt: it is lost.
                feedback.settled(job, taken=False)
            message = feedback.encode(state.sent, payload)
        state.sent += 1
        state.sent_bytes += len(message)
        read = torch.empty_like(payload)
        self.codec.decode_into(message, read)
        return read

    def receipt(self, receipt: Receipt, state: CompressedPushes) -> None:
        if state.feedback is not None:
            for job in state.feedback.outstanding:
                state.feedback.settled(job, taken=receipt.status != "rejected")

    def __repr__(self) -> str:
        return f"compressed_pushes({self.codec!r}, feedback={self.feedback})"


def compressed_pushes(codec: Codec, *, feedback: bool = True) -> _Compress:
    """Let the clients of an algorithm send what a server would read of a compressed update.

    It belongs at the end of :attr:`headway.core.Algorithm.client`, whose payload must be gradients
    or deltas: ``dataclasses.replace(algorithm, client=(*algorithm.client, compressed_pushes(...)))``.

    Memory: two vectors per client with feedback.

    Args:
        codec: What compresses.
        feedback: Whether clients keep what was left out for the next update.

    Example:
        >>> from headway import compression
        >>> compressed_pushes(compression.bf16())
        compressed_pushes(bf16(), feedback=True)
    """
    return _Compress(codec, feedback=feedback)
