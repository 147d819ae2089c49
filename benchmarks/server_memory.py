"""What does each connected worker cost the server in memory?

Claim: a server's memory is the models that jobs in flight started from, one for each version that
somebody still works on, and little besides. Measured: resident memory of a server's process (its own
and what it shares) with so many workers that all have exchanged and all hold a job of another
version, above what it has before any of them has come; by gRPC with vectors inline, and by gRPC with
shared memory. Workers are lightweight: threads of one other process, which take turns. A server of
its own for each row.

``models``: the memory of a worker in models; 1 is its snapshot, with shared memory a second one is
the segment that it pushes into.

    python benchmarks/server_memory.py [--workers 1 8 64 256] [--size 1000000]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from _links import Served, job

LINKS = ("gRPC, inline", "gRPC, shared memory")


def measure(link: str, num_workers: int, size: int, rounds: int) -> dict[str, Any]:
    """One row."""
    payload = torch.full((size,), 1e-6)
    with Served(size, "async_sgd", num_pipes=0) as served:
        # Whatever is made at the first use is no worker's.
        first = served.join(link)
        first.ask()
        first.push(job(first), payload, num_examples=1, again=False)
        first.settle()
        first.leave()
        before = served.resident_bytes()
        exchanges = [served.join(link) for _ in range(num_workers)]
        for exchange in exchanges:
            exchange.ask()
        jobs = [job(exchange) for exchange in exchanges]
        for _ in range(rounds):
            for index, exchange in enumerate(exchanges):
                exchange.push(jobs[index], payload, num_examples=1)
                jobs[index] = job(exchange)
        after = served.resident_bytes()
    own, shared = after["own"] - before["own"], after["shared"] - before["shared"]
    each = (own + shared) / num_workers
    return {
        "link": link,
        "workers": num_workers,
        "before_mib": round((before["own"] + before["shared"]) / 2**20, 1),
        "after_mib": round((after["own"] + after["shared"]) / 2**20, 1),
        "own_mib": round(own / 2**20, 1),
        "shared_mib": round(shared / 2**20, 1),
        "bytes_per_worker": round(each),
        "models": round(each / (4 * size), 2),
        "besides_kib": round(each / 1024 - 4 * size / 1024, 1),
        "threads": after["threads"],
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--size", type=int, default=1_000_000, help="values of the model")
    parser.add_argument("--rounds", type=int, default=3, help="exchanges of each worker")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(link, number, options.size, options.rounds)
        for link in LINKS
        for number in options.workers
    ]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"torch {torch.__version__}, model of {options.size:,} float32 values")
    print(
        "| link | workers | MiB before | MiB after | own, MiB | shared, MiB | bytes per worker "
        "| models per worker | threads |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['link']} | {row['workers']} | {row['before_mib']} | {row['after_mib']} "
            f"| {row['own_mib']} | {row['shared_mib']} | {row['bytes_per_worker']:,} "
            f"| {row['models']} | {row['threads']} |"
        )


if __name__ == "__main__":
    main()
