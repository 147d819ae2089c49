"""``headway run``, ``headway simulate`` and ``headway compare``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from headway.cli.options import (
    AsJson,
    Config,
    Out,
    Overwrite,
    Quiet,
    Settings,
    free_folder,
    say_json,
)

if TYPE_CHECKING:
    from headway.config import Resolved
    from headway.observe import Comparison, Result

__all__ = ["compare", "run", "simulate"]

Record = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="What the log keeps: events, payloads (to replay the run) or nothing.",
    ),
]


CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="UPDATES",
        help="Write a checkpoint after so many updates, to resume the run from.",
    ),
]
CheckpointDir = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Write checkpoints here, and go on from the newest."),
]
CheckpointFrequency = Annotated[
    int | None, typer.Option(metavar="VERSIONS", help="From one checkpoint to the next.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in the folder from its newest checkpoint."),
]


def simulate(
    config: Config,
    out: Out = None,
    settings: Settings = None,
    record: Record = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train in virtual time, and leave a run folder with a report."""
    if resume:
        out = _resumed(config, out, overwrite=overwrite)
    resolved = _load(config, settings, record, checkpoint_every)
    show = _Show(out or free_folder(config), overwrite, quiet, as_json)
    _alone(resolved, show, resume=resume)


def run(
    config: Config,
    out: Out = None,
    settings: Settings = None,
    record: Record = None,
    checkpoint_dir: CheckpointDir = None,
    checkpoint_frequency: CheckpointFrequency = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train with real worker processes: one algorithm, or several to compare.

    Ctrl-C and SIGTERM end it in order, with exit code 0.
    """
    given = {
        "runtime.checkpoint_dir": checkpoint_dir and json.dumps(checkpoint_dir),
        "runtime.checkpoint_frequency": checkpoint_frequency,
    }
    told = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = _load(config, [*(settings or ()), *told], record, None)
    show = _Show(out or free_folder(config), overwrite, quiet, as_json)
    if resolved.config.algorithms and resolved.config.algorithm is None:
        _together(resolved, show, real=True)
    else:
        _alone(resolved, show, real=True)


class _Show(NamedTuple):
    """Where a run goes, and how much is said of it."""

    folder: Path
    overwrite: bool
    quiet: bool
    as_json: bool


def _alone(resolved: Resolved, show: _Show, *, real: bool = False, resume: bool = False) -> None:
    from headway.cli.jobs import plan
    from headway.cli.progress import progress

    job = plan(resolved, real=real)
    folder, overwrite, quiet, as_json = show
    with progress([(job.label, job.seed)], silent=quiet or as_json) as observers:
        result = job.run(folder, observers, overwrite=overwrite, resume=resume)
    folder = result.folder or folder
    report = folder / "report.html"
    if as_json:
        say_json(_described(result, folder, report))
    else:
        typer.echo(str(result))
        typer.echo(f"  report        {report}")
    _end([result], folder, real=real)


def compare(
    config: Config,
    out: Out = None,
    settings: Settings = None,
    record: Record = None,
    checkpoint_every: CheckpointEvery = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run every algorithm with every seed, and compare the time and work to a target."""
    resolved = _load(config, settings, record, checkpoint_every)
    _together(resolved, _Show(out or free_folder(config), overwrite, quiet, as_json))


def _together(resolved: Resolved, show: _Show, *, real: bool = False) -> None:
    from headway.cli.jobs import gather, open_comparison, plans
    from headway.cli.progress import progress
    from headway.simulation.interruption import interruptible
    from headway.training.going_on import free_part

    jobs = plans(resolved, real=real)
    folder, overwrite, quiet, as_json = show
    if not overwrite and any(job.options.get("checkpoint_dir") for job in jobs):
        folder = free_part(folder)
    open_comparison(folder, resolved, overwrite=overwrite)
    results: list[Result] = []
    runs = [(job.label, job.seed) for job in jobs]
    with interruptible() as ctrl_c, progress(runs, silent=quiet or as_json) as observers:
        for job in jobs:
            if ctrl_c.requested and results:
                break
            place = folder / f"{job.label}-seed{job.seed}"
            try:
                results.append(job.run(place, observers, overwrite=overwrite))
            except BaseException:
                if results:
                    gather(results, resolved, folder)
                raise
            if results[-1].interrupted:
                break
        comparison = gather(results, resolved, folder)
        report = comparison.report(folder / "report.html")
    if as_json:
        say_json(_compared(comparison, folder, report))
    else:
        typer.echo(str(comparison))
        for result in results:
            for warning in result.warnings:
                typer.echo(f"\nwarning: {result.label}, seed {result.seed}: {warning}")
        typer.echo(f"\nfolder  {folder}\nreport  {report}")
    _end(results, folder, interrupted=ctrl_c.requested, real=real)


def _load(
    config: Path, settings: list[str] | None, record: str | None, checkpoint_every: str | None
) -> Resolved:
    from headway.config import load

    options = {"run.record": record, "run.checkpoint_every": checkpoint_every}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return load(config, assignments=[*(settings or ()), *given])


def _resumed(config: Path, out: Path | None, *, overwrite: bool) -> Path:
    """The folder of the run that shall go on."""
    from headway.core.errors import ConfigurationError

    if overwrite:
        raise ConfigurationError(
            "a run cannot go on and be replaced",
            got="--resume and --overwrite",
            help="leave one of them out",
        )
    if out is None and not config.is_dir():
        raise ConfigurationError(
            "it is not said which run shall go on",
            got=f"--resume with the file {config}",
            expected="a run folder",
            help=f"name it instead of the file, or pass --out: headway simulate {config} "
            "--out RUN --resume",
        )
    return out or config


def _described(result: Result, folder: Path, report: Path) -> dict[str, Any]:
    from headway.observe.files import read_json

    described: dict[str, Any] = read_json(folder / "result.json")
    return {**described, "folder": str(folder), "report": str(report)}


def _compared(comparison: Comparison, folder: Path, report: Path) -> dict[str, Any]:
    from headway.observe import AXES

    return {
        "target": comparison.target,
        "direction": comparison.direction,
        "table": {axis: [_row(row) for row in comparison.table(axis)] for axis in AXES},
        "runs": [
            {
                "label": result.label,
                "seed": result.seed,
                "algorithm": result.algorithm,
                "settings": result.settings,
                "updates": result.updates,
                "versions": result.versions,
                "virtual_time_s": result.virtual_time_s,
                "wall_time_s": result.wall_time_s,
                "discarded_examples": result.discarded_examples,
                "final": {metric: result.final(metric) for metric in result.metrics},
                "stop_reason": result.stop_reason,
                "warnings": result.warnings,
                "weights_hash": result.weights_hash,
                "folder": str(result.folder),
            }
            for result in comparison.results
        ],
        "folder": str(folder),
        "report": str(report),
    }


def _row(row: Any) -> dict[str, Any]:
    return {**row._asdict(), "spread": row.spread._asdict() if row.spread else None}


def _say_how_to_resume(result: Result) -> None:
    from headway.checkpoint import CheckpointStore
    from headway.observe.folder import CHECKPOINTS

    run = result.folder
    if run is None or not result.interrupted:
        return
    if CheckpointStore(run / CHECKPOINTS).numbers():
        typer.echo(f"  resume  headway simulate {shlex.quote(str(run))} --resume", err=True)


def _end(
    results: Sequence[Result], folder: Path, *, interrupted: bool = False, real: bool = False
) -> None:
    """Exit as the runs ended; what went wrong is said last, where it is seen."""
    if interrupted or any(result.interrupted for result in results):
        typer.echo(f"interrupted: {folder} holds everything up to here", err=True)
        for result in results:
            _say_how_to_resume(result)
        # To end real workers in order is what was asked for, as of a server.
        raise typer.Exit(0 if real else 130)
    failed = [r for r in results if r.stop_reason.startswith(("diverged", "stalled"))]
    for result in failed:
        where = result.folder or folder
        typer.echo(f"error: {result.label}, seed {result.seed}: {result.stop_reason}", err=True)
        typer.echo(f"  help   see the warnings above, and {where / 'report.html'}", err=True)
    if failed:
        raise typer.Exit(1)
