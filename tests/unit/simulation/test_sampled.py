"""Staleness that is drawn: its distribution, the models that are sent, and its label."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch

import headway as hw
from headway.core import replay
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.core.events import Submitted
from headway.observe import Result
from headway.simulation.engine import server_for
from headway.simulation.resolve import describe, resolve
from tests.simulation_kit import Chase, arrivals, perceptron_task

MOST = 6
DRAWN = hw.SimulatedStaleness(max_staleness=MOST)


def run(task: Any = None, algorithm: Any = None, **options: Any) -> hw.Result:
    task = task or hw.tasks.quadratic(num_clients=8, dim=3)
    options = {"stop": hw.until(updates=100), "staleness": DRAWN, **options}
    return hw.simulate(task, algorithm or hw.algorithms.fedasync(), **options)


def test_every_staleness_is_as_likely() -> None:
    num = 7000
    result = run(stop=hw.until(updates=num), evaluate_every=num)
    assert sorted(result.staleness) == list(range(MOST + 1))
    share = 1 / (MOST + 1)
    deviation = sqrt(num * share * (1 - share))
    assert all(abs(count - num * share) < 4 * deviation for count in result.staleness.values())


def test_while_there_are_few_models_each_of_them_is_as_likely() -> None:
    firsts: list[list[int]] = []
    for seed in range(400):
        events = run(stop=hw.until(updates=3), evaluate_every=10**9, seed=seed).events
        firsts.append([e.staleness for e in events if isinstance(e, Submitted)])
    assert {row[0] for row in firsts} == {0}
    for place in (1, 2):
        found = [row[place] for row in firsts]
        for age in range(place + 1):
            assert found.count(age) / 400 == pytest.approx(1 / (place + 1), abs=0.1)


def test_the_model_that_a_job_starts_from_is_the_one_of_so_many_versions_before() -> None:
    task = Chase([3.0, -1.0, 8.0], dim=2, dtype=torch.float64)
    result = run(task, hw.algorithms.async_sgd(learning_rate=0.1), record="payloads")
    # x_{v+1} = x_v - 0.1 (x_{v-s} - target), by hand from the log's staleness alone.
    models = [torch.zeros(2, dtype=torch.float64)]
    updates = [event for event in result.events if isinstance(event, Submitted)]
    for event, trained in zip(updates, task.trained, strict=True):
        base = models[len(models) - 1 - event.staleness]
        torch.testing.assert_close(trained.parameters, base)
        assert event.base_version == len(models) - 1 - event.staleness
        target = task.targets[trained.client]
        models.append(models[-1] - 0.1 * (base - target))
    assert result.parameters is not None
    torch.testing.assert_close(result.parameters, models[-1])


def test_a_buffered_algorithm_counts_versions_and_not_updates() -> None:
    result = run(algorithm=hw.algorithms.fedbuff(buffer_size=4), stop=hw.until(updates=400))
    assert result.versions == 100
    assert sorted(result.staleness) == list(range(MOST + 1))


def test_without_staleness_it_is_the_run_with_one_client_at_a_time() -> None:
    drawn = run(staleness=hw.SimulatedStaleness(max_staleness=0))
    emerged = run(staleness=None, concurrency=1)
    assert drawn.weights_hash == emerged.weights_hash
    assert drawn.log_hash == emerged.log_hash


def test_the_log_can_be_replayed() -> None:
    task, algorithm = hw.tasks.quadratic(num_clients=8, dim=3), hw.algorithms.fedasync()
    result = run(task, algorithm, record="payloads")
    settings = resolve(task, algorithm, hw.until(updates=100), staleness=DRAWN)
    server = server_for(settings)
    replay(server, result.events)
    assert server.parameters.equal(result.parameters)  # type: ignore[arg-type]


def test_the_server_keeps_as_many_models_as_are_drawn_from() -> None:
    settings = resolve(
        hw.tasks.quadratic(num_clients=8, dim=50),
        hw.algorithms.fedasync(),
        hw.until(updates=100),
        staleness=DRAWN,
    )
    assert settings.algorithm.needs.copies == hw.algorithms.fedasync().needs.copies + MOST
    (models,) = [s for s in server_for(settings)._chain.states if hasattr(s, "rows")]
    assert models.rows.shape == (MOST, 50)


def test_groups_train_as_one_by_one() -> None:
    task = perceptron_task(learning_rate=0.05)
    options = {"stop": hw.until(updates=40), "evaluate_every": 40}
    one, many = (
        run(task, execution=hw.Execution(mode=mode), **options)  # type: ignore[arg-type]
        for mode in ("one_by_one", "groups")
    )
    assert [e[:9] for e in arrivals(one.events)] == [e[:9] for e in arrivals(many.events)]
    torch.testing.assert_close(one.parameters, many.parameters)


def test_the_label_is_everywhere(tmp_path: Any) -> None:
    result = run(folder=tmp_path / "run")
    assert result.simulated_staleness == MOST
    assert "simulated: drawn from 0 to 6" in str(result)
    assert Result.load(tmp_path / "run").simulated_staleness == MOST
    assert "max_staleness = 6" in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "simulated staleness 0 to 6" in report
    compared = hw.compare(
        hw.tasks.quadratic(num_clients=8, dim=3),
        [hw.algorithms.fedasync()],
        stop=hw.until(updates=20),
        seeds=(0,),
        staleness=DRAWN,
    )
    assert "simulated staleness, one job at a time: fedasync (0 to 6)" in str(compared)


def test_without_it_there_is_no_label() -> None:
    result = run(staleness=None)
    assert result.simulated_staleness is None
    assert "simulated" not in str(result)
    task, algorithm = hw.tasks.quadratic(num_clients=8, dim=3), hw.algorithms.fedasync()
    assert "staleness" not in describe(resolve(task, algorithm, hw.until(updates=1)))


@pytest.mark.parametrize(
    ("algorithm", "gate"),
    [
        (hw.algorithms.fedavg(clients_per_round=2), "Bulk"),
        (hw.algorithms.ssp(bound=2, learning_rate=0.1), "StaleSynchronous"),
        (hw.algorithms.ringmaster(delay_bound=2, learning_rate=0.1), "CancelStale"),
    ],
    ids=str,
)
def test_an_algorithm_that_makes_workers_wait_is_refused(algorithm: Any, gate: str) -> None:
    with pytest.raises(ConfigurationError, match=gate):
        run(algorithm=algorithm)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="what its workers are sent"):
        run(algorithm=hw.algorithms.easgd())
    with pytest.raises(ConfigurationError, match="one client train at a time"):
        run(concurrency=2)
    with pytest.raises(ConfigurationError, match="one client train at a time"):
        run(scheduler=hw.schedulers.FirstCome())
    with pytest.raises(ArgumentTypeError, match="how staleness is drawn"):
        run(staleness=4)
    with pytest.raises(ConfigurationError, match="at least 0"):
        hw.SimulatedStaleness(max_staleness=-1)
    with pytest.raises(ArgumentTypeError, match="max_staleness"):
        hw.SimulatedStaleness(max_staleness=2.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="at least 0"):
        hw.SimulatedStaleness(max_staleness=True)
