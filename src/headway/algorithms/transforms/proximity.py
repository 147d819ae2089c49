"""The proximal term: local training that stays near the model it started from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from headway.algorithms.arguments import check_number

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Receipt

__all__ = ["proximal"]


@final
@dataclass(frozen=True, slots=True)
class _Proximal:
    rho: float

    def init(self, num_params: int, dtype: torch.dtype, device: torch.device) -> None:
        return

    def gradient(self, gradient: Tensor, parameters: Tensor, base: Tensor, state: None) -> None:
        # The difference first: added one by one, two large vectors would round a small gradient
        # away. In a temporary, because a state of this size would be kept for each client.
        gradient.add_(torch.sub(parameters, base), alpha=self.rho)

    def payload(self, payload: Tensor, state: None) -> Tensor:
        return payload

    def receipt(self, receipt: Receipt, state: None) -> None:
        return

    def __repr__(self) -> str:
        return f"proximal({self.rho})"


def proximal(rho: float) -> _Proximal:
    r"""Add a pull towards the start of the job to every local gradient.

    .. math:: \nabla f_i(y) \leftarrow \nabla f_i(y) + \rho\,(y - x_{v_i})

    This is the gradient of ``f_i(y) + ρ/2 ‖y - x_{v_i}‖²``, and to the bit what
    ``LocalTraining(proximal=ρ)`` adds. The gradient is changed in place.

    Memory: none between steps; one model copy during a step, where the difference stands.

    Args:
        rho: ``ρ``, at least 0; 0.005 to 0.01 are common.

    Raises:
        ConfigurationError: It is negative.

    Example:
        >>> proximal(0.01)
        proximal(0.01)

    Source:
        arXiv:1903.03934 (FedAsync); arXiv:1812.06127 (FedProx).
    """
    return _Proximal(check_number("rho", rho))
