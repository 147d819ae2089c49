"""What does one slow worker cost, without a barrier and with one?

Four worker processes, whose jobs take a fixed time (they wait), with real vectors through the real
exchange. Claim: without a barrier one worker that takes five times as long costs only its own share:
updates per second are at least 0.9 of the sum of the four speeds (asked). With the synchronous gate,
in the same run, everybody works at the pace of the slowest. With four equal workers the asynchronous
run is never slower than the synchronous one.

And with real training: seconds of wall time until an MLP 784-200-10 is right on 90 % of the
held-out MNIST digits (5,000 images, 20 clients), one worker five times slower, and with equal ones.
All workers share this machine's cores, so real training slows the others too; waiting does not.

    python benchmarks/stragglers.py [--job-ms 20] [--repeats 3] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import Tensor

import headway as hw
from headway.core import Algorithm, Buffers, ParameterLayout, Receipt, WorkOrder
from headway.task import Assignment, LocalResult, Start

WORKERS, FACTOR = 4, 5.0
ASKED, TARGET, CLIENTS = 0.9, 0.9, 20
RUNS = (("async_sgd", False), ("async_sgd", True), ("minibatch_sgd", False))
SLOW: dict[str, dict[int, float]] = {"one 5x slower": {0: FACTOR}, "equal": {}}


class Waits:
    """A task whose jobs take a fixed time, in which nothing is computed.

    Args:
        num_params: Length of the flat model, and of each payload.
        job_s: How long a job takes.
    """

    name = "waits"
    # With prefetch each worker has two jobs.
    num_clients = 2 * WORKERS

    def __init__(self, num_params: int, job_s: float) -> None:
        self.num_params, self.job_s = num_params, job_s

    def start(self, seed: int, device: torch.device) -> Start:
        """From 0."""
        return Start(torch.zeros(self.num_params), ParameterLayout.flat(self.num_params))

    def trainer(self, algorithm: Algorithm, device: torch.device) -> WaitingTrainer:
        """Who waits."""
        return WaitingTrainer(self)

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        """The first value."""
        return {"value": float(parameters[0])}

    def num_examples(self, client: int) -> int:
        """One each."""
        return 1

    def describe(self) -> dict[str, Any]:
        """In plain JSON."""
        return {"name": self.name, "num_params": self.num_params, "job_s": self.job_s}


class WaitingTrainer:
    """Reads the model, waits until the job's time is up, and writes a payload."""

    def __init__(self, task: Waits) -> None:
        self._task = task
        self._payload = torch.zeros(task.num_params)

    def train(self, assignment: Assignment) -> LocalResult:
        """Do a job."""
        until = time.perf_counter() + self._task.job_s
        torch.mul(assignment.parameters, -1e-3, out=self._payload)
        while (left_s := until - time.perf_counter()) > 0.0:
            time.sleep(left_s)
        return LocalResult(self._payload, 1, 1, 1, {})

    def num_steps(self, client: int, work: WorkOrder) -> int:
        """One."""
        return 1

    def num_processed(self, client: int, work: WorkOrder) -> int:
        """One."""
        return 1

    def receipt(self, client: int, receipt: Receipt) -> None:
        """Nothing to learn."""


def algorithms(learning_rate: float) -> dict[str, Algorithm]:
    """Without a barrier, and with one: a round of as many gradients as there are workers."""
    return {
        "async_sgd": hw.algorithms.async_sgd(learning_rate=learning_rate),
        "minibatch_sgd": hw.algorithms.minibatch_sgd(
            learning_rate=learning_rate, num_workers=WORKERS
        ),
    }


def rate_row(
    slow: str,
    name: str,
    prefetch: bool,
    num_params: int,
    job_s: float,
    seconds: float,
    repeats: int,
) -> dict[str, Any]:
    """Updates per second, as a share of the sum of the workers' own speeds."""
    slowdown: Mapping[int, float] = SLOW[slow]
    total = sum(1 / (job_s * slowdown.get(worker, 1.0)) for worker in range(WORKERS))
    shares = []
    for repeat in range(repeats):
        result = hw.run(
            Waits(num_params, job_s),
            algorithms(0.01)[name],
            runtime=hw.Processes(WORKERS, slowdown=slowdown, prefetch=prefetch),
            stop=hw.until(wall_time_s=seconds),
            evaluate_every=10**9,
            record="nothing",
            seed=repeat,
        )
        shares.append(result.updates / result.wall_time_s / total)
    return {
        "workers": slow,
        "algorithm": f"{name}, prefetch" if prefetch else name,
        "updates_per_s": round(median(shares) * total, 1),
        "sum_of_speeds": round(total, 1),
        "share": round(median(shares), 3),
        "min": round(min(shares), 3),
        "max": round(max(shares), 3),
        "asked": ASKED if name == "async_sgd" else None,
    }


def mnist(seed: int) -> hw.Task:
    """5,000 real digits, a fifth held out, among clients whose shares of the classes differ."""
    division = hw.data.dirichlet(CLIENTS, alpha=1.0)
    data = hw.data.federated(hw.data.mnist_5k(), division, seed=seed)
    return hw.Task(
        hw.models.mlp(784, 200, 10),
        "cross_entropy",
        data,
        local=hw.LocalTraining(epochs=2, batch_size=20, learning_rate=0.1),
        name="mnist_5k",
    )


def race_rows(slow: str, seeds: int, limit_s: float, target: float) -> list[dict[str, Any]]:
    """Seconds until the target is reached."""
    racers = {
        "fedbuff": hw.algorithms.fedbuff(buffer_size=WORKERS),
        "fedavg": hw.algorithms.fedavg(clients_per_round=WORKERS),
    }
    found: dict[str, list[hw.Result]] = {name: [] for name in racers}
    for seed in range(seeds):
        task = mnist(seed)
        for name, algorithm in racers.items():
            result = hw.run(
                task,
                algorithm,
                runtime=hw.Processes(WORKERS, slowdown=SLOW[slow]),
                concurrency=WORKERS,
                stop=hw.until(target=("accuracy", target), wall_time_s=limit_s),
                evaluate_every=20,
                record="nothing",
                seed=seed,
            )
            found[name].append(result)
    return [race_row(slow, name, results, target) for name, results in found.items()]


def race_row(slow: str, name: str, results: list[hw.Result], target: float) -> dict[str, Any]:
    """What the table says of an algorithm."""
    # Not the last point alone: updates that come while it is made may spoil the model again.
    firsts = [
        next((p for p in r.history if p.metrics["accuracy"] >= target), None) for r in results
    ]
    there = [r for r, first in zip(results, firsts, strict=True) if first is not None]
    times = [first.wall_time_s for first in firsts if first is not None]
    return {
        "workers": slow,
        "algorithm": name,
        "reached": len(there),
        "runs": len(results),
        "seconds": round(mean(times), 2) if times else None,
        "sd": round(stdev(times), 2) if len(times) > 1 else None,
        "min": round(min(times), 2) if times else None,
        "max": round(max(times), 2) if times else None,
        "updates": round(mean(r.updates for r in there)) if there else None,
    }


def print_tables(rates: list[dict[str, Any]], races: list[dict[str, Any]]) -> None:
    """Both."""
    print("| workers | algorithm | updates/s | sum of speeds | share (min..max) | asked |")
    print("|---|---|---|---|---|---|")
    for row in rates:
        print(
            f"| {row['workers']} | {row['algorithm']} | {row['updates_per_s']} "
            f"| {row['sum_of_speeds']} | {row['share']} ({row['min']}..{row['max']}) "
            f"| {row['asked'] or ''} |"
        )
    if races:
        print("\n| workers | algorithm | reached | seconds, mean ± sd (min..max) | updates |")
        print("|---|---|---|---|---|")
    for row in races:
        span = f"{row['seconds']} ± {row['sd']} ({row['min']}..{row['max']})"
        print(
            f"| {row['workers']} | {row['algorithm']} | {row['reached']} of {row['runs']} "
            f"| {span if row['reached'] else 'not reached'} | {row['updates']} |"
        )


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=159_010, help="values in a vector")
    parser.add_argument("--job-ms", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="of the races; 0: none")
    parser.add_argument("--target", type=float, default=TARGET, help="accuracy")
    parser.add_argument("--limit", type=float, default=120.0, help="of one race, in seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    job_s = options.job_ms / 1e3
    rates = [
        rate_row(slow, name, prefetch, options.size, job_s, options.seconds, options.repeats)
        for slow in SLOW
        for name, prefetch in RUNS
    ]
    races = []
    if options.seeds:
        for slow in SLOW:
            races += race_rows(slow, options.seeds, options.limit, options.target)
    if options.json:
        print(json.dumps({"rates": rates, "races": races}))
        return
    print(
        f"torch {torch.__version__}, {WORKERS} processes, vectors of {options.size:,}, "
        f"jobs of {options.job_ms:g} ms, medians of {options.repeats} runs of {options.seconds:g} s"
    )
    print_tables(rates, races)


if __name__ == "__main__":
    main()
