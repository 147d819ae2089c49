"""What tests of the simulator share: engines ready to run, and tasks that can be computed by hand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import headway as hw
from headway import algorithms, core
from headway.core import Buffers, ParameterLayout, RandomOrder, WorkOrder
from headway.simulation import population as populations
from headway.simulation import until
from headway.simulation.engine import Engine, Settings
from headway.simulation.executor import OneByOne
from headway.simulation.schedule import as_every
from headway.task import Assignment, LocalResult, LocalTraining, Start, Task

CPU = torch.device("cpu")
NO_WORK = WorkOrder()
DELTA = algorithms.async_delta()
STOP = until(updates=20)


class Chase:
    """Client ``i`` wants the model to be ``targets[i]``, and goes all the way there in one job.

    Its delta is ``target - base``, its weights are the target, its gradient is ``base - target``.

    Args:
        targets: One number for each client.
        broken: Clients that send NaN.
        sizes: How many examples each client has; 1 each by default.
        dim: Length of the model, all of whose values are the same.
        tensors: The model is that many tensors, so that it can be divided into fragments.
        has_buffers: Whether there is one floating-point and one integer buffer.
    """

    name = "chase"

    def __init__(
        self,
        targets: Sequence[float],
        *,
        broken: Collection[int] = (),
        sizes: Sequence[int] | None = None,
        dim: int = 1,
        tensors: int = 1,
        has_buffers: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.targets = list(targets)
        self.broken = broken
        self.sizes = list(sizes) if sizes is not None else [1] * len(self.targets)
        self.dim, self.tensors, self.has_buffers, self.dtype = dim, tensors, has_buffers, dtype
        self.trained: list[Assignment] = []
        self.receipts: list[tuple[int, core.Receipt]] = []

    @property
    def num_clients(self) -> int:
        return len(self.targets)

    def start(self, seed: int, device: torch.device) -> Start:
        size = self.dim // self.tensors
        entries = tuple(core.Entry(f"w{i}", (size,), i * size) for i in range(self.tensors))
        layout = ParameterLayout(entries, self.dtype)
        if self.tensors > 1:
            layout = layout.with_fragments(self.tensors)
        buffers = None
        if self.has_buffers:
            buffers = Buffers(torch.zeros(3), torch.zeros(1, dtype=torch.int64))
        return Start(torch.zeros(self.dim, dtype=self.dtype), layout, buffers)

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        return ChaseTrainer(self, algorithm.payload)

    def evaluate(self, parameters: Tensor, buffers: Buffers | None = None) -> dict[str, float]:
        return {"value": float(parameters[0])}

    def num_examples(self, client: int) -> int:
        return self.sizes[client]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "targets": self.targets}


class ChaseTrainer:
    def __init__(self, task: Chase, payload: core.PayloadKind) -> None:
        self.task, self.payload = task, payload

    def num_steps(self, client: int, work: WorkOrder) -> int:
        return work.steps or 1

    def num_processed(self, client: int, work: WorkOrder) -> int:
        return self.task.sizes[client]

    def receipt(self, client: int, receipt: core.Receipt) -> None:
        self.task.receipts.append((client, receipt))

    def train(self, assignment: Assignment) -> LocalResult:
        # The base is copied: it is only valid until the job ends.
        self.task.trained.append(assignment._replace(parameters=assignment.parameters.clone()))
        base, client = assignment.parameters, assignment.client
        target = torch.full_like(base, self.task.targets[client])
        payload = {"delta": target - base, "weights": target, "gradient": base - target}
        sent = payload[self.payload]
        if client in self.task.broken:
            sent = torch.full_like(sent, torch.nan)
        buffers = assignment.buffers
        if buffers is not None:
            buffers = Buffers(torch.full((3,), 1.0 + client), torch.tensor([client]))
        size = self.task.sizes[client]
        return LocalResult(sent, size, size, 1, {"loss": float(client)}, buffers)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.1), nn.Tanh(), nn.Linear(7, 3))


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def perceptron_task(sizes: Sequence[int] = (23, 20, 3, 9, 14, 8), **local: Any) -> Task:
    """A small network, with dropout so that a job draws from every stream that it has."""
    train = [examples(size, seed) for seed, size in enumerate(sizes)]
    training = LocalTraining(**{"epochs": 2, "batch_size": 8, **local})
    own = {"local": training, "server_data": examples(20, 98)}
    return Task(perceptron, "cross_entropy", train, examples(30, 99), **own)


def precise() -> nn.Module:
    """The network in float64, where the order of additions is below whatever else could differ."""
    return perceptron().double()


def doubled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Examples for the network in float64."""
    inputs, targets = examples(count, seed)
    return inputs.double(), targets


def settings_for(task: Any, algorithm: core.Algorithm, **changes: Any) -> Settings:
    """Settings with a default for everything; ``concurrency`` and plain numbers are understood."""
    concurrency = changes.pop("concurrency", None)
    values: dict[str, Any] = {
        "population": populations.constant(task.num_clients),
        "scheduler": RandomOrder(concurrency=concurrency),
        "stop": until(updates=100),
        "evaluate_every": 1_000_000,
        "seed": 0,
        "device": CPU,
        "record": "events",
        **changes,
    }
    values["evaluate_every"] = as_every(values["evaluate_every"])
    return Settings(task=task, algorithm=algorithm, **values)


def simulate(task: Any = None, algorithm: core.Algorithm = DELTA, **options: Any) -> hw.Result:
    """By the front door: four clients that chase, and 20 updates, unless something else is said."""
    task = Chase([1.0] * 4) if task is None else task
    return hw.simulate(task, algorithm, **{"stop": STOP, **options})


def make_engine(task: Any, algorithm: core.Algorithm, **changes: Any) -> Engine:
    """An engine that has begun: everybody who may start is in flight."""
    executor = changes.pop("executor", OneByOne)
    engine = Engine(
        settings_for(task, algorithm, **changes),
        evaluated=lambda engine, point: None,
        reported=lambda engine: None,
    )
    # ``None``: the one that the settings choose.
    if executor is not None:
        engine.executor = executor(engine.trainer)
    engine.begin()
    return engine


def run_engine(task: Any, algorithm: core.Algorithm, **changes: Any) -> Engine:
    """An engine that has ended."""
    engine = make_engine(task, algorithm, **changes)
    engine.run()
    return engine


def notes(engine: Engine, kind: str) -> list[core.Noted]:
    """What the engine noted of this kind."""
    events = engine.server.events
    return [e for e in events if isinstance(e, core.Noted) and e.kind == kind]


def reason(engine: Engine) -> str:
    """Why the run ended."""
    (last,) = [*notes(engine, "stopped"), *notes(engine, "interrupted")]
    return str(last.data["reason"])


def arrivals(events: Sequence[core.Event]) -> list[core.Submitted]:
    """The updates that arrived, in order."""
    return [event for event in events if isinstance(event, core.Submitted)]


def times(engine: Engine) -> list[float]:
    """When each update arrived."""
    return [event.time for event in arrivals(engine.server.events)]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits; NaN is like itself."""
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
