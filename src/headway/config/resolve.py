"""From files, variables and arguments to one checked configuration with all its defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final, final

from pydantic import ValidationError

from headway.config import values
from headway.config.factories import REQUIRED, Factory, find
from headway.config.layers import (
    Merged,
    Origin,
    from_assignments,
    from_environment,
    from_file,
    merge,
)
from headway.config.lines import Path
from headway.config.model import (
    Arrival,
    Compression,
    Config,
    Contender,
    DataChoice,
    Diurnal,
    Every,
    Execution,
    Link,
    PopulationChoice,
    Run,
    Runtime,
    Server,
    Serving,
    Staleness,
    Stop,
    Target,
    Windows,
)
from headway.config.problems import Place, first_problem, missing, unknown_option, wrong
from headway.core.errors import ConfigurationError
from headway.observe.toml import dumps
from headway.task import LocalTraining

__all__ = ["Resolved", "load"]

_OWN_FIELDS: Final[Mapping[Path, Iterable[str]]] = {
    ("task",): ("kind",),
    ("data",): tuple(DataChoice.model_fields),
    ("data", "partition"): ("name",),
    ("model",): ("name",),
    ("population",): tuple(PopulationChoice.model_fields),
    ("scheduler",): ("name",),
    ("algorithm",): ("name",),
    ("algorithms", "*"): tuple(Contender.model_fields),
}
_SECTIONS: Final[Mapping[Path, type]] = {
    (): Config,
    ("target",): Target,
    ("run",): Run,
    ("run", "evaluate_every"): Every,
    ("run", "checkpoint_every"): Every,
    ("population", "link"): Link,
    ("population", "windows"): Windows,
    ("population", "diurnal"): Diurnal,
    ("population", "arrival"): Arrival,
    ("staleness",): Staleness,
    ("server",): Server,
    ("runtime",): Runtime,
    ("execution",): Execution,
    ("compression",): Compression,
    ("serving",): Serving,
    ("stop",): Stop,
    ("stop", "target"): Target,
}
_SURROUNDINGS: Final = ("link", "windows", "diurnal", "arrival")
"""Tables of ``[population]``."""

_LEARNING: Final = ("data", "model", "local")
"""Sections that belong to a model on data."""

_LABEL: Final = re.compile(r"[^/\\:.\x00-\x1f][^/\\:\x00-\x1f]{0,59}")

LOCAL: Final = Factory.of(LocalTraining, name="local", hidden={"self"})
"""The options of ``[local]``."""


@final
@dataclass(frozen=True, slots=True)
class Resolved:
    """A checked configuration.

    Args:
        config: The sections.
        tree: All values, every default included, as plain TOML.
        origins: Where each value came from; what is not in it is a default.
        name: What to call it: the file's name.
    """

    config: Config
    tree: dict[str, Any]
    origins: Mapping[Path, Origin]
    name: str

    def origin(self, path: Path) -> Origin:
        """Where a value came from."""
        return self.origins.get(path, Origin("default", "default"))

    def place(self, path: Path) -> str:
        """Where a value stands, or the closest thing around it."""
        return _place(self.origins, self.name, path)

    def toml(self) -> str:
        """The whole as a configuration file, which reads back as the same tree."""
        return dumps(self.tree)

    def tree_of(self, label: str | None = None, seed: int | None = None) -> dict[str, Any]:
        """The configuration of one run, as ``headway simulate`` takes it.

        Args:
            label: An algorithm of a comparison; ``None``: that of ``[algorithm]``.
            seed: Of the run; ``None``: the configured one.
        """
        tree = {k: v for k, v in self.tree.items() if k not in ("seeds", "target", "algorithms")}
        tree["seed"] = self.config.seed if seed is None else seed
        if label is not None:
            contender = dict(self.tree["algorithms"][label])
            local, concurrency = contender.pop("local", {}), contender.pop("concurrency", None)
            if concurrency is not None:
                tree["run"] = {**tree["run"], "concurrency": concurrency}
            if (scheduler := contender.pop("scheduler", None)) is not None:
                tree["scheduler"] = scheduler
            if local:
                tree["local"] = overridden(tree.get("local", {}), local)
            tree["algorithm"] = contender
        return {key: tree[key] for key in Config.model_fields if key in tree}


def load(
    path: str | FilePath,
    *,
    assignments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Read a configuration: argument beats file beats environment beats default.

    Args:
        path: A TOML file, or a run folder with its ``config.toml``.
        assignments: ``section.key=value``, as after ``--set``.
        environment: Variables; by default those of the process.

    Returns:
        The checked configuration, with every default and the origin of each value.

    Raises:
        ConfigurationError: Something cannot be used. The error names its line, argument or variable.
        UnknownNameError: A key or a name that is not known.
    """
    path = FilePath(path)
    variables = os.environ if environment is None else environment
    merged = Merged()
    file = from_file(path)
    _check_maker(file.tree, path)
    for layer in (
        from_environment(variables, Config.model_fields),
        file,
        from_assignments(assignments),
    ):
        merge(merged, layer, own_fields=own_fields)
    return check(merged, path.name)


def _check_maker(tree: Mapping[str, Any], path: FilePath) -> None:
    if tree.get("made_by") == "python":
        raise ConfigurationError(
            "this run was made from Python, so it cannot be made again from its file",
            where=str(path),
            got='made_by = "python"',
            expected="a configuration that was written for the command",
            help="run the Python program again; to replay the log there, see docs/cli.md: "
            "headway.core.replay(server_for(settings), RunFolder.open(path).events(payloads=True))",
        )


def check(merged: Merged, name: str) -> Resolved:
    """Check a merged tree and complete it with the defaults.

    Args:
        merged: The values and their origins.
        name: What to call the whole.
    """

    def place(path: Path) -> str:
        return _place(merged.origins, name, path)

    try:
        config = Config.model_validate(merged.tree)
    except ValidationError as error:
        raise first_problem(error, _fields, place) from None
    if len(set(config.seeds)) < len(config.seeds):
        raise wrong(("seeds",), config.seeds, "each seed once", place)
    _check_task(config, place)
    tree = _complete(config, place)
    return Resolved(config, tree, merged.origins, name)


def own_fields(path: Path) -> Iterable[str] | None:
    """The keys that belong to a table that names something, rather than to what it names.

    Args:
        path: Of the table.

    Returns:
        They; ``None`` for a table that names nothing.
    """
    if len(path) == 2 and path[0] == "algorithms":
        return _OWN_FIELDS["algorithms", "*"]
    is_option = (len(path) == 2 and path[0] == "algorithm") or (
        len(path) == 3 and path[0] == "algorithms" and path[2] != "local"
    )
    return ("name",) if is_option else _OWN_FIELDS.get(path)


def overridden(local: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """``[local]`` with the keys of one algorithm laid over it.

    Args:
        local: The common ones.
        by: Those of the algorithm; epochs take the place of steps, and steps of epochs.
    """
    amount = {"epochs", "steps"}
    kept = {k: v for k, v in local.items() if not (k in amount and by.keys() & amount)}
    return {**kept, **by}


def _place(origins: Mapping[Path, Origin], name: str, path: Path) -> str:
    while path and path not in origins:
        path = path[:-1]
    return origins[path].place if path else name


def _fields(path: Path) -> Iterable[str]:
    return getattr(_SECTIONS.get(path), "model_fields", ())


def _check_task(config: Config, place: Place) -> None:
    kind = config.task.kind
    given = {name: getattr(config, name) is not None for name in _LEARNING}
    if kind == "learning":
        for name in ("data", "model"):
            if not given[name]:
                error = missing((name,), f"a section [{name}] with a name", place)
                error.help = 'add it, or choose a task without data: [task] kind = "quadratic"'
                raise error
        return
    for name in _LEARNING if kind == "null" else _LEARNING[:2]:
        if given[name]:
            raise ConfigurationError(
                f"a task of kind `{kind}` has no {name}",
                where=place((name,)),
                help=f'take the section [{name}] out, or set task.kind = "learning"',
            )


def _complete(config: Config, place: Place) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if config.algorithm is not None or not config.algorithms:
        tree["seed"] = config.seed
    if config.algorithms:
        tree["seeds"] = config.seeds
        tree["target"] = _dumped(config.target)
    task = find("tasks", config.task.kind)
    tree["task"] = {
        "kind": config.task.kind,
        **_options(("task",), task, config.task.options, place),
    }
    if config.data is not None:
        tree["data"] = _data(config.data, place)
    if config.model is not None:
        tree["model"] = _choice(("model",), "models", config.model, place)
    if config.task.kind == "learning" or config.local is not None:
        local = _options(("local",), LOCAL, config.local or {}, place)
        tree["local"] = local if local.keys() & {"epochs", "steps"} else {"epochs": 1, **local}
    tree["population"] = {
        **_choice(("population",), "populations", config.population, place),
        "dropout": config.population.dropout,
        "slowdown": config.population.slowdown or None,
        "away_s": config.population.away_s,
        "timeout_s": config.population.timeout_s,
        **{name: _dumped(getattr(config.population, name)) for name in _SURROUNDINGS},
    }
    tree["run"] = _dumped(config.run)
    tree["scheduler"] = _choice(("scheduler",), "schedulers", config.scheduler, place)
    tree["execution"] = _dumped(config.execution)
    tree["staleness"] = _dumped(config.staleness)
    tree["compression"] = _dumped(config.compression)
    tree["serving"] = _dumped(config.serving)
    tree["runtime"] = _dumped(config.runtime)
    tree |= {"server": _dumped(config.server), "stop": _dumped(config.stop)}
    if config.algorithm is not None:
        tree["algorithm"] = _choice(("algorithm",), "algorithms", config.algorithm, place)
    if config.algorithms:
        tree["algorithms"] = {
            label: _contender(("algorithms", label), contender, place)
            for label, contender in config.algorithms.items()
        }
    completed: dict[str, Any] = _without_none(tree)
    return completed


def _data(data: DataChoice, place: Place) -> dict[str, Any]:
    named = _choice(("data",), "data", data, place)
    # A data set in parts brings a test set of its own, which counts where no share is asked for.
    in_parts = "part" in find("data", data.name).options
    return {
        **named,
        "test_fraction": data.test_fraction or (None if in_parts else 0.2),
        "seed": data.seed,
        "server_examples": data.server_examples,
        "partition": _choice(("data", "partition"), "partitioners", data.partition, place),
    }


def _contender(path: Path, contender: Contender, place: Place) -> dict[str, Any]:
    if not _LABEL.fullmatch(path[-1]):
        raise ConfigurationError(
            f"`{path[-1]}` cannot be a label, as run folders are named after it",
            where=place(path),
            expected="up to 60 characters, none of them / \\ : or a leading dot",
        )
    _check_options((*path, "local"), LOCAL, contender.local, place)
    own = contender.scheduler
    return {
        **_choice(path, "algorithms", contender, place),
        "concurrency": contender.concurrency,
        "scheduler": own and _choice((*path, "scheduler"), "schedulers", own, place),
        "local": contender.local or None,
    }


def _choice(path: Path, kind: str, choice: Any, place: Place) -> dict[str, Any]:
    key = (*path, "name")
    factory = find(kind, choice.name, where=place(key), got=f'name = "{choice.name}"')
    return {"name": choice.name, **_options(path, factory, choice.options, place)}


def _options(
    path: Path, factory: Factory, given: Mapping[str, Any], place: Place
) -> dict[str, Any]:
    """All options of a factory: those given, checked, and the defaults of the others."""
    _check_options(path, factory, given, place)
    for name, option in factory.own.items():
        if option.default is REQUIRED and name not in given:
            raise missing((*path, name), _expected(option), place)
    completed: dict[str, Any] = {}
    for name, option in factory.options.items():
        if name in given:
            completed[name] = given[name]
        elif name in factory.own:
            completed[name] = values.plain(option.default)
    return completed


def _check_options(path: Path, factory: Factory, given: Mapping[str, Any], place: Place) -> None:
    for name, value in given.items():
        if name not in factory.options:
            raise unknown_option((*path, name), value, factory.own, place)
        option = factory.options[name]
        if not values.accepts(option.annotation, value):
            raise wrong((*path, name), value, _expected(option), place)


def _expected(option: Any) -> str | None:
    return values.type_text(option.annotation) or option.text or None


def _dumped(section: Any) -> Any:
    return None if section is None else section.model_dump(exclude_none=True)


def _without_none(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {k: _without_none(v) for k, v in tree.items() if v is not None and v != {}}
    return tree
