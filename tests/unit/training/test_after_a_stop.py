"""What a server that goes on says of those before it: how they ended, and who had left them."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.unit.training import server_kit as kit


def states(server):
    return {worker["name"]: worker["state"] for worker in server.status()["workers"]}


@pytest.mark.parametrize("durability", ["checkpoint", "log"])
def test_who_had_left_in_order_has_left_after_a_restart_too(tmp_path, durability):
    options = {"checkpoint_dir": tmp_path, "durability": durability}
    with kit.server(kit.line(), **options) as server:
        kit.train(server, optimizer="sgd", worker={"name": "ada"})
        raw = kit.Raw(server, "bob")
        raw.work()
        server._hub.call(lambda: server._hub.drop(raw, "lost"))
        assert states(server) == {"ada": "left", "bob": "lost"}
    with kit.server(kit.line(), **options) as server:
        assert states(server) == {"ada": "left", "bob": "lost"}


def test_who_left_before_a_checkpoint_and_is_here_at_a_crash_is_not_taken_for_gone(tmp_path):
    home, crashed = tmp_path / "home", tmp_path / "crashed"
    with kit.server(kit.line(), checkpoint_dir=home, durability="log") as server:
        kit.train(server, optimizer="sgd", worker={"name": "ada"})
    with kit.server(kit.line(), checkpoint_dir=home, durability="log") as server:
        kit.Raw(server, "ada").work()
        shutil.copytree(home, crashed)
    with kit.server(kit.line(), checkpoint_dir=crashed, durability="log") as server:
        assert states(server) == {"ada": "lost"}


def test_what_came_after_a_checkpoint_is_missing_only_if_something_can_have_come(tmp_path, caplog):
    with kit.server(kit.line(), checkpoint_dir=tmp_path) as server:
        kit.Raw(server).work()
    with kit.server(kit.line(), checkpoint_dir=tmp_path):
        (record,) = caplog.records
        assert record.getMessage().endswith(
            "; the server had ended in order, and nothing came after it"
        )
    caplog.clear()
    # As another server leaves it that was killed before its first checkpoint.
    starts = tmp_path / "starts.json"
    starts.write_text(json.dumps({"starts": json.loads(starts.read_text())["starts"] + 1}))
    with kit.server(kit.line(), checkpoint_dir=tmp_path):
        (record,) = caplog.records
        assert "; updates that came after it are not in it" in record.getMessage()
