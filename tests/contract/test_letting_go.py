"""What a server and its workers shared is given back without the collector of cycles."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from pathlib import Path

import pytest
import torch

import headway

MAPS = Path("/proc/self/maps")
PATIENCE_S = 60.0


def held():
    """How many segments are mapped here, and how many files are open."""
    segments = sum("/headway-" in line for line in MAPS.read_text().splitlines())
    return segments, len(os.listdir("/proc/self/fd"))


def serve():
    """A server with two workers, from its start to its end."""
    inputs = torch.randn(64, 3)
    data = inputs, inputs.sum(1, keepdim=True)
    with headway.ParameterServer(torch.nn.Linear(3, 1), port=0) as server:

        def work():
            worker = headway.AsyncWorker(server.address)
            worker.train(dataset=data, optimizer=headway.optim.SGD(lr=0.1), loss_fn="mse")

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE_S)
        assert held()[0]
    return [weakref.ref(part) for part in (server, server._hub, server._network)]


@pytest.mark.skipif(not MAPS.exists(), reason="needs the kernel's own list of mappings")
def test_nothing_stays_until_the_collector_comes():
    serve()
    gc.collect()
    before = held()
    gc.disable()
    try:
        parts = serve()
        # gRPC's own thread may need a moment to let go of its server.
        for _ in range(500):
            if held()[0] <= before[0] and not any(part() for part in parts):
                break
            threading.Event().wait(0.01)
        assert [part() for part in parts] == [None] * 3
        segments, files = held()
    finally:
        gc.enable()
    assert segments <= before[0]
    assert files <= before[1] + 1
