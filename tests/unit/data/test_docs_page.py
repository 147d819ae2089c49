"""docs/data.md: its programs run, and its table is what its own command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headway import data

PAGE = Path(__file__).parents[3].joinpath("docs", "data.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS) - 1))
def test_programs_run(number: int) -> None:
    names: dict[str, object] = {}
    exec(PROGRAMS[number], names)
    assert isinstance(names["clients"], data.Federated)


def test_the_table_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    exec(PROGRAMS[-1], {})
    printed = capsys.readouterr().out.strip().splitlines()
    start = PAGE.splitlines().index(printed[0])
    documented = PAGE.splitlines()[start : start + len(printed)]
    for row, other in zip(documented, printed, strict=True):
        assert row.split("|")[1] == other.split("|")[1]
        # Another numpy may draw other numbers, but not other statistics.
        shown, found = figures(row), figures(other)
        assert shown == pytest.approx(found, rel=0.1, abs=0.02)


def figures(row: str) -> list[float]:
    """The means of a row: what stands before a ±."""
    return [float(value) for value in re.findall(r"([\d.]+) ±", row)]


def test_every_public_name_of_the_tables_is_on_the_page() -> None:
    for name in [*data.DATASETS, *data.PARTITIONERS]:
        assert f"`{name}(" in PAGE
