"""Participation bias: do buffered methods forget slow clients, and do tables of clients cure it?

Claims: where fast clients report more often, FedBuff's model leans towards their data; methods with
an entry for each client (MIFA, arXiv:2106.04159; CA2FL, ICLR 2024; ACE, arXiv:2511.19066) do not.

Here: all clients are always at work, three in ten of them five times slower than the others, and
data go with speed. On MNIST-5k the slow clients alone hold the classes 7, 8 and 9; the figures are
accuracies on test examples of these classes and of the others. On quadratics the slow clients are
those with the largest first coordinate of their optimum; the figure is the distance to the true
optimum, and to the optimum of the clients weighed by how often they took part.

Rates come from a grid of the same size for each algorithm, by the mean loss of the last quarter
of a run, on seeds that are used for nothing else.

    python benchmarks/claims_participation.py [--seeds 5] [--json]
"""

from __future__ import annotations

import statistics
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from _claims import in_parallel, parser, show, tune
from torch import Tensor

import headway as hw

ALGORITHMS = ("fedavg", "fedbuff", "fedbuff, s = 1", "ca2fl", "mifa", "ace")
SLOW_SHARE, SLOWDOWN, SLOW_CLASSES = 0.3, 5.0, (7, 8, 9)
BUFFER = 10
DIM = 50
LOCAL_RATES = {"mnist": (0.1, 0.2), "quadratic": (0.05, 0.1)}
SERVER_RATES = (1.0, 0.3, 3.0)
ACE_RATES = {
    "mnist": (0.05, 0.01, 0.02, 0.1, 0.2, 0.4),
    "quadratic": (0.05, 0.01, 0.02, 0.1, 0.2, 0.4),
}
LAST = 0.25
"""Figures are means over this last part of a run's evaluations."""

COLUMNS = {
    "mnist": {
        "algorithm": "algorithm",
        "local": "local rate",
        "server": "server rate",
        "slow": "accuracy, slow clients' classes|.3f",
        "fast": "accuracy, other classes|.3f",
        "accuracy": "accuracy|.3f",
        "updates_slow": "updates of a slow client|.3g",
        "updates_fast": "of a fast one|.3g",
        "virtual_time_s": "virtual time, s|.0f",
    },
    "quadratic": {
        "algorithm": "algorithm",
        "local": "local rate",
        "server": "server rate",
        "distance": "distance to the optimum|.3g",
        "to_biased": "to the optimum by participation|.3g",
        "apart": "between the two|.3g",
        "updates_slow": "updates of a slow client|.3g",
        "updates_fast": "of a fast one|.3g",
    },
}


def make(name: str, clients: int, server: float) -> hw.Algorithm:
    """An algorithm with its server's rate; what has a buffer has the same one."""
    optimizer = partial(torch.optim.SGD, lr=server)
    known = hw.algorithms
    if name == "ace":
        return known.ace(learning_rate=server)
    if name == "fedavg":
        return known.fedavg(clients_per_round=clients, reduce="mean", server_optimizer=optimizer)
    if name == "fedbuff, s = 1":
        every = hw.staleness.constant()
        return known.fedbuff(buffer_size=BUFFER, staleness=every, server_optimizer=optimizer)
    buffered = {"fedbuff": known.fedbuff, "ca2fl": known.ca2fl, "mifa": known.mifa}[name]
    return buffered(buffer_size=BUFFER, server_optimizer=optimizer)


def grid(name: str, problem: str) -> list[tuple[float | None, float | None]]:
    """Six points for each."""
    if name == "ace":
        return [(None, rate) for rate in ACE_RATES[problem]]
    return list(product(LOCAL_RATES[problem], SERVER_RATES))


def accuracy_on(outputs: Tensor, targets: Tensor, classes: tuple[int, ...], inside: bool) -> float:
    """The share of right answers among the examples of some classes, or of the others."""
    chosen = torch.isin(targets, torch.tensor(classes)) == inside
    return float((outputs[chosen].argmax(dim=1) == targets[chosen]).float().mean())


METRICS = {
    "slow": partial(accuracy_on, classes=SLOW_CLASSES, inside=True),
    "fast": partial(accuracy_on, classes=SLOW_CLASSES, inside=False),
    "accuracy": partial(accuracy_on, classes=tuple(range(10)), inside=True),
    "loss": torch.nn.functional.cross_entropy,
}


@lru_cache(maxsize=4)
def digits(num_clients: int, seed: int) -> tuple[list[tuple[Tensor, Tensor]], hw.data.Dataset]:
    """Clients of equal size: the first of them, the slow ones, share the slow classes."""
    train, test = hw.data.mnist_5k().split(test_fraction=0.2, seed=seed)
    is_slow = torch.isin(train.targets, torch.tensor(SLOW_CLASSES))
    num_slow = round(SLOW_SHARE * num_clients)
    held = [is_slow.nonzero().flatten(), (~is_slow).nonzero().flatten()]
    counts = (num_slow, num_clients - num_slow)
    rows = [part for some, count in zip(held, counts, strict=True) for part in some.chunk(count)]
    return [(train.inputs[part], train.targets[part]) for part in rows], test


def mnist(num_clients: int, local: float | None, seed: int) -> tuple[hw.Task, list[int]]:
    """The task, and who is slow."""
    held, test = digits(num_clients, seed)
    task = hw.Task(
        hw.models.mlp(784, 32, 10),
        "cross_entropy",
        held,
        test,
        local=hw.LocalTraining(steps=4, batch_size=10, learning_rate=local or 0.1),
        metrics=METRICS,
        name="mnist_5k",
    )
    return task, list(range(round(SLOW_SHARE * num_clients)))


def quadratic(
    num_clients: int, local: float | None, seed: int
) -> tuple[hw.tasks.QuadraticTask, list[int]]:
    """The task, and who is slow."""
    task = hw.tasks.quadratic(
        dim=DIM,
        num_clients=num_clients,
        local=hw.LocalTraining(steps=5, learning_rate=local or 0.1),
        seed=seed,
    )
    order = task.centers[:, 0].argsort(descending=True)
    return task, order[: round(SLOW_SHARE * num_clients)].tolist()


def run(job: tuple[Any, ...]) -> dict[str, float]:
    """Train for a number of updates; the figures of the last part of the run."""
    (name, problem, num_clients, updates), (local, server), seed = job
    makers: dict[str, Any] = {"mnist": mnist, "quadratic": quadratic}
    task, slow = makers[problem](num_clients, local, seed)
    result = hw.simulate(
        task,
        make(name, num_clients, 1.0 if server is None else server),
        population=hw.population.with_slowdown(
            hw.population.uniform(num_clients, low_s=0.8, high_s=1.2),
            dict.fromkeys(slow, SLOWDOWN),
        ),
        stop=hw.until(updates=updates),
        evaluate_every=max(1, updates // 100),
        seed=seed,
        record="nothing",
    )
    count = max(1, round(LAST * len(result.history)))
    last = result.history[-count:]
    found = {
        metric: statistics.fmean(point.metrics[metric] for point in last)
        for metric in result.metrics
    }
    accepted = [result.clients[client].accepted for client in range(num_clients)]
    return {**found, **participation(accepted, slow), **biased(task, result, accepted)} | {
        "virtual_time_s": result.virtual_time_s
    }


def participation(accepted: list[int], slow: list[int]) -> dict[str, float]:
    """Updates of a slow and of a fast client, on average."""
    some = statistics.fmean(accepted[client] for client in slow)
    others = [count for client, count in enumerate(accepted) if client not in slow]
    return {"updates_slow": some, "updates_fast": statistics.fmean(others)}


def biased(task: Any, result: hw.Result, accepted: list[int]) -> dict[str, float]:
    """How far the final model is from the optimum of the clients weighed by participation.

    All quadratics have the same curvature, so that optimum is the weighted mean of their centres.
    """
    if not isinstance(task, hw.tasks.QuadraticTask):
        return {}
    weights = torch.tensor(accepted, dtype=torch.float64)
    pulled = (weights / weights.sum()) @ task.centers.double()
    final = result.parameters.double()
    return {
        "to_biased": float((final - pulled).norm()),
        "apart": float((task.optimum.double() - pulled).norm()),
    }


def score(job: tuple[Any, ...]) -> float:
    """What tuning makes small: the mean loss of the last part; one that is no number is worst."""
    loss = run(job)["loss"]
    return loss if loss == loss else float("inf")


def measure(problem: str, arguments: Any) -> list[dict[str, Any]]:
    """Tune, and run all seeds."""
    rows = {
        (name, problem, arguments.clients, arguments.updates): grid(name, problem)
        for name in ALGORITHMS
    }
    chosen = tune(score, rows, arguments.tuning_seeds, arguments.processes)
    jobs = [(row, chosen[row], seed) for row in rows for seed in range(arguments.seeds)]
    runs = in_parallel(run, jobs, arguments.processes)
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        mine = runs[number * arguments.seeds : (number + 1) * arguments.seeds]
        local, server = ("" if rate is None else f"{rate:.3g}" for rate in chosen[row])
        about = {"algorithm": row[0], "local": local, "server": server}
        found.append({**about, **{key: [one[key] for one in mine] for key in mine[0]}})
    return found


def main() -> None:
    """Print a table for each problem, or a line of JSON."""
    made = parser(__doc__)
    made.add_argument("--problems", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    made.add_argument("--clients", type=int, default=30)
    made.add_argument("--updates", type=int, default=2000, help="of each run")
    arguments = made.parse_args()
    for problem in arguments.problems:
        rows = measure(problem, arguments)
        title = (
            f"{problem}, {arguments.clients} clients, {arguments.updates} updates, "
            f"{arguments.seeds} seeds"
        )
        show(title, COLUMNS[problem], rows, as_json=arguments.json)
        print()


if __name__ == "__main__":
    main()
