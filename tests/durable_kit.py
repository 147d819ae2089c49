"""A parameter server in a process of its own, to be killed, and workers that come back to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headway.core.errors import ExchangeError
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange, Work
from tests.waiting_kit import WAIT_S

SIZE = 3
_PROGRAM = """
import json, sys, torch, headway
options = json.loads(sys.argv[1])
torch.set_num_threads(1)
size = options.pop("size")
model = torch.nn.Linear(size, 1, bias=False)
torch.nn.init.zeros_(model.weight)
server = headway.ParameterServer(model, **options).start()
print(server.address, flush=True)
for line in sys.stdin:
    told = server.status() if line.strip() == "status" else {
        "weights": server.model.weight.detach().flatten().tolist()}
    print(json.dumps(told), flush=True)
server.stop()
"""


class Served:
    """A server process, started as often as it is killed, at one port and one folder."""

    def __init__(self, folder: Path, *, size: int = SIZE, **options: Any) -> None:
        self.options = {"checkpoint_dir": str(folder), "update_rule": "async_sgd", **options}
        self.options |= {"size": size}
        self.address = ""
        self.started_s: list[float] = []
        self.start()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        options = dict(self.options)
        options["port"] = int(self.address.rpartition(":")[2] or 0)
        began = time.monotonic()
        # A pipe that nobody reads would fill up.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.wait(WAIT_S)
            self._said.seek(0)
            told = self._said.read().decode(errors="replace")
            self._close()
            raise AssertionError(told)
        self.address = line
        self.started_s.append(time.monotonic() - began)

    def ask(self, what: str) -> Any:
        """What the process says: ``"status"`` or ``"weights"``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """As a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self._close()

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def end(self) -> None:
        """Stop it in order, if it still runs."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(WAIT_S)
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self._said):
            if pipe is not None:
                pipe.close()


@dataclass
class Hand:
    """A worker that hands in ones, and comes back with what it has when its server was killed."""

    served: Served
    name: str
    size: int = SIZE
    receipts: dict[int, str] = field(default_factory=dict)
    repeated: int = 0
    error: BaseException | None = None
    waits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wanted = threading.Event()
        self.wanted.set()
        self._work: Work | None = None
        self._pushed = False
        self._instance = f"{self.name}-instance"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        """How many of its updates were."""
        return sum(status != "rejected" for status in self.receipts.values())

    def finish(self) -> None:
        """Let it hand in what it has, hear of it, and leave."""
        self.wanted.clear()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), self.waits[-3:]
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        pause = threading.Event()
        try:
            while self.wanted.is_set() or self._work is not None:
                try:
                    self._visit()
                except ExchangeError:
                    pause.wait(0.05)
        except BaseException as error:  # noqa: BLE001 (raised by finish)
            self.error = error

    def _visit(self) -> None:
        link = NetworkLink(self.served.address, connect_timeout_s=5.0)
        try:
            exchange = Exchange(
                link, worker=self.name, instance=self._instance, receipt=self._receipt
            )
            exchange.join(5.0, holds=[] if self._work is None else [self._work.job])
            if self._work is None:
                exchange.ask()
            self._labour(exchange)
            exchange.leave()
        finally:
            link.close()

    def _labour(self, exchange: Exchange) -> None:
        while True:
            while self._work is None:
                # Asked, and waiting: nothing is held that must be handed in.
                self._work = exchange.next(0.2)
                if exchange.waiting:
                    self.waits.append(exchange.waiting)
                if self._work is None and (not self.wanted.is_set() or exchange.stopped):
                    return
            wants = self.wanted.is_set()
            self.repeated += self._pushed
            self._pushed = True
            exchange.push(self._work, torch.ones(self.size), num_examples=1, again=wants)
            while not exchange.settle(0.2):
                if exchange.waiting:
                    self.waits.append(exchange.waiting)
            if not wants:
                return

    def _receipt(self, receipt: Any) -> None:
        self.receipts[receipt.job] = receipt.status
        if self._work is not None and receipt.job == self._work.job:
            self._work, self._pushed = None, False
