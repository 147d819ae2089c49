"""How many clients does a simulation train in a second, against the plain loop?

One job: 50 examples, 5 epochs, batches of 10, so 25 steps. ``plain`` is the usual loop in one
process with one thread: a deep copy of the model, a DataLoader, a new optimizer for each client, and
nothing around it. Everything else is the whole simulator: queue, server, events, results. ``sync``
is ``fedavg`` with rounds of 100, ``fedbuff`` has 100 clients in flight whose jobs take
uniform(0.5, 2) seconds.

    python benchmarks/batched_training.py [--models 60-16-10 cnn] [--repeats 5]
    python benchmarks/batched_training.py --device cuda --groups 1 16 256 4096

``--groups`` asks for groups of at most so many instead, with as many clients in a round and in
flight, in one process on ``--device``; 1 is one by one. ``plain`` trains on the same device.

All candidates for a model are alive at the same time and take turns: each trains a few hundred
clients, then waits for the others. Two turns of each are not counted: processes start and code
is compiled in them. Medians, with the range behind them, and the ratio to ``plain``. On a busy
machine seconds say little: ``CPU ratio`` compares the processor time of a client, for one process
(of others, or of a GPU, the calling process knows nothing).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from itertools import product
from statistics import median
from typing import Any

# One thread in each process, also in those that the simulator starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import headway as hw
from headway import models
from headway.core.errors import ConfigurationError
from headway.simulation.engine import Engine
from headway.simulation.resolve import resolve, usable_device
from headway.task import LocalTraining, Task

EPOCHS, BATCH, EXAMPLES, RATE, CLIENTS, ROUND = 5, 10, 50, 0.01, 300, 100
WARM = 2
SHAPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "60-16-10": (models.mlp(60, 16, 10), (60,)),
    "128-64-10": (models.mlp(128, 64, 10), (128,)),
    "784-200-10": (models.mlp(784, 200, 10), (784,)),
    "cnn": (models.cnn(), (1, 28, 28)),
}
ASKED = {
    "sync": {"60-16-10": 40.0, "128-64-10": 15.0, "784-200-10": 3.5, "cnn": 2.2},
    "fedbuff": {"60-16-10": 20.0, "128-64-10": 8.0, "784-200-10": 3.0, "cnn": 2.0},
}
# How many clients a candidate trains in a turn: some tenths of a second.
TURN = {"60-16-10": 1000, "128-64-10": 1000, "784-200-10": 200, "cnn": 100}


def task_for(name: str, clients: int = CLIENTS) -> Task:
    """The same data for every candidate."""
    factory, shape = SHAPES[name]
    draw = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randn(EXAMPLES, *shape, generator=draw),
            torch.randint(0, 10, (EXAMPLES,), generator=draw),
        )
        for _ in range(clients)
    ]
    local = LocalTraining(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE)
    return Task(factory, "cross_entropy", data, data[0], local=local)


class Plain:
    """The plain loop, a few clients at a time."""

    def __init__(self, task: Task, factory: Any, turn: int, device: str = "cpu") -> None:
        self._model = factory().to(device)
        self._data = [
            TensorDataset(*(part.to(device) for part in task._data.client(client)))
            for client in range(10)
        ]
        self._device = torch.device(device)
        self._turn = turn
        self.about: dict[str, Any] = {}
        self.num_compiled = 0
        self.worked = 0.0

    def turn(self) -> float:
        """Clients per second."""
        begin, worked = time.perf_counter(), time.process_time()
        for number in range(self._turn):
            local = copy.deepcopy(self._model)
            steps = torch.optim.SGD(local.parameters(), lr=RATE)
            for _ in range(EPOCHS):
                for inputs, targets in DataLoader(
                    self._data[number % 10], batch_size=BATCH, shuffle=True
                ):
                    steps.zero_grad()
                    F.cross_entropy(local(inputs), targets).backward()
                    steps.step()
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        self.worked = (time.process_time() - worked) / self._turn
        return self._turn / (time.perf_counter() - begin)

    def close(self) -> None:
        """Nothing is left."""


class Simulated:
    """A simulation in a thread of its own, which waits between two turns."""

    def __init__(
        self,
        task: Task,
        turn: int,
        turns: int,
        kind: str,
        execution: hw.Execution,
        *,
        law: str = "uniform",
        at_once: int = ROUND,
        device: str = "cpu",
    ) -> None:
        self._turn, self._law = turn, law
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failure: BaseException | None = None
        self.worked = 0.0
        algorithm = hw.algorithms.fedavg(clients_per_round=at_once)
        if kind == "fedbuff":
            algorithm = hw.algorithms.fedbuff()
        settings = resolve(
            task,
            algorithm,
            hw.until(updates=turn * turns),
            population=_population(kind, law, task.num_clients),
            concurrency=at_once if kind == "fedbuff" else None,
            execution=execution,
            evaluate_every=turn,
            device=device,
            record="nothing",
        )
        self._settings = settings
        self.about: dict[str, Any] = {}
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        engine: Engine | None = None
        try:
            torch.set_num_threads(1)
            self._go.acquire()
            engine = Engine(
                self._settings, evaluated=lambda *_: self._pause(), reported=lambda _: None
            )
            self._engine = engine
            self._points = -1  # The evaluation of the first model is no turn.
            engine.begin()
            engine.run()
            self.about = engine.choice.describe()
        except BaseException as error:  # noqa: BLE001 (it is raised where turn() is called)
            self._failure = error
        finally:
            if engine is not None:
                engine.choice.close()
            self._done.release()

    def _pause(self) -> None:
        self._points += 1
        if self._points:
            self._done.release()
            self._go.acquire()

    @property
    def num_compiled(self) -> int:
        """How many shapes this process has compiled so far."""
        trainer = None if self._engine is None else self._engine.choice.trainer
        return 0 if trainer is None else trainer.num_compiled

    def turn(self) -> float:
        """Clients per second."""
        begin, worked = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure
        self.worked = (time.process_time() - worked) / self._turn
        return self._turn / (time.perf_counter() - begin)

    def close(self) -> None:
        """Let it come to its end."""
        self._go.release()
        self._thread.join()


def _population(kind: str, law: str, clients: int = CLIENTS) -> Any:
    if kind == "sync":
        return hw.population.constant(clients)
    if law == "half-normal":
        return hw.population.halfnormal(clients, scale_s=1.0, per="job")
    if law == "exponential":
        return hw.population.exponential(clients, mean_s=1.0)
    return hw.population.uniform(clients, low_s=0.5, high_s=2.0, per="job")


Key = tuple[str, int, str]
"""Kind of run, processes or size of groups, and code."""


def measure(
    name: str, repeats: int, share: float, processes: list[int], compiles: list[bool]
) -> list[dict[str, Any]]:
    """The rows of one model."""
    task, turn = task_for(name), max(ROUND, round(TURN[name] * share / ROUND) * ROUND)
    found: dict[Key, Any] = {}
    found["plain", 1, "-"] = Plain(task, SHAPES[name][0], max(2, round(turn * 0.05)))
    for kind, number, compiled in product(("sync", "fedbuff"), processes, compiles):
        execution = hw.Execution(
            mode="groups" if compiled else "auto", processes=number, compile=compiled
        )
        key = kind, number, "compiled" if compiled else "eager"
        found[key] = Simulated(task, turn, repeats + WARM, kind, execution)
    return rows_of(name, found, repeats)


def measure_groups(
    name: str, repeats: int, share: float, groups: list[int], compiles: list[bool], device: str
) -> list[dict[str, Any]]:
    """The rows of one model, by the size of groups."""
    task, usual = task_for(name, max(CLIENTS, *groups)), TURN[name] * share
    found: dict[Key, Any] = {}
    found["plain", 1, "-"] = Plain(task, SHAPES[name][0], max(2, round(usual * 0.05)), device)
    for kind, size, compiled in product(("sync", "fedbuff"), groups, compiles):
        if compiled and size == 1:
            continue
        execution = hw.Execution(
            mode="one_by_one" if size == 1 else "groups", group_size=size, compile=compiled
        )
        turn = max(size, round(usual / size) * size)
        key = kind, size, "compiled" if compiled else "eager"
        found[key] = Simulated(
            task, turn, repeats + WARM, kind, execution, at_once=size, device=device
        )
    return rows_of(name, found, repeats, asked=False)


def rows_of(
    name: str, found: dict[Key, Any], repeats: int, *, asked: bool = True
) -> list[dict[str, Any]]:
    """Let all candidates take turns, and compare them with the plain loop."""
    rates: dict[Key, list[float]] = {key: [] for key in found}
    worked: dict[Key, list[float]] = {key: [] for key in found}
    for repeat in range(repeats + WARM):
        for key, candidate in found.items():
            compiled = candidate.num_compiled
            rate = candidate.turn()
            # A turn in which something was compiled says nothing of the turns after it.
            if repeat >= WARM and candidate.num_compiled == compiled:
                rates[key].append(rate)
                worked[key].append(candidate.worked)
    rows = []
    bar, work = median(rates["plain", 1, "-"]), median(worked["plain", 1, "-"])
    for key, candidate in found.items():
        candidate.close()
        kind, _, code = key
        # Nothing is left where each turn compiled.
        values = rates[key] or [float("nan")]
        about = candidate.about
        processes = about.get("processes", 1)
        rows.append(
            {
                "model": name,
                "kind": kind,
                "processes": processes,
                "code": code if about.get("compiled", True) or code != "compiled" else "fell back",
                "mode": about.get("mode", "-"),
                "group": round(about.get("mean_group_size", 1.0), 1),
                "clients_per_s": round(median(values), 1),
                "min": round(min(values), 1),
                "max": round(max(values), 1),
                "ratio": round(median(values) / bar, 2),
                "cpu_ratio": round(work / median(worked[key] or [float("nan")]), 2)
                if processes == 1
                else None,
                # What was asked for is for 100 at a time on the CPU.
                "asked": ASKED.get(kind, {}).get(name) if asked else None,
            }
        )
    return rows


def group_sizes(updates: int) -> dict[str, float]:
    """Mean number of jobs that look-ahead trains together, by the law of durations."""
    task, found = task_for("60-16-10"), {}
    for law in ("uniform", "half-normal", "exponential"):
        result = hw.simulate(
            task,
            hw.algorithms.fedbuff(),
            stop=hw.until(updates=updates),
            population=_population("fedbuff", law),
            concurrency=ROUND,
            execution=hw.Execution(mode="groups"),
            evaluate_every=updates,
            record="nothing",
        )
        found[law] = round(result.execution["mean_group_size"], 1)
    return found


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of a turn's usual length")
    parser.add_argument("--device", default="cpu", help="where --groups are trained")
    parser.add_argument("--groups", type=int, nargs="+", help="sizes, in the place of --processes")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compiles = [False] if arguments.eager else [False, True]
    if arguments.device != "cpu" and not arguments.groups:
        parser.error("on another device than the CPU say which --groups")
    try:
        usable_device(arguments.device, where="--device")
    except ConfigurationError as error:
        parser.error(str(error))
    rows, given = [], (arguments.repeats, arguments.share)
    for name in arguments.models:
        if arguments.groups:
            sizes = sorted(set(arguments.groups))
            rows += measure_groups(name, *given, sizes, compiles, arguments.device)
        else:
            rows += measure(name, *given, arguments.processes, compiles)
    groups = {} if arguments.groups else group_sizes(max(200, round(5000 * arguments.share)))
    if arguments.json:
        print(json.dumps({"rows": rows, "group_sizes": groups}))
        return
    place = platform.machine() if arguments.device == "cpu" else arguments.device
    print(f"torch {torch.__version__}, {place}, one thread in each process,")
    print(f"medians of {arguments.repeats}; clients/s (min..max)\n")
    print(
        "| model | run | processes | code | trained in | clients/s (min..max) | ratio | CPU ratio | asked |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['kind']} | {row['processes']} | {row['code']} | "
            f"{row['mode']}, {row['group']} | {row['clients_per_s']:,} "
            f"({row['min']:,}..{row['max']:,}) | {row['ratio']} | "
            f"{row['cpu_ratio'] or ''} | {row['asked'] or ''} |"
        )
    if groups:
        told = ", ".join(f"{law} {mean}" for law, mean in groups.items())
        print(f"\nMean group, fedbuff, 100 in flight: {told}")


if __name__ == "__main__":
    main()
