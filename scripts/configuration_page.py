"""Write docs/configuration.md from the configuration's own shape: python -m scripts.configuration_page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headway.config import KINDS, Config, Option, factories
from headway.config.factories import REQUIRED
from headway.config.inline import inline
from headway.config.resolve import LOCAL
from headway.config.values import plain, type_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Made by `python -m scripts.configuration_page`; change the models and docstrings instead. -->

A configuration is a TOML file for [`headway run`, `headway simulate` and `headway compare`](cli.md). Examples lie in `examples/`.

    [task]
    kind = "quadratic"              # or leave [task] out, and give [data], [model] and [local]
    [population]
    name = "lognormal"
    median_s = 2.0
    sigma = 0.8
    [stop]
    updates = 2000
    [algorithm]
    name = "fedbuff"
    buffer_size = 10
    staleness = { name = "polynomial", exponent = 0.5 }
    server_optimizer = { name = "SGD", lr = 1.0, momentum = 0.9 }

- **Which value wins**: `--set` beats the file, the file beats the environment (`HEADWAY_RUN__CONCURRENCY=8` for
  `run.concurrency`), and that beats the default. `headway config show FILE` prints every value with its origin.
- **Nothing is guessed**: an unknown key, text for a number, or a value outside its range is an error with the line, what stands
  there, and what would do.
- **Names**: sections with a `name` take the options of what they name, as listed below and by `headway list`. A bare name stands
  for a table: `algorithm = "fedbuff"`. Where `none` is a possible value, it is written `"none"`.
- **Clients**: their number comes from the task. `population.num_clients` may be left out, and is an error where it differs.
- **A run folder's `config.toml`** holds every default, and is a configuration itself.
- **In editors**: save `headway config schema` as a file, and name it in the first line: `#:schema headway.schema.json`.

## Sections
"""

TITLES = {
    "algorithms": "`[algorithm]`, and `[algorithms.<label>]` of a comparison",
    "populations": "`[population]`",
    "data": "`[data]`",
    "partitioners": "`[data.partition]`",
    "models": "`[model]`",
    "tasks": "`[task]`",
    "schedulers": "`[scheduler]`, and `scheduler` of an algorithm of a comparison",
    "reducers": "Reducers, as `aggregate` of an algorithm",
    "staleness": "Staleness weights, as `staleness` of an algorithm",
}
SECTIONS = {
    "": "At the top",
    "Target": "`target` and `stop.target`",
    "Run": "`[run]`",
    "Every": "`run.evaluate_every` and `run.checkpoint_every`",
    "Server": "`[server]`",
    "Runtime": "`[runtime]`",
    "Staleness": "`[staleness]`",
    "Execution": "`[execution]`",
    "Compression": "`[compression]`",
    "Serving": "`[serving]`",
    "Stop": "`[stop]`",
    "DataChoice": "`[data]`, with the options of the data set",
    "PopulationChoice": "`[population]`, with the options of the population",
    "Link": "`[population.link]`",
    "Windows": "`[population.windows]`",
    "Diurnal": "`[population.diurnal]`",
    "Arrival": "`[population.arrival]`",
    "Contender": "`[algorithms.<label>]`, with the options of the algorithm",
}


def render() -> str:
    """The whole page."""
    schema = Config.model_json_schema()
    parts = [HEAD]
    for name, title in SECTIONS.items():
        section = schema["$defs"][name] if name else schema
        parts.append(f"### {title}\n\n{_table(_keys(section))}\n")
    parts.append(f"### `[local]`\n\n{_table(map(_option, LOCAL.options.values()))}\n")
    for kind in KINDS:
        parts.append(f"## {TITLES[kind]}\n")
        for factory in factories(kind).values():
            rows = [_option(option) for option in factory.own.values()]
            table = f"\n{_table(rows)}\n" if rows else ""
            parts.append(f"### `{factory.name}`\n\n{factory.summary}\n{table}")
    return "\n".join(parts)


def _keys(section: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    required = section.get("required", ())
    for name, key in section["properties"].items():
        if "description" not in key:
            continue
        default = "required" if name in required else _code(key.get("default"))
        yield name, default, key["description"]


def _option(option: Option) -> tuple[str, str, str]:
    default = "required" if option.default is REQUIRED else _code(plain(option.default))
    text = option.text if option.text.endswith(".") else f"{option.text}."
    takes = type_text(option.annotation)
    return option.name, default, f"{text} Takes {takes}." if takes else text


def _code(value: Any) -> str:
    return "" if value in (None, {}) else f"`{inline(value)}`"


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = ["| key | default | meaning |", "| --- | ------- | ------- |"]
    for name, default, text in rows:
        cell = " ".join(text.split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {cell} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
