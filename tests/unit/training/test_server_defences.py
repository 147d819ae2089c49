"""What a worker may say without harm to the server's books, and what a server tells meanwhile."""

from __future__ import annotations

import pytest

from tests.unit.training import server_kit as kit

# --- counts


@pytest.mark.parametrize(
    "counts",
    [{"num_examples": 2**64 - 1}, {"num_steps": 2**53 + 1}, {"num_processed": 2**40}],
    ids=["examples", "steps", "processed"],
)
def test_counts_that_cannot_be_are_refused_and_the_next_checkpoint_is_written(tmp_path, counts):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, checkpoint_frequency=1) as server:
        refused = kit.Raw(server, "liar").work(**counts)
        assert refused.refused.code == "protocol_error"
        kit.Raw(server, "ada").work()
        assert server.status()["examples"] == 1
        assert server.status()["checkpoint_error"] is None
    assert list(tmp_path.glob("checkpoint-*"))


def test_an_update_that_was_rejected_for_its_count_counts_for_nothing():
    with kit.server(kit.line()) as server:
        told = kit.Raw(server).work(num_examples=2**50, num_processed=7)
        assert (told.receipt.status, told.receipt.reason) == ("rejected", "bad_count")
        assert server.status()["examples"] == 0


@pytest.mark.parametrize("durability", ["checkpoint", "log"])
def test_a_checkpoint_that_cannot_be_made_is_told_and_the_server_goes_on(
    tmp_path, monkeypatch, durability
):
    options = {"checkpoint_dir": tmp_path, "checkpoint_frequency": 1, "durability": durability}
    with kit.server(kit.line(), **options) as server:

        def fail():
            raise OverflowError("a count is too large")

        with monkeypatch.context() as broken:
            broken.setattr(server._hub.tally.__class__, "state_dict", lambda _: fail())
            kit.Raw(server, "ada").work()
            assert "too large" in server.status()["checkpoint_error"]
        assert kit.Raw(server, "bob").work().receipt.status == "applied"
        assert server.status()["state"] == "running"
