"""A server at which an honest worker trains while strangers try what they can.

Every test ends with the same questions: does the server still apply what the honest worker hands in,
has nobody else changed the model, and is nothing left behind, neither thread nor file nor memory.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

import headway
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from headway.runtime.network import NetworkServer
from headway.runtime.timeouts import Timeouts
from tests.waiting_kit import until

SIZE: Final = 50_000
PATIENCE_S: Final = 15.0
CUT_S: Final = 5.0
"""How long a connection may be useless: ten times what the server was told."""
MEMORY_BYTES: Final = 64 << 20
"""How much larger the process may be afterwards: two hundred and more times the model."""
SHORT: Final = Timeouts(heartbeat_s=0.3, lease_s=1.5, join_s=0.5, stall_s=1.5)
PATIENT: Final = Timeouts(heartbeat_s=0.3, lease_s=1.5, join_s=PATIENCE_S, stall_s=PATIENCE_S)
"""For strangers who come in: on a busy machine the door takes its time."""
_LINUX: Final = Path("/proc/self/fd").is_dir()


def measured() -> tuple[int, int, int]:
    """Bytes, threads and files of this process."""
    gc.collect()
    if not _LINUX:
        return 0, threading.active_count(), 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGESIZE"), threading.active_count(), files


class House:
    """A server, and a worker that hands in nothing but zeros: what it applies changes no value."""

    def __init__(self, **options: Any) -> None:
        model = torch.nn.Linear(SIZE, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        access = {name: options.pop(name, None) for name in ("worker_tls", "token")}
        self.access = {"security": access["worker_tls"], "token": access["token"]}
        self.server = headway.ParameterServer(
            model, port=0, shared_memory=False, drain_s=0.0, token=access["token"], **options
        )
        self.server.start()
        self.host, _, port = self.server.address.rpartition(":")
        self.port = int(port)
        self._over = threading.Event()
        self.error: Exception | None = None
        self.link = NetworkLink(self.server.address, **self.access)
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        self.goes_on()
        self.before = measured()

    @property
    def network(self) -> NetworkServer:
        assert self.server._network is not None
        return self.server._network

    def _work(self) -> None:
        try:
            exchange = Exchange(self.link, worker="honest")
            exchange.join(PATIENCE_S)
            exchange.ask()
            while not self._over.wait(0.005):
                work = exchange.next(PATIENCE_S)
                assert work is not None, exchange.stopped
                exchange.push(work, torch.zeros(SIZE), num_examples=1)
            exchange.leave()
        except Exception as error:  # noqa: BLE001 (the test tells of it)
            self.error = error

    def connected(self) -> socket.socket:
        """A stranger's connection."""
        return socket.create_connection((self.host, self.port), PATIENCE_S)

    def goes_on(self) -> None:
        """The honest worker's updates are applied."""
        version = self.server.version
        until(lambda: self.error or self.server.version >= version + 3, within_s=PATIENCE_S)
        assert self.error is None

    def is_unharmed(self, *, values: float = 0.0, memory_bytes: int = MEMORY_BYTES) -> None:
        """It goes on, its model has these values, and nothing is left of who was there."""
        self.goes_on()
        assert torch.equal(self.server.model.get_parameter("weight"), torch.full((1, SIZE), values))
        workers = {worker["name"]: worker for worker in self.server.status()["workers"]}
        assert (workers["honest"]["rejected"], workers["honest"]["lost"]) == (0, 0)
        until(lambda: len(self.network._sessions) == 1, within_s=PATIENCE_S)
        assert self.network.rooms.num_out <= 1
        until(lambda: self._left_behind(memory_bytes) == [], within_s=PATIENCE_S)

    def _left_behind(self, memory_bytes: int) -> list[str]:
        now = measured()
        allowed = memory_bytes, 0, 0
        # A pool keeps its threads, and has at most so many as there are connections allowed.
        pool = sum(t.name.startswith("headway-network") for t in threading.enumerate())
        now = now[0], now[1] - pool, now[2]
        before = self.before[0], self.before[1] - 1, self.before[2]
        names = "bytes", "threads", "files"
        return [n for n, a, b, m in zip(names, now, before, allowed, strict=True) if a > b + m]

    def close(self) -> None:
        """End both."""
        self._over.set()
        self.thread.join(PATIENCE_S)
        self.server.stop()
        assert self.error is None


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the other side ends a connection; what it says before is read."""
    connection.settimeout(CUT_S)
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True
