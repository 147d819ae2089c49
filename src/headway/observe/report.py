"""The report: one HTML file about one run or many, which opens anywhere and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headway.core.errors import RunFolderError, UnknownNameError
from headway.observe.html import Goal, render
from headway.observe.points import direction_of, metric_names
from headway.observe.result import Result

__all__ = ["write_report"]


def write_report(
    path: str | Path,
    results: Sequence[Result],
    *,
    target: tuple[str, float] | None = None,
    direction: str | None = None,
    title: str | None = None,
) -> Path:
    """Write a report of some runs.

    Results with the same label and settings are seeds of one algorithm. The file holds its style,
    its script and its figures; it needs no network, and can be read without the script too. The
    same results give the same file.

    Args:
        path: The file. Folders above it are made; a file that is there is replaced.
        results: The runs, in the order in which they are to be shown.
        target: The metric and the value that was to be reached.
        direction: ``"max"`` if larger values of that metric are better, ``"min"`` if smaller are;
            by default told from its name.
        title: The page's title; by default it names the task.

    Returns:
        The file.

    Raises:
        UnknownNameError: No run measured the target's metric, though there were evaluations; or
            the direction is unknown.
        RunFolderError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_report(f"{folder.name}/report.html", []).name
        'report.html'
        >>> folder.cleanup()
    """
    text = render(results, goal=_goal(results, target, direction), title=title)
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunFolderError(
            "the report cannot be written",
            where=str(file),
            got=error.strerror or repr(error),
            help="give a path that you can write to",
        ) from error
    return file


def _goal(
    results: Sequence[Result], target: tuple[str, float] | None, direction: str | None
) -> Goal | None:
    if target is None:
        return None
    metric, value = target
    known = metric_names(point for result in results for point in result.history)
    if known and metric not in known:
        raise UnknownNameError.of("metric", metric, known, where="target")
    return Goal(metric, float(value), direction_of(metric, direction))
