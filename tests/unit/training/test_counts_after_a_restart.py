"""What a server that goes on counts of its earlier life."""

from __future__ import annotations

import shutil

import pytest

from tests.unit.training import server_kit as kit


def _life(folder, level, **options):
    return kit.server(kit.line(), checkpoint_dir=folder, durability=level, **options)


@pytest.mark.parametrize("level", ["checkpoint", "log"])
def test_who_had_left_before_a_kill_is_counted_among_those_that_have_joined(tmp_path, level):
    with _life(tmp_path / "kept", level) as server:
        quick, slow = kit.Raw(server, "quick"), kit.Raw(server, "slow")
        quick.work()
        quick.say(leave=kit.wire.Leave())
        slow.work()
        slow.ask()
        if level == "checkpoint":
            server._hub.call(
                lambda: server._keeper._store.save(2, server._keeper._tree(server._hub))
            )
        shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    with _life(tmp_path / "copy", level) as again:
        ledger = again._ledger
        # The slow one may come back.
        assert ledger.seen == (1, 0)
        assert not ledger.is_over(1)
        slow = kit.Raw(again, "slow")
        slow.ask()
        assert ledger.seen == (2, 1)
        assert not ledger.is_over(2)
        slow.say(leave=kit.wire.Leave())
        assert again.wait_for_workers(2, timeout_s=kit.WAIT_S).versions == 2


@pytest.mark.parametrize("level", ["checkpoint", "log"])
def test_after_an_end_in_order_the_count_begins_anew(tmp_path, level):
    with _life(tmp_path, level) as server:
        quick = kit.Raw(server, "quick")
        quick.work()
        quick.say(leave=kit.wire.Leave())
        assert server._ledger.is_over(1)
    with _life(tmp_path, level) as again:
        assert not again._ledger.is_over(1)


def test_who_had_left_and_comes_back_is_counted_once(tmp_path):
    with _life(tmp_path / "kept", "log") as server:
        quick = kit.Raw(server, "quick")
        quick.work()
        quick.say(leave=kit.wire.Leave())
        shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    with _life(tmp_path / "copy", "log") as again:
        assert again._ledger.is_over(1)
        quick = kit.Raw(again, "quick")
        quick.work()
        quick.say(leave=kit.wire.Leave())
        assert again._ledger.seen == (1, 0)
        assert not again._ledger.is_over(2)


def test_updates_that_are_only_in_the_log_are_counted_and_the_rest_is_said(tmp_path):
    with _life(tmp_path / "kept", "log") as server:
        worker = kit.Raw(server, "w")
        for _ in range(5):
            worker.work()
        job = worker.ask().job
        assert worker.push(job, base_version=job.version + 1).receipt.status == "rejected"
        shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    with _life(tmp_path / "copy", "log") as again:
        kit.Raw(again, "v").work()
        status, result = again.status(), again.stop()
    assert (status["updates"], status["applied"], status["rejected"]) == (7, 6, 1)
    assert result.updates == 7
    assert result.counts["applied"] + result.counts["rejected"] == 7
    assert result.counts["rejected:before_the_restart"] == 1
    assert any("leave out 6 updates" in warning for warning in result.warnings)


def test_a_checkpoint_has_all_of_its_counts(tmp_path):
    for _ in range(2):
        with _life(tmp_path, "checkpoint") as server:
            kit.Raw(server, "w").work()
            result = server.stop()
    assert (result.updates, result.counts["applied"], result.warnings) == (2, 2, [])
