"""``torch.distributed.rpc``: a process with the weights, and one that takes gradients and calls it."""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings

import torch
import torch.distributed.rpc as rpc
import torch.multiprocessing as processes
from steps_work import Server, Worker, loss_at
from torch import Tensor
from workload import Turns

SERVER: list[Server] = []


def weights() -> Tensor:
    """In the server's process."""
    if not SERVER:
        SERVER.append(Server())
    return SERVER[0].weights


def apply(gradient: Tensor) -> Tensor:
    """In the server's process; one worker, so that one call at a time is under way."""
    return SERVER[0].apply(gradient)


def updates() -> int:
    """In the server's process."""
    return SERVER[0].updates


def join(rank: int, port: int) -> None:
    """Both call this."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # Torch itself uses what it has deprecated.
    warnings.simplefilter("ignore")
    rpc.init_rpc(("server", "worker")[rank], rank=rank, world_size=2)


def serve(port: int) -> None:
    """The server's process."""
    torch.set_num_threads(1)
    join(0, port)
    rpc.shutdown()


def main(steps: int) -> None:
    turns = Turns()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = processes.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    join(1, port)
    worker, before = Worker(), 0
    turns.say(version=f"torch {torch.__version__}")
    while turns.wait():
        begin = time.perf_counter()
        now = rpc.rpc_sync("server", weights)
        for _ in range(steps):
            now = rpc.rpc_sync("server", apply, args=(worker.gradient(now),))
        seconds = time.perf_counter() - begin
        after = rpc.rpc_sync("server", updates)
        turns.say(steps=after - before, seconds=seconds)
        before = after
    turns.say(loss=loss_at(rpc.rpc_sync("server", weights)))
    rpc.shutdown()
    process.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
