"""How long a killed server with a log takes to serve again, at the most that its log grows to.

A server is driven until a checkpoint would be due, its files are copied as a crash would leave them,
and another server is started on the copy: from the call of ``start()`` until it listens. The start of
the process, which loads torch, comes on top.

    python benchmarks/restart.py
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import headway
from headway.core import Checkout, Update


def _served(folder: Path, size: int) -> headway.ParameterServer:
    model = torch.nn.Linear(size, 1, bias=False)
    return headway.ParameterServer(
        model,
        port=0,
        shared_memory=False,
        checkpoint_dir=folder,
        checkpoint_frequency=10**9,
        durability="log",
    )


def _crashed(
    server: headway.ParameterServer, size: int, until_s: float, live: Path, copy: Path
) -> tuple[int, int]:
    """Push until making the calls again is estimated to take so long, and copy the files then.

    How many pushes, and how many bytes of log.
    """
    hub, keeper = server._running()[0], server._keeper
    assert keeper is not None
    payload = torch.full((size,), 1e-6)

    def drive() -> tuple[int, int]:
        count = 0
        while keeper.describe(hub)["log"]["replay_s"] < until_s:
            ticket = hub.doors.checkout("w", hub.now)
            assert isinstance(ticket, Checkout)
            hub.doors.submit(Update(payload, ticket.version, "w", ticket.job), hub.now)
            count += 1
        num_bytes = keeper.describe(hub)["log"]["bytes_since_checkpoint"]
        shutil.copytree(live, copy)
        return count, num_bytes

    # In the hub's thread, which writes no checkpoint meanwhile.
    return hub.call(drive)


def measure(size: int, until_s: float) -> dict[str, Any]:
    """One restart.

    Args:
        size: Of the model, in parameters.
        until_s: How much is in the log, as the time that it is estimated to take.
    """
    with tempfile.TemporaryDirectory() as place:
        live, copy = Path(place) / "live", Path(place) / "copy"
        server = _served(live, size).start()
        updates, num_bytes = _crashed(server, size, until_s, live, copy)
        server.stop()
        shutil.rmtree(live)
        began = time.perf_counter()
        again = _served(copy, size).start()
        took_s = time.perf_counter() - began
        assert again.version == updates
        again.stop()
    return {"parameters": size, "updates": updates, "log_bytes": num_bytes, "serving_s": took_s}


def run(sizes: list[int], runs: int, until_s: float) -> list[dict[str, Any]]:
    """Restarts of several sizes: medians, and the spread.

    Args:
        sizes: In parameters.
        runs: Of each.
        until_s: How much is in the log.
    """
    rows = []
    for size in sizes:
        found = [measure(size, until_s) for _ in range(runs)]
        took = [one["serving_s"] for one in found]
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        rows.append({**middle, "min_s": min(took), "max_s": max(took)})
    return rows


@contextmanager
def _only_errors() -> Iterator[None]:
    """A server that goes on from a checkpoint says so: not here."""
    log = logging.getLogger("headway")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--until-s", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    with _only_errors():
        rows = run(told.sizes, told.runs, told.until_s)
    if told.json:
        print(json.dumps(rows))
        return
    print(f"torch {torch.__version__}, {told.runs} runs\n")
    print("| parameters | updates in the log | log, MB | serving after, s (min..max) |")
    print("| ---------- | ------------------ | ------- | --------------------------- |")
    for row in rows:
        print(
            f"| {row['parameters']:,.0f} | {row['updates']:,.0f} | {row['log_bytes'] / 1e6:.0f} | "
            f"{row['serving_s']:.2f} ({row['min_s']:.2f}..{row['max_s']:.2f}) |"
        )


if __name__ == "__main__":
    main()
