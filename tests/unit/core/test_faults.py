"""Each fault of an update has its own reason, ends the job, and leaves the model as it was."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch

from headway import core
from tests import core_kit as kit

INT = torch.zeros(1, dtype=torch.int64)
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("future_version", {"base_version": 1}),
    ("wrong_version", {"base_version": -1}),
    ("wrong_version", {"base_version": "0"}),
    ("wrong_version", {"base_version": 0.0}),
    ("wrong_type", {"payload": None}),
    ("wrong_type", {"payload": [1.0, 1.0]}),
    ("wrong_type", {"payload": np.ones(2, np.float32)}),
    ("wrong_type", {"payload": torch.ones(2).to_sparse()}),
    ("wrong_dtype", {"payload": torch.ones(2, dtype=torch.float64)}),
    ("wrong_dtype", {"payload": torch.ones(2, dtype=torch.int32)}),
    ("wrong_size", {"payload": torch.ones(3)}),
    ("wrong_size", {"payload": torch.ones(())}),
    ("wrong_size", {"payload": torch.ones(2, 1)}),
    ("wrong_device", {"payload": torch.ones(2, device="meta")}),
    ("wrong_fragment", {"fragment": 1}),
    ("wrong_fragment", {"fragment": 0.5}),
    ("bad_weight", {"weight": -1.0}),
    ("bad_weight", {"weight": inf}),
    ("bad_weight", {"weight": nan}),
    ("bad_weight", {"weight": "1.0"}),
    ("bad_weight", {"weight": None}),
    ("bad_count", {"num_examples": -1}),
    ("bad_count", {"num_examples": 2**63}),
    ("bad_count", {"num_examples": 1.0}),
    ("bad_count", {"num_steps": None}),
    ("wrong_buffers", {"buffers": core.Buffers(torch.ones(3), INT)}),
    ("wrong_buffers", {"buffers": core.Buffers(torch.ones(1).double(), INT)}),
    ("wrong_buffers", {"buffers": core.Buffers(torch.ones(1, device="meta"), INT)}),
    ("wrong_buffers", {"buffers": core.Buffers(torch.ones(1), None)}),
    ("wrong_buffers", {"buffers": 3}),
    ("not_finite", {"payload": torch.tensor([1.0, nan])}),
    ("not_finite", {"payload": torch.tensor([inf, -inf])}),
    ("not_finite", {"buffers": core.Buffers(torch.tensor([nan]), INT)}),
]


@pytest.mark.parametrize(("reason", "odd"), FAULTS)
def test_a_fault_is_a_receipt(reason: str, odd: dict[str, Any]) -> None:
    buffers = core.Buffers(torch.zeros(1), INT)
    server = core.Server(torch.zeros(2), kit.bare(), buffers=buffers)
    ticket = kit.take(server, "a")
    receipt = server.submit(core.Update(torch.ones(2), 0, "a", ticket.job)._replace(**odd), 1.0)
    assert receipt == core.Receipt("rejected", reason, 0, 0.0, 0, ticket.job)
    assert (server.parameters.tolist(), server.version) == ([0.0, 0.0], 0)
    assert server.num_in_flight == 0
    assert server.counts == {"rejected": 1}
    event = server.events[-1]
    assert isinstance(event, core.Submitted)
    assert (event.status, event.reason) == ("rejected", reason)
    assert reason in core.FAULTS


def test_buffers_for_a_server_that_has_none_are_refused() -> None:
    server = core.Server(torch.zeros(2), kit.bare())
    buffers = core.Buffers(torch.zeros(1), INT)
    receipt = kit.send(server, "a", kit.take(server, "a"), 1.0, buffers=buffers)
    assert receipt.reason == "wrong_buffers"


@pytest.mark.parametrize("sequence", [None, "1", 1.0, [1], {}, -1, 2])
def test_an_unknown_job_leaves_the_real_one_alone(sequence: Any) -> None:
    server = core.Server(torch.zeros(2), kit.bare())
    ticket = kit.take(server, "a")
    receipt = server.submit(core.Update(torch.ones(2), 0, "a", sequence), 1.0)
    assert (receipt.status, receipt.reason) == ("rejected", "unknown_job")
    assert server.num_in_flight == 1
    assert kit.send(server, "a", ticket, 1.0).status == "applied"


@pytest.mark.parametrize("worker", [None, 3, ["a"], "b", torch.ones(2)])
def test_an_unknown_worker_leaves_the_job_alone(worker: Any) -> None:
    server = core.Server(torch.zeros(2), kit.bare())
    ticket = kit.take(server, "a")
    receipt = server.submit(core.Update(torch.ones(2), 0, worker, ticket.job), 1.0)
    assert (receipt.status, receipt.reason) == ("rejected", "unknown_worker")
    assert server.num_in_flight == 1


def test_weight_zero_moves_nothing_and_is_no_version() -> None:
    server = core.Server(torch.zeros(2), kit.bare(kit.Weigh(lambda context: 0.0)))
    receipt = kit.send(server, "a", kit.take(server, "a"), 1.0)
    assert receipt == core.Receipt("rejected", "zero_weight", 0, 0.0, 0, 1)
    assert server.parameters.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("now", [nan, inf, -inf, -1.0, 1.0])
def test_a_clock_that_goes_wrong_stops_nothing(now: float) -> None:
    server = core.Server(torch.zeros(2), kit.bare())
    ticket = kit.take(server, "a", 5.0)
    assert kit.send(server, "a", ticket, 1.0, now).status == "applied"
    assert server.now == 5.0
    server.tick(now)
    server.lose("a", now)
    server.register(["b"], now)
    assert [event.time for event in server.events] == [5.0] * 5


@pytest.mark.parametrize(
    ("initial", "error"),
    [
        (torch.zeros(2, 2), core.errors.ArgumentTypeError),
        (torch.zeros(2, dtype=torch.int64), core.errors.ArgumentTypeError),
        ([0.0], core.errors.ArgumentTypeError),
        (torch.tensor([nan]), core.errors.ConfigurationError),
    ],
)
def test_initial_parameters_are_checked(initial: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        core.Server(initial, kit.bare())


def test_initial_parameters_must_fit_the_layout_and_are_copied() -> None:
    with pytest.raises(core.errors.ConfigurationError, match="do not fit"):
        core.Server(torch.zeros(2), kit.bare(), layout=core.ParameterLayout.flat(3))
    initial = torch.zeros(2)
    server = core.Server(initial, kit.bare())
    kit.send(server, "a", kit.take(server, "a"), 1.0)
    assert initial.tolist() == [0.0, 0.0]
