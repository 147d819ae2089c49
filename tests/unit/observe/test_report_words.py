"""What the report says: the verdict, the table, the groups and the amounts."""

from __future__ import annotations

from math import isclose, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.observe import Result, Spread
from headway.observe.html.amounts import amount, mean_and_std, range_of
from headway.observe.html.groups import Goal, group_runs
from tests.unit.observe.report_kit import accuracies, heading, made, read, worked


def race(*finish_s: tuple[str, float]) -> list[object]:
    """Runs that each reach accuracy 0.8 at their second evaluation."""
    return [
        made(label, seed, history=accuracies([0.1, 0.85], every_s=when))
        for label, when in finish_s
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("finish_s", "said"),
    [
        ([("fedavg", 310.0), ("fedbuff", 100.0)], "in 3.1× less virtual time than fedavg"),
        ([("fedavg", 12345.0), ("fedbuff", 100.0)], "in 123× less virtual time than fedavg"),
        ([("fedavg", 125.0), ("fedbuff", 100.0)], "in 20 % less virtual time than fedavg"),
        ([("fedavg", 102.0), ("fedbuff", 100.0)], "in about the same virtual time as fedavg"),
        # The synchronous one may win.
        ([("fedavg", 50.0), ("fedbuff", 100.0)], "in 2× less virtual time than fedbuff"),
        # Against the best of the other kind, not against the runner-up.
        (
            [("fedavg", 400.0), ("fedasync", 110.0), ("fedbuff", 100.0)],
            "in 4× less virtual time than fedavg (100 s against 400 s, mean of 3 seeds)",
        ),
        ([("fedasync", 200.0), ("fedbuff", 100.0)], "in 2× less virtual time than fedasync"),
    ],
)
def test_the_verdict_compares_the_fastest(finish_s: list[tuple[str, float]], said: str) -> None:
    winner = min(finish_s, key=lambda pair: pair[1])[0]
    assert heading(read(*race(*finish_s))).startswith(f"{winner} reached accuracy 0.8 {said}")


def test_seconds_of_real_runs_are_called_wall_time_and_shown_once() -> None:
    slow, fast = accuracies([0.1, 0.85], every_s=40.0), accuracies([0.1, 0.85], every_s=10.0)
    runs = [
        made(
            label,
            history=[p._replace(wall_time_s=p.virtual_time_s) for p in history],
            execution={"mode": "workers", "updates": {"worker-0": 10}},
        )
        for label, history in (("fedavg", slow), ("fedbuff", fast))
    ]
    page = read(*runs)
    assert heading(page).startswith("fedbuff reached accuracy 0.8 in 4× less wall time than fedavg")
    assert "irtual" not in page.text
    assert "axis-virtual_time_s" not in page.values("id", "input")
    assert "axis-wall_time_s" in page.values("id", "input")


def real(label: str = "fedbuff", every_s: float = 0.01, **changes: object) -> Result:
    """A run with real workers that reaches accuracy 0.85 at its second evaluation."""
    history = [
        p._replace(wall_time_s=p.virtual_time_s) for p in accuracies([0.1, 0.85], every_s=every_s)
    ]
    return made(label, history=history, execution={"mode": "workers"}, **changes)


def test_real_and_simulated_runs_are_not_compared_by_time() -> None:
    simulated = made("fedavg", history=accuracies([0.1, 0.3, 0.85], every_s=10.0))
    page = read(simulated, real())
    assert heading(page) == (
        "fedbuff reached accuracy 0.8 in 2× fewer updates than fedavg (10 against 20, one seed, so "
        "no spread). Times are not compared: those of simulated runs are virtual, those of real "
        "workers are not."
    )
    assert "synchronous, simulated, 1 seed" in page.text
    assert "asynchronous, real workers, 1 seed" in page.text
    # The simulated run's seconds stand in the table of virtual time, and no others do.
    assert page.text.count("Virtual time 20 s –") == 2
    # No time is the best one: updates, bytes and examples are. What is seen first is against updates.
    assert page.of_class("best") == 3
    chosen = [had["id"] for tag, had in page.elements if tag == "input" and "checked" in had]
    assert chosen == ["metric-0", "axis-updates"]


def test_as_many_updates_of_real_and_simulated_runs() -> None:
    page = read(made("fedavg", history=accuracies([0.1, 0.85])), real())
    assert "in about as many updates as" in heading(page)


def test_who_alone_reached_the_target_among_real_and_simulated_runs() -> None:
    page = read(made("fedavg", history=accuracies([0.1, 0.3])), real())
    assert heading(page) == (
        "fedbuff reached accuracy 0.8 after 10 updates (one seed, so no spread). fedavg did not "
        "reach it. Times are not compared: those of simulated runs are virtual, those of real "
        "workers are not."
    )


def test_one_label_of_real_and_of_simulated_runs_is_two_groups() -> None:
    groups = group_runs([made(), real(concurrency=7), made(seed=1)])
    assert [group.label for group in groups] == [
        "fedbuff (simulated)",
        "fedbuff (real workers)",
    ]


def test_a_timeline_has_one_kind_of_seconds() -> None:
    slow, fast = worked(2, 10, length_s=1.0), worked(2, 10, length_s=0.001)
    page = read(made("fedavg", events=slow), real(events=fast))
    headings = [said for tag, said in page.texts if tag == "h3"]
    assert headings.index("Simulated, virtual seconds") < headings.index(
        "Real workers, real seconds"
    )
    assert "20 jobs of 2 workers in 10 s" in " ".join(page.values("aria-label"))
    assert "20 jobs of 2 workers in 0.01 s" in " ".join(page.values("aria-label"))
    assert "virtual seconds" not in read(made("fedavg", events=slow)).text


def test_the_verdict_says_who_did_not_reach_the_target() -> None:
    slow = [made("fedavg", seed, history=accuracies([0.1, 0.7])) for seed in range(3)]
    assert heading(read(*slow, *race(("fedbuff", 100.0)))) == (
        "fedbuff reached accuracy 0.8 after 100 s of virtual time (mean of 3 seeds). "
        "fedavg did not reach it."
    )
    mixed = [*slow[:1], *race(("fedavg", 10.0))[1:], *race(("fedbuff", 100.0))]
    # Two fast seeds of three do not beat three of three.
    assert heading(read(*mixed)).endswith("fedavg reached it with only 2 of 3 seeds.")
    assert heading(read(*mixed)).startswith("fedbuff reached accuracy 0.8 after 100 s")
    assert heading(read(*mixed[:3])) == (
        "No algorithm reached accuracy 0.8 with every seed. "
        "fedavg reached it with only 2 of 3 seeds."
    )
    other = made("fedbuff", history=accuracies([0.1, 0.75, 0.72]))
    assert heading(read(*slow, other)) == (
        "None of 4 runs reached accuracy 0.8; the closest was fedbuff with 0.75."
    )


def test_the_verdict_without_a_target() -> None:
    runs = [made("fedavg"), made("fedbuff", history=accuracies([0.5, 0.95]))]
    assert heading(read(*runs, goal=None)) == (
        "fedbuff ended with the highest accuracy, 0.95; fedavg 0.9 (one seed, so no spread)."
    )
    assert heading(read(made(history=accuracies([nan])), goal=None)) == (
        "No run ended with a finite accuracy."
    )


def test_the_verdict_follows_the_direction_that_was_given() -> None:
    goal = Goal("accuracy", 0.2, "min")
    falling = made(history=accuracies([0.5, 0.1]))
    assert heading(read(falling, goal=goal)).startswith("fedbuff reached accuracy 0.2 after 10 s")
    assert "Until accuracy ≤ 0.2" in read(falling, goal=goal).text


def test_runs_of_different_tasks_are_not_compared() -> None:
    page = read(made(task="digits"), made("fedavg", task="letters"))
    assert "different tasks" in heading(page)
    # Not in bold either: what is best is told by the same task only.
    assert page.of_class("best") == 0


def test_one_seed_has_no_spread_and_a_seed_twice_is_two_runs() -> None:
    assert "one seed, so no spread" in heading(read(made()))
    assert "mean of 2 runs of 1 seed" in heading(read(made(), made()))


def test_runs_are_grouped_by_label_and_setting() -> None:
    small, large = ({"buffer_size": size, "mixing": 1.0} for size in (5, 20))
    runs = [
        made(settings=small, seed=1),
        made("fedavg"),
        made(settings=large),
        made(settings=small),
    ]
    groups = group_runs(runs)
    assert [group.label for group in groups] == [
        "fedbuff (buffer_size=5)",
        "fedavg",
        "fedbuff (buffer_size=20)",
    ]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [0], [0]]


def test_the_table_marks_the_best_and_tells_who_was_lucky() -> None:
    runs = race(("fedavg", 400.0), ("fedbuff", 100.0))
    unlucky = [made("fedasync", 0, history=accuracies([0.1])), *race(("fedasync", 1.0))[1:]]
    page = read(*runs, *unlucky)
    # Of time, updates and so on to the target, ties and incomplete rows aside: the time only.
    assert page.of_class("best") >= 1
    assert "only 2 of 3" in page.text
    assert "2 of 3 runs" in page.text


@given(st.floats(1e-3, 1e12), st.floats(1e-6, 1e12), st.sampled_from(["bytes", "wall_time_s", ""]))
def test_means_and_deviations_can_be_read_back(mean: float, std: float, axis: str) -> None:
    said = mean_and_std(axis, Spread(mean, std, mean - std, mean + std, 3))
    sizes = dict(
        zip(["B", "kB", "MB", "GB", "TB", "PB"], (1000.0**n for n in range(6)), strict=True)
    )
    left, _, right = said.replace("\N{NO-BREAK SPACE}", " ").replace(",", "").partition(" ± ")
    deviation, _, unit = right.partition(" ")
    size = sizes.get(unit, 1.0)
    assert isclose(float(left) * size, mean, rel_tol=6e-3, abs_tol=std)
    assert isclose(float(deviation) * size, std, rel_tol=0.06) or float(deviation) * size <= 1.0


def test_amounts() -> None:
    assert [amount("bytes", 4.5e6), amount("virtual_time_s", 12.34)] == ["4.5 MB", "12.34 s"]
    assert amount("updates", 1234567.0) == "1,234,567"
    assert range_of("bytes", Spread(5e5, 6e5, 1e5, 2e6, 2)) == "100 kB to 2 MB"
    assert range_of("", Spread(1.0, 0.0, 1.0, 1.0, 3)) == ""
    assert (
        mean_and_std("", Spread(0.1519, 0.007, 0.14, 0.16, 3)) == "0.1519 ±\N{NO-BREAK SPACE}0.0070"
    )
