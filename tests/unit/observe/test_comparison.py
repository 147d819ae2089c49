"""Comparing runs: groups, spreads, ratios, and the table."""

from __future__ import annotations

from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import ConfigurationError, UnknownNameError
from headway.observe import AXES, Comparison, Result, Spread
from tests.unit.observe.kit import run


def three_seeds(label: str, *steps_s: float, top: float = 0.9, sync: bool = False) -> list[Result]:
    """Runs that reach 0.85 at their second point, if they get that far."""
    return [
        run(0.5, top, label=label, seed=seed, step_s=step_s, synchronous=sync)
        for seed, step_s in enumerate(steps_s)
    ]


def race() -> Comparison:
    runs = [
        *three_seeds("fedavg", 30.0, 40.0, 50.0, sync=True),
        *three_seeds("fedbuff", 10.0, 11.0, 12.0),
    ]
    return Comparison(results=runs, target=("accuracy", 0.85))


def test_rows_tell_mean_and_spread_over_the_seeds() -> None:
    fedavg, fedbuff = race().table("virtual_time_s")
    # The second point is two steps in.
    assert fedavg.spread == Spread(80.0, 20.0, 60.0, 100.0, 3)
    assert fedbuff.spread == Spread(22.0, 2.0, 20.0, 24.0, 3)
    assert (fedavg.synchronous, fedbuff.synchronous) == (True, False)
    assert (fedbuff.seeds, fedbuff.reached) == (3, 3)
    assert (fedavg.ratio, fedbuff.ratio) == (1.0, 22.0 / 80.0)


def test_a_run_that_did_not_reach_the_target_is_counted_and_left_out() -> None:
    runs = [*three_seeds("fedavg", 30.0, sync=True), *three_seeds("fedbuff", 10.0, 12.0)]
    runs.append(run(0.5, 0.6, label="fedbuff", seed=2))
    comparison = Comparison(results=runs, target=("accuracy", 0.85))
    row = comparison.table("virtual_time_s")[1]
    assert (row.seeds, row.reached) == (3, 2)
    assert row.spread is not None
    assert (row.spread.mean, row.spread.num_runs) == (22.0, 2)
    shown = str(comparison)
    assert "2 of 3" in shown
    assert "fedbuff: no ratio: 2 of 3 reached the target, and 1 of 1 of the baseline" in shown
    assert [row.ratio for row in comparison.table()] == [1.0, None]


def test_a_baseline_that_did_not_always_reach_the_target_gives_no_ratio() -> None:
    """Its one lucky seed was fast; the others never got there."""
    lucky, *unlucky = three_seeds("fedavg", 1.0, 100.0, 100.0, sync=True)
    slow = [run(0.5, 0.1, label="fedavg", seed=r.seed, synchronous=True) for r in unlucky]
    runs = [lucky, *slow, *three_seeds("fedbuff", 5.0, 5.0, 5.0)]
    comparison = Comparison(results=runs, target=("accuracy", 0.85))
    assert [row.ratio for row in comparison.table()] == [None, None]
    assert "3 of 3 reached the target, and 1 of 3 of the baseline" in str(comparison)
    assert "x the" not in str(comparison)


def test_nobody_reached_the_target() -> None:
    runs = [*three_seeds("fedavg", 30.0, sync=True), *three_seeds("fedbuff", 10.0, top=0.6)]
    comparison = Comparison(results=runs, target=("accuracy", 0.85))
    row = comparison.table()[1]
    assert (row.reached, row.spread, row.ratio) == (0, None, None)
    assert "0 of 1" in str(comparison)
    assert "fedbuff: no ratio" in str(comparison)


def test_without_a_target_the_ends_are_compared() -> None:
    runs = [*three_seeds("fedavg", 30.0, 40.0, sync=True), *three_seeds("fedbuff", 10.0, 12.0)]
    comparison = Comparison(results=runs)
    ends = {row.label: row.spread for row in comparison.table("virtual_time_s")}
    assert ends == {
        "fedavg": Spread(70.0, stdev([60.0, 80.0]), 60.0, 80.0, 2),
        "fedbuff": Spread(22.0, stdev([20.0, 24.0]), 20.0, 24.0, 2),
    }
    assert [row.reached for row in comparison.table("bytes")] == [2, 2]
    assert comparison.table("bytes")[0].spread == Spread(1_236_567, 0.0, 1_236_567, 1_236_567, 2)
    assert "no target" in str(comparison)


def test_one_seed_has_no_spread() -> None:
    comparison = Comparison(results=three_seeds("fedbuff", 10.0), target=("accuracy", 0.85))
    assert comparison.table()[0].spread == Spread(20.0, None, 20.0, 20.0, 1)
    assert "±" not in str(comparison)
    assert "1 seed, so no spread" in str(comparison)


def test_no_baseline_no_ratio() -> None:
    runs = [*three_seeds("fedasync", 10.0), *three_seeds("fedbuff", 10.0)]
    comparison = Comparison(results=runs, target=("accuracy", 0.85))
    assert comparison.baseline is None
    assert {row.ratio for row in comparison.table()} == {None}
    assert "against" not in str(comparison)


def test_a_target_that_was_reached_at_once_gives_no_ratio() -> None:
    runs = [*three_seeds("fedavg", 0.0, sync=True), *three_seeds("fedbuff", 10.0)]
    assert Comparison(results=runs, target=("accuracy", 0.4)).table()[1].ratio is None


def test_small_losses_reach_a_target_from_above() -> None:
    runs = [run(2.0, 0.5, 0.4, metric="loss")]
    comparison = Comparison(results=runs, target=("loss", 0.5))
    assert comparison.direction == "min"
    assert comparison.table("updates")[0].spread == Spread(200.0, None, 200.0, 200.0, 1)
    assert "loss <= 0.5" in str(comparison)
    upwards = Comparison(results=runs, target=("loss", 0.5), direction="max")
    assert upwards.table("updates")[0].spread == Spread(100.0, None, 100.0, 100.0, 1)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigurationError, match="nothing to compare"):
        Comparison(results=[])
    with pytest.raises(ConfigurationError, match="same label and the same seed"):
        Comparison(results=[run(0.5), run(0.6)])
    with pytest.raises(UnknownNameError, match="direction"):
        Comparison(results=[run(0.5)], target=("accuracy", 0.5), direction="up")
    with pytest.raises(UnknownNameError, match="unknown axis"):
        race().table("seconds")
    with pytest.raises(UnknownNameError, match="unknown metric"):
        Comparison(results=[run(0.5)], target=("f1", 0.5)).table()


def test_the_table_has_what_a_reader_looks_for() -> None:
    lines = str(race()).splitlines()
    assert lines[0] == "mnist_5k, 50 clients, 3 seeds: to accuracy >= 0.85"
    assert lines[2].split()[:3] == ["algorithm", "reached", "updates"]
    shown = "fedavg 3 of 3 200 ± 0 80 ± 20 s 1.6 kB 12.5 % 0.9 ± 0"
    assert lines[3].split() == shown.split()
    assert lines[4].split() == ["(200..200)", "(60..100)", "(0.9..0.9)"]
    assert lines[-1] == "  fedbuff: 1x the updates, 0.275x the virtual time, 1x the bytes"
    assert [line.index("±") for line in (lines[3], lines[5])] == [lines[3].index("±")] * 2


def test_seconds_of_real_runs_are_not_called_virtual() -> None:
    real = race()
    for number, result in enumerate(real.results):
        result.execution = {"mode": "server" if number % 2 else "workers"}
    shown = str(real)
    assert "  real time  " in shown
    assert shown.endswith("fedbuff: 1x the updates, 0.275x the real time, 1x the bytes")
    assert "virtual" not in shown
    real.results[0].execution = {"mode": "groups", "group_size": 4, "processes": 1}


def test_virtual_seconds_and_real_ones_are_not_compared() -> None:
    mixed = race()
    for result in mixed.results:
        if result.label == "fedbuff":
            result.execution = {"mode": "workers"}
    assert {axis: mixed.table(axis)[1].ratio for axis in AXES if axis.endswith("_s")} == {
        "virtual_time_s": None,
        "wall_time_s": None,
    }
    shown = str(mixed)
    assert "times are of two kinds, and not compared: fedavg (virtual), fedbuff (real)" in shown
    assert shown.endswith("fedbuff: 1x the updates, 1x the bytes")


@given(
    st.lists(st.floats(1e-9, 1e13), min_size=2, max_size=4),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=80),
    st.floats(0.9, 1e6) | st.floats(-1e-3, 1e-3),
)
def test_no_line_is_too_long(steps_s: list[float], label: str, top: float) -> None:
    runs = [*three_seeds(f"{label}!", *steps_s, top=top, sync=True)]
    runs += three_seeds(label, *steps_s, top=top * 0.98)
    for target in (None, ("accuracy", 0.85)):
        shown = str(Comparison(results=runs, target=target))
        assert max(map(len, shown.splitlines())) <= 100


def test_what_is_usual_fits_a_terminal_of_80_columns() -> None:
    runs = [
        *three_seeds("fedavg over all clients", 301.25, 402.5, 1503.75, sync=True),
        *three_seeds("fedbuff with a buffer of 20", 1012.5, 11_234.5, 12_345.5),
    ]
    shown = str(Comparison(results=runs, target=("accuracy", 0.85)))
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("discarded", "final accuracy", "12.5 %", "(2,025..24,691)"):
        assert word in shown


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20))
def test_a_spread_is_that_of_the_statistics_module(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    assert spread.mean == pytest.approx(mean(values), rel=1e-9, abs=1e-9)
    assert spread.std == pytest.approx(stdev(values), rel=1e-9, abs=1e-9)
    assert spread.num_runs == len(values)


def test_no_spread_of_what_is_no_number() -> None:
    assert Spread.of([]) is None
    assert Spread.of([1.0, float("nan")]) is None


def test_diverged_losses_still_have_a_spread():
    spread = Spread.of([1.5e308, 1.7e308])
    assert spread is not None
    assert spread.mean == pytest.approx(1.6e308)
    assert spread.std == pytest.approx(0.2e308 / 2**0.5)
