"""What a job was given stays as it was until the job ends, and not longer."""

from __future__ import annotations

import torch

from headway import core
from tests import core_kit as kit


def test_jobs_of_one_version_share_a_slot_that_outlives_the_version() -> None:
    buffers = core.Buffers(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    server = core.Server(torch.zeros(2), kit.bare(), buffers=buffers)
    a, b, c = (kit.take(server, name) for name in "abc")
    assert a.parameters is b.parameters
    assert server.num_snapshots == 1
    news = core.Buffers(torch.ones(1), torch.tensor([5]))
    kit.send(server, "a", a, 1.0, buffers=news)
    d = kit.take(server, "d")
    assert server.num_snapshots == 2
    for ticket, value, count in ((b, 0.0, 0), (c, 0.0, 0), (d, 1.0, 5)):
        assert ticket.parameters is not None
        assert ticket.parameters.tolist() == [value] * 2
        assert ticket.buffers is not None
        assert ticket.buffers.floating.tolist() == [value]
        assert ticket.buffers.integer.tolist() == [count]
    kit.send(server, "b", b, 1.0)
    server.lose("c", 1.0)
    assert server.num_snapshots == 1


def test_slots_are_reused() -> None:
    server = core.Server(torch.zeros(2), kit.bare())
    old = kit.take(server, "old")
    for _ in range(20):
        kit.send(server, "a", kit.take(server, "a"), 1.0)
        assert server.num_snapshots <= 2
    assert server._jobs.ring.num_allocated == 2
    assert old.parameters is not None
    assert old.parameters.tolist() == [0.0, 0.0]


def test_the_base_is_what_the_job_was_given() -> None:
    bases: list[list[float]] = []

    def look(context: core.Context) -> float:
        assert context.base is not None
        bases.append(context.base.tolist())
        return 1.0

    server = core.Server(
        torch.zeros(1), kit.bare(kit.Weigh(look, needs=core.Needs(base_parameters=True)))
    )
    a, b = kit.take(server, "a"), kit.take(server, "b")
    kit.send(server, "a", a, 1.0)
    c = kit.take(server, "c")
    kit.send(server, "b", b, 1.0)
    kit.send(server, "c", c, 1.0)
    assert bases == [[0.0], [0.0], [1.0]]


def test_buffers_are_averaged_with_the_weight_and_counters_are_taken() -> None:
    buffers = core.Buffers(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    server = core.Server(torch.zeros(1), kit.bare(step=kit.Add(mixing=0.5)), buffers=buffers)
    for weight, expected in ((1.0, 4.0), (0.5, 5.0), (9.0, 8.0)):
        news = core.Buffers(torch.tensor([8.0]), torch.tensor([server.version]))
        kit.send(server, "a", kit.take(server, "a"), 1.0, weight=weight, buffers=news)
        assert server.buffers is not None
        assert server.buffers.floating.item() == expected
        assert server.buffers.integer.item() == server.version - 1
