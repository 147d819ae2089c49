"""``headway doctor``: is everything here that Headway needs, and what can be added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from headway.cli.options import AsJson, fold, say_json

if TYPE_CHECKING:
    from headway.cli.checkup import Finding

__all__ = ["doctor"]


def doctor(as_json: AsJson = False) -> None:
    """Check versions, data sets, and whether runs can be written here."""
    from headway.cli.checkup import examine

    findings = examine()
    broken = [finding for finding in findings if finding.status == "broken"]
    if as_json:
        say_json({"ok": not broken, "findings": [finding._asdict() for finding in findings]})
    else:
        _print(findings)
        typer.echo(
            "something that Headway needs is broken" if broken else "all that is needed works"
        )
    if broken:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        fold(f"{finding.status:<9}{finding.name}", finding.found, indent=width + 11)
        if finding.help:
            # Not folded: a command shall be whole where it is copied from.
            typer.echo(" " * (width + 11) + finding.help)
