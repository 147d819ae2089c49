"""Who is fastest when workers are very unequal: Ringmaster, Rennala, delay-adaptive or plain ASGD?

The quadratic of arXiv:2501.16168: ``A = tridiag(-1, 2, -1) / 4``, 1,729 coordinates, gradients with
noise of 0.01 in each, and worker ``i`` of ``n`` takes ``i + |N(0, i)|`` seconds a gradient, drawn once
for each run (``--laws "sqrt(i)"``: the square root of that). Virtual time until ``f - min f``, from
443, is at most 0.1. Ringmaster and Rennala stop workers whose gradients would come too late. Each
method has its own rate, and its own threshold or batch, from the grid below, tuned on seeds of its own.

    python benchmarks/claims_ringmaster.py [--workers 1000] [--seeds 5] [--processes 2] [--json]
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import torch
from _claims import in_parallel, parser, show, tune
from _problems import Shared, reach, score
from torch import Tensor

import headway as hw
from headway.simulation.population import Population

GAP, NOISE, LIMIT, TUNING_LIMIT = 0.1, 0.01, 40_000, 8_000
POWERS = {"i": 1.0, "sqrt(i)": 0.5}

# Rates, and thresholds R, batches B, or None.
GRIDS: dict[str, tuple[list[float], list[int | None]]] = {
    "ringmaster": ([2.0**-k for k in range(2, 6)], [16, 64, 256]),
    "rennala": ([2.0**-k for k in range(3)], [16, 64, 256]),
    "delay_adaptive_sgd": ([2.0**-k for k in range(2, 7)], [None]),
    "async_sgd": ([2.0**-k for k in range(4, 10)], [None]),
}


class Tridiagonal:
    """``f(x) = x A x / 2 - b x`` with ``b = -e_1 / 4``, which is least at ``-1 + i / (d + 1)``."""

    def __init__(self, dim: int, noise: float) -> None:
        self.noise = noise
        self.optimum = torch.arange(1, dim + 1, dtype=torch.float64) / (dim + 1) - 1.0
        self.first = torch.zeros(dim)
        self.first[0] = dim**0.5

    @staticmethod
    def times_a(x: Tensor) -> Tensor:
        product = 0.5 * x
        product[1:].sub_(x[:-1], alpha=0.25)
        product[:-1].sub_(x[1:], alpha=0.25)
        return product

    def gap(self, x: Tensor) -> float:
        apart = x.double() - self.optimum
        return 0.5 * float(apart @ self.times_a(apart))

    def gradient(self, x: Tensor, generator: torch.Generator) -> Tensor:
        found = self.times_a(x)
        found[0] += 0.25
        return found.add_(torch.randn(len(x), generator=generator), alpha=self.noise)


@lru_cache(maxsize=1)
def problem(workers: int, dim: int) -> Shared:
    least = Tridiagonal(dim, NOISE)
    return Shared("tridiagonal", least.first, workers, least.gradient, least.gap)


def population(law: str, workers: int, seed: int) -> Population:
    drawn = torch.randn(workers, generator=torch.Generator().manual_seed(seed)).abs().tolist()
    times = [i + i**0.5 * apart for i, apart in enumerate(drawn, start=1)]
    return hw.population.from_times(time_s ** POWERS[law] for time_s in times)


def algorithm(method: str, rate: float, size: int | None, workers: int) -> hw.Algorithm:
    if method == "ringmaster":
        return hw.algorithms.ringmaster(learning_rate=rate, delay_bound=size or 1)
    if method == "rennala":
        return hw.algorithms.rennala(learning_rate=rate, batch_size=size or 1)
    if method == "async_sgd":
        return hw.algorithms.async_sgd(learning_rate=rate)
    return hw.algorithms.delay_adaptive_sgd(learning_rate=rate, delay_bound=workers)


def run(job: tuple[Any, ...]) -> dict[str, float | None]:
    (law, method, workers, dim), (rate, size), seed, limit = job
    return reach(
        problem(workers, dim),
        algorithm(method, rate, size, workers),
        population(law, workers, seed),
        gap=GAP,
        updates=limit,
        evaluate_every=10,
        seed=seed,
    )


def trial(job: tuple[Any, ...]) -> float:
    row, point, seed = job
    return score(run((row, point, seed, TUNING_LIMIT)))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--workers", type=int, default=1000)
    made.add_argument("--dim", type=int, default=1729)
    made.add_argument("--laws", nargs="+", choices=list(POWERS), default=["i"])
    arguments = made.parse_args()
    end = (arguments.workers, arguments.dim)
    rows = {
        (law, method, *end): list(product(*GRIDS[method]))
        for law in arguments.laws
        for method in GRIDS
    }
    chosen = tune(trial, rows, arguments.tuning_seeds, arguments.processes)
    jobs = [(row, chosen[row], seed, LIMIT) for row in rows for seed in range(arguments.seeds)]
    runs = in_parallel(run, jobs, arguments.processes)
    lines = []
    for row in rows:
        mine = [result for job, result in zip(jobs, runs, strict=True) if job[0] == row]
        rate, size = chosen[row]
        edge = ", edge" if rate in (GRIDS[row[1]][0][0], GRIDS[row[1]][0][-1]) else ""
        named = {"law": row[0], "method": row[1], "rate": f"{rate:.3g}{edge}", "size": size or "-"}
        lines.append({**named, **{key: [one[key] for one in mine] for key in mine[0]}})
    show(
        f"{arguments.workers} workers until f - min f <= {GAP}",
        {
            "law": "seconds of worker i",
            "method": "method",
            "rate": "rate",
            "size": "R or B",
            "delay": "largest delay applied|.0f",
            "cancelled": "jobs stopped|.0f",
            "gradients": "gradients that arrived|.0f",
            "time_s": "virtual s|.0f",
        },
        lines,
        as_json=arguments.json,
        reached="time_s",
    )


if __name__ == "__main__":
    main()
