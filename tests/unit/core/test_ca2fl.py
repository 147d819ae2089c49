"""CA2FL, bare: a calibration that wraps a buffer and remembers each worker's last update.

x <- x + h + (1/K) sum_{i in S} (delta_i - h_i);   h_i <- delta_i;   h = mean_i h_i
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import core
from tests import core_kit as kit

TABLE = "last_delta"


@dataclass(slots=True)
class CalibratedState:
    inner: Any
    memory: Tensor  # the sum of all h_i, as it was when the buffer was last flushed
    work: Tensor


@dataclass(frozen=True, slots=True)
class Calibrated:
    inner: kit.Mean

    @property
    def needs(self) -> core.Needs:
        return self.inner.needs | core.Needs(tables=(TABLE,), copies=2)

    def init(self, context: core.Context) -> CalibratedState:
        zeros = torch.zeros_like(context.parameters)
        return CalibratedState(self.inner.init(context), zeros, zeros.clone())

    def apply(
        self, update: core.Update, state: CalibratedState, context: core.Context
    ) -> core.Outcome:
        last = context.tables[TABLE].row(context.worker)
        torch.sub(update.payload, last, out=state.work)
        last.copy_(update.payload)
        outcome = self.inner.apply(update._replace(payload=state.work), state.inner, context)
        if not isinstance(outcome, core.Pass):
            return outcome
        change = outcome.update.payload
        torch.add(change, state.memory, alpha=1 / context.num_workers, out=state.work)
        state.memory.add_(change, alpha=self.inner.size)
        return core.Pass(outcome.update._replace(payload=state.work))


def oracle(arrivals: list[tuple[int, np.ndarray]], workers: int, size: int) -> np.ndarray:
    """The rule, word for word, with lists."""
    x = np.zeros(2)
    remembered = [np.zeros(2) for _ in range(workers)]
    h, batch = np.zeros(2), []
    for worker, delta in arrivals:
        batch.append(delta - remembered[worker])
        remembered[worker] = delta
        if len(batch) == size:
            x = x + h + sum(batch) / size
            h, batch = sum(remembered) / workers, []
    return x


def run(arrivals: list[tuple[int, np.ndarray]], workers: int, size: int) -> core.Server:
    algorithm = kit.bare(Calibrated(kit.Mean(size)))
    server = core.Server(torch.zeros(2, dtype=torch.float64), algorithm, record="payloads")
    server.register([f"w{index}" for index in range(workers)], 0.0)
    for worker, delta in arrivals:
        ticket = kit.take(server, f"w{worker}")
        kit.send(server, f"w{worker}", ticket, torch.from_numpy(delta))
    return server


deltas = st.tuples(st.integers(-8, 8), st.integers(-8, 8)).map(lambda pair: np.array(pair, float))


@given(st.lists(st.tuples(st.integers(0, 3), deltas), max_size=30), st.integers(1, 4))
def test_it_follows_the_rule(arrivals: list[tuple[int, np.ndarray]], size: int) -> None:
    server = run(arrivals, 4, size)
    np.testing.assert_allclose(server.parameters.numpy(), oracle(arrivals, 4, size), atol=1e-12)
    assert server.version == len(arrivals) // size


def test_a_full_round_of_all_is_the_plain_mean() -> None:
    rng = np.random.default_rng(0)
    rounds = [[rng.normal(size=2) for _ in range(4)] for _ in range(3)]
    arrivals = [(worker, delta) for deltas in rounds for worker, delta in enumerate(deltas)]
    server = run(arrivals, 4, 4)
    expected = sum(np.mean(deltas, axis=0) for deltas in rounds)
    np.testing.assert_allclose(server.parameters.numpy(), expected, atol=1e-12)


def test_its_memory_survives_save_and_load_in_the_middle_of_a_buffer() -> None:
    rng = np.random.default_rng(1)
    arrivals = [(int(rng.integers(4)), rng.normal(size=2)) for _ in range(23)]
    whole = run(arrivals, 4, 3)
    half = run(arrivals[:10], 4, 3)
    other = core.Server(torch.zeros(2, dtype=torch.float64), half.algorithm)
    other.load_state_dict(half.state_dict())
    for worker, delta in arrivals[10:]:
        kit.send(other, f"w{worker}", kit.take(other, f"w{worker}"), torch.from_numpy(delta))
    assert kit.same(other.state_dict(), whole.state_dict())
    again = core.Server(torch.zeros(2, dtype=torch.float64), half.algorithm)
    assert torch.equal(core.replay(again, whole.events).parameters, whole.parameters)
