"""Errors of a configuration, each with its place: what, in which line, what stands there, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pydantic import ValidationError

from headway.config.inline import assignment, inline, key_text
from headway.config.lines import Path
from headway.core.errors import ConfigurationError, HeadwayError, UnknownNameError, UsageError

__all__ = ["Place", "dotted", "first_problem", "missing", "relocated", "unknown_option", "wrong"]

Place = Callable[[Path], str]
"""Tells where a path stands: ``run.toml, line 7``."""

_WORDS: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least one",
}
_SHAPES: Final[Mapping[Path, str]] = {
    ("run", "evaluate_every"): "a number of updates, or a table such as { versions = 10 }",
    ("run", "checkpoint_every"): "a number of updates, or a table such as { versions = 10 }",
}
"""What a key takes that can be written in two ways."""


def dotted(path: Path) -> str:
    """A path as ``--set`` takes it.

    Args:
        path: Names from the root.

    Example:
        >>> dotted(("algorithms", "K = 5", "buffer_size"))
        'algorithms."K = 5".buffer_size'
    """
    return ".".join(map(key_text, path))


def unknown_option(path: Path, value: Any, known: Iterable[str], place: Place) -> UnknownNameError:
    """The error for a key that nothing reads.

    Args:
        path: Of the key.
        value: What it was set to.
        known: The keys that could stand there.
        place: Tells where it stands.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(path[-1], names, n=1)
    return UnknownNameError(
        f"unknown option `{dotted(path)}`",
        where=place(path),
        got=assignment(path[-1], value),
        known=names or ["none"],
        help=f"did you mean `{nearest[0]}`?" if nearest else "take it out, or use one of the known",
    )


def wrong(path: Path, value: Any, expected: str | None, place: Place) -> ConfigurationError:
    """The error for a value of the wrong kind or outside its range.

    Args:
        path: Of the key.
        value: What it was set to.
        expected: What would do.
        place: Tells where it stands.
    """
    return ConfigurationError(
        f"`{dotted(path)}` cannot have this value",
        where=place(path),
        got=assignment(path[-1], value),
        expected=expected,
        help=_advice(value, expected),
    )


def missing(path: Path, expected: str | None, place: Place) -> ConfigurationError:
    """The error for something that has to be there and is not.

    Args:
        path: Of the key or section.
        expected: What would do.
        place: Tells where it should stand.
    """
    table = f"[{dotted(path[:-1])}]" if len(path) > 1 else "the configuration"
    return ConfigurationError(
        f"`{dotted(path)}` is missing",
        where=place(path),
        expected=expected,
        help=f"add {key_text(path[-1])} to {table}, or pass --set {dotted(path)}=...",
    )


def first_problem(
    error: ValidationError,
    fields: Callable[[Path], Iterable[str]],
    place: Place,
) -> HeadwayError:
    """The first thing that pydantic found, in our words.

    Args:
        error: What pydantic raised.
        fields: Tells the keys that a section has.
        place: Tells where a path stands.
    """
    problem = error.errors(include_url=False)[0]
    path = tuple(part for part in problem["loc"] if isinstance(part, str))
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_option(path, problem["input"], fields(path[:-1]), place)
    if kind == "missing":
        return missing(path, None, place)
    text = _WORDS.get(kind, problem["msg"]).format(**context).replace("'", '"')
    found = wrong(path, problem["input"], _SHAPES.get(path, text), place)
    if not isinstance(problem["loc"][-1], str):
        found.got = f"{path[-1]}[{problem['loc'][-1]}] = {inline(problem['input'])}"
    return found


@contextmanager
def relocated(table: Path, options: Mapping[str, Any], place: Place) -> Iterator[None]:
    """Give the errors of a function the place of the option that they are about.

    Args:
        table: The section whose options the function was called with.
        options: Those options.
        place: Tells where a path stands.
    """
    try:
        yield
    except UsageError as error:
        name = _option_meant(error, options)
        error.where = place(table if name is None else (*table, name))
        if name is not None and not isinstance(options[name], Mapping):
            error.got = assignment(name, options[name])
        raise


def _option_meant(error: HeadwayError, options: Mapping[str, Any]) -> str | None:
    """Which option an error is about: the one that it names, or else the one with its value."""
    said = f"{error.where or ''} {error.message}"
    for name in options:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said):
            return name
    # A part of an algorithm may know the option by a shorter name: `size` of a `buffer_size`.
    same = [name for name, value in options.items() if repr(value) == str(error.got)]
    if len(same) != 1:
        return None
    error.message = re.sub(r"`\w+`", f"`{same[0]}`", error.message, count=1)
    return same[0]


def _advice(value: Any, expected: str | None) -> str | None:
    if isinstance(value, str) and _is_number(value) and expected and "number" in expected:
        return "write numbers without quotes"
    if isinstance(value, float) and expected == "a whole number":
        return "write it without a decimal point"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
