"""Servers and workers in one process, on data whose gradients can be written down."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

import headway
from headway.runtime import wire
from headway.runtime.encoded import Traffic
from headway.runtime.parcel import Parcel
from headway.training.history import History

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


def batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of the regression, in their order."""
    inputs, targets = regression()
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def train(
    at: headway.ParameterServer,
    *,
    size: int = 6,
    worker: dict[str, Any] | None = None,
    **options: Any,
) -> History:
    """Train there on the regression, by the mean squared error and in the order of the examples.

    Args:
        at: The server.
        size: Examples in a batch.
        worker: Options of the worker.
        options: Of its training.
    """
    options = {"dataset": regression(), "loss_fn": "mse", "shuffle": False, **options}
    who = headway.AsyncWorker(at.address, local_batch_size=size, **(worker or {}))
    return who.train(**options)


def load_in_processes(address: str) -> None:
    """What a process of its own does: it trains with loaders that read in two more each.

    Args:
        address: Of a server of a line.
    """
    os.setsid()
    sgd = headway.optim.SGD(lr=0.01)
    data = torch.utils.data.TensorDataset(*regression())
    worker = headway.AsyncWorker(address, shared_memory=False)
    # Some loaders keep their processes for the next pass, and one pass ends in its middle.
    for epochs, keeps in ((1, False), (0.5, False), (2, True)):
        loader = torch.utils.data.DataLoader(
            data, batch_size=6, shuffle=True, num_workers=2, persistent_workers=keeps
        )
        history = worker.train(dataloader=loader, epochs=epochs, loss_fn="mse", optimizer=sgd)
        assert history.updates == 4 * epochs, history
        assert history.traffic["bytes_up"] > 0, history.traffic
        del loader
        assert multiprocessing.active_children() == []


def loss(of: headway.ParameterServer) -> float:
    """The mean squared error of the server's model."""
    inputs, targets = regression()
    return torch.nn.functional.mse_loss(of.model(inputs), targets).item()


class Signals:
    """A loss that sends this process a signal when it is computed for the third time."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.calls = 0

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), self.number)
        return torch.nn.functional.mse_loss(outputs, targets)


def weights(of: headway.ParameterServer) -> torch.Tensor:
    return of.model.weight.detach().flatten()


class Raw:
    """A worker that says what it likes, by the hub's own doors; it keeps what it is told."""

    carrier = "inline"

    def __init__(self, at: headway.ParameterServer, name: str = "", instance: str = "i") -> None:
        assert at._hub is not None
        self.hub = at._hub
        self.traffic = Traffic()
        self.got: queue.Queue[wire.ToWorker] = queue.Queue()
        self.say(join=wire.Join(protocol=wire.PROTOCOL, worker=name, instance=instance))
        self.name = self.hear().welcome.worker

    def send(self, header: wire.ToWorker, vector: Any = None, buffers: Any = None) -> None:
        self.got.put(header)
        if header.HasField("stop"):
            self.hub.gone(self)

    def welcome(self, header: wire.ToWorker) -> None:
        self.got.put(header)

    def close(self) -> None:
        pass

    def hear(self) -> wire.ToWorker:
        """The next thing that it was told."""
        return self.got.get(timeout=WAIT_S)

    def say(self, vector: Any = None, **told: Any) -> None:
        """Say something; when this returns, the hub has taken it."""
        parcel = Parcel(wire.ToServer(**told), vector)
        # The turn in which it was taken has its end before the next one.
        self.hub.call(lambda: self.hub.take(self, parcel), WAIT_S)
        self.hub.call(lambda: None, WAIT_S)

    def ask(self) -> wire.ToWorker:
        """Ask for a job: the answer."""
        self.say(ask=wire.Ask())
        return self.hear()

    def push(self, job: wire.Job, **told: Any) -> wire.ToWorker:
        """Hand in an update of it: the answer."""
        vector = torch.zeros_like(self.hub.server.parameters)
        told = {"num_examples": 1, "num_steps": 1, "base_version": job.version, **told}
        self.say(vector, push=wire.Push(job=job.id, **told))
        return self.hear()

    def work(self, **told: Any) -> wire.ToWorker:
        """Ask for a job, and hand in an update of it: what was said of that."""
        return self.push(self.ask().job, **told)


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
