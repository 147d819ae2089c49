"""A small model, its data, and the least that an algorithm can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from headway import core
from headway.task import Assignment, LocalResult, LocalTraining, Task

CPU = torch.device("cpu")


class NoStep:
    """A server step for algorithms that never meet a server."""

    needs = core.Needs()
    accepts = frozenset({"gradient", "delta", "weights"})
    mixing = 1.0

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> None:
        return None


def algorithm(payload: Any = "delta", client: tuple[Any, ...] = ()) -> core.Algorithm:
    return core.Algorithm(name="test", payload=payload, step=NoStep(), client=client)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


# Sizes that leave an uneven last batch, and one client that has less than a batch.
SIZES = (23, 20, 3, 0)


def make_task(
    model: Any = perceptron, *, local: LocalTraining | None = None, **options: Any
) -> Task:
    train = [examples(size, seed) for seed, size in enumerate(SIZES)]
    return Task(model, "cross_entropy", train, examples(30, 99), local=local, **options)


def do(
    task: Task, payload: str = "delta", client: int = 0, seed: int = 11, **work: Any
) -> LocalResult:
    """One job of a fresh trainer, from the model of seed 0."""
    start = task.start(0, CPU)
    order = core.WorkOrder(**work)
    job = Assignment(client, start.parameters, start.buffers, order, seed)
    return task.trainer(algorithm(payload), CPU).train(job)


def plain_loop(
    task: Task,
    *,
    client: int = 0,
    seed: int = 11,
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    proximal: float = 0.0,
    clip_norm: float | None = None,
    shuffle: bool = True,
    epochs: int = 2,
    batch_size: int = 8,
) -> Tensor:
    """The tutorial's loop on a module of its own, with the same batches: the oracle."""
    module = task.make_module(0)
    base = [p.detach().clone() for p in module.parameters()]
    inputs, targets = examples(SIZES[client], client)
    optimizer = make_optimizer(list(module.parameters()))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        count = len(inputs)
        order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
        for rows in order.split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(inputs[rows]), targets[rows])
            if proximal:
                apart = zip(module.parameters(), base, strict=True)
                loss = loss + proximal / 2 * sum(((p - b) ** 2).sum() for p, b in apart)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizer.step()
    after = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    return after - torch.cat([b.reshape(-1) for b in base])
