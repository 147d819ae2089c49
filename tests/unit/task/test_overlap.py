"""Groups side by side on streams: the order that streams keep, and no waiting between two steps."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headway import algorithms, models
from headway.core import WorkOrder
from headway.task import Assignment, LocalTraining, Task
from headway.task.overlap import Overlap, moved

CPU, META = torch.device("cpu"), torch.device("meta")


class Streams:
    """Streams that write down what they are told."""

    def __init__(self):
        self.told = []
        self.current = self.Stream(CPU, "caller")

    def Stream(self, device, name=None):  # noqa: N802 (torch calls it so)
        name = name or f"stream {sum(what == 'made' for what, *_ in self.told)}"
        if name != "caller":
            self.told.append(("made", name))
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.told.append(("waits", name, other.name)),
        )

    def current_stream(self, device):
        return self.current

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


def test_work_begins_on_one_stream_after_the_other_and_is_read_in_order():
    streams = Streams()
    overlap = Overlap(CPU, streams=streams)
    overlap.under_way = 2

    def begin(item):
        streams.told.append(("begins", item, streams.current.name))
        return item * 10

    for found in overlap.through([1, 2, 3], begin):
        streams.told.append(("read", found, streams.current.name))
    assert streams.told == [
        ("made", "stream 0"),
        ("waits", "stream 0", "caller"),
        ("begins", 1, "stream 0"),
        ("made", "stream 1"),
        ("waits", "stream 1", "caller"),
        ("begins", 2, "stream 1"),
        ("waits", "caller", "stream 0"),
        ("read", 10, "caller"),
        # Only now: what was read may be written over.
        ("waits", "stream 0", "caller"),
        ("begins", 3, "stream 0"),
        ("waits", "caller", "stream 1"),
        ("read", 20, "caller"),
        ("waits", "caller", "stream 0"),
        ("read", 30, "caller"),
    ]


def test_a_cpu_does_one_thing_at_a_time_with_the_same_code():
    overlap = Overlap(CPU)
    order = []

    def begin(item):
        order.append(("begins", item))
        return item

    order.extend(("read", found) for found in overlap.through("ab", begin))
    assert overlap.under_way == 1
    assert order == [("begins", "a"), ("read", "a"), ("begins", "b"), ("read", "b")]


def test_what_is_there_already_is_not_moved():
    here = torch.ones(2)
    assert moved(here, CPU) is here
    assert moved(here, META).device == META


def task_of(make, loss="cross_entropy", **local):
    draw = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(n, 20, generator=draw), torch.randint(0, 4, (n,), generator=draw))
        for n in (12, 3, 7)
    ]
    return Task(make, loss, data, data[0], local=LocalTraining(epochs=2, batch_size=5, **local))


def jobs_of(task, device=CPU):
    start = task.start(0, device).parameters
    orders = [WorkOrder(), WorkOrder(steps=1), WorkOrder(learning_rate=0.2)]
    return [Assignment(c, start + 0.01 * c, None, orders[c], 70 + c) for c in range(3)]


def smoothed(outputs, targets):
    """A loss of which only the mean of a batch is known."""
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def with_dropout():
    return nn.Sequential(nn.Linear(20, 8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 4))


CASES = {
    "written out": (models.mlp(20, [8], 4), "cross_entropy", {}),
    "autograd, dropout": (with_dropout, "cross_entropy", {}),
    "own loss": (models.mlp(20, [8], 4), smoothed, {}),
    "rmsprop, clipped": (
        models.mlp(20, [8], 4),
        "cross_entropy",
        {"optimizer": "rmsprop", "clip_norm": 0.5, "proximal": 0.1},
    ),
}
PAYLOADS = {"delta": algorithms.fedbuff(), "gradient": algorithms.async_sgd()}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("case", CASES)
def test_groups_on_streams_give_what_they_give_without(case, payload):
    make, loss, local = CASES[case]
    task = task_of(make, loss, **local)
    one, other = (task.group_trainer(PAYLOADS[payload], CPU) for _ in range(2))
    other._overlap = Overlap(CPU, streams=Streams())
    other._cache_bytes = one._cache_bytes = 1  # A group for each job.
    for before, after in zip(one.train(jobs_of(task)), other.train(jobs_of(task)), strict=True):
        assert torch.equal(before.payload, after.payload)
        assert before[1:5] == after[1:5]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_in_a_group_waits_for_the_device(case, payload):
    """A meta tensor has no value, so whatever looked at one would fail."""
    make, loss, local = CASES[case]
    task = task_of(make, loss, **local)
    trainer = task.group_trainer(PAYLOADS[payload], CPU)
    if case == "autograd, dropout":
        assert trainer.obstacle is None  # The order of its layers was found out here.
    trainer._device = META
    lanes = [trainer._lane(i, job) for i, job in enumerate(jobs_of(task, META))]
    begun = trainer._begin(lanes, 0.01, None)
    assert begun.payloads.device == begun.losses.device == META
    assert begun.losses.shape == (6 if payload == "delta" else 1, 3)
