"""When a run ends."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation.stop import Progress, Stop, Target, until

LIMITS = {"updates": 10, "versions": 5, "virtual_time_s": 60.0, "wall_time_s": 2.5}


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_is_reached_at_its_value_and_not_before(name: str) -> None:
    limit = LIMITS[name]
    stop = until(**{name: limit})
    before = limit - 1 if isinstance(limit, int) else np.nextafter(limit, 0.0)
    assert not stop.is_due(Progress(**{name: before}))
    assert stop.reason(Progress(**{name: before})) is None
    for value in (limit, limit * 2):
        assert stop.is_due(Progress(**{name: value}))
        assert stop.reason(Progress(**{name: value})) == f"{name} >= {limit:.10g}"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_first_of_several_ends_the_run(size: int) -> None:
    for names in itertools.combinations(LIMITS, size):
        stop = until(**{name: LIMITS[name] for name in names})
        assert not stop.is_due(Progress())
        for name in LIMITS:
            progress = Progress(**{name: LIMITS[name]})
            assert stop.is_due(progress) == (name in names)
            assert (stop.reason(progress) is not None) == (name in names)


def test_what_is_not_limited_may_grow_without_bound() -> None:
    stop = until(updates=10**12)
    assert not stop.is_due(Progress(0, 10**15, 1e300, 1e300))


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", "max"),
        ("loss", "min"),
        ("test_loss", "min"),
        ("Loss/val", "min"),
        ("error_rate", "min"),
        ("perplexity", "min"),
        ("rmse", "min"),
        ("val_mse", "min"),
        ("nll", "min"),
        ("mae/test", "min"),
        ("f1", "max"),
        ("maestro", "max"),
        ("auc", "max"),
    ],
)
def test_direction_follows_the_name(metric: str, direction: str) -> None:
    target = Target(metric, 0.5)
    assert target.direction == direction
    assert target.is_met(0.5)
    assert target.is_met(0.6) == (direction == "max")
    assert target.is_met(0.4) == (direction == "min")
    assert not target.is_met(float("nan"))


def test_the_target_is_read_at_evaluations_and_reported_first() -> None:
    stop = until(updates=10, target=("accuracy", 0.85))
    assert stop.reason(Progress(updates=3)) is None
    assert stop.reason(Progress(updates=3, metrics={"accuracy": 0.84, "loss": 0.1})) is None
    reached = Progress(updates=10, metrics={"accuracy": 0.85})
    assert stop.reason(reached) == "target accuracy >= 0.85"
    # Only limits are due after a job: the target costs nothing there.
    assert not stop.is_due(Progress(updates=3, metrics={"accuracy": 0.99}))


@pytest.mark.parametrize(
    "target",
    [
        ("loss", 0.5, "max"),
        ["loss", 0.5, "max"],
        Target("loss", 0.5, "max"),
        Target("loss", np.float64(0.5), "max"),
    ],
)
def test_a_target_may_be_written_in_several_ways(target: object) -> None:
    assert until(target=target).target == Target("loss", 0.5, "max")  # type: ignore[arg-type]
    assert str(until(target=target)) == "target loss >= 0.5"  # type: ignore[arg-type]


def test_a_metric_that_is_not_measured_is_named_at_the_first_evaluation() -> None:
    stop = until(target=("acuracy", 0.85))
    with pytest.raises(UnknownNameError) as caught:
        stop.reason(Progress(metrics={"accuracy": 0.1, "loss": 2.0}))
    assert caught.value.known == ("accuracy", "loss")
    assert caught.value.help == "did you mean `accuracy`?"


def test_nothing_to_stop_at() -> None:
    with pytest.raises(ConfigurationError, match="nothing would ever end"):
        until()
    with pytest.raises(ConfigurationError, match="nothing would ever end"):
        Stop()


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "10", True])
def test_limits_that_cannot_be_used(name: str, value: object) -> None:
    with pytest.raises((ConfigurationError, ArgumentTypeError), match=name) as caught:
        until(**{name: value})  # type: ignore[arg-type]
    assert caught.value.where == "until"
    assert caught.value.help


@pytest.mark.parametrize(
    "target", ["accuracy", ("accuracy",), (0.85, "accuracy"), (1, 2, 3, 4), 0.85]
)
def test_what_is_not_a_target(target: object) -> None:
    with pytest.raises(ArgumentTypeError, match="this is not a target"):
        until(target=target)  # type: ignore[arg-type]


def test_targets_that_cannot_be_used() -> None:
    with pytest.raises(ConfigurationError):
        until(target=("accuracy", float("nan")))
    with pytest.raises(ArgumentTypeError):
        until(target=("accuracy", "high"))
    with pytest.raises(UnknownNameError, match="direction"):
        until(target=("accuracy", 0.85, "up"))


def test_it_is_a_value_that_describes_itself() -> None:
    stop = until(updates=np.int64(10), virtual_time_s=60, target=("accuracy", 0.85))
    assert stop == until(updates=10, virtual_time_s=60.0, target=Target("accuracy", 0.85))
    assert hash(stop) == hash(until(**stop.describe()))
    assert until(**stop.describe()) == stop
    assert stop.describe() == {
        "updates": 10,
        "virtual_time_s": 60.0,
        "target": ["accuracy", 0.85, "max"],
    }
    assert str(stop) == "updates >= 10 or virtual_time_s >= 60 or target accuracy >= 0.85"
    with pytest.raises(dataclasses.FrozenInstanceError):
        stop.updates = 3  # type: ignore[misc]


def test_large_counts_are_written_out() -> None:
    assert str(until(updates=2_000_000)) == "updates >= 2000000"


def test_fraction_of_the_nearest_limit() -> None:
    stop = until(updates=10, virtual_time_s=100.0)
    assert stop.fraction(Progress(updates=2, virtual_time_s=50.0)) == 0.5
    assert stop.fraction(Progress(updates=30)) == 1.0
    assert until(target=("loss", 0.1)).fraction(Progress()) is None
