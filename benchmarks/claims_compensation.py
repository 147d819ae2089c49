"""What does a delay cost at equal samples, and how much of it do compensated methods win back?

The 8 x 8 digits, an MLP 64-64-10, 1,000 gradients of 32 examples from ``n`` equally fast workers who all
hold all of the training data: after the first round each gradient is exactly ``n - 1`` versions late,
and nothing differs from row to row but that. DC-ASGD (arXiv:1609.08326), Gap-Aware (arXiv:1909.10802)
and staleness-aware SGD (arXiv:1511.05950), in two ways:

- ``kept``: the rate that is best for one worker is kept for all delays, as in those papers;
- ``tuned``: each method has the best rate, DC-ASGD the best strength too, at each delay.

The error is that of 500 test images, the mean of the last five evaluations, 50 gradients apart.

    python benchmarks/claims_compensation.py [--seeds 5] [--processes 2] [--json]
"""

from __future__ import annotations

import statistics
from functools import lru_cache
from itertools import product
from typing import Any

from _claims import in_parallel, parser, show, tune

import headway as hw
from headway.task import LocalTraining, Task

WORKERS, TUNED_WORKERS = (1, 4, 16, 64), (4, 16, 64)
GRADIENTS, BATCH, EVERY, LAST = 1000, 32, 50, 5
RATES = {0.0: [2.0**-k for k in range(-1, 9)], 0.9: [2.0**-k for k in range(2, 12)]}
STRENGTHS: dict[str, list[float | None]] = {
    "dc_asgd constant": [0.04, 4.0],
    "dc_asgd adaptive": [0.2, 2.0],
}
# Name and momentum.
METHODS = (
    ("async_sgd", 0.0),
    ("staleness_aware_sgd", 0.0),
    ("dc_asgd constant", 0.0),
    ("dc_asgd adaptive", 0.0),
    ("gap_aware_sgd", 0.0),
    ("async_sgd", 0.9),
    ("gap_aware_sgd", 0.9),
)
# Rate and strength; None is the method's own.
Point = tuple[float, float | None]
Row = tuple[str, float, int, int]


def algorithm(method: str, momentum: float, rate: float, strength: float | None) -> hw.Algorithm:
    if method == "staleness_aware_sgd":
        return hw.algorithms.staleness_aware_sgd(learning_rate=rate)
    if method == "gap_aware_sgd":
        return hw.algorithms.gap_aware_sgd(learning_rate=rate, momentum=momentum)
    if method == "dc_asgd constant":
        return hw.algorithms.dc_asgd(learning_rate=rate, strength=strength, mode="constant")
    if method == "dc_asgd adaptive":
        return hw.algorithms.dc_asgd(learning_rate=rate, strength=strength, mode="adaptive")
    return hw.algorithms.async_sgd(learning_rate=rate, momentum=momentum)


@lru_cache(maxsize=1)
def data() -> tuple[hw.data.Dataset, hw.data.Dataset]:
    train, test = hw.data.digits().split(test_size=500, seed=0)
    return train, test


def run(job: tuple[Row, Point, int]) -> float:
    """The test error, in percent."""
    (method, momentum, workers, gradients), (rate, strength), seed = job
    train, test = data()
    task = Task(
        hw.models.mlp(64, 64, 10),
        "cross_entropy",
        [(train.inputs, train.targets)] * workers,
        test,
        local=LocalTraining(steps=1, batch_size=BATCH),
    )
    result = hw.simulate(
        task,
        algorithm(method, momentum, rate, strength),
        stop=hw.until(updates=gradients),
        evaluate_every=min(EVERY, gradients // LAST),
        seed=seed,
        record="nothing",
    )
    last = [point.metrics["accuracy"] for point in result.history[-LAST:]]
    return 100.0 * (1.0 - statistics.fmean(last))


def points(method: str, momentum: float) -> list[Point]:
    return list(product(RATES[momentum], STRENGTHS.get(method, [None])))


def choose(arguments: Any, workers: tuple[int, ...]) -> dict[tuple[str, Row], Point]:
    """The rate and the strength of each row of the tables."""
    gradients = arguments.gradients
    alone = {m: ("async_sgd", m, 1, gradients) for m in RATES}
    later = [(*m, n, gradients) for m in METHODS for n in TUNED_WORKERS if n in workers]
    grids = {row: points(*row[:2]) for row in [*alone.values(), *later]}
    best = tune(run, grids, arguments.tuning_seeds, arguments.processes)
    chosen = {("tuned", row): best[row] for row in later}
    for method, momentum in METHODS:
        # Without delay all of them are SGD.
        for n in workers if method == "async_sgd" else workers[1:]:
            point = best[alone[momentum]][0], None
            chosen["kept", (method, momentum, n, gradients)] = point
    return chosen


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--gradients", type=int, default=GRADIENTS)
    made.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    arguments = made.parse_args()
    workers = tuple(arguments.workers)
    chosen = choose(arguments, workers)
    jobs = [(row, chosen[how, row], s) for how, row in chosen for s in range(arguments.seeds)]
    errors = iter(in_parallel(run, jobs, arguments.processes))
    found = {key: [next(errors) for _ in range(arguments.seeds)] for key in chosen}
    lines = []
    for how, (method, momentum) in product(("kept", "tuned"), METHODS):
        line: dict[str, Any] = {"rate": how, "method": method, "momentum": str(momentum)}
        for n in workers:
            key = how, (method, momentum, n, arguments.gradients)
            line[f"error_{n}"] = found.get(key, "")
            line[f"point_{n}"] = chosen.get(key)
        lines.append(line)
    columns = {"rate": "rate", "method": "method", "momentum": "momentum"}
    columns |= {f"error_{n}": f"delay {n - 1}: error, %|.1f" for n in workers}
    show(
        f"{arguments.gradients} gradients of {BATCH} examples",
        columns,
        lines,
        as_json=arguments.json,
    )
    if not arguments.json:
        for (how, row), (rate, strength) in chosen.items():
            print(f"{how}: {row[0]}, momentum {row[1]}, {row[2]} workers: {rate:.3g}, {strength}")


if __name__ == "__main__":
    main()
