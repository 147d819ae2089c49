"""What can be named in a configuration, and the options of each, read from its function.

Nothing about a single algorithm, population or data set stands here: the names are the keys of the
rooms' own tables, the options are the function's arguments, their defaults are its defaults and
their text is its docstring. So a new algorithm needs no change of the configuration.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, final

from headway.core.errors import UnknownNameError

__all__ = ["KINDS", "REQUIRED", "Factory", "Option", "factories", "find"]


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""The default of an option that has none."""


class Option(NamedTuple):
    """One argument of a factory.

    Attributes:
        name: Its name.
        annotation: Its type, ``Any`` where it cannot be told.
        default: Its default, or :data:`REQUIRED`.
        text: What the docstring says of it.
    """

    name: str
    annotation: Any
    default: Any
    text: str


class Kind(NamedTuple):
    """A group of factories.

    Attributes:
        title: What errors call one of them.
        table: Where their table is.
        implied: Arguments that come from elsewhere in the configuration; giving them is allowed
            only where they agree.
        hidden: Arguments that a configuration cannot give.
        advice: Where it is said what to take in place of names that are known elsewhere.
    """

    title: str
    table: str
    implied: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    advice: str = ""


KINDS: Final[Mapping[str, Kind]] = {
    "algorithms": Kind(
        "algorithm", "headway.algorithms:ALGORITHMS", advice="headway.training.rules:IN_FILES"
    ),
    "populations": Kind(
        "population", "headway.simulation.population:POPULATIONS", frozenset({"num_clients"})
    ),
    "data": Kind("data set", "headway.data:DATASETS"),
    "partitioners": Kind("partitioner", "headway.data:PARTITIONERS", hidden=frozenset({"ids"})),
    "models": Kind(
        "model",
        "headway.models:MODELS",
        frozenset({"inputs", "classes", "height", "width", "channels", "vocabulary", "length"}),
    ),
    "schedulers": Kind(
        "scheduler",
        "headway.algorithms.schedulers:SCHEDULERS",
        # It stands in the section of the run, as it is the same for all of them.
        hidden=frozenset({"concurrency"}),
    ),
    "reducers": Kind("reducer", "headway.algorithms.transforms.reducers:REDUCERS"),
    "staleness": Kind("staleness weight", "headway.algorithms.staleness:WEIGHTS"),
    "tasks": Kind("task", "headway.config.tasks:TASKS", hidden=frozenset({"local"})),
}
"""All groups, by the word that ``headway list`` takes."""


@final
@dataclass(frozen=True, slots=True)
class Factory:
    """A function that a configuration can name.

    Args:
        name: Its name.
        make: The function.
        summary: The first line of its docstring.
        options: What a configuration can give it, by name.
        implied: Which of them come from elsewhere.
    """

    name: str
    make: Callable[..., Any]
    summary: str
    options: Mapping[str, Option]
    implied: frozenset[str] = frozenset()

    @property
    def own(self) -> dict[str, Option]:
        """The options that do not come from elsewhere."""
        return {name: o for name, o in self.options.items() if name not in self.implied}

    @classmethod
    def of(
        cls,
        make: Callable[..., Any],
        *,
        name: str | None = None,
        implied: Iterable[str] = (),
        hidden: Iterable[str] = (),
    ) -> Factory:
        """Read a function's (or class's) signature and docstring.

        Args:
            make: The function.
            name: What to call it.
            implied: Arguments that come from elsewhere.
            hidden: Arguments that a configuration cannot give.

        Example:
            >>> def doubled(*, size: int = 2) -> int:
            ...     '''Twice the size.
            ...
            ...     Args:
            ...         size: What is doubled.
            ...     '''
            ...     return 2 * size
            >>> Factory.of(doubled).options["size"]
            Option(name='size', annotation=<class 'int'>, default=2, text='What is doubled.')
        """
        doc = inspect.getdoc(make) or ""
        texts, types = _argument_texts(doc), _annotations(make)
        left_out = frozenset(hidden)
        options = {
            parameter.name: Option(
                parameter.name,
                types.get(parameter.name, Any),
                REQUIRED if parameter.default is parameter.empty else parameter.default,
                texts.get(parameter.name, ""),
            )
            for parameter in inspect.signature(make).parameters.values()
            if parameter.name not in left_out
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        summary = _without_markup(doc.partition("\n\n")[0].replace("\n", " "))
        taken = frozenset(implied) & options.keys()
        return cls(name or make.__name__, make, summary, options, taken)


@cache
def factories(kind: str) -> Mapping[str, Factory]:
    """All factories of a group.

    Args:
        kind: One of :data:`KINDS`.

    Returns:
        Them, by name, in alphabetical order.
    """
    _, table, implied, hidden, _ = KINDS[kind]
    found: Mapping[str, Callable[..., Any]] = _value_at(table)
    return {
        name: Factory.of(found[name], name=name, implied=implied, hidden=hidden)
        for name in sorted(found)
    }


def find(kind: str, name: str, *, where: str | None = None, got: object = None) -> Factory:
    """The factory of a name.

    Args:
        kind: One of :data:`KINDS`.
        name: Its name.
        where: Where the name stands, for the error.
        got: What stands there, for the error.

    Raises:
        UnknownNameError: There is none; the error lists those known, and the nearest.
    """
    known = factories(kind)
    if name not in known:
        title, *_, advice = KINDS[kind]
        error = UnknownNameError.of(title, name, known, where=where, got=got)
        if advice:
            error.help = _value_at(advice).get(name, error.help)
        raise error
    return known[name]


def _value_at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _annotations(make: Callable[..., Any]) -> dict[str, Any]:
    own_init = inspect.isclass(make) and "__init__" in vars(make)
    target: Any = vars(make)["__init__"] if own_init else make
    names = getattr(target, "__globals__", None) or vars(import_module(target.__module__))
    found: dict[str, Any] = {}
    for name, annotation in inspect.get_annotations(target).items():
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(typing.get_type_hints(holder, names))
        except NameError:
            # Imported for type checkers only, so a configuration cannot make one of these anyway.
            found[name] = Any
    return found


def _argument_texts(doc: str) -> dict[str, str]:
    """The entries below ``Args:`` (or ``Attributes:``) of a Google-style docstring."""
    match = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n)+)", doc + "\n", re.MULTILINE)
    if match is None:
        return {}
    texts: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(match[1]).splitlines():
        if entry := re.match(r"(\*{0,2}\w+)(?: \(.*\))?: *(.*)", line):
            name = entry[1]
            texts[name] = entry[2]
        elif line.strip():
            texts[name] = f"{texts[name]} {line.strip()}"
    return {name: _without_markup(text) for name, text in texts.items()}


def _without_markup(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
