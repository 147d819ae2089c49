"""Options that several commands take, and what they print with."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "AsJson",
    "Config",
    "Out",
    "Overwrite",
    "Quiet",
    "Settings",
    "fold",
    "free_folder",
    "say_json",
]

Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="A TOML file, or a run folder to run again."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set an option, such as algorithm.buffer_size=20. May be repeated.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The run folder. [default: runs/<config>-<number>]"),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show the result only, no progress.")]


def free_folder(config: Path) -> Path:
    """The first of ``runs/<name>-1``, ``runs/<name>-2``, ... that is not there yet.

    Args:
        config: The configuration, after which the folder is named.
    """
    name = config.resolve().name if config.is_dir() else config.stem
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


def say_json(tree: Any, *, indent: int | None = 2) -> None:
    """Print a tree as strict JSON.

    Args:
        tree: Of plain values; NaN becomes ``"NaN"``.
        indent: Spaces per level; ``None``: all on one line.
    """
    from headway.observe.strict import dumps

    typer.echo(dumps(tree, indent=indent))


def fold(head: str, text: str, *, indent: int) -> None:
    """Print a text in the columns right of its head, or below a head that is too long for that.

    Args:
        head: What stands left of it.
        text: The text, folded to the width of the terminal.
        indent: Where the text begins.
    """
    width = max(20, shutil.get_terminal_size().columns - indent)
    lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
    if not lines or len(head) + 2 > indent:
        typer.echo(head.rstrip())
    else:
        typer.echo(f"{head:<{indent}}{lines.pop(0)}")
    for line in lines:
        typer.echo(" " * indent + line)
