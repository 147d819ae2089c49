"""What compression leaves out of an update stays with the worker, and goes with the next one."""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from headway.algorithms.arguments import check_count
from headway.core.errors import ArgumentTypeError, ConfigurationError, ProtocolError, StateError
from headway.runtime.compression.message import DTYPES, Codec, check_vector, says_not_finite

__all__ = ["ErrorFeedback"]

_ANY: Final = slice(None)


@final
class ErrorFeedback:
    r"""Send updates compressed, and what is lost in that with the next ones.

    .. math:: \text{send } C(x_t + e_t), \qquad e_{t+1} = x_t + e_t - C(x_t + e_t)

    and an update that the server rejects, or that is lost, returns: ``e <- e + C(...)``. So at any
    moment the sum of what was taken, what is on its way and ``e`` is the sum of all ``x``, up to
    rounding, and with plain SGD the server's parameters less the rate times ``e`` are those of a
    run without compression that was given the same gradients.

    For gradients and deltas, which add up; not for weights. An update that holds NaN or infinity is
    sent as such, so that the server can refuse it by name, and leaves ``e`` as it was.

    Memory: two vectors, and the compressed bytes of each update that is not settled.

    Args:
        codec: ``C``.
        num_params: The length of ``x``.
        dtype: Of ``x``. For bfloat16 ``e`` is float32.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.

    Example:
        >>> from headway import compression
        >>> feedback = ErrorFeedback(compression.topk(0.5), 2)
        >>> message = feedback.encode(1, torch.tensor([3.0, 1.0]))
        >>> feedback.residual
        tensor([0., 1.])
        >>> feedback.settled(1, taken=False)
        True
        >>> feedback.residual
        tensor([3., 1.])

    Source:
        Seide et al. 2014 (1-bit SGD); Stich et al. 2018, arXiv:1809.07599, algorithm 1;
        Karimireddy et al. 2019, arXiv:1901.09847. Returning what was not taken is ours.
    """

    def __init__(
        self, codec: Codec, num_params: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        if dtype not in DTYPES:
            raise ArgumentTypeError(
                "updates of this dtype cannot be compressed",
                got=dtype,
                expected="float32, float64 or bfloat16",
            )
        self._codec = codec
        self._dtype = dtype
        wide = torch.float32 if dtype is torch.bfloat16 else dtype
        self._residual = torch.zeros(check_count("num_params", num_params), dtype=wide)
        self._scratch = torch.empty_like(self._residual)
        self._sent: dict[int, tuple[memoryview, slice]] = {}

    @property
    def residual(self) -> Tensor:
        """``e``, read only: it changes with every call."""
        return self._residual

    @property
    def outstanding(self) -> tuple[int, ...]:
        """The jobs that are not settled, in the order in which they were sent."""
        return tuple(self._sent)

    def encode(self, job: int, vector: Tensor, *, span: slice | None = None) -> memoryview:
        """Write the update of a job, with what the earlier ones left out.

        Args:
            job: Its id, by which it is settled.
            vector: ``x``, flat; not written to.
            span: Where it belongs, for a fragment; ``None``: it is the whole.

        Returns:
            What to send. Keep it for as long as the update may have to be sent again.

        Raises:
            ArgumentTypeError: The vector is not one of this dtype on the CPU.
            ConfigurationError: It is of the wrong length; or the job was sent already.
        """
        where = _ANY if span is None else span
        residual, scratch = self._residual[where], self._scratch[where]
        self._check(job, vector, residual.numel())
        torch.add(residual, vector, out=scratch)
        message = self._codec.encode(scratch.to(self._dtype))
        if says_not_finite(message):
            return message
        self._read(message, residual)
        torch.sub(scratch, residual, out=residual)
        self._sent[job] = (message, where)
        return message

    def settled(self, job: int, taken: bool) -> bool:
        """Learn what became of an update; a second time changes nothing.

        Args:
            job: Its id.
            taken: Whether the server applied or holds it. If not, it was rejected or is lost, and
                its content goes with the next update.

        Returns:
            Whether it was outstanding.
        """
        sent = self._sent.pop(job, None)
        if sent is None:
            return False
        if not taken:
            message, where = sent
            self._read(message, self._scratch[where])
            self._residual[where].add_(self._scratch[where])
        return True

    def state_dict(self) -> dict[str, Any]:
        """The residual and what is outstanding, as tensors and ints."""
        sent = [
            [
                job,
                where.start,
                where.stop,
                torch.from_numpy(np.frombuffer(message, np.uint8).copy()),
            ]
            for job, (message, where) in self._sent.items()
        ]
        return {"residual": self._residual.clone(), "sent": sent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another left off; nothing has changed if this fails.

        Args:
            state: From :meth:`state_dict`, of one with the same codec, length and dtype.

        Raises:
            StateError: It does not fit.
        """
        try:
            residual = state["residual"]
            fits = (
                isinstance(residual, Tensor)
                and residual.shape == self._residual.shape
                and residual.dtype is self._residual.dtype
            )
            if not fits or not bool(torch.isfinite(residual).all()):
                raise ValueError("the residual")
            sent = {
                int(job): (memoryview(message.numpy().copy()), slice(start, stop))
                for job, start, stop, message in state["sent"]
            }
            for message, where in sent.values():
                self._read(message, self._scratch[where])
        except (AttributeError, KeyError, TypeError, ValueError, ProtocolError) as error:
            raise StateError(
                "this is not the state of such an error feedback",
                got=str(error).partition("\n")[0],
                help="load it into one with the same codec, length and dtype",
            ) from error
        self._residual.copy_(residual)
        self._sent = sent

    def _read(self, message: memoryview, out: Tensor) -> None:
        if out.dtype is self._dtype:
            self._codec.decode_into(message, out)
            return
        short = torch.empty(out.numel(), dtype=self._dtype)
        self._codec.decode_into(message, short)
        out.copy_(short)

    def _check(self, job: int, vector: Tensor, length: int) -> None:
        check_vector(vector)
        if vector.dtype is not self._dtype:
            raise ArgumentTypeError(
                "the update has another dtype", got=vector.dtype, expected=str(self._dtype)
            )
        if vector.numel() != length:
            raise ConfigurationError(
                "the update has the wrong length", got=vector.numel(), expected=str(length)
            )
        if job in self._sent:
            raise ConfigurationError(
                "the update of this job was sent already",
                got=job,
                help="send the same bytes again, or settle it first",
            )
