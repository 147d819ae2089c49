"""Errors in the words of who typed the command: its options in place of Python's arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from typer.core import TyperCommand

__all__ = ["TERMS", "Typed"]

TERMS: Final = {
    "run.record": "record",
    "serving.staleness_policy": "staleness_policy",
    "serving.staleness_lr_factor": "staleness_lr_factor",
    "serving.max_staleness": "max_staleness",
}
"""Keys of the configuration that an option of the command line sets."""

_ALIASES: Final = {
    "folder": ("out",),
    "token": ("token_file",),
    "tls": ("certificate", "key", "ca"),
    "WorkerTLS": ("certificate", "key"),
}
_PLACE: Final = re.compile(
    r"(?:ParameterServer|AsyncWorker|WorkerTLS)(?:\.\w+)?(?:\(.*\))?|[a-z_]+"
)
_SET: Final = re.compile(r"--set ([\w.]+)=.*", re.DOTALL)
_QUOTED: Final = re.compile(r"`([\w.]+)`")
_GIVEN: Final = re.compile(r"(\w+)=")


class Typed(TyperCommand):
    """A command whose options are called what they are called on the command line.

    What checks a value knows the argument or the key of the configuration that it came to, and an
    error names that. Here it gets the name of the option, if that was typed.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and reword what it raises.

        Args:
            ctx: What was typed.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:
            from headway.core.errors import UsageError

            if isinstance(error, UsageError):
                arguments = {parameter.name for parameter in ctx.command.params}
                _reword(error, _typed(ctx), arguments | _ALIASES.keys())
            raise


def _typed(ctx: Any) -> dict[str, str]:
    """The options that were typed: by their name in Python, and by the key that they set."""
    typed = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if (
            parameter.opts[0].startswith("-")
            and source is not None
            and source.name == "COMMANDLINE"
        ):
            typed[parameter.name] = parameter.opts[0]
    return typed | {key: typed[name] for key, name in TERMS.items() if name in typed}


def _reword(error: Any, typed: dict[str, str], arguments: set[str]) -> None:
    where = error.where or ""
    set_by_us = _SET.fullmatch(where)
    if set_by_us is not None and set_by_us[1] in typed:
        error.where = typed[set_by_us[1]]
    elif not where or where in arguments or _PLACE.fullmatch(where):
        # Anything else is a place of its own, such as a line of the file.
        for name in _names(error):
            if name in typed:
                error.where = typed[name]
                break
    if not error.known:
        # Else what is quoted there is a value.
        error.message = _QUOTED.sub(lambda one: f"`{typed.get(one[1], one[1])}`", error.message)


def _names(error: Any) -> Iterator[str]:
    """What the error may be about, the likeliest first."""
    for name in re.findall(r"\w+", error.where or ""):
        yield name
        yield from _ALIASES.get(name, ())
    yield from _QUOTED.findall(error.message)
    yield from _GIVEN.findall(str(error.got or ""))
