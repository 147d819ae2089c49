"""The log of a small run whose every number can be checked by hand, as it stands in a file.

A difference here is a change of the log's format, or of what the server decides: logs that users
have kept will no longer be read or replayed, so it belongs in the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from headway import core
from tests import core_kit as kit

GOLDEN = Path(__file__).with_name("core_log.jsonl")


def run() -> core.Server:
    """Pairs are averaged, one job at a time is cancelled, one lost, one doubled, one damaged."""
    algorithm = kit.bare(kit.Mean(2), gate=core.CancelStale(1))
    server = core.Server(
        torch.zeros(2), algorithm, scheduler=core.FirstCome(concurrency=3), record="payloads"
    )
    server.register(["w0", "w1", "w2", "w3"], 0.0)
    w0, w1, w2 = (kit.take(server, f"w{index}", 0.5) for index in range(3))
    server.checkout("w3", 0.75)
    kit.send(server, "w0", w0, 2.0, 1.0, again=True, metrics={"loss": 0.5})
    w3 = kit.take(server, "w3", 1.0)
    kit.send(server, "w1", w1, 4.0, 2.0, num_examples=8, weight=0.5)
    kit.send(server, "w2", w2, 1.0, 2.5)
    kit.send(server, "w1", w1, 4.0, 2.5)
    w0 = kit.take(server, "w0", 2.5)
    kit.send(server, "w0", w0, float("inf"), 3.0)
    kit.take(server, "w2", 3.5)
    server.lose("w2", 4.0)
    kit.send(server, "w3", w3, 1.0, 3.0)
    server.tick(5.0, closing=True)
    return server


def read() -> list[dict[str, object]]:
    return [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


def test_the_run_leaves_this_log() -> None:
    server = run()
    assert json.loads(json.dumps([core.to_record(event) for event in server.events])) == read()
    assert server.parameters.tolist() == [2.0, 2.0]


def test_the_file_is_read_as_these_events() -> None:
    stripped = [
        event._replace(payload=None) if isinstance(event, core.Submitted) else event
        for event in run().events
    ]
    assert [core.from_record(record) for record in read()] == stripped
