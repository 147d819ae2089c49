"""Which rows of which client are in which batch, for many jobs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from headway.task.contract import Assignment

__all__ = ["Batching", "Lane", "Plan", "kind", "largest_batch", "plan"]


class Lane(NamedTuple):
    """One job on its way through a group.

    Attributes:
        position: Where its result stands in the order in which the jobs were given.
        assignment: The job.
        inputs: The client's inputs.
        targets: The client's targets.
        num_steps: How many batches it takes.
    """

    position: int
    assignment: Assignment
    inputs: Tensor
    targets: Tensor
    num_steps: int


class Batching(NamedTuple):
    """How the examples of a client make batches.

    Attributes:
        batch_size: At most; ``None``: all of them.
        shuffle: Whether each pass is in a new random order.
        drop_last: Whether a pass leaves out a last batch that is smaller than the others.
    """

    batch_size: int | None
    shuffle: bool = True
    drop_last: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of a group, step by step; lanes with more steps come first.

    Attributes:
        lanes: In the order of the rows of every tensor below.
        inputs: All clients' inputs, one after the other.
        targets: Likewise.
        rows: ``[steps, lanes, batch]``, rows of ``inputs``; where a batch is smaller, it is filled
            up with a row of the same client.
        counts: ``[steps, lanes]``, how many of a batch are real; 0 after a lane's last step.
        active: How many lanes are still at work in each step.
    """

    lanes: list[Lane]
    inputs: Tensor
    targets: Tensor
    rows: Tensor
    counts: Tensor
    active: list[int]

    @property
    def num_steps(self) -> int:
        """The longest lane's steps."""
        return len(self.active)

    def weights(self, dtype: torch.dtype) -> Tensor:
        """``[steps, lanes, batch]``: 1 over the batch's size where an example is real, else 0."""
        size = self.rows.shape[2]
        real = torch.arange(size).expand(*self.counts.shape, size) < self.counts.unsqueeze(2)
        return real.to(dtype) / self.counts.clamp(min=1).unsqueeze(2)


def plan(
    lanes: Sequence[Lane],
    batching: Batching,
    generator: torch.Generator,
    *,
    min_lanes: int = 0,
    batch_size: int | None = None,
) -> Plan:
    """Arrange the batches of many jobs into tensors.

    Each job's batches are those of :func:`headway.task.trainer.batches` with its own seed.

    Args:
        lanes: At least one.
        batching: How the examples of a client make batches.
        generator: Seeded anew for each job.
        min_lanes: Fill up to so many lanes with copies of the last one that never work, so that
            compiled code sees few shapes.
        batch_size: Fill batches up to this size; by default to the largest one.

    Example:
        >>> import torch
        >>> one = Lane(0, None, torch.zeros(3, 1), torch.zeros(3), 1)
        >>> two = Lane(1, None, torch.zeros(2, 1), torch.zeros(2), 2)
        >>> both = plan([one, two], Batching(2, shuffle=False), torch.Generator())
        >>> both.active, both.counts.tolist(), both.rows.tolist()
        ([2, 1], [[2, 2], [2, 0]], [[[0, 1], [2, 3]], [[0, 1], [2, 2]]])
    """
    ordered = sorted(lanes, key=kind)
    num_steps = ordered[0].num_steps
    num_lanes = max(min_lanes, len(ordered))
    size = batch_size or largest_batch(ordered, batching)
    rows = torch.empty(num_steps, num_lanes, size, dtype=torch.int64)
    counts = torch.zeros(num_steps, num_lanes, dtype=torch.int64)
    first = offset = 0
    for (steps, held), group in groupby(ordered, key=kind):
        alike, steps = list(group), -steps
        offsets = torch.arange(offset, offset + held * len(alike), held)
        block = slice(first, first + len(alike))
        # Any row of the client will do where there is none: its weight is 0.
        rows[:, block] = offsets.unsqueeze(1)
        chosen, sizes = _batches(alike, held, steps, batching, generator)
        chosen += offsets.view(-1, 1, 1)
        rows[:steps, block, : chosen.shape[2]] = chosen.transpose(0, 1)
        counts[:steps, block] = sizes.unsqueeze(1)
        first += len(alike)
        offset += held * len(alike)
    rows[:, first:] = offset - len(ordered[-1].inputs)
    lengths = [lane.num_steps for lane in ordered]
    return Plan(
        lanes=ordered,
        inputs=torch.cat([lane.inputs for lane in ordered]),
        targets=torch.cat([lane.targets for lane in ordered]),
        rows=rows,
        counts=counts,
        active=[sum(length > step for length in lengths) for step in range(num_steps)],
    )


def largest_batch(lanes: Sequence[Lane], batching: Batching) -> int:
    """The largest batch that there will be.

    Args:
        lanes: At least one.
        batching: How the examples of a client make batches.
    """
    held = max(len(lane.inputs) for lane in lanes)
    return held if batching.batch_size is None else min(held, batching.batch_size)


def kind(lane: Lane) -> tuple[int, int]:
    """What makes lanes alike, such that those with more steps come first.

    Args:
        lane: A job.
    """
    return -lane.num_steps, len(lane.inputs)


def _batches(
    lanes: list[Lane], held: int, num_steps: int, batching: Batching, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``[lanes, steps, batch]`` rows of each client, which all hold so many, and real sizes."""
    size = min(held, batching.batch_size or held)
    used = held - held % size if batching.drop_last else held
    per_pass = -(-used // size)
    passes = -(-num_steps // per_pass)
    if batching.shuffle:
        drawn = []
        for lane in lanes:
            generator.manual_seed(lane.assignment.seed)
            drawn += [torch.randperm(held, generator=generator) for _ in range(passes)]
        order = torch.cat(drawn).view(len(lanes), passes, held)[:, :, :used]
    else:
        order = torch.arange(used).repeat(len(lanes), passes, 1)
    if used < per_pass * size:
        order = torch.nn.functional.pad(order, (0, per_pass * size - used))
    sizes = torch.full((passes, per_pass), size)
    sizes[:, -1] = used - (per_pass - 1) * size
    rows = order.reshape(len(lanes), passes * per_pass, size)[:, :num_steps]
    return rows, sizes.flatten()[:num_steps]
