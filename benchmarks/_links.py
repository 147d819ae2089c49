"""A server in a process of its own that exchanges vectors by any of the links, and workers of it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

import headway
from headway import algorithms, core
from headway.algorithms.transforms import server_step
from headway.observe.closing import Closing
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange, Work
from headway.runtime.hub import Hub
from headway.runtime.local import LocalLink, LocalSession
from headway.runtime.loop import SPIN_S
from headway.runtime.network import NetworkServer
from headway.runtime.parcel import WorkerLink
from headway.runtime.porter import Porter
from headway.runtime.segments import Segments, SharedMemory, machine
from headway.runtime.timeouts import Timeouts

LINKS = ("local", "gRPC, shared memory", "gRPC, inline")
RULES = ("nothing", "async_sgd")
PATIENCE_S = 120.0
Durability = Literal["checkpoint", "log"]


class Nothing:
    """Drops every update, after the server has looked at it."""

    needs = core.Needs()

    def init(self, context: core.Context) -> None:
        """It keeps nothing."""

    def apply(self, update: core.Update, state: None, context: core.Context) -> core.Dropped:
        """Drop it."""
        return core.Dropped("nothing_to_do")


def algorithm_for(rule: str) -> core.Algorithm:
    """What the server does with an update."""
    if rule == "async_sgd":
        return algorithms.async_sgd(learning_rate=1e-6)
    step = server_step(partial(torch.optim.SGD, lr=1.0))
    return core.Algorithm(name="nothing", payload="gradient", chain=(Nothing(),), step=step)


def serve(
    control: Connection, pipes: list[Connection], size: int, rule: str, spin_s: float
) -> None:
    """What the server's process does: it listens, and takes workers at the pipes.

    Args:
        control: It is told the address, and may ask for two kinds of memory; closed, all ends.
        pipes: Of local workers.
        size: Of the model, in float32 values.
        rule: One of :data:`RULES`.
        spin_s: For how long the hub looks for messages before it sleeps.
    """
    torch.set_num_threads(1)
    layout, segments = core.ParameterLayout.flat(size), Segments()
    try:
        memory = SharedMemory(segments, layout)
        server = core.Server(
            torch.zeros(size), algorithm_for(rule), layout=layout, memory=memory, record="nothing"
        )
        hub = Hub(server, Porter(layout, {"payload": "gradient"}))
        hub.loop.spin_s = spin_s
        # Hundreds of workers are one process here, which may be busy with the others for long.
        patient = Timeouts(heartbeat_s=5.0, lease_s=60.0, join_s=60.0, stall_s=60.0)
        network = NetworkServer(hub, layout, segments=segments, max_workers=1000, timeouts=patient)
        network.start()
        for pipe in pipes:
            LocalSession(hub, pipe, segments, layout)
        hub.start()
        control.send(network.address)
        try:
            while True:
                control.recv()
                control.send(resident_bytes())
        except EOFError:
            pass
        hub.stop("done", within_s=0.0)
        hub.join()
        network.stop()
    finally:
        segments.close()


def serve_durably(control: Connection, folder: str, size: int, durability: Durability) -> None:
    """What a server's process does, until its control is closed.

    Args:
        control: It is told the address.
        folder: For its checkpoints and its log.
        size: Of the model, in float32 values.
        durability: The level that is measured.
    """
    torch.set_num_threads(1)
    model = torch.nn.Linear(size, 1, bias=False)
    # No checkpoint but what the log needs: it would be written in some turns and not in others.
    server = headway.ParameterServer(
        model,
        port=0,
        durability=durability,
        checkpoint_dir=folder,
        checkpoint_frequency=10**9,
        shared_memory=False,
        drain_s=0.0,
    )
    with server:
        control.send(server.address)
        with suppress(EOFError):
            control.recv()


def resident_bytes() -> dict[str, int]:
    """Resident memory of this process, its own and what it shares, and its threads."""
    told = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    )
    own = sum(int(told[name].split()[0]) for name in ("RssAnon", "RssFile"))
    shared = int(told["RssShmem"].split()[0])
    return {"own": own * 1024, "shared": shared * 1024, "threads": int(told["Threads"])}


class ServerProcess(Closing):
    """A process that serves.

    Args:
        target: What it does. The first argument is the other end of ``control``: it is told the
            address, and once it is closed, the target returns.
        arguments: The further ones.

    Attributes:
        control: Our end.
        address: Where it listens.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context: Any = multiprocessing.get_context("spawn")
        self.control, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.address: str = self.control.recv()

    def close(self) -> None:
        """End it."""
        self.control.close()
        self._process.join(PATIENCE_S)


def job(exchange: Exchange) -> Work:
    """The next job, which must come."""
    work = exchange.next(PATIENCE_S)
    assert work is not None, "the server has ended"
    return work


class Served(Closing):
    """The server's process, seen from the workers'.

    Args:
        size: Of the model, in float32 values.
        rule: One of :data:`RULES`.
        num_pipes: How many workers may come by the local link.
        awake: Whether it looks for messages before it sleeps, as ``Processes`` has it where there are
            more cores than workers. Its local workers do, too.
    """

    def __init__(self, size: int, rule: str, num_pipes: int = 1, *, awake: bool = False) -> None:
        pairs = [multiprocessing.Pipe() for _ in range(num_pipes)]
        self._pipes: list[Connection] = [ours for ours, _ in pairs]
        theirs = [their for _, their in pairs]
        self._links: list[WorkerLink] = []
        self._spin_s = SPIN_S if awake else 0.0
        self._process = ServerProcess(serve, theirs, size, rule, self._spin_s)
        for pipe in theirs:
            pipe.close()

    def join(self, link: str) -> Exchange:
        """A worker that has joined by one of :data:`LINKS`."""
        made: WorkerLink
        if link == "local":
            made = LocalLink(self._pipes.pop(), spin_s=self._spin_s)
        else:
            made = NetworkLink(self._process.address)
        self._links.append(made)
        exchange = Exchange(made, machine="" if link == "gRPC, inline" else machine())
        invitation = exchange.join(PATIENCE_S)
        assert invitation.shared == (link != "gRPC, inline"), "it took another way"
        return exchange

    def resident_bytes(self) -> dict[str, int]:
        """Of the server's process; see :func:`resident_bytes`."""
        self._process.control.send(None)
        told: dict[str, int] = self._process.control.recv()
        return told

    def close(self) -> None:
        """End the workers and the process."""
        for link in self._links:
            link.close()
        self._process.close()
