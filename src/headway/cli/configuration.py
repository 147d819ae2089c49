"""``headway config``: what a configuration comes to, and what it may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from headway.cli.options import AsJson, Config, Settings, say_json

if TYPE_CHECKING:
    from headway.config import Resolved

__all__ = ["config_app"]

config_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show a configuration, or what it may hold."
)


@config_app.command()
def show(config: Config, settings: Settings = None, as_json: AsJson = False) -> None:
    """Print the configuration with every default, and where each value came from."""
    from headway.config import load

    resolved = load(config, assignments=settings or ())
    if as_json:
        values = [
            {"key": _dotted(path), "value": value, **resolved.origin(path)._asdict()}
            for path, value in _values(resolved.tree, ())
        ]
        say_json({"config": resolved.tree, "values": values})
        return
    for line in _lines(resolved):
        typer.echo(line)


@config_app.command()
def schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    from headway.config import json_schema

    say_json(json_schema())


def _lines(resolved: Resolved) -> list[str]:
    """A configuration file whose comments say where each value came from."""
    from headway.config.inline import assignment, key_text

    sections: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for path, value in _values(resolved.tree, ()):
        text = assignment(path[-1], value)
        sections.setdefault(path[:-1], []).append((text, resolved.origin(path).place))
    width = min(48, max(len(text) for rows in sections.values() for text, _ in rows))
    lines: list[str] = []
    for section, rows in sections.items():
        if section:
            lines += ["", f"[{'.'.join(map(key_text, section))}]"]
        lines += [f"{text:<{width}}  # {place}" for text, place in rows]
    return lines


def _values(tree: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """The values of a tree, those of each section together, before the sections below it."""
    values: list[tuple[tuple[str, ...], Any]] = []
    below: list[tuple[tuple[str, ...], Any]] = []
    for key, value in tree.items():
        here = (*path, key)
        if isinstance(value, Mapping) and _is_section(here):
            below += _values(value, here)
        else:
            values.append((here, value))
    return [*values, *below]


def _is_section(path: tuple[str, ...]) -> bool:
    return len(path) == 1 or path == ("data", "partition") or path[:-1] == ("algorithms",)


def _dotted(path: tuple[str, ...]) -> str:
    from headway.config.problems import dotted

    return dotted(path)
