"""What surrounds clients, as a configuration says it."""

from __future__ import annotations

import pytest

from headway import config, population
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation import SimulatedStaleness, every

SURROUNDED = """\
[task]
kind = "quadratic"
num_clients = 2
[population]
time_s = 2.0
dropout = 0.1
away_s = 60.0
timeout_s = 30.0
[population.link]
down_bps = 8e6
up_bps = [1e6, 2_000_000]
latency_s = 0.05
[population.diurnal]
open_s = 8.0
period_s = 24.0
leaving = "lose"
[population.arrival]
rate_per_s = 0.5
process = "regular"
[run]
checkpoint_every = { versions = 10 }
[stop]
updates = 20
[algorithm]
name = "fedasync"
"""


def test_every_table_is_its_function(load):
    expected = population.constant(2, time_s=2.0)
    expected = population.with_dropout(expected, 0.1, away_s=60.0)
    expected = population.with_link(expected, down_bps=8e6, up_bps=[1e6, 2e6], latency_s=0.05)
    expected = population.with_diurnal(expected, open_s=8.0, period_s=24.0, leaving="lose")
    expected = population.with_arrival(expected, rate_per_s=0.5, process="regular")
    expected = population.with_timeout(expected, 30.0)
    assert config.make_population(load(SURROUNDED), 2) == expected


def test_windows(load):
    text = SURROUNDED.replace("diurnal", "windows").replace(
        "open_s = 8.0", "spans = [[[0, 8]], [[1.5, 3], [4, 5]]]"
    )
    made = config.make_population(load(text), 2).availability
    expected = population.with_windows(
        population.constant(2), [[[0, 8]], [[1.5, 3], [4, 5]]], period_s=24, leaving="lose"
    )
    assert made == expected.availability


def test_a_complete_configuration_reads_back_as_itself(load):
    resolved = load(SURROUNDED)
    again = load(resolved.toml())
    assert again.tree == resolved.tree
    assert config.make_population(again, 2) == config.make_population(resolved, 2)
    assert resolved.tree["population"]["diurnal"]["spread"] == 1.0


def test_without_tables_there_are_none(load):
    tree = load('[task]\nkind = "null"\nnum_clients = 2\n[algorithm]\nname = "fedasync"').tree
    assert tree["population"].keys() == {"name", "time_s", "unit", "dropout"}
    assert "staleness" not in tree
    assert "checkpoint_every" not in tree["run"]


def test_the_distance_between_checkpoints(load):
    assert config.make_checkpoint_every(load(SURROUNDED)) == every(versions=10)
    bare = load(SURROUNDED, "run.checkpoint_every=50")
    assert config.make_checkpoint_every(bare) == every(updates=50)
    assert config.make_checkpoint_every(load(SURROUNDED, "run.checkpoint_every=")) is None


def test_simulated_staleness_has_one_client_train(load):
    resolved = load(SURROUNDED, "staleness.max_staleness=4")
    assert config.make_staleness(resolved) == SimulatedStaleness(max_staleness=4)
    assert config.make_scheduler(resolved, None).concurrency == 1
    assert config.make_staleness(load(SURROUNDED)) is None


@pytest.mark.parametrize(
    ("assignment", "error", "where"),
    [
        ("population.link.up_bps=0", ConfigurationError, "up_bps"),
        ('population.link.up_bps="fast"', ArgumentTypeError, "up_bps"),
        ("population.link.up_bps=[1.0]", ConfigurationError, "link"),
        ("population.link.bps=1", UnknownNameError, "bps"),
        ("population.diurnal.open_s=25.0", ConfigurationError, "diurnal"),
        ("population.arrival.rate_per_s=0", ConfigurationError, "rate_per_s"),
        ('population.arrival.process="poison"', ConfigurationError, "process"),
        ("population.timeout_s=-1", ConfigurationError, "timeout_s"),
        ("population.windows.spans=[[[0.0, 1.0]], []]", ConfigurationError, "daily hours"),
        ("staleness.max_staleness=-1", ConfigurationError, "max_staleness"),
        ("run.checkpoint_every=0", ConfigurationError, "checkpoint_every"),
    ],
)
def test_errors_name_the_place(load, assignment, error, where):
    with pytest.raises(error) as caught:
        config.make_population(load(SURROUNDED, assignment), 2)
    assert where in f"{caught.value.message} {caught.value.where}"
