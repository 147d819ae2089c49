"""Asynchronous local SGD: does Delayed Nesterov mend what momentum at every arrival breaks?

Claims (arXiv:2401.09135): with Nesterov's momentum at every arrival asynchronous local SGD is worse
than synchronous DiLoCo at the same number of updates; Delayed Nesterov (DN) brings it back, and with
dynamic local work (DyLU: slow workers take fewer steps) it is level or better; a buffer of the size
of the number of workers closes most of the gap.

Here: four workers with data of their own, AdamW inside, the four speeds of the paper's reference
notebook (0.58 to 3.33 s for a step), the same number of updates for all. ``mnist``: an MLP 784-32-10
on MNIST-5k, Dirichlet labels, test loss. ``text``: a byte-level transformer on the sources of
Python's standard library, each worker with other modules, bits per byte on held-out files. The figure
is the mean of a run's last four evaluations, and the worst after its first half. Each row's outer
rate comes from one grid, by the first figure, on seeds that are used for nothing else.

    python benchmarks/claims_local_sgd.py [--seeds 5] [--json]
"""

from __future__ import annotations

import math
import statistics
from functools import lru_cache, partial
from typing import Any

import torch
from _claims import in_parallel, parser, show, tune

import headway as hw

STEP_TIMES_S = (0.58, 0.75, 1.51, 3.33)
WORKERS = len(STEP_TIMES_S)
MOMENTUM = 0.9
BATCH = 8
RATES = (0.2, 0.02, 0.05, 0.1, 0.4, 0.7)
INNER_RATES = {"mnist": 0.003, "text": 0.01}
FIGURES = {"mnist": "loss", "text": "bits"}
UPDATES = {"mnist": 160, "text": 120}
SYNC_EVERY = {"mnist": 10, "text": 8}
LENGTH, MODULES = 32, 16
EVALUATIONS, LAST = 20, 4

SYNCHRONOUS = "diloco (synchronous)"
ALGORITHMS = (
    SYNCHRONOUS,
    "async, SGD outside",
    "async, Nesterov at every arrival",
    "async, Nesterov on buffers of 4",
    "async, DN",
    "async, DN + DyLU",
)

COLUMNS = {
    "algorithm": "algorithm",
    "rate": "outer rate",
    "figure": "test loss or bits per byte|.3f",
    "worst": "worst in the second half|.3f",
    "against": "against synchronous|+.3f",
    "steps": "local steps|.0f",
    "virtual_time_s": "virtual time, s|.0f",
}


def make(name: str, rate: float, sync_every: int) -> hw.Algorithm:
    """An algorithm with its outer rate; all have the same momentum, or none."""
    known = hw.algorithms
    nesterov = partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM, nesterov=True)
    delayed = partial(known.async_diloco, learning_rate=rate, momentum=MOMENTUM)
    makers = {
        SYNCHRONOUS: partial(
            known.diloco,
            num_workers=WORKERS,
            sync_every=sync_every,
            learning_rate=rate,
            momentum=MOMENTUM,
        ),
        "async, SGD outside": partial(
            known.async_delta, server_optimizer=partial(torch.optim.SGD, lr=rate)
        ),
        "async, Nesterov at every arrival": partial(
            delayed, period=1, sync_every=sync_every, dynamic_local_work=False
        ),
        "async, Nesterov on buffers of 4": partial(
            known.fedbuff,
            buffer_size=WORKERS,
            staleness=hw.staleness.constant(),
            server_optimizer=nesterov,
        ),
        "async, DN": partial(
            delayed, period=WORKERS, sync_every=sync_every, dynamic_local_work=False
        ),
        "async, DN + DyLU": partial(delayed, period=WORKERS, sync_every=sync_every),
    }
    return makers[name]()


@lru_cache(maxsize=2)
def text() -> hw.data.Federated:
    """Modules in turn to the workers; the test set are files that nobody trains on."""
    train = hw.data.stdlib_text(length=LENGTH, num_modules=MODULES)
    held_out = hw.data.stdlib_text(part="test", length=LENGTH)
    assert train.natural_ids is not None
    owners = train.natural_ids.unique(return_inverse=True)[1] % WORKERS
    thinned = held_out.subset(torch.arange(0, len(held_out), 8))
    return hw.data.federated(train, hw.data.natural(owners), test=thinned)


def task_of(problem: str, sync_every: int, alpha: float, seed: int) -> hw.Task:
    """The task; on MNIST the seed also divides the data."""
    local = hw.LocalTraining(
        steps=sync_every, batch_size=BATCH, optimizer="adamw", learning_rate=INNER_RATES[problem]
    )
    if problem == "text":
        model = hw.models.transformer(dim=16, layers=1, length=LENGTH)
        data = text()
    else:
        model = hw.models.mlp(784, 32, 10)
        division = hw.data.dirichlet(WORKERS, alpha=alpha)
        data = hw.data.federated(hw.data.mnist_5k(), division, seed=seed)
    return hw.Task(
        model, "cross_entropy", data, local=local, metrics=(FIGURES[problem],), name=problem
    )


def run(job: tuple[Any, ...]) -> dict[str, float]:
    """Train for a number of updates."""
    (name, problem, updates, sync_every, alpha), rate, seed = job
    task = task_of(problem, sync_every, alpha, seed)
    result = hw.simulate(
        task,
        make(name, rate, sync_every),
        population=hw.population.from_times(STEP_TIMES_S, unit="step"),
        stop=hw.until(updates=updates),
        evaluate_every=max(WORKERS, updates // EVALUATIONS),
        seed=seed,
        record="nothing",
    )
    figures = [point.metrics[FIGURES[problem]] for point in result.history]
    return {
        "figure": statistics.fmean(figures[-LAST:]),
        "worst": max(figures[len(figures) // 2 :]),
        "steps": result.examples / BATCH,
        "virtual_time_s": result.virtual_time_s,
    }


def score(job: tuple[Any, ...]) -> float:
    """What tuning makes small; a loss that is no number is worst."""
    figure = run(job)["figure"]
    return math.inf if math.isnan(figure) else figure


def measure(problem: str, arguments: Any) -> list[dict[str, Any]]:
    """Tune, run all seeds, and compare with the synchronous runs seed by seed."""
    updates = arguments.updates or UPDATES[problem]
    common = (problem, updates, SYNC_EVERY[problem], arguments.alpha)
    rows = {(name, *common): RATES for name in ALGORITHMS}
    chosen = tune(score, rows, arguments.tuning_seeds, arguments.processes)
    jobs = [(row, chosen[row], seed) for row in rows for seed in range(arguments.seeds)]
    runs = in_parallel(run, jobs, arguments.processes)
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        mine = runs[number * arguments.seeds : (number + 1) * arguments.seeds]
        columns = {key: [one[key] for one in mine] for key in mine[0]}
        found.append({"algorithm": row[0], "rate": chosen[row], **columns})
    base = found[0]["figure"]
    for one in found:
        one["against"] = [mine - other for mine, other in zip(one["figure"], base, strict=True)]
    return found


def main() -> None:
    """Print a table for each problem, or a line of JSON."""
    made = parser(__doc__)
    made.add_argument("--problems", nargs="+", choices=UPDATES, default=list(UPDATES))
    made.add_argument(
        "--updates", type=int, help="of each run; by default 160 on mnist, 120 on text"
    )
    made.add_argument(
        "--alpha", type=float, default=0.3, help="of the labels; large: alike workers"
    )
    arguments = made.parse_args()
    for problem in arguments.problems:
        data = text().train.name if problem == "text" else f"mnist_5k, alpha {arguments.alpha:g}"
        updates = arguments.updates or UPDATES[problem]
        title = (
            f"{data}, {updates} updates of {SYNC_EVERY[problem]} local steps, "
            f"{arguments.seeds} seeds"
        )
        show(title, COLUMNS, measure(problem, arguments), as_json=arguments.json)
        print()


if __name__ == "__main__":
    main()
