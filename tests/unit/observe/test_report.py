"""The report as a whole: one file, well formed, loading nothing, whatever the runs contain."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import Noted
from headway.core.errors import RunFolderError, UnknownNameError
from headway.observe import AXES, Comparison, Point, Result
from headway.observe.html import render
from headway.observe.report import write_report
from tests.unit.observe.report_kit import GOAL, Reader, accuracies, made, read, worked

SECTIONS = ["summary", "progress", "staleness", "timeline", "clients", "details"]
NASTY = "<script>alert('x')</script>\"' onload=\"alert(1)\" </style></title>&amp;<!-- \x00\u202e"


def several() -> list[Result]:
    events = worked(4, 10)
    return [
        made(label, seed, events=events if seed == 0 else [])
        for label in ("fedavg", "fedasync", "fedbuff")
        for seed in range(3)
    ]


def test_every_section_is_there_and_the_markup_is_sound() -> None:
    page = read(*several())
    assert page.values("id", "section") == SECTIONS
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert page.tags["h1"] == page.tags["main"] == page.tags["nav"] == 1
    for name in ("for", "aria-labelledby"):
        assert set(page.values(name)) <= set(ids)
    assert {link.removeprefix("#") for link in page.values("href", "a")} <= set(ids)


def test_nothing_is_loaded() -> None:
    text = render(several(), goal=GOAL)
    page = Reader(text)
    assert "://" not in text
    assert not page.values("src")
    assert all(link.startswith(("#", "data:,")) for link in page.values("href"))
    assert not re.search(r"@import|url\((?!#hatch-)", text)
    assert page.tags["script"] == 1


def test_every_figure_and_table_says_what_it_is() -> None:
    page = read(*several())
    labelled = page.values("role", "svg").count("img")
    assert labelled == len(page.values("aria-label", "svg")) > 0
    hidden = page.values("aria-hidden", "svg")
    squares, marks = page.of_class("square"), page.of_class("mark")
    assert page.tags["svg"] == labelled + len(hidden) + squares + marks
    assert len(page.values("scope", "th")) == page.tags["th"]


def test_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    first = write_report(tmp_path / "a.html", several(), target=("accuracy", 0.8))
    again = write_report(tmp_path / "deep" / "b.html", several(), target=("accuracy", 0.8))
    assert first.read_bytes() == again.read_bytes()


def test_users_texts_are_texts() -> None:
    result = made(
        NASTY,
        settings={NASTY: NASTY},
        task=NASTY,
        population={"name": NASTY},
        stop_reason=NASTY,
        log_hash=NASTY,
        warnings=[NASTY],
        counts={f"rejected:{NASTY}": 1},
        history=[Point(1, 1, 1, 1, 1.0, 1.0, {NASTY: 0.5})],
        events=[event._replace(worker=NASTY) for event in worked(1, 2)],
    )
    text = render([result], title=NASTY)
    page = Reader(text)
    assert page.tags["script"] == 1
    assert not [name for _, had in page.elements for name in had if name.startswith("on")]
    assert "alert(1)" in page.text
    assert "\x00" not in text
    assert "\u202e" not in text
    # Not even a hole would run: the policy names the digest of the one script.
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", text)


def test_no_runs_are_a_page_that_says_so() -> None:
    page = read(goal=None)
    assert "There are no runs to report on." in page.text
    assert page.tags["section"] == 0


def test_a_run_without_evaluations_events_or_clients() -> None:
    bare = replace(made(), history=[], staleness={}, clients={}, events=[])
    page = read(bare, goal=None)
    assert page.values("id", "section") == SECTIONS
    for said in ("Nothing was evaluated", "No update was taken", "No client was counted"):
        assert said in page.text
    assert "have no events" in page.text


def test_one_point() -> None:
    page = read(made(history=accuracies([0.5, 0.7])[1:], events=worked(1, 1)))
    assert "did not reach accuracy 0.8; its best was 0.7" in page.text
    # A line of one point is a dot.
    dots = [d for d in page.values("d", "path") if re.fullmatch(r"M\d+ \d+h0", d)]
    assert len(dots) == len(AXES)


@pytest.mark.parametrize("values", [[nan] * 5, [inf, -inf, inf], [0.1, nan, 0.3, inf, 0.5]])
def test_metrics_that_are_no_numbers(values: list[float]) -> None:
    text = render([made(seed=seed, history=accuracies(values)) for seed in (0, 1)], goal=GOAL)
    paths = " ".join(Reader(text).values("d", "path"))
    assert "nan" not in paths
    assert "inf" not in paths


def test_metrics_that_only_some_runs_measured() -> None:
    other = made("fedasync", history=[Point(9, 9, 9, 9, 9.0, 9.0, {"loss": 0.5})])
    page = read(made(), other)
    assert "never measured" in page.text
    assert "fedasync has no value" in " ".join(page.values("aria-label", "svg"))


def test_interruptions_and_warnings_come_first() -> None:
    page = read(made(interrupted=True, warnings=["client-3 has no data"]), made(seed=1))
    assert page.values("id", "section") == ["warnings", *SECTIONS]
    assert page.text.count("client-3 has no data") == 1
    assert "interrupted: its numbers are those until then" in page.text


def test_what_a_run_folder_knows_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"torch": "2.13.0", "flags": {"fast": true}}')
    (tmp_path / "config.toml").write_text("[algorithm]\nname = 'fedbuff' # <b>\n")
    page = read(*(made(seed=seed, folder=tmp_path) for seed in range(3)))
    assert page.text.count("2.13.0") == 1
    assert page.text.count("name = 'fedbuff' # <b>") == 1
    assert str(tmp_path.parent) not in page.text


@pytest.mark.parametrize("damaged", ["{", "[1]", "\udcff"])
def test_a_damaged_run_folder_costs_only_what_was_in_it(tmp_path: Path, damaged: str) -> None:
    environment = tmp_path / "environment.json"
    environment.write_bytes(damaged.encode(errors="surrogateescape"))
    assert read(made(folder=tmp_path)).values("id", "section") == SECTIONS
    assert read(made(folder=tmp_path / "gone")).values("id", "section") == SECTIONS


def test_the_file_stays_small_however_long_the_runs_are() -> None:
    history = accuracies([(n * 7919 % 1000) / 1000 for n in range(1000)])
    events = [*worked(200, 60), Noted(60.0, "stopped", {"reason": "updates"})]
    results = [
        made(f"run {label}", seed, history=history, events=events if seed == 0 else [])
        for label in range(4)
        for seed in range(4)
    ]
    text = render(results, goal=GOAL)
    page = Reader(text)
    assert len(text) < 2_500_000
    assert 100 < page.of_class("job") + page.of_class("bar") <= 3000
    assert max(path.count("H") for path in page.values("d", "path")) <= 800
    assert max(line["d"].count("H") for line in page.all_of("path", "mean")) <= 400


def test_a_target_that_nobody_measured_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown metric `acuracy`") as caught:
        write_report(tmp_path / "r.html", [made()], target=("acuracy", 0.8))
    assert "did you mean `accuracy`?" in str(caught.value)
    with pytest.raises(UnknownNameError, match="direction"):
        write_report(tmp_path / "r.html", [made()], target=("accuracy", 0.8), direction="up")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written") as caught:
        write_report(tmp_path / "file" / "report.html", [made()])
    assert "report.html" in str(caught.value)


def test_results_and_comparisons_report_themselves(tmp_path: Path) -> None:
    alone = made().report(tmp_path / "one.html")
    assert "fedbuff ended with accuracy 0.9" in alone.read_text(encoding="utf-8")
    both = Comparison(results=[made(), made("fedavg")], target=("accuracy", 0.8))
    assert "reached accuracy 0.8" in both.report(tmp_path / "two.html").read_text(encoding="utf-8")


@settings(max_examples=20)
@given(
    st.lists(st.text(), min_size=1, max_size=4),
    st.lists(st.floats(-1e300, 1e300) | st.sampled_from([nan, inf, -inf]), min_size=1, max_size=6),
    st.floats(-1e300, 1e300),
)
def test_any_labels_and_numbers_make_a_sound_page(
    labels: list[str], values: list[float], value: float
) -> None:
    results = [
        made(f"x{label}", seed, history=accuracies(values)) for label in labels for seed in (0, 1)
    ]
    page = read(*results, goal=GOAL._replace(value=value))
    assert page.values("id", "section") == SECTIONS
