"""What the report draws: scales, curves, paths, jobs, the timeline, and colours one can see."""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise
from math import isfinite, nan

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway.core import Lost, Ticked
from headway.observe import AXES, ClientCount
from headway.observe.html.curves import Curve, band_of, curve_of, thinned
from headway.observe.html.jobs import in_flight, read_jobs
from headway.observe.html.plot import SIDE, area_path, step_path
from headway.observe.html.scale import Scale, axis_scale, value_scale
from tests.unit.observe.report_kit import (
    accuracies,
    checked_out,
    made,
    read,
    submitted,
    worked,
)

values = st.lists(st.floats(-1e6, 1e6) | st.just(nan), min_size=1, max_size=30)
curves = st.builds(
    lambda steps, heights: Curve(
        np.cumsum(np.array(steps[: len(heights)], dtype=np.float64)),
        np.array(heights[: len(steps)], dtype=np.float64),
    ),
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    values,
)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
@example(low=1e-4, width=1e-6, num=2)
@example(low=1e9, width=1e6, num=2)
def test_ticks_are_round_few_and_inside(low: float, width: float, num: int) -> None:
    scale = Scale(low, low + width)
    if scale.high - scale.low < 1e-9 * abs(low):
        return
    ticks = scale.ticks(num)
    assert len(ticks) <= 2 * num + 2
    assert all(-1e-6 <= tick.place <= 1 + 1e-6 for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks) or width < 1e-3 * abs(low)


@given(st.floats(1e-9, 1e9), st.floats(1.5, 1e9))
def test_logarithmic_ticks_say_what_they_mark(low: float, ratio: float) -> None:
    scale = Scale(low, low * ratio, log=True)
    for tick in scale.ticks(5):
        assert scale.at(float(tick.text)) == pytest.approx(tick.place, abs=1e-6)


@pytest.mark.parametrize(
    ("axis", "highest", "last"),
    [
        ("updates", 900.0, "800"),
        ("updates", 30_000.0, "30k"),
        ("examples", 2.5e6, "2.5M"),
        ("virtual_time_s", 600.0, "600"),
        ("virtual_time_s", 36_000.0, "10"),
        ("virtual_time_s", 864_000.0, "10"),
        ("bytes", 4.2e6, "4"),
    ],
)
def test_an_axis_has_a_unit_of_its_size(axis: str, highest: float, last: str) -> None:
    assert axis_scale(axis, highest).ticks(5)[-1].text == last


def test_units_of_axes() -> None:
    given_s = (60.0, 36_000.0, 864_000.0)
    assert [axis_scale("wall_time_s", high).unit for high in given_s] == ["s", "h", "d"]
    assert [axis_scale("bytes", high).unit for high in (10.0, 4.2e6)] == ["B", "MB"]
    assert axis_scale("updates", 0.0).high == 1.0


@given(st.lists(st.floats(), max_size=10))
def test_every_finite_value_has_a_place(found: list[float]) -> None:
    kept = [value for value in found if abs(value) < 1e300 or not isfinite(value)]
    scale = value_scale(kept)
    assert all(-1e-9 <= scale.at(value) <= 1 + 1e-9 for value in kept if isfinite(value))


def held(curve: Curve, at: float) -> float:
    """The last value that was measured until then, the slow way."""
    return [y for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True) if x <= at][-1]


@given(st.lists(curves, min_size=1, max_size=4))
def test_the_mean_is_that_of_the_values_held(found: list[Curve]) -> None:
    band = band_of(found, 1000)
    first, last = max(c.x[0] for c in found), min(c.x[-1] for c in found)
    if band is None:
        assert first > last
        return
    assert set(band.x) == {x for c in found for x in c.x.tolist() if first <= x <= last}
    for index, at in enumerate(band.x.tolist()):
        here = [held(curve, at) for curve in found]
        np.testing.assert_allclose(band.mean[index], sum(here) / len(here), atol=1e-6)
        if all(map(isfinite, here)):
            assert (band.low[index], band.high[index]) == (min(here), max(here))


@given(curves, st.integers(4, 20))
def test_thinning_keeps_ends_and_extremes(curve: Curve, most: int) -> None:
    thin = thinned(curve, most)
    assert len(thin.x) <= most
    assert (thin.x[0], thin.x[-1]) == (curve.x[0], curve.x[-1])
    if np.isfinite(curve.y).any():
        assert np.nanmin(thin.y) == np.nanmin(curve.y)
        assert np.nanmax(thin.y) == np.nanmax(curve.y)


def test_a_curve_skips_points_that_did_not_measure_it() -> None:
    history = accuracies([0.1, 0.2, nan])
    history.insert(1, history[1]._replace(metrics={"loss": 1.0}))
    curve = curve_of(made(history=history), "virtual_time_s", "accuracy")
    assert curve.x.tolist() == [0.0, 10.0, 20.0]
    assert np.isnan(curve.y).tolist() == [False, False, True]


def corners(path: str) -> list[tuple[int, int]]:
    """The points of a path of absolute moves."""
    x = y = 0
    found = []
    for kind, first, second in re.findall(r"([MHV])(\d+)(?: (\d+))?", path):
        x = int(first) if kind != "V" else x
        y = int(second) if kind == "M" else int(first) if kind == "V" else y
        found.append((x, y))
    return found


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_path_goes_through_every_step(heights: list[float]) -> None:
    x = np.linspace(0, 1, len(heights))
    drawn = corners(step_path(x, np.array(heights)))
    # Only straight across or straight up and down, and at each x it ends at that value.
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(drawn))
    ends = dict(drawn)
    for at, height in zip(x.tolist(), heights, strict=True):
        assert ends[round(at * SIDE)] == round((1 - height) * SIDE)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_an_area_has_the_size_of_its_steps(pairs: list[tuple[float, float]]) -> None:
    x = np.linspace(0, 1, len(pairs))
    low, high = (np.array([function(pair) for pair in pairs]) for function in (min, max))
    outline = corners(area_path(x, low, high))
    shoelace = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*outline, outline[0]])) / 2
    expected = float(((high - low)[:-1] * np.diff(x)).sum())
    assert abs(shoelace) / SIDE**2 == pytest.approx(expected, abs=2e-3)


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    x = np.linspace(0, 1, 5)
    path = step_path(x, np.array([0.1, 0.2, nan, 0.3, 0.4]))
    assert path.count("M") == 2
    assert "nan" not in path


def test_jobs_end_as_the_events_say() -> None:
    log = read_jobs(
        [
            *(checked_out(0.0, worker, worker, 3) for worker in range(6)),
            submitted(1.0, 0, 0, staleness=2, version=5, cancelled=(1,)),
            submitted(1.5, 0, 0, status="rejected", reason="duplicate"),
            submitted(1.6, 4, 3, status="rejected", reason="foreign"),
            submitted(1.7, 9, 99, status="rejected", reason="unknown_job"),
            Lost(2.0, "client-2", (2,), 5, ()),
            submitted(3.0, 3, 3, status="rejected", reason="too_stale", staleness=9, version=5),
            Ticked(4.0, 6, False, (4,)),
            Ticked(5.0, 6, True, ()),
        ]
    )
    ends = [(job.status, job.end, job.staleness) for job in log.jobs]
    assert ends == [
        ("applied", 1.0, 2),
        ("cancelled", 1.0, None),
        ("lost", 2.0, None),
        ("rejected", 3.0, 9),
        ("cancelled", 4.0, None),
        ("unfinished", 5.0, None),
    ]
    assert (log.versions, log.start, log.end) == ([1.0, 4.0], 0.0, 5.0)


def test_in_flight_is_counted_over_all_workers() -> None:
    jobs = read_jobs(worked(3, 4)).jobs
    assert {level for time, level in in_flight(jobs, 0.0, 4.0) if time < 4.0} == {3}
    assert in_flight(jobs, 0.0, 4.0)[-1] == (4.0, 0)


def test_a_short_timeline_is_shown_whole() -> None:
    page = read(made(events=worked(5, 8)))
    assert page.of_class("job") == 40
    assert "Shown are all 5 workers" in page.text
    assert "too small to read" not in page.text
    assert "busy 100.0 % of this time" in page.text


def test_a_long_timeline_is_cut_and_says_so() -> None:
    page = read(*(made(label, events=worked(100, 50)) for label in ("fedavg", "fedbuff")))
    assert "40 of 100 workers" in page.text
    # Eighty rows with thirty jobs each are all the bars there may be.
    assert "first 30 s of 50 s" in page.text
    assert page.of_class("job") <= 2500
    for bar in page.all_of("rect", "job"):
        left, width = (float(bar[name].rstrip("%")) for name in ("x", "width"))
        assert 0 <= left <= left + width <= 100.02


def test_the_same_workers_are_shown_for_every_algorithm() -> None:
    page = read(*(made(label, events=worked(100, 3)) for label in ("fedavg", "fedbuff")))
    names = [text for tag, text in page.texts if tag == "title" and "·" not in text]
    clients = [name for name in names if name.startswith("client-")]
    assert clients[: len(clients) // 2] == clients[len(clients) // 2 :]


def test_work_that_was_thrown_away_is_hatched() -> None:
    events = [
        checked_out(0.0, 0, 0),
        checked_out(0.0, 1, 1),
        submitted(1.0, 0, 0, status="rejected", reason="too_stale", staleness=3, cancelled=(1,)),
    ]
    page = read(made(events=events))
    kinds = [value for value in page.values("class", "rect") if value.startswith("job")]
    assert kinds == ["job k3 rejected", "job cancelled"]
    told = "client-0 · job 0 · from version 0 · staleness 3 · rejected (too stale) · 0 to 1 s"
    assert told in page.text


def test_the_histogram_adds_up() -> None:
    counts = {age: 1 + age % 7 for age in range(0, 500, 3)}
    page = read(made(staleness=counts), made(seed=1, staleness=counts))
    told = [text for tag, text in page.texts if tag == "title" and text.startswith("staleness")]
    number = sum(int(re.search(r": ([\d,]+) update", text)[1].replace(",", "")) for text in told)
    assert number == 2 * sum(counts.values())
    assert len(told) <= 40
    assert f"at most {max(counts)}" in page.text


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 50), min_size=1, max_size=20))
def test_quantiles_are_those_of_the_result(counts: dict[int, int]) -> None:
    result = made(staleness=counts)
    expected = [result.staleness_quantile(share) for share in (0.5, 0.95, 1.0)]
    said = "median {}, 95 % up to {}, at most {}".format(*expected)
    assert said in read(result).text


def test_updates_per_client_are_sorted_and_complete() -> None:
    clients = {
        3: ClientCount(5, accepted=2, rejected=1, cancelled=1, lost=1),
        1: ClientCount(9, accepted=8),
    }
    page = read(made(clients=clients, num_clients=4))
    assert "median 1, 0 to 8; 2 clients never trained" in page.text
    (wasted,), areas = page.all_of("path", "wasted"), page.all_of("path", "area")
    tops = [y for _, y in corners(areas[-1]["d"])]
    # Of eight: all, a quarter, nothing; and on top of the quarter three that were thrown away.
    assert {0, SIDE * 6 // 8, SIDE} <= set(tops)
    assert SIDE * 3 // 8 in {y for _, y in corners(wasted["d"])}


def test_only_axes_that_moved_can_be_chosen() -> None:
    still = [point._replace(bytes=0, wall_time_s=0.0) for point in accuracies([0.1, 0.9])]
    page = read(made(history=still))
    chosen = [value for value in page.values("id", "input") if value.startswith("axis-")]
    assert chosen == [f"axis-{axis}" for axis in AXES if axis not in ("bytes", "wall_time_s")]


def _luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def palettes() -> list[dict[str, str]]:
    css = resources.files("headway.observe.html").joinpath("report.css").read_text("utf-8")
    blocks = re.findall(r":root\{(.*?)\}", css, re.S)
    return [dict(re.findall(r"--(\w+):(#\w+)", block)) for block in blocks]


@pytest.mark.parametrize("number", range(3), ids=["light", "dark", "print"])
def test_colours_can_be_told_from_the_paper(number: int) -> None:
    colours = palettes()[number]
    for text in ("ink", "soft", "accent", "alert"):
        for ground in ("paper", "panel"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for series in range(8):
        assert _contrast(colours[f"s{series}"], colours["paper"]) >= 3.0, series
    # Staleness is told by lightness alone, too.
    ages = [_luminance(colours[f"k{age}"]) for age in range(6)]
    assert ages == sorted(ages)
