"""Does delay-adaptive asynchronous SGD need less time and fewer gradients than minibatch SGD?

The least-squares problem of arXiv:2206.07638 (10,000 examples of 400 uniform features, targets of a
linear model with noise 1e-5, batches of 256, 40 workers, start at 0), in virtual time: until
``f - min f`` is at most 0.01, a quarter of what is left when the one large eigenvalue is fitted.
Every method has its own rate, tuned on seeds of its own, in each setting.

    python benchmarks/claims_delay_adaptive.py [--seeds 5] [--processes 2] [--json]
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from _claims import in_parallel, parser, show, tune
from _problems import Shared, reach, score
from torch import Tensor

import headway as hw
from headway.simulation.population import Population

GAP, LIMIT, TUNING_LIMIT = 0.01, 40_000, 16_000

# Two a doubling.
RATES = [0.05 * 2 ** (k / 2) for k in range(13)]
# The mean of M gradients takes rates M times as large; they are shown and searched per gradient.
METHODS = ("minibatch_sgd", "async_sgd", "delay_adaptive_sgd")
SETTINGS = {
    "equal": "every gradient takes 1 s",
    "exponential": "memoryless, mean 1 s, per gradient",
    "one slow": "as exponential, one worker 100 times slower",
}


class LeastSquares:
    """``f(x) = |A x - b|^2 / (2 n)`` and gradients on batches of its rows."""

    def __init__(self, rows: int, dim: int, batch: int) -> None:
        generator = torch.Generator().manual_seed(42)
        uniform = torch.rand(rows, dim, generator=generator, dtype=torch.float64)
        features = uniform / dim**0.5
        wanted = torch.randn(dim, generator=generator, dtype=torch.float64)
        noise = torch.randn(rows, generator=generator, dtype=torch.float64)
        targets = features @ wanted + 1e-5 * noise
        self.optimum = torch.linalg.lstsq(features, targets[:, None]).solution[:, 0]
        self.hessian = features.T @ features / rows
        self.features, self.targets, self.batch = features.float(), targets.float(), batch

    def gap(self, x: Tensor) -> float:
        apart = x.double() - self.optimum
        return 0.5 * float(apart @ self.hessian @ apart)

    def gradient(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # With replacement, which the theory assumes too, and which does not permute all rows.
        chosen = torch.randint(len(self.targets), (self.batch,), generator=generator)
        features = self.features[chosen]
        missed = features @ x - self.targets[chosen]
        return torch.mv(features.T, missed).div_(self.batch)


@lru_cache(maxsize=1)
def problem(workers: int, short: bool) -> Shared:
    least = LeastSquares(200, 4, 16) if short else LeastSquares(10_000, 400, 256)
    first = torch.zeros(len(least.optimum))
    return Shared("least_squares", first, workers, least.gradient, least.gap)


def population(setting: str, workers: int) -> Population:
    if setting == "equal":
        return hw.population.constant(workers)
    memoryless = hw.population.exponential(workers, mean_s=1.0)
    if setting == "exponential":
        return memoryless
    return hw.population.with_slowdown(memoryless, {0: 100.0})


def algorithm(method: str, rate: float, workers: int) -> hw.Algorithm:
    if method == "minibatch_sgd":
        return hw.algorithms.minibatch_sgd(num_workers=workers, learning_rate=rate * workers)
    if method == "async_sgd":
        return hw.algorithms.async_sgd(learning_rate=rate)
    return hw.algorithms.delay_adaptive_sgd(learning_rate=rate, delay_bound=workers)


def run(job: tuple[Any, ...]) -> dict[str, float | None]:
    (setting, method, workers, short), rate, seed, limit = job
    return reach(
        problem(workers, short),
        algorithm(method, rate, workers),
        population(setting, workers),
        gap=GAP,
        updates=limit,
        evaluate_every=workers,
        seed=seed,
    )


def trial(job: tuple[Any, ...]) -> float:
    row, rate, seed = job
    # Short of the full length: a rate that takes twice as long as the best is not of interest.
    return score(run((row, rate, seed, TUNING_LIMIT)))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--short", action="store_true", help="a small problem, for tests")
    arguments = made.parse_args()
    short, processes = arguments.short, arguments.processes
    workers = 4 if short else 40
    rates = RATES[::3] if short else RATES
    settings = list(SETTINGS)[1:2] if short else list(SETTINGS)
    ids = [(setting, method, workers, short) for setting in settings for method in METHODS]
    chosen = tune(trial, dict.fromkeys(ids, rates), arguments.tuning_seeds, processes)
    jobs = [(row, chosen[row], seed, LIMIT) for row in ids for seed in range(arguments.seeds)]
    runs = in_parallel(run, jobs, processes)
    rows = []
    for row in ids:
        mine = [result for job, result in zip(jobs, runs, strict=True) if job[0] == row]
        edge = ", edge" if chosen[row] in (rates[0], rates[-1]) else ""
        named = {"setting": row[0], "method": row[1], "rate": f"{chosen[row]:.3g}{edge}"}
        rows.append({**named, **{key: [one[key] for one in mine] for key in mine[0]}})
    show(
        f"{workers} workers until f - min f <= {GAP}; rate of a gradient, {len(rates)} of "
        f"{rates[0]:.3g} to {rates[-1]:.3g} tried",
        {
            "setting": "setting",
            "method": "method",
            "rate": "rate",
            "delay": "largest delay|.0f",
            "time_s": "virtual s|.0f",
            "gradients": "gradients|.0f",
        },
        rows,
        as_json=arguments.json,
        reached="time_s",
    )


if __name__ == "__main__":
    main()
