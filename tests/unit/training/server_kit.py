"""Servers and workers in one process, on data whose gradients can be written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

import headway

WAIT_S = 20.0
"""Longer than anything here takes on a busy machine."""


def server(model: Any, **options: Any) -> headway.ParameterServer:
    return headway.ParameterServer(model, port=0, **options)


def worker(at: headway.ParameterServer, **options: Any) -> headway.AsyncWorker:
    return headway.AsyncWorker(at.address, **options)


def line(values: Sequence[float] = (0.0, 0.0), dtype: torch.dtype = torch.float64) -> Any:
    """A linear model without bias, with these weights."""
    module = torch.nn.Linear(len(values), 1, bias=False, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return module


def regression(count: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64)


def gradient(weights: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of the mean squared error, written out."""
    return 2.0 / len(inputs) * (inputs @ weights - targets.squeeze(1)) @ inputs


def weights(of: headway.ParameterServer) -> torch.Tensor:
    return of.model.weight.detach().flatten()


class Threads:
    """Runs workers beside each other, and raises what one of them raised."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def go(self, function: Callable[[], Any]) -> None:
        number = len(self._threads)

        def run() -> None:
            try:
                self.results[number] = function()
            except BaseException as error:  # noqa: BLE001 (raised by join)
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> list[Any]:
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        if self.errors:
            raise self.errors[0]
        return [self.results[number] for number in range(len(self._threads))]
