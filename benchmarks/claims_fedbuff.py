"""FedBuff against synchronous training and FedAsync: client updates and virtual time to a target.

Claim (Nguyen et al. 2022, arXiv:2106.06639): with many clients in flight FedBuff takes about 3.3
times fewer client updates than synchronous training and 2.5 times fewer than FedAsync.

Here: MNIST-5k, an MLP 784-32-10, clients with Dirichlet(0.3) labels, a half-normal time for each
client's jobs, the same number of jobs in flight for all. Each algorithm's local and server rate
come from a grid of the same size, at each concurrency, by client updates to the target on seeds
that are used for nothing else.

    python benchmarks/claims_fedbuff.py [--seeds 5] [--json]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from _claims import in_parallel, parser, show, tune

import headway as hw

ALGORITHMS = ("fedavg", "fedavg, over-selection", "fedasync", "fedbuff")
LOCAL_RATES = (0.2, 0.1, 0.4)
SERVER_RATES = (1.0, 2.0, 4.0)
MIXINGS = (0.4, 0.2, 0.8)
OVER_SELECTION = 1.3
BUFFER = 10
NOT_REACHED_COSTS = 2
"""In tuning a run that misses the target counts as so many times the largest number of updates."""

COLUMNS = {
    "in_flight": "in flight",
    "algorithm": "algorithm",
    "local": "local rate",
    "server": "server rate or mixing",
    "updates": "client updates, reached|.0f",
    "with_cancelled": "with cancelled jobs|.0f",
    "virtual_time_s": "virtual time, s|.3g",
    "updates_ratio": "updates / fedbuff",
    "time_ratio": "time / fedbuff",
}


def make(name: str, concurrency: int, server: float) -> hw.Algorithm:
    """An algorithm that keeps ``concurrency`` clients at work."""
    optimizer = partial(torch.optim.SGD, lr=server)
    if name == "fedasync":
        return hw.algorithms.fedasync(mixing=server)
    if name == "fedbuff":
        return hw.algorithms.fedbuff(buffer_size=BUFFER, server_optimizer=optimizer)
    over = OVER_SELECTION if "over" in name else 1.0
    count = round(concurrency / over)
    return hw.algorithms.fedavg(
        clients_per_round=count, over_selection=concurrency / count, server_optimizer=optimizer
    )


@lru_cache(maxsize=4)
def clients(num_clients: int, seed: int) -> hw.data.Federated:
    """The same data for all algorithms of a seed."""
    division = hw.data.dirichlet(num_clients, alpha=0.3)
    return hw.data.federated(hw.data.mnist_5k(), division, seed=seed)


def run(job: tuple[Any, ...]) -> dict[str, float | None]:
    """Train until the target, or the largest number of updates."""
    (name, concurrency, num_clients, target, most), (local, server), seed = job
    task = hw.Task(
        hw.models.mlp(784, 32, 10),
        "cross_entropy",
        clients(num_clients, seed),
        local=hw.LocalTraining(epochs=2, batch_size=10, learning_rate=local),
        name="mnist_5k",
    )
    waits = name.startswith("fedavg")
    result = hw.simulate(
        task,
        make(name, concurrency, server),
        population=hw.population.halfnormal(num_clients, scale_s=1.0),
        concurrency=concurrency,
        stop=hw.until(updates=most, target=("accuracy", target)),
        # Each model of a round or a flush is looked at once.
        evaluate_every=hw.every(versions=1) if waits else BUFFER,
        seed=seed,
        record="nothing",
    )
    point = result.at_target("accuracy", target)
    if point is None:
        return {"updates": None, "with_cancelled": None, "virtual_time_s": None}
    return {
        "updates": point.updates,
        "with_cancelled": point.updates + result.counts["cancelled"],
        "virtual_time_s": point.virtual_time_s,
    }


def score(job: tuple[Any, ...]) -> float:
    """What tuning makes small: client updates to the target."""
    updates = run(job)["updates"]
    most: int = job[0][-1]
    return NOT_REACHED_COSTS * most if updates is None else updates


def measure(arguments: Any) -> list[dict[str, Any]]:
    """Tune, run all seeds, and compare with FedBuff at the same concurrency."""
    rows = {
        (name, concurrency, arguments.clients, arguments.target, arguments.updates): list(
            product(LOCAL_RATES, MIXINGS if name == "fedasync" else SERVER_RATES)
        )
        for concurrency, name in product(arguments.concurrency, ALGORITHMS)
    }
    chosen = tune(score, rows, arguments.tuning_seeds, arguments.processes)
    jobs = [(row, chosen[row], seed) for row in rows for seed in range(arguments.seeds)]
    runs = in_parallel(run, jobs, arguments.processes)
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        mine = runs[number * arguments.seeds : (number + 1) * arguments.seeds]
        columns = {key: [one[key] for one in mine] for key in mine[0]}
        local, server = chosen[row]
        about = {"algorithm": row[0], "in_flight": row[1], "local": local, "server": server}
        found.append({**about, **columns})
    for row_of in found:
        base = next(
            one
            for one in found
            if one["algorithm"] == "fedbuff" and one["in_flight"] == row_of["in_flight"]
        )
        row_of["updates_ratio"] = ratio(row_of["updates"], base["updates"])
        row_of["time_ratio"] = ratio(row_of["virtual_time_s"], base["virtual_time_s"])
    return found


def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> list[float | None]:
    """Seed by seed, as both have the same clients."""
    return [
        None if one is None or other is None else one / other
        for one, other in zip(values, base, strict=True)
    ]


def main() -> None:
    """Print the table, or JSON."""
    made = parser(__doc__)
    made.add_argument("--concurrency", type=int, nargs="+", default=[25, 50, 100, 200])
    made.add_argument("--clients", type=int, default=400, help="more than are in flight")
    made.add_argument("--updates", type=int, default=6000, help="a run ends here at the latest")
    made.add_argument("--target", type=float, default=0.85)
    arguments = made.parse_args()
    title = f"{arguments.clients} clients, accuracy {arguments.target}, {arguments.seeds} seeds"
    rows = measure(arguments)
    show(title, COLUMNS, rows, as_json=arguments.json, reached="updates")


if __name__ == "__main__":
    main()
