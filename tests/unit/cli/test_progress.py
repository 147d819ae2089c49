"""How runs are shown, without waiting for any."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

import headway as hw
from headway.cli.progress import LINE_EVERY_S, ROWS, LiveTable, PlainLines, Silence, progress
from headway.observe import Observer, Point, RunInfo, Snapshot


def info(label="fedbuff", seed=0):
    return RunInfo(label, "fedbuff()", "quadratic", seed, 8, None, "updates >= 100")


def point(updates):
    return Point(updates, 0, 0, 0, updates / 2, 0.0, {"loss": 1.0 / (1 + updates)})


def snapshot(updates=50, fraction=0.5):
    return Snapshot(updates, 5, 12.0, 2.0, 25.0, 1.25, 4, {"loss": 0.25}, fraction)


def shown(table, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(table.render(width))
    return console.file.getvalue()


@pytest.fixture(scope="module")
def result():
    return hw.simulate(
        *(hw.tasks.quadratic(dim=2, num_clients=3), hw.algorithms.fedbuff(buffer_size=1)),
        stop=hw.until(updates=5),
    )


def test_both_are_observers():
    assert isinstance(LiveTable([]), Observer)
    assert isinstance(PlainLines(), Observer)


def test_lines_come_at_once_and_then_no_faster_than_every_few_seconds(result):
    stream, now = io.StringIO(), [100.0]
    lines = PlainLines(stream, clock=lambda: now[0])
    lines.started(info())
    for updates in range(0, 50, 10):
        lines.evaluated(point(updates))
        lines.progress(snapshot(updates))
        now[0] += LINE_EVERY_S / 2
    lines.finished(result)
    said = stream.getvalue().splitlines()
    assert [line.split(" updates")[0] for line in said[:-1]] == [
        "fedbuff, seed 0: 0", "fedbuff, seed 0: 20", "fedbuff, seed 0: 40",
    ]  # fmt: skip
    assert said[0] == "fedbuff, seed 0: 0 updates, 0 s virtual, loss 1"
    assert said[-1].startswith("fedbuff, seed 0: updates >= 5 after 5 updates: loss ")


def test_a_table_has_a_row_for_each_run_whatever_its_state(result):
    table = LiveTable([("fedavg", 0), ("fedbuff", 0), ("fedasync", 0)])
    assert shown(table).count("fed") == 3
    table.started(info("fedavg"))
    table.progress(snapshot())
    table.evaluated(point(50))
    table.finished(result)
    table.started(info("fedbuff"))
    table.progress(snapshot(updates=1234))
    lines = shown(table).splitlines()
    assert lines[0].split()[:4] == ["run", "seed", "updates", "per"]
    assert lines[1].rstrip().endswith("done")
    assert "1,234" in lines[2]
    assert lines[2].rstrip().endswith("2 s")
    assert lines[3].split() == ["fedasync", "0"]


def test_time_left_is_unknown_where_only_a_target_ends_the_run():
    table = LiveTable([("fedbuff", 0)])
    table.started(info())
    table.progress(snapshot(fraction=None))
    assert shown(table).splitlines()[1].rstrip().endswith("4")


def test_of_many_runs_those_around_the_present_one_are_shown():
    table = LiveTable([(f"run-{number}", 0) for number in range(40)])
    for number in range(30):
        table.started(info(f"run-{number}"))
        table.progress(snapshot())
    text = shown(table)
    assert "run-29" in text
    assert "run-0 " not in text
    assert text.count("run-") == ROWS
    assert "0 of 40 runs done" in text


@pytest.mark.parametrize("width", [40, 80, 99, 100, 200])
def test_a_table_fits_the_terminal(width):
    table = LiveTable([("fedbuff-K=10", 0)])
    table.started(info())
    table.progress(snapshot())
    text = shown(table, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert ("in flight" in text) is (width >= 100)
    assert "…" not in text or width == 40


def test_how_a_run_ended_is_a_word_or_two(result):
    outcomes = []
    for reason, interrupted in (
        ("target loss <= 1", False),
        ("diverged: the last 100 updates were not finite", False),
        ("interrupted", True),
    ):
        table = LiveTable([("fedbuff", 0)])
        table.started(info())
        table.progress(snapshot())
        table.finished(replace(result, stop_reason=reason, interrupted=interrupted))
        outcomes.append(shown(table).splitlines()[1].rstrip().split("  ")[-1].strip())
    assert outcomes == ["target reached", "diverged", "interrupted"]


@pytest.mark.parametrize("seen_before", [True, False])
def test_the_last_state_of_a_row_is_that_of_the_result(result, seen_before):
    """The last snapshot is older than the last update and the last evaluation."""
    table = LiveTable([("fedbuff", 0)])
    table.started(info())
    if seen_before:
        table.progress(snapshot(updates=3))
    end = replace(
        result,
        history=[*result.history, point(3)._replace(metrics={"loss": 0.125, "distance": 2.5})],
        updates=1234,
        wall_time_s=2.0,
        staleness={0: 1, 3: 3},
        stop_reason="target loss <= 0.2",
    )
    table.finished(end)
    header, row = shown(table).splitlines()
    assert header.split()[2:8] == ["updates", "per", "s", "staleness", "loss", "distance"]
    assert row.split()[2:] == ["1,234", "617", "2.2", "0.125", "2.5", "target", "reached"]


def test_silent_shows_nothing(capsys):
    with progress([("fedbuff", 0)], silent=True) as observers:
        assert all(isinstance(observer, Observer) for observer in observers)
        for observer in observers:
            observer.started(info())
            observer.progress(snapshot())
            observer.evaluated(point(10))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, LiveTable), ({"CI": "1"}, PlainLines), ({"TERM": "dumb"}, PlainLines)],
)
def test_a_terminal_gets_a_table_and_ci_plain_lines(monkeypatch, environment, kind):
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what it writes to for a terminal then
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with progress([("fedbuff", 0)], silent=False) as (observer,):
        assert isinstance(observer, kind)


def test_the_first_ctrl_c_is_answered_at_once(capsys):
    stream = io.StringIO()
    PlainLines(stream).interrupted()
    assert stream.getvalue() == "stopping after the present job; Ctrl-C again aborts\n"
    Silence().interrupted()
    assert capsys.readouterr().err == stream.getvalue()
    table = LiveTable([("fedbuff", 0)])
    assert "stopping" not in shown(table)
    table.interrupted()
    assert "stopping after the present job; Ctrl-C again aborts" in shown(table)


def test_an_answer_in_the_middle_of_a_write_is_no_error():
    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call")

    PlainLines(Busy()).interrupted()
