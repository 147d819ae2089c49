"""How fast is the simulator itself, when training costs nothing?

Claim: everything but training (event queue, checkout, checks, chain, step, events, receipts, counts,
a 10-parameter model) runs at 40,000 completions a second and more, and the cost of a completion
does not grow with the number of clients. Measured: completed jobs over wall seconds from the first
completion to the evaluation after the last one in the loop of ``headway.simulate``; set-up and the
closing of the run (one pass of Python's collector over all records) apart. The numbers of clients
are interleaved.

    python benchmarks/null_model.py [--clients 1000 1000000] [--concurrency 50 1000]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from itertools import product
from statistics import median

import torch

import headway as hw
from headway.core import RandomOrder
from headway.simulation.engine import Engine, Settings


def engine_for(
    num_clients: int, concurrency: int, completions: int, algorithm: str, evaluated: list[float]
) -> Engine:
    """An engine over the null task, ready to run; it notes the time of each evaluation."""
    factory = {"async_sgd": hw.algorithms.async_sgd, "fedbuff": hw.algorithms.fedbuff}[algorithm]
    settings = Settings(
        task=hw.tasks.null(num_params=10, num_clients=num_clients),
        algorithm=factory(),
        population=hw.population.exponential(num_clients, mean_s=1.0),
        scheduler=RandomOrder(concurrency=min(concurrency, num_clients)),
        stop=hw.until(updates=completions),
        evaluate_every=hw.simulation.every(updates=completions),
        seed=0,
        device=torch.device("cpu"),
        record="events",
    )
    return Engine(
        settings,
        evaluated=lambda engine, point: evaluated.append(time.perf_counter()),
        reported=lambda engine: None,
    )


def run(
    num_clients: int, concurrency: int, completions: int, algorithm: str
) -> tuple[float, float]:
    """Completions per second, and the seconds of set-up before the first dispatch."""
    begin = time.perf_counter()
    evaluated: list[float] = []
    engine = engine_for(num_clients, concurrency, completions, algorithm, evaluated)
    engine.begin()
    middle = time.perf_counter()
    engine.run()
    assert engine.tally.updates == completions
    return completions / (evaluated[1] - middle), middle - begin


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 10_000, 1_000_000])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[50, 1_000])
    parser.add_argument("--completions", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = list(product(("async_sgd", "fedbuff"), arguments.concurrency, arguments.clients))
    rates: dict[tuple[str, int, int], list[float]] = {case: [] for case in cases}
    set_up: dict[tuple[str, int, int], list[float]] = {case: [] for case in cases}
    for _ in range(arguments.repeats):
        for algorithm, concurrency, num_clients in cases:
            rate, seconds = run(num_clients, concurrency, arguments.completions, algorithm)
            rates[algorithm, concurrency, num_clients].append(rate)
            set_up[algorithm, concurrency, num_clients].append(seconds)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = [
        {
            "algorithm": algorithm,
            "in_flight": concurrency,
            "clients": num_clients,
            "completions_per_s": round(median(values)),
            "min": round(min(values)),
            "max": round(max(values)),
            "cost_against_fewest": round(
                median(rates[algorithm, concurrency, arguments.clients[0]]) / median(values), 2
            ),
            "set_up_s": round(median(set_up[algorithm, concurrency, num_clients]), 2),
        }
        for (algorithm, concurrency, num_clients), values in rates.items()
    ]
    if arguments.json:
        print(json.dumps({"rows": rows, "peak_mib": peak_mib}))
        return
    print(f"torch {torch.__version__}, 1 thread, {arguments.completions:,} completions, medians of")
    print(f"{arguments.repeats}, peak memory of all {peak_mib:,.0f} MiB\n")
    print("| algorithm | in flight | clients | completions/s (min..max) | cost | set-up s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['algorithm']} | {row['in_flight']:,} | {row['clients']:,} | "
            f"{row['completions_per_s']:,} ({row['min']:,}..{row['max']:,}) | "
            f"{row['cost_against_fewest']} | {row['set_up_s']} |"
        )


if __name__ == "__main__":
    main()
