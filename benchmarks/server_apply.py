"""How close is the server's apply to the memory's own speed?

Claim: one submitted update costs little more than moving the bytes that its rule must touch once.
Measured: ``Server.submit`` whole (identity, size, dtype and finite checks, chain, step, event,
receipt), as rule bytes over time, against an out-of-place triad ``q = p + s * g`` in the same run,
the two interleaved. Asked: at least 0.8 for async_sgd and fedasync, 0.6 for fedbuff with momentum.

Rule bytes per parameter (float32): async_sgd and fedasync read x and the payload and write x: 12.
fedbuff(K=10) with momentum reads and writes the buffer and reads the payload for each update (12),
and once in K updates reads buffer, momentum and x and writes momentum and x (20): 14 on average.

    python benchmarks/server_apply.py [--sizes 10000000 50000000] [--repeats 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from statistics import median

import torch

from headway import algorithms, core

BUFFER_SIZE = 10


def rules() -> dict[str, tuple[core.Algorithm, float, int]]:
    """Algorithm, rule bytes per parameter, and how many updates make one measurement."""
    momentum = partial(torch.optim.SGD, lr=1.0, momentum=0.9)
    return {
        "async_sgd": (algorithms.async_sgd(learning_rate=1e-6), 12.0, 1),
        "fedasync": (algorithms.fedasync(mixing=1e-6), 12.0, 1),
        "fedbuff, momentum": (
            algorithms.fedbuff(buffer_size=BUFFER_SIZE, server_optimizer=momentum),
            12.0 + 20.0 / BUFFER_SIZE,
            BUFFER_SIZE,
        ),
    }


def submit_s(server: core.Server, payload: torch.Tensor, count: int) -> float:
    """Seconds per submit; the checkouts between them are not timed."""
    total = 0.0
    for _ in range(count):
        ticket = server.checkout("worker-0", now=0.0)
        assert isinstance(ticket, core.Checkout)
        update = core.Update(payload, ticket.version, "worker-0", ticket.job)
        begin = time.perf_counter()
        receipt = server.submit(update, now=0.0)
        total += time.perf_counter() - begin
        assert receipt.status != "rejected", receipt
    return total / count


def measure(num_params: int, repeats: int) -> list[dict[str, object]]:
    """One size: every rule and the triad in turn, ``repeats`` times."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(num_params, generator=generator)
    g = torch.rand(num_params, generator=generator)
    q = torch.empty_like(p)
    servers = {
        name: core.Server(p, algorithm, record="nothing")
        for name, (algorithm, _, _) in rules().items()
    }
    triad: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in servers}
    for round_number in range(repeats + 2):
        for name, server in servers.items():
            begin = time.perf_counter()
            torch.add(p, g, alpha=1e-6, out=q)
            bound = time.perf_counter() - begin
            seconds = submit_s(server, g, rules()[name][2])
            if round_number >= 2:
                triad.append(bound)
                times[name].append(seconds)
    bandwidth = 12.0 * num_params / median(triad)
    rows: list[dict[str, object]] = []
    for name, (_, rule_bytes, _) in rules().items():
        rate = rule_bytes * num_params / median(times[name])
        rows.append(
            {
                "rule": name,
                "num_params": num_params,
                "ms": round(1e3 * median(times[name]), 3),
                "min_ms": round(1e3 * min(times[name]), 3),
                "max_ms": round(1e3 * max(times[name]), 3),
                "gb_per_s": round(rate / 1e9, 1),
                "triad_gb_per_s": round(bandwidth / 1e9, 1),
                "ratio": round(rate / bandwidth, 2),
            }
        )
    return rows


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000_000, 50_000_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for size in arguments.sizes for row in measure(size, arguments.repeats)]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, {arguments.threads} thread(s), medians of {arguments.repeats}"
    )
    print("| rule | parameters | ms (min..max) | GB/s of rule bytes | triad GB/s | ratio |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['rule']} | {row['num_params']:,} | {row['ms']} ({row['min_ms']}.."
            f"{row['max_ms']}) | {row['gb_per_s']} | {row['triad_gb_per_s']} | {row['ratio']} |"
        )


if __name__ == "__main__":
    main()
