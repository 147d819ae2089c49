"""Ray's parameter-server pattern: an actor with the weights, one that takes gradients, a driver."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import ray
import torch
from steps_work import Server, Worker, loss_at
from workload import Turns


@ray.remote(num_cpus=1)
class RayServer:
    """The server as an actor; vectors travel as arrays, which Ray does not pickle."""

    def __init__(self) -> None:
        self._server = Server()

    def apply(self, gradient: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # What Ray gives out cannot be written to, which torch would warn of.
        return self._server.apply(torch.from_numpy(gradient.copy())).numpy()

    def weights(self) -> np.ndarray[Any, Any]:
        return self._server.weights.numpy()

    def updates(self) -> int:
        return self._server.updates


@ray.remote(num_cpus=1)
class RayWorker:
    """The worker as an actor."""

    def __init__(self) -> None:
        self._worker = Worker()

    def gradient(self, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._worker.gradient(torch.from_numpy(weights.copy())).numpy()


def main(steps: int) -> None:
    turns = Turns()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    server, worker = RayServer.remote(), RayWorker.remote()
    before = ray.get(server.updates.remote())
    turns.say(version=f"ray {ray.__version__}")
    while turns.wait():
        begin = time.perf_counter()
        weights = server.weights.remote()
        for _ in range(steps):
            weights = server.apply.remote(worker.gradient.remote(weights))
            # As in Ray's example of an asynchronous server: the driver waits for each gradient.
            ray.wait([weights])
        after = ray.get(server.updates.remote())
        turns.say(steps=after - before, seconds=time.perf_counter() - begin)
        before = after
    turns.say(loss=loss_at(torch.from_numpy(ray.get(server.weights.remote()).copy())))
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
