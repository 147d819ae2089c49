"""``headway replay`` and ``headway report``: what is done with runs that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.options import AsJson, say_json

if TYPE_CHECKING:
    from headway.observe import Result, RunFolder

__all__ = ["replay", "report"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that kept its payloads.")]
Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of comparisons.")
]
File = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The report. [default: report.html in the folder, or here for several]",
    ),
]


def replay(run: Run, as_json: AsJson = False) -> None:
    """Rebuild a run's model from its log, and check every event and the weights."""
    from headway.cli.replaying import rebuild

    replayed = rebuild(run)
    if as_json:
        say_json(replayed._asdict())
        return
    what = "bit-identical" if replayed.bit_identical else "rebuilt; the run never ended, so far"
    typer.echo(
        f"{what}: {replayed.events:,} events, version {replayed.version:,}, "
        f"weights {replayed.weights_hash[:16]}"
    )


def report(runs: Runs, out: File = None, as_json: AsJson = False) -> None:
    """Write one HTML report of one or several runs; it opens anywhere, offline."""
    from headway.observe.report import write_report

    results: list[Result] = []
    targets: list[tuple[str, float]] = []
    for run in runs:
        found, target = _results(run)
        results += found
        targets += [target] if target is not None and target not in targets else []
    default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    target = targets[0] if len(targets) == 1 else None
    file = write_report(out or default, results, target=target)
    if as_json:
        say_json({"report": str(file), "runs": [str(result.folder) for result in results]})
    else:
        typer.echo(str(file))


def _results(folder: Path) -> tuple[list[Result], tuple[str, float] | None]:
    from headway.observe import Comparison, RunFolder, log_hash

    if (folder / "comparison.json").is_file():
        comparison = Comparison.load(folder)
        return comparison.results, comparison.target
    run = RunFolder.open(folder)
    result = run.result()
    if result.log_hash and log_hash(result.events) != result.log_hash:
        typer.echo(
            f"warning: the log in {folder} is not the one that the run ended with: it was cut off "
            "or changed, and the timeline shows what is left",
            err=True,
        )
    return [result], _target(run)


def _target(run: RunFolder) -> tuple[str, float] | None:
    """The target in a run's configuration, whoever wrote it; ``Result.save`` writes none."""
    if not (run.path / "config.toml").is_file():
        return None
    stop = run.config().get("stop", {})
    target = stop.get("target") if isinstance(stop, dict) else None
    if not isinstance(target, dict) or not {"metric", "value"} <= target.keys():
        return None
    return str(target["metric"]), float(target["value"])
