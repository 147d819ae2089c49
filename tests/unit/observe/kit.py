"""Results and events to test with, and strategies that make any of them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from headway.core import (
    Buffers,
    CheckedOut,
    Event,
    Lost,
    Noted,
    Registered,
    Submitted,
    Ticked,
    Waited,
)
from headway.observe import Point, Result

# Every float there is, the ones that JSON does not know included.
floats = st.floats(allow_nan=True, allow_infinity=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=12) | st.sampled_from(["NaN", "'NaN", "Infinity", "-Infinity", "''NaN"])
whole = st.integers(-(2**53), 2**53)
counts = st.integers(0, 2**40)
metrics = st.dictionaries(names, floats, max_size=3)
plain = st.recursive(
    st.none() | st.booleans() | whole | floats | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
jobs = st.lists(counts, max_size=3).map(tuple)
submitted = st.builds(
    Submitted,
    time=finite,
    worker=names,
    job=counts,
    status=st.sampled_from(["applied", "buffered", "rejected"]),
    reason=names,
    staleness=counts,
    weight=floats,
    version=counts,
    base_version=whole,
    num_examples=whole,
    num_steps=whole,
    metrics=metrics,
    cancelled=jobs,
    again=st.booleans(),
    sent_weight=floats,
    fragment=st.none() | counts,
    payload_bytes=counts,
    payload=st.none(),
    buffers=st.none(),
)
events: st.SearchStrategy[Event] = st.one_of(
    submitted,
    st.builds(CheckedOut, finite, names, counts, counts, st.booleans()),
    st.builds(Waited, finite, names, names),
    st.builds(Registered, finite, st.lists(names, max_size=4).map(tuple)),
    st.builds(Lost, finite, names, jobs, counts, jobs),
    st.builds(Ticked, finite, counts, st.booleans(), jobs),
    st.builds(Noted, finite, names, st.dictionaries(names, plain, max_size=3)),
)


def same(left: Any, right: Any) -> bool:
    """Equal, where a NaN equals a NaN and a list equals a tuple."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (left != left and right != right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    return type(left) is type(right) and bool(left == right)


def submission(job: int, **changes: Any) -> Submitted:
    """An update that was applied."""
    event = Submitted(
        time=1.5 * job,
        worker=f"client-{job % 3}",
        job=job,
        status="applied",
        reason="",
        staleness=job % 4,
        weight=0.1 + job,
        version=job,
        base_version=job,
        num_examples=32,
        num_steps=5,
        metrics={"loss": 1 / (job + 3)},
        cancelled=(),
        again=False,
        sent_weight=1.0,
        fragment=None,
        payload_bytes=40,
        payload=None,
        buffers=None,
    )
    return event._replace(**changes)


def with_payload(job: int, *, buffers: bool = False) -> Submitted:
    """An update with a payload of its own."""
    payload = torch.arange(10, dtype=torch.float32) + job / 7
    kept = Buffers(torch.full((2,), job / 3), torch.tensor([job])) if buffers else None
    return submission(job, payload=payload, buffers=kept)


def history(*values: float, metric: str = "accuracy", step_s: float = 10.0) -> list[Point]:
    """Points 100 updates apart."""
    return [
        Point(100 * n, 10 * n, 3200 * n, 800 * n, step_s * n, 0.5 * n, {metric: value})
        for n, value in enumerate(values, start=1)
    ]


def run(*values: float, **changes: Any) -> Result:
    """A result with this history of accuracies."""
    metric, step_s = changes.pop("metric", "accuracy"), changes.pop("step_s", 10.0)
    points = history(*values, metric=metric, step_s=step_s)
    described: dict[str, Any] = {
        "algorithm": "fedbuff",
        "settings": {"buffer_size": 10},
        "task": "mnist_5k",
        "seed": 0,
        "synchronous": False,
        "population": {"name": "lognormal", "median_s": 2.0},
        "concurrency": 20,
        "num_clients": 50,
        "history": points,
        "staleness": {0: 60, 1: 30, 7: 10},
        "counts": {"updates": 120, "applied": 10, "buffered": 90, "rejected": 20},
        "clients": {},
        "updates": 120,
        "versions": 10,
        "examples": 4000,
        "discarded_examples": 500,
        "bytes_up": 1_234_567,
        "bytes_down": 2_000,
        "virtual_time_s": points[-1].virtual_time_s if points else 0.0,
        "wall_time_s": 1.25,
        "idle_share": 0.25,
        "stop_reason": "updates >= 120",
        "log_hash": "",
        "weights_hash": "",
    }
    return Result(**{**described, **changes})
