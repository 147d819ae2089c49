"""What does it cost that every acknowledged update survives?

Claim: with group commit the log costs about what writing its bytes to this disk costs, however many
updates that is. Measured: checkout and submit through a logged server, until the last update is on
the disk, against the same server without a log, in the same run, interleaved:

- ``no log``: the server alone.
- ``written``: logged and never synced. It survives ``kill -9`` of the server, not of the machine.
- ``group commit``: one thread syncs while the other goes on; as many updates wait for their
  acknowledgement as there are workers. This is how a server uses it.
- ``each synced``: one worker, who waits for the disk each time.
- ``the bytes alone``: a file of as many bytes, written in blocks of an update and synced as often as
  ``group commit`` did.

And ``replay``: a restart from this log, in updates and bytes per second: how much log the 5 seconds
of a restart allow for.

    python benchmarks/durable_log.py [--sizes 1000 100000 1000000] [--workers 16] [--folder .]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from headway import algorithms, core
from headway.checkpoint import CheckpointStore, Journal, LoggedServer, recover

WAYS = ("no log", "written", "group commit", "each synced", "the bytes alone", "replay")
# Enough for a steady state; where each update waits for the disk, a part of them will do.
MOST_BYTES = 64 << 20
EACH_SYNCED = 50


class Committer:
    """Syncs a journal in a thread of its own, and lets others wait for it."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.num_syncs = 0
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def appended(self, may_wait: int) -> None:
        """Go on when no more than so many wait for the disk."""
        with self._changed:
            self._changed.notify_all()
            while self.journal.sequence - self.journal.durable > may_wait:
                self._changed.wait()

    def finish(self) -> None:
        """Wait for all."""
        self.appended(0)
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self.journal.sequence == self.journal.durable and not self._over:
                    self._changed.wait()
                if self._over:
                    return
            self.journal.sync()
            self.num_syncs += 1
            with self._changed:
                self._changed.notify_all()


def train(
    doors: LoggedServer | core.Server,
    payload: torch.Tensor,
    updates: int,
    then: Callable[[], object],
) -> float:
    """Seconds for so many updates of workers that take turns."""
    begin = time.perf_counter()
    for number in range(updates):
        worker = f"worker-{number % 16}"
        ticket = doors.checkout(worker, 0.0)
        assert isinstance(ticket, core.Checkout)
        doors.submit(core.Update(payload, ticket.version, worker, ticket.job), 0.0)
        then()
    return time.perf_counter() - begin


def measure(size: int, updates: int, workers: int, folder: Path) -> dict[str, list[float]]:
    """Updates per second and MB of log per second, each way, once."""
    payload = torch.full((size,), 1e-6)
    found: dict[str, list[float]] = {}

    def make_server() -> core.Server:
        algorithm = algorithms.async_sgd(learning_rate=1e-3)
        return core.Server(torch.zeros(size), algorithm, record="nothing")

    def logged(name: str) -> LoggedServer:
        journal = Journal(folder / name / "log")
        server = recover(CheckpointStore(folder / name / "checkpoints"), journal, make_server)
        return LoggedServer(server, journal)

    def note(way: str, count: int, seconds: float, num_bytes: int, syncs: int = 0) -> None:
        found[way] = [count / seconds, num_bytes / seconds / 1e6, count / syncs if syncs else 0.0]

    note("no log", updates, train(make_server(), payload, updates, lambda: None), 0)

    doors = logged("written")
    seconds = train(doors, payload, updates, lambda: None)
    note("written", updates, seconds, doors.journal.bytes_since_checkpoint)
    doors.journal.close()

    doors = logged("group")
    committer = Committer(doors.journal)
    begin = time.perf_counter()
    # A worker's update is two records: its checkout went before it.
    train(doors, payload, updates, lambda: committer.appended(2 * workers))
    committer.finish()
    seconds = time.perf_counter() - begin
    num_bytes = doors.journal.bytes_since_checkpoint
    note("group commit", updates, seconds, num_bytes, committer.num_syncs)
    doors.journal.close()

    few = min(updates, EACH_SYNCED)
    doors = logged("each")
    seconds = train(doors, payload, few, doors.journal.sync)
    note("each synced", few, seconds, doors.journal.bytes_since_checkpoint, few)
    doors.journal.close()

    syncs = committer.num_syncs
    seconds = plain_s(folder / "plain", updates, num_bytes, syncs)
    note("the bytes alone", updates, seconds, num_bytes, syncs)

    begin = time.perf_counter()
    again = logged("group")
    seconds = time.perf_counter() - begin
    assert again.server.version == updates
    note("replay", updates, seconds, num_bytes)
    again.journal.close()
    return found


def plain_s(path: Path, blocks: int, num_bytes: int, syncs: int) -> float:
    """Seconds to write and sync a file of so many bytes in so many blocks."""
    block = os.urandom(num_bytes // blocks)
    begin = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for number in range(blocks):
            file.write(block)
            if (number + 1) * syncs // blocks > number * syncs // blocks:
                getattr(os, "fdatasync", os.fsync)(file.fileno())
    return time.perf_counter() - begin


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--updates", type=int, default=1_000, help="at most, of each size")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in arguments.sizes:
        updates = max(2, min(arguments.updates, MOST_BYTES // (4 * size)))
        runs = []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                runs.append(measure(size, updates, arguments.workers, Path(folder)))
        for way in WAYS:
            rates = [run[way][0] for run in runs]
            rows.append(
                {
                    "parameters": size,
                    "way": way,
                    "updates_per_s": round(median(rates)),
                    "min_per_s": round(min(rates)),
                    "max_per_s": round(max(rates)),
                    "mb_per_s": round(median(run[way][1] for run in runs), 1),
                    "updates_per_sync": round(median(run[way][2] for run in runs), 1),
                    "of_no_log": round(median(run[way][0] / run["no log"][0] for run in runs), 3),
                    "of_the_bytes": round(
                        median(run[way][0] / run["the bytes alone"][0] for run in runs), 3
                    ),
                }
            )
    if arguments.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, one thread, {arguments.workers} workers, "
        f"medians of {arguments.repeats}"
    )
    print(
        "| parameters | way | updates/s (min..max) | MB/s | updates a sync | of no log "
        "| of the bytes alone |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['parameters']:,} | {row['way']} | {row['updates_per_s']:,} "
            f"({row['min_per_s']:,}..{row['max_per_s']:,}) | {row['mb_per_s']} "
            f"| {row['updates_per_sync']} | {row['of_no_log']} | {row['of_the_bytes']} |"
        )


if __name__ == "__main__":
    main()
