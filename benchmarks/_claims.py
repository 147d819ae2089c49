"""What the benchmarks of published claims have in common: seeds, tuning, processes, spreads.

Seeds of the figures count from 0, those of tuning from 1000, so that no figure comes from a run
that chose its own settings. Every run has one thread, so the figures do not depend on how many
processes share the work.
"""

from __future__ import annotations

import argparse
import atexit
import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import Any, TypeVar

import torch

FIRST_TUNING_SEED = 1000

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all have."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--seeds", type=int, default=5, help="runs of each row, seeds from 0 on")
    made.add_argument("--tuning-seeds", type=int, default=3, help="0: the grid's first point")
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--json", action="store_true")
    return made


def in_parallel(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], processes: int
) -> list[Outcome]:
    """Call a function of a module's top level with each job; the results in the order of the jobs."""
    if processes == 1:
        torch.set_num_threads(1)
        return [function(job) for job in jobs]
    return _pool(processes).map(function, jobs, chunksize=1)


@lru_cache(maxsize=1)
def _pool(processes: int) -> Pool:
    """One for the whole benchmark: each new process imports torch."""
    made = get_context("spawn").Pool(processes, torch.set_num_threads, (1,))
    atexit.register(made.terminate)
    return made


def tune(
    score: Callable[[Any], float],
    rows: Mapping[Any, Sequence[Any]],
    num_seeds: int,
    processes: int,
) -> dict[Any, Any]:
    """Choose a point of each row's grid: the lowest mean score over the tuning seeds.

    All points run with the first tuning seed, the best third of them with the others too, each
    as ``score((row, point, seed))``.
    """
    if not num_seeds:
        return {row: points[0] for row, points in rows.items()}
    left = {row: list(points) for row, points in rows.items()}
    scores: dict[tuple[Any, Any], list[float]] = {}
    for later in (False, True):
        seeds = range(FIRST_TUNING_SEED + later, FIRST_TUNING_SEED + (num_seeds if later else 1))
        jobs = [(row, point, seed) for row in left for point in left[row] for seed in seeds]
        for (row, point, _), value in zip(jobs, in_parallel(score, jobs, processes), strict=True):
            scores.setdefault((row, point), []).append(value)
        for row, points in left.items():
            points.sort(key=lambda point, row=row: statistics.fmean(scores[row, point]))
            left[row] = points[: -(-len(points) // 3)]
    return {row: points[0] for row, points in left.items()}


def spread(values: Sequence[float], digits: str = ".3g") -> str:
    """``mean ± standard deviation (lowest..highest)``."""
    if not values:
        return "never"
    mean, low, high = statistics.fmean(values), min(values), max(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:{digits}} ± {deviation:{digits}} ({low:{digits}}..{high:{digits}})"


def show(
    title: str,
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    reached: str | None = None,
) -> None:
    """Print rows as a Markdown table, or as JSON with every run's figure.

    Args:
        title: What was run.
        columns: Key of a row to its heading and, behind a bar, the format of its numbers.
        rows: Text, or a list with a number for each seed (``None``: not reached).
        as_json: Everything, unrounded.
        reached: The key whose numbers tell how many runs reached the target.
    """
    if as_json:
        print(json.dumps({"title": title, "rows": rows}))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, one thread for each run; {title}")
    print("mean ± standard deviation over the seeds (lowest..highest)\n")
    heads = [head.partition("|")[0] for head in columns.values()]
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for row in rows:
        cells = [_cell(row[key], head.partition("|")[2]) for key, head in columns.items()]
        if reached is not None:
            values = row[reached]
            found = sum(value is not None for value in values)
            cells[list(columns).index(reached)] += f", {found} of {len(values)}"
        print("| " + " | ".join(cells) + " |")


def _cell(value: Any, digits: str) -> str:
    if not isinstance(value, list):
        return str(value)
    return spread([number for number in value if number is not None], digits or ".3g")
