"""A server whose rule needs more workers than there are says so: while they work, and at the end."""

from __future__ import annotations

import pytest

from headway import algorithms
from headway.core.errors import ExchangeError
from headway.training.standstill import Standstill
from tests.unit.training import server_kit as kit

NEEDED = {"basgd": "num_buffers", "diloco": "num_workers", "safa": "clients_per_round"}


@pytest.mark.parametrize(
    "rule",
    # A server's optimizer with momentum is made the first time, which takes torch a second.
    ["basgd", "safa", pytest.param("diloco", marks=pytest.mark.slow)],
)
def test_a_run_that_has_changed_nothing_says_why_in_the_log_and_in_the_result(rule, caplog):
    with kit.server(kit.line(), update_rule=rule) as server:
        needed = server.algorithm.needs.min_workers
        raws = [kit.Raw(server) for _ in range(3)]
        for raw in raws:
            assert raw.work().receipt.status == "buffered"
        result = server.stop()
    (warning,) = result.warnings
    assert warning == (
        "the model is as it was: of 3 updates none was applied, 3 buffered; "
        f"`{rule}` needs {needed} workers, 3 came; "
        f"update_rule=headway.algorithms.{rule}({NEEDED[rule]}=...) sets it"
    )
    assert [record.getMessage() for record in caplog.records] == [f"Headway: {warning}"]


def test_workers_that_never_wait_and_change_nothing_are_seen_while_they_work(caplog):
    now = [0.0]
    with kit.server(kit.line(), update_rule="basgd") as server:
        still = server._ledger._standstill = Standstill(server.algorithm, lambda: now[0])
        raws = [kit.Raw(server) for _ in range(2)]
        for raw in raws:
            raw.work()
        told = "has applied nothing yet: `basgd` needs 10 workers, 2 are here"
        assert server.status()["waits"] == told
        now[0] = 10.0
        still.warn()
        (record,) = caplog.records
        assert record.getMessage() == (
            f"Headway: the server {told}; "
            "update_rule=headway.algorithms.basgd(num_buffers=...) sets it"
        )
        server.stop()


def test_with_as_many_workers_as_it_needs_nothing_is_said(caplog):
    with kit.server(kit.line(), update_rule=algorithms.basgd(num_buffers=3)) as server:
        for raw in [kit.Raw(server) for _ in range(3)]:
            raw.work()
        assert server.version == 1
        assert server.status()["waits"] is None
        assert server.stop().warnings == []
    assert not caplog.records


def test_what_was_rejected_is_counted_too():
    with kit.server(kit.line()) as server:
        raw = kit.Raw(server)
        raw.push(raw.ask().job, base_version=7)
        result = server.stop()
    assert result.warnings == [
        "the model is as it was: of 1 updates none was applied, 1 rejected (future_version)"
    ]


def test_who_has_waited_in_vain_for_workers_is_told_what_the_server_waits_for():
    with kit.server(kit.line(), update_rule="safa") as server:
        raw = kit.Raw(server)
        raw.work()
        raw.ask()
        with pytest.raises(ExchangeError, match="waits for 10 workers, 1 is"):
            server.wait_for_workers(timeout_s=0.0)
