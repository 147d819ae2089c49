"""The root of the command: its options, its errors, its exit codes."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Final, TextIO

import typer
from typer.core import TyperGroup

from headway import __version__
from headway.cli.configuration import config_app
from headway.cli.doctor import doctor
from headway.cli.listing import list_names
from headway.cli.looking import replay, report
from headway.cli.running import compare, run, simulate
from headway.cli.serving import server, status, worker
from headway.cli.typed import Typed

__all__ = ["app", "main"]

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

_EPILOG: Final = (
    "Exit codes: 0 done; 1 an error, or a run that diverged; 2 a wrong command, configuration or "
    "data set; 130 interrupted with Ctrl-C, and the run folder is usable."
)


class _Root(TyperGroup):
    """Prints errors in a few lines, and takes ``--debug`` anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("aborted", err=True)
            raise
        except Exception as error:
            code = _explain(error)
            if code is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise typer.Exit(code) from error


app = typer.Typer(
    name="headway",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headway {__version__}")
        raise typer.Exit


@app.callback(help="Asynchronous training for PyTorch: workers never wait for each other.")
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the full traceback of an error.")
    ] = False,
) -> None:
    """Take the options before the command; :class:`_Root` looks at ``debug``."""


app.command()(run)
app.command()(simulate)
app.command()(compare)
app.command(cls=Typed)(server)
app.command(cls=Typed)(worker)
app.command(cls=Typed)(status)
app.command()(replay)
app.command()(report)
app.command("list")(list_names)
app.add_typer(config_app, name="config")
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows ``headway``; by default the process's own.

    Returns:
        The exit code.
    """
    before, warnings.showwarning = warnings.showwarning, _warn
    try:
        app(args=None if arguments is None else list(arguments), prog_name="headway")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_ERROR
    except BrokenPipeError:
        _let_go_of_the_pipe()
        return EXIT_ERROR
    finally:
        warnings.showwarning = before
    return 0


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say a warning as everything else is said, without a line of our source."""
    typer.echo(f"warning: {message}", err=True)


def _explain(error: Exception) -> int | None:
    """Print an error, and say the exit code; ``None`` for what click handles itself."""
    if isinstance(error, BrokenPipeError) or type(error).__module__.startswith(("click", "typer")):
        return None
    # An error of ours can only come from a module of ours that is loaded by now.
    errors = sys.modules.get("headway.core.errors")
    if errors is None or not isinstance(error, errors.HeadwayError):
        said = str(error).partition("\n")[0]
        typer.echo(f"error: {type(error).__name__}: {said}", err=True)
        _echo_notes(error)
        typer.echo("  help   this should not happen; run it again with --debug", err=True)
        return EXIT_ERROR
    typer.echo(f"error: {error}", err=True)
    _echo_notes(error)
    near_side = isinstance(error, errors.UsageError | errors.DataError)
    return EXIT_USAGE if near_side else EXIT_ERROR


def _echo_notes(error: Exception) -> None:
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  note   {note.removeprefix('Headway: ')}", err=True)


def _let_go_of_the_pipe() -> None:
    """Whoever read our output has left; keep the interpreter from complaining at its end."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
