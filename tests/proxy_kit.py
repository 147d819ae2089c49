"""A way between a worker and its server that is slow, long, and breaks."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final

_PIECE: Final = 1400
_FAREWELL_S: Final = 5.0
_RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Passes TCP on, byte by byte, as a narrow link would.

    A lost packet of TCP is seen by whoever uses it as a pause of a round trip and more, and that is
    how it is imitated.

    Args:
        address: Of the server.
        bits_per_s: In each direction; 0: unlimited.
        delay_s: One way, in seconds.
        loss: Share of the packets that are lost, 0 to 1.
        seed: Of what is lost.

    Attributes:
        delay_s: As given; it may be set at any time.
        up_bytes: What workers have sent, all that TCP carried.
        down_bytes: What the server has.
    """

    def __init__(
        self,
        address: str,
        *,
        bits_per_s: float = 0.0,
        delay_s: float = 0.0,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._byte_s = 8.0 / bits_per_s if bits_per_s else 0.0
        self.delay_s = delay_s
        self._loss = loss
        self._random = random.Random(seed)
        self.up_bytes = self.down_bytes = self.num_connections = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._mute: set[socket.socket] = set()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        """Where workers connect."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def mute(self) -> None:
        """Lose all that the server says from now on, in the connections that are there: then cut."""
        self._mute = {far for _, far in self._pairs}

    def cut(self) -> None:
        """Break all connections off."""
        pairs, self._pairs = self._pairs, []
        for one in (end for pair in pairs for end in pair):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Pass nothing on any more."""
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(_FAREWELL_S)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._closed.is_set():
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._to)
                except OSError:
                    # As a machine says on whose port nobody listens.
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    near.close()
                    continue
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.num_connections += 1
                self._pairs.append((near, far))
                for name, one, other in (("up_bytes", near, far), ("down_bytes", far, near)):
                    self._pass_on(name, one, other)

    def _pass_on(self, name: str, one: socket.socket, other: socket.socket) -> None:
        queue: deque[tuple[float, bytes]] = deque()
        there = threading.Condition()

        def read() -> None:
            free_s = 0.0
            while True:
                try:
                    data = one.recv(_PIECE)
                except OSError:
                    data = b""
                setattr(self, name, getattr(self, name) + len(data))
                if data and one in self._mute:
                    continue
                now = time.monotonic()
                # The link carries one after the other, and keeps the order.
                free_s = max(free_s, now) + len(data) * self._byte_s
                if self._random.random() < self._loss:
                    free_s += 2.0 * self.delay_s
                self._wait(free_s - now - 0.5)
                with there:
                    queue.append((free_s + self.delay_s, data))
                    there.notify()
                if not data:
                    return

        def write() -> None:
            while True:
                with there:
                    while not queue:
                        there.wait()
                    due_s, data = queue.popleft()
                self._wait(due_s - time.monotonic())
                try:
                    if not data:
                        other.shutdown(socket.SHUT_RDWR)
                        break
                    other.sendall(data)
                except OSError:
                    with suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                    break
            other.close()

        for function in (read, write):
            self._threads.append(threading.Thread(target=function, daemon=True))
            self._threads[-1].start()

    def _wait(self, duration_s: float) -> None:
        if duration_s > 0.0:
            self._closed.wait(duration_s)
