"""Each fault of an update has its own reason, ends the job, and leaves the model as it was."""

from __future__ import annotations

from dataclasses import dataclass
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
    ("bad_weight", {"weight": 1e300}),
    ("bad_weight", {"weight": 1.85e19}),
    ("bad_count", {"num_examples": -1}),
    ("bad_count", {"num_examples": 2**40}),
    ("bad_count", {"num_steps": 2**40}),
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


def test_an_unknown_worker_is_not_said_never_to_have_joined() -> None:
    # To a server that was restarted without a log, workers from before are unknown too.
    assert "restarted" in core.FAULTS["unknown_worker"]


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


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (torch.float16, 255.0),
        (torch.bfloat16, 1.8e19),
        (torch.float32, 1.8e19),
        (torch.float64, 1.3e154),
    ],
)
def test_a_weight_is_bounded_by_the_root_of_the_largest_float(dtype: Any, largest: float) -> None:
    server = core.Server(torch.zeros(1, dtype=dtype), kit.bare())
    payload = torch.ones(1, dtype=dtype) / 256
    heavy = [kit.send(server, "a", kit.take(server, "a"), payload, weight=largest)]
    heavy.append(kit.send(server, "a", kit.take(server, "a"), payload, weight=1.1 * largest))
    assert [receipt.reason for receipt in heavy] == ["", "bad_weight"]
    assert torch.isfinite(server.parameters).all()


class TestAFlushThatIsNotFinite:
    """Two updates of 3e38 are finite, and their sum is not."""

    def test_changes_nothing_and_the_next_one_counts(self) -> None:
        server = core.Server(torch.zeros(2), kit.bare(kit.Mean(2)))
        for expected in (("buffered", "1 of 2"), ("rejected", "mean_not_finite")):
            receipt = kit.send(server, "a", kit.take(server, "a"), 3e38)
            assert (receipt.status, receipt.reason) == expected
        assert (server.version, server.parameters.tolist()) == (0, [0.0, 0.0])
        for _ in range(2):
            receipt = kit.send(server, "a", kit.take(server, "a"), 1.0)
        assert (receipt.status, server.parameters.tolist()) == ("applied", [1.0, 1.0])

    def test_ends_its_round(self) -> None:
        server = core.Server(torch.zeros(2), kit.bare(kit.Mean(2), gate=core.Bulk(2)))
        for _ in range(2):
            tickets = {name: kit.take(server, name) for name in "ab"}
            for name, ticket in tickets.items():
                receipt = kit.send(server, name, ticket, 3e38)
        assert (receipt.reason, server.version) == ("mean_not_finite", 0)

    def test_is_seen_in_its_buffers_too(self) -> None:
        @dataclass(frozen=True, slots=True)
        class Overflows(kit.Mean):
            def apply(self, update: Any, state: Any, context: Any) -> core.Outcome:
                outcome = kit.Mean.apply(self, update, state, context)
                if not isinstance(outcome, core.Pass):
                    return outcome
                wide = core.Buffers(torch.tensor([inf]), INT)
                return core.Pass(outcome.update._replace(buffers=wide))

        server = core.Server(
            torch.zeros(2), kit.bare(Overflows(1)), buffers=core.Buffers(torch.zeros(1), INT)
        )
        receipt = kit.send(server, "a", kit.take(server, "a"), 1.0)
        assert (receipt.status, receipt.reason) == ("rejected", "mean_not_finite")
        assert server.buffers is not None
        assert server.buffers.floating.tolist() == [0.0]


def broken(context: core.Context) -> float:
    if context.job % 2:
        raise ZeroDivisionError("a worker's weight")
    return 1.0


@pytest.mark.parametrize("gate", [core.Asynchronous(), core.Bulk(2), core.StaleSynchronous(1)])
def test_an_exception_out_of_a_transform_ends_the_job_and_is_raised(gate: core.Gate) -> None:
    def make() -> core.Server:
        algorithm = kit.bare(kit.Weigh(broken), gate=gate)
        scheduler = core.FirstCome(concurrency=2)
        return core.Server(torch.zeros(2), algorithm, scheduler=scheduler, record="payloads")

    server = make()
    bad, good = kit.take(server, "a"), kit.take(server, "b")
    assert isinstance(server.checkout("c", 0.0), core.Wait)
    with pytest.raises(ZeroDivisionError):
        kit.send(server, "a", bad, 1.0)
    assert (server.num_in_flight, server.num_snapshots, server.version) == (1, 1, 0)
    receipt = kit.send(server, "a", bad, 1.0)
    assert (receipt.status, receipt.reason) == ("rejected", "transform_failed")
    assert server.counts == {"rejected": 1, "duplicates": 1}
    assert kit.send(server, "b", good, 1.0).status == "applied"
    assert kit.same(core.replay(make(), server.events).state_dict(), server.state_dict())
    # The place that is free now is given by the next door that is opened.
    assert "c" in server.woken
    assert "transform_failed" in core.FAULTS


def test_a_tick_that_raises_does_not_leave_the_server_closing() -> None:
    @dataclass(frozen=True, slots=True)
    class Raises(kit.Mean):
        def tick(self, state: Any, context: core.Context) -> core.Pass | None:
            if context.closing:
                raise ZeroDivisionError
            return None

    server = core.Server(torch.zeros(1), kit.bare(Raises(2)))
    with pytest.raises(ZeroDivisionError):
        server.tick(1.0, closing=True)
    kit.take(server, "a")
    assert server.lose("a", 2.0) == core.Reply(0, jobs=(1,))


def test_the_layouts_dtype_is_compared() -> None:
    with pytest.raises(core.errors.ConfigurationError, match="do not fit"):
        core.Server(torch.zeros(2).double(), kit.bare(), layout=core.ParameterLayout.flat(2))


def test_a_transform_that_returns_no_outcome_is_told_what_to_return() -> None:
    class Careless:
        needs = core.Needs()

        def init(self, context: Any) -> None:
            return None

        def apply(self, update: Any, state: Any, context: Any) -> Any:
            return update

    server = core.Server(torch.zeros(2), kit.bare(Careless()))
    with pytest.raises(core.errors.ArgumentTypeError, match="return Pass"):
        kit.send(server, "a", kit.take(server, "a"), 1.0)
