"""How much longer does a worker wait for its receipt where every acknowledged update survives?

A whole ``ParameterServer`` in a process of its own with ``durability="log"``, against the same with
``durability="checkpoint"``; workers are threads of another process, which do nothing but exchange over
gRPC. From the push of an update until the receipt and the next model are there. Both servers are up at
the same time, on folders of the same disk, and take turns. Beside them the disk: one ``fsync`` after
each append of as many bytes as an update has.

    python benchmarks/durable_server.py [--sizes 1000 100000] [--workers 1 8] [--folder .]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from _links import PATIENCE_S, Durability, ServerProcess, job, serve_durably

from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange

LEVELS: tuple[Durability, ...] = ("checkpoint", "log")


class Worker:
    """Exchanges whenever it is told to.

    Args:
        address: Of the server.
        size: Of the model.
    """

    def __init__(self, address: str, size: int) -> None:
        self.waits: list[float] = []
        self._link = NetworkLink(address)
        self._exchange = Exchange(self._link)
        self._exchange.join(PATIENCE_S)
        self._exchange.ask()
        self._payload = torch.full((size,), 1e-6)
        self._work = job(self._exchange)

    def turn(self, until_s: float) -> None:
        """Exchange until then, by ``time.perf_counter``."""
        self.waits = []
        while not self.waits or time.perf_counter() < until_s:
            began = time.perf_counter()
            self._exchange.push(self._work, self._payload, num_examples=1)
            self._work = job(self._exchange)
            self.waits.append(time.perf_counter() - began)

    def close(self) -> None:
        """Leave."""
        self._exchange.leave()
        self._link.close()


class Server:
    """One of the two servers, with its workers.

    Args:
        folder: A new one, on the disk that is measured.
        size: Of the model.
        workers: How many.
        durability: The level.
    """

    def __init__(self, folder: Path, size: int, workers: int, durability: Durability) -> None:
        self._process = ServerProcess(serve_durably, str(folder), size, durability)
        self._workers = [Worker(self._process.address, size) for _ in range(workers)]

    def turn(self, seconds: float) -> tuple[list[float], float]:
        """Every wait of a turn, in seconds, and exchanges per second."""
        began = time.perf_counter()
        threads = [
            threading.Thread(target=worker.turn, args=(began + seconds,))
            for worker in self._workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        waits = [wait for worker in self._workers for wait in worker.waits]
        return waits, len(waits) / (time.perf_counter() - began)

    def close(self) -> None:
        """End the workers and the process."""
        for worker in self._workers:
            worker.close()
        self._process.close()


def syncs(folder: Path, size: int, seconds: float) -> list[float]:
    """How long this disk takes to append an update's bytes and sync them, in seconds each."""
    block = bytes(4 * size)
    waits: list[float] = []
    with (folder / "plain").open("ab", buffering=0) as file:
        until = time.perf_counter() + seconds
        while not waits or time.perf_counter() < until:
            began = time.perf_counter()
            file.write(block)
            os.fsync(file.fileno())
            waits.append(time.perf_counter() - began)
    (folder / "plain").unlink()
    return waits


def measure(
    size: int, workers: int, repeats: int, seconds: float, place: Path | None
) -> dict[str, Any]:
    """One row of the table."""
    p50: dict[str, list[float]] = {"checkpoint": [], "log": [], "sync": []}
    p95: list[float] = []
    rates: dict[str, list[float]] = {"checkpoint": [], "log": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        servers = {level: Server(folder / level, size, workers, level) for level in LEVELS}
        for server in servers.values():
            stack.callback(server.close)
            server.turn(seconds / 5)
        for _ in range(repeats):
            for level, server in servers.items():
                waits, rate = server.turn(seconds)
                p50[level].append(median(waits))
                rates[level].append(rate)
                if level == "log":
                    p95.append(quantiles(waits, n=20)[-1] if len(waits) > 1 else waits[0])
            p50["sync"].append(median(syncs(folder, size, seconds / 2)))
    ratios = [log / plain for log, plain in zip(p50["log"], p50["checkpoint"], strict=True)]
    of_sync = [log / sync for log, sync in zip(p50["log"], p50["sync"], strict=True)]
    return {
        "parameters": size,
        "workers": workers,
        "checkpoint_ms": round(1e3 * median(p50["checkpoint"]), 2),
        "log_ms": round(1e3 * median(p50["log"]), 2),
        "log_min_ms": round(1e3 * min(p50["log"]), 2),
        "log_max_ms": round(1e3 * max(p50["log"]), 2),
        "log_p95_ms": round(1e3 * median(p95), 2),
        "sync_ms": round(1e3 * median(p50["sync"]), 2),
        "ratio": round(median(ratios), 2),
        "of_a_sync": round(median(of_sync), 2),
        "checkpoint_per_s": round(median(rates["checkpoint"])),
        "log_per_s": round(median(rates["log"])),
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(size, workers, options.repeats, options.seconds, options.folder)
        for size in options.sizes
        for workers in options.workers
    ]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"torch {torch.__version__}, one thread, medians of {options.repeats}")
    print(
        "| parameters | workers | p50 with checkpoints, ms | p50 with the log, ms (min..max) "
        "| p95 with the log, ms | one sync, ms | log / checkpoints | log / sync "
        "| exchanges/s, checkpoints | exchanges/s, log |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['parameters']:,} | {row['workers']} | {row['checkpoint_ms']} "
            f"| {row['log_ms']} ({row['log_min_ms']}..{row['log_max_ms']}) | {row['log_p95_ms']} "
            f"| {row['sync_ms']} | {row['ratio']} | {row['of_a_sync']} "
            f"| {row['checkpoint_per_s']:,} | {row['log_per_s']:,} |"
        )


if __name__ == "__main__":
    main()
