"""What do a million clients cost in memory, with a thousand in flight?

Claim: peak memory is what concurrency x num_params needs, plus a record for each client that has
trained; nothing else grows with the number of clients. Measured: ``headway.simulate`` as a user calls
it, in a process of its own for each row, whose peak resident set the operating system tells at its
end; the same process with 1,000 clients is the floor. ``null`` trains nothing (10 parameters);
``mlp`` trains an MLP 60-16-10 (1,146 parameters), two steps on 20 examples, in groups. Clients share
64 synthetic data sets that a lookup by number hands out, so that it is not data that is measured.
First come, first served, one completion per client: each client trains once, the worst case for
records. Events are not recorded: those are the user's choice, and cost by completion, not by client.

    python benchmarks/million_clients.py [--clients 1000 10000 100000 1000000] [--checkpoint]

``--checkpoint`` adds what one checkpoint of the whole run costs: seconds, and bytes on the disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import headway as hw
from headway import models
from headway.checkpoint import CheckpointStore
from headway.core import FirstCome
from headway.simulation.engine import Engine
from headway.simulation.resolve import resolve

POOL, EXAMPLES, BATCH = 64, 20, 10


class SharedPool:
    """As many clients as one likes, of whom each has one of a few data sets."""

    def __init__(self, num_clients: int) -> None:
        self.num_clients = num_clients
        draw = torch.Generator().manual_seed(0)
        inputs = torch.randn(POOL, EXAMPLES, 60, generator=draw)
        self._sets = [(part, part[:, :10].argmax(1)) for part in inputs]

    def client(self, index: int) -> tuple[Tensor, Tensor]:
        """The inputs and targets of one client."""
        return self._sets[index % POOL]


def task_for(kind: str, num_clients: int) -> Any:
    """A task that trains nothing, or a small model."""
    if kind == "null":
        return hw.tasks.null(num_params=10, num_clients=num_clients)
    data = SharedPool(num_clients)
    local = hw.LocalTraining(epochs=1, batch_size=BATCH, learning_rate=0.05)
    return hw.Task(models.mlp(60, 16, 10), "cross_entropy", data, data.client(0), local=local)


def settings_for(kind: str, num_clients: int, concurrency: int, completions: int) -> dict[str, Any]:
    """The arguments of ``headway.simulate``, so that the two ways to run cannot differ."""
    return {
        "task": task_for(kind, num_clients),
        "algorithm": hw.algorithms.fedbuff(),
        "stop": hw.until(updates=completions),
        "population": hw.population.uniform(num_clients, low_s=0.5, high_s=2.0, per="job"),
        "scheduler": FirstCome(concurrency=min(concurrency, num_clients)),
        "evaluate_every": completions,
        "record": "nothing",
    }


def rss_mib() -> float:
    """The largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run(
    kind: str, num_clients: int, concurrency: int, completions: int, keep: bool
) -> dict[str, Any]:
    """One row, in the process that calls this."""
    torch.set_num_threads(1)
    before = rss_mib()
    options = settings_for(kind, num_clients, concurrency, completions)
    if keep:
        return checkpoint(options)
    begin, worked = time.perf_counter(), time.process_time()
    result = hw.simulate(**options)
    seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    if result.updates != completions or not (
        kind == "null" or result.execution["mode"] == "groups"
    ):
        raise SystemExit(f"not what was asked for: {result.updates} updates, {result.execution}")
    return {
        "trained": len(result.clients),
        "completions_per_s": round(completions / seconds),
        "cpu_s": round(worked, 1),
        "imports_mib": round(before, 1),
        "peak_mib": round(rss_mib(), 1),
    }


def checkpoint(options: dict[str, Any]) -> dict[str, Any]:
    """What it costs to save a run at its end, and to read it."""
    engine = Engine(resolve(**options), evaluated=lambda *_: None, reported=lambda _: None)
    engine.begin()
    engine.run()
    peak = rss_mib()
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, keep_last=1)
        begin, worked = time.perf_counter(), time.process_time()
        path = store.save(engine.tally.updates, {"engine": engine.state_dict()})
        saved, worked = time.perf_counter(), time.process_time() - worked
        size = sum(file.stat().st_size for file in Path(path).iterdir())
        store.load()
        read = time.perf_counter()
    return {
        "save_s": round(saved - begin, 2),
        "save_cpu_s": round(worked, 2),
        "read_s": round(read - saved, 2),
        "checkpoint_mb": round(size / 1e6, 1),
        "peak_mib": round(peak, 1),
        "peak_with_save_mib": round(rss_mib(), 1),
    }


def _child(pipe: Connection, arguments: tuple[Any, ...]) -> None:
    pipe.send(run(*arguments))


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """A row, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, arguments))
    process.start()
    theirs.close()
    try:
        return dict(ours.recv())
    except EOFError:
        process.join()
        raise SystemExit(f"{arguments} ended with {process.exitcode}; see above") from None
    finally:
        process.join()


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=("null", "mlp"), default=["null", "mlp"])
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--completions", type=int, help="at most; the default is one per client")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    saved: list[dict[str, Any]] = []
    for kind in options.kinds:
        floor: float | None = None
        for clients in options.clients:
            completions = min(options.completions or clients, clients)
            case = kind, clients, options.concurrency, completions
            about = {"kind": kind, "clients": clients, "completions": completions}
            found = in_a_process(*case, False)
            floor = found["peak_mib"] if floor is None else floor
            more = clients - options.clients[0]
            per_client = (found["peak_mib"] - floor) * 2**20 / more if more > 0 else 0.0
            rows.append({**about, **found, "bytes_per_client": round(per_client)})
            if options.checkpoint:
                saved.append({**about, **in_a_process(*case, True)})
    if options.json:
        print(json.dumps({"rows": rows, "checkpoints": saved}))
        return
    print(f"torch {torch.__version__}, one thread, {options.concurrency:,} in flight\n")
    print_rows(rows)
    if saved:
        print()
        print_rows(saved)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for found in rows:
        values = (f"{value:,}" if not isinstance(value, str) else value for value in found.values())
        print("| " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()
