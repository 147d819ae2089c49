"""Links: bytes to seconds, exactly, alone and in runs."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

import headway as hw
from headway.core.errors import ConfigurationError
from headway.core.events import CheckedOut, Submitted
from headway.simulation import population as hp
from headway.simulation.laws import LogNormal
from headway.simulation.links import Link
from headway.task.streams import Purpose, job_uniform, stream_key
from tests.simulation_kit import perceptron_task


def test_one_way_takes_its_latency_and_its_bits_over_the_bandwidth() -> None:
    link = Link((2e6, 1e3), 5e5, (0.0, 0.25))
    assert link.transfer_s(0, 1000, 0, seed=0) == 8 * 1000 / 2e6
    assert link.transfer_s(0, 0, 77, seed=0) == 8 * 77 / 5e5
    assert link.transfer_s(1, 123, 77, seed=0) == (0.25 + 8 * 123 / 1e3) + (0.25 + 8 * 77 / 5e5)
    assert Link(inf, inf).transfer_s(0, 10**12, 10**12, seed=0) == 0.0


def test_a_law_is_drawn_once_for_each_client_and_direction() -> None:
    law = LogNormal(1e6, 0.7)
    link = Link(law, law, 0.0)
    drawn = {
        purpose: law.draw_s(5, job_uniform(stream_key(3, purpose), 5, 0))
        for purpose in (Purpose.DOWNLINK, Purpose.UPLINK)
    }
    assert drawn[Purpose.DOWNLINK] != drawn[Purpose.UPLINK]
    expected = 8 * 100 / drawn[Purpose.DOWNLINK] + 8 * 50 / drawn[Purpose.UPLINK]
    assert link.transfer_s(5, 100, 50, seed=3) == expected
    transfer_s = link.transfers(3)
    assert transfer_s(5, 100, 50) == transfer_s(5, 100, 50) == expected


def simulate(clients: hp.Population, algorithm: Any, **options: Any) -> hw.Result:
    task = hw.tasks.quadratic(num_clients=clients.num_clients, dim=6)
    return hw.simulate(
        task, algorithm, population=clients, **{"stop": hw.until(updates=40), **options}
    )


@pytest.mark.parametrize(
    "algorithm",
    [hw.algorithms.async_sgd(learning_rate=0.05), hw.algorithms.fedbuff(buffer_size=2)],
)
def test_a_jobs_duration_is_its_work_and_its_two_ways(algorithm: Any) -> None:
    down, up, latency = [1e3, 2e3, 4e3], [500.0, 1e3, 2e3], [0.0, 0.125, 0.5]
    clients = hp.from_table([1.0, 2.0, 3.0], down_bps=down, up_bps=up, latency_s=latency)
    result = simulate(clients, algorithm)
    sent: dict[int, float] = {}
    size = result.bytes_up // result.updates
    for event in result.events:
        if isinstance(event, CheckedOut):
            sent[event.job] = event.time
        elif isinstance(event, Submitted):
            k = hp.client_index(event.worker)
            ways = 2 * latency[k] + 8 * size / down[k] + 8 * size / up[k]
            assert event.time - sent[event.job] == pytest.approx(
                (1.0, 2.0, 3.0)[k] + ways, rel=1e-12
            )


def test_as_many_bytes_are_timed_as_are_counted() -> None:
    """One client, one bit a second: virtual time is the bits, and nothing else but the work."""
    clients = hp.with_link(hp.constant(1), down_bps=1.0, up_bps=inf)
    result = simulate(clients, hw.algorithms.async_sgd(learning_rate=0.05))
    # The job that is in flight at the end has been sent, and has not ended.
    sent = result.bytes_down * result.updates // (result.updates + 1)
    assert result.virtual_time_s in (
        pytest.approx(8 * result.bytes_down + 40),
        pytest.approx(8 * sent + 40),
    )
    clients = hp.with_link(hp.constant(1), down_bps=inf, up_bps=1.0)
    result = simulate(clients, hw.algorithms.async_sgd(learning_rate=0.05))
    assert result.virtual_time_s == pytest.approx(8 * result.bytes_up + 40)


def test_fragments_take_their_share_of_the_time() -> None:
    clients = hp.with_link(hp.constant(1), down_bps=inf, up_bps=1.0)
    result = hw.simulate(
        perceptron_task(sizes=[23]),
        hw.algorithms.decoupled_diloco(num_fragments=2),
        population=clients,
        stop=hw.until(updates=7),
    )
    assert result.bytes_up > 0
    assert result.virtual_time_s == pytest.approx(8 * result.bytes_up + 7)


@pytest.mark.parametrize(
    "options",
    [
        {"down_bps": 0.0, "up_bps": 1.0},
        {"down_bps": 1.0, "up_bps": -1.0},
        {"down_bps": 1.0, "up_bps": 1.0, "latency_s": -0.1},
        {"down_bps": [1.0], "up_bps": 1.0},
        {"down_bps": [1.0, 1.0], "up_bps": [1.0, 1.0, 1.0]},
        {"down_bps": [1.0, 0.0], "up_bps": 1.0},
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="with_link"):
        hp.with_link(hp.constant(2), **options)


def test_a_link_is_described() -> None:
    tree = hp.with_link(hp.constant(2), down_bps=[1, 2], up_bps=LogNormal(1e6, 0.5)).describe()
    assert tree["link"] == {
        "down_bps": [1.0, 2.0],
        "up_bps": {"name": "lognormal", "median_s": 1e6, "sigma": 0.5},
        "latency_s": 0.0,
    }
