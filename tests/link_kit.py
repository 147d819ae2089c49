"""A server with its hub, and workers that reach it by any of the links, in one process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any, Literal

import torch

from headway import algorithms, core
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange, Work
from headway.runtime.hub import Hub
from headway.runtime.local import LocalLink, LocalSession
from headway.runtime.network import NetworkServer
from headway.runtime.parcel import WorkerLink
from headway.runtime.porter import Porter
from headway.runtime.segments import Segments, SharedMemory, machine
from tests.waiting_kit import until

Carrier = Literal["local", "inline", "shared"]
SIZE = 7
"""Of the model, in values, where a test gives none."""

CARRIERS: tuple[Carrier, ...] = ("local", "inline", "shared")
PATIENCE_S = 30.0


class Rig:
    """A server that workers can reach by one link; everything ends with :meth:`close`."""

    def __init__(
        self,
        carrier: Carrier,
        initial: torch.Tensor,
        algorithm: core.Algorithm | None = None,
        *,
        layout: core.ParameterLayout | None = None,
        consistent: bool = True,
        hub: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.carrier = carrier
        self.layout = layout or core.ParameterLayout.flat(initial.numel(), initial.dtype)
        self.segments = Segments()
        shares = carrier != "inline"
        memory = SharedMemory(self.segments, self.layout, consistent=consistent)
        self.server = core.Server(
            initial,
            algorithm or algorithms.async_sgd(learning_rate=1.0),
            layout=self.layout,
            memory=memory if shares else None,
            **options,
        )
        self.hub = Hub(self.server, Porter(self.layout, {"payload": "gradient"}), **(hub or {}))
        self.network = NetworkServer(
            self.hub,
            self.layout,
            segments=self.segments if shares else None,
            **{"status": lambda: '{"version": 0}', **(network or {})},
        )
        if carrier != "local":
            self.network.start()
        self.hub.start()
        self.links: list[WorkerLink] = []
        self.sessions: list[LocalSession] = []

    @property
    def says(self) -> str:
        """What the carrier is called where it is reported."""
        return "inline" if self.carrier == "inline" else "shared memory"

    def link(self, **options: Any) -> WorkerLink:
        """A connection that has said nothing yet."""
        link: WorkerLink
        if self.carrier == "local":
            ours, theirs = Pipe()
            self.sessions.append(LocalSession(self.hub, ours, self.segments, self.layout))
            link = LocalLink(theirs)
        else:
            link = NetworkLink(self.network.address, **options)
        self.links.append(link)
        return link

    def exchange(self, worker: str = "", **options: Any) -> Exchange:
        """A worker that has not joined."""
        options.setdefault("machine", machine())
        return Exchange(self.link(), worker=worker, **options)

    def joined(self, worker: str = "", **options: Any) -> Exchange:
        """A worker that has."""
        exchange = self.exchange(worker, **options)
        exchange.join(PATIENCE_S)
        return exchange

    def look(self, function: Callable[[], Any]) -> Any:
        """Have the hub's thread look at something."""
        return self.hub.call(function, PATIENCE_S)

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so, as the hub's thread sees it."""
        until(lambda: self.look(condition), within_s=PATIENCE_S)

    def stop(self, **options: Any) -> None:
        """End the hub, as an owner does."""
        self.hub.stop("done", **options)
        assert self.hub.join(PATIENCE_S)

    def close(self) -> None:
        """End everything."""
        for link in self.links:
            link.close()
        self.hub.stop("done", within_s=0.0)
        assert self.hub.join(PATIENCE_S)
        self.network.stop()
        self.segments.close()
        if self.hub.error is not None:
            raise self.hub.error


def job(exchange: Exchange) -> Work:
    """The next job, which must come."""
    work = exchange.next(PATIENCE_S)
    assert work is not None, exchange.stopped
    return work


def receipts_of(
    rig: Rig, worker: str = "ada", **options: Any
) -> tuple[Exchange, list[core.Receipt]]:
    """A worker that has joined, and the receipts that it gets, answers copied."""
    receipts: list[core.Receipt] = []

    def note(receipt: core.Receipt) -> None:
        answer = None if receipt.answer is None else receipt.answer.clone()
        receipts.append(receipt._replace(answer=answer))

    return rig.joined(worker, receipt=note, **options), receipts
