"""What ``headway doctor`` looks at."""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, NamedTuple

__all__ = ["Finding", "examine"]

NEEDED: Final = ("torch", "numpy", "pydantic", "rich", "safetensors", "typer")
"""Packages without which nothing works."""


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``"ok"``; ``"missing"``, which is no harm; or ``"broken"``, which is.
        found: What was found.
        help: The next step.
    """

    name: str
    status: Literal["ok", "missing", "broken"]
    found: str
    help: str | None = None


def examine() -> list[Finding]:
    """Look at everything."""
    findings = [_python(), *(_package(name) for name in NEEDED)]
    if any(finding.status == "broken" for finding in findings):
        return findings
    return [*findings, *_torch(), *_data_sets(), _writable(Path.cwd()), _git()]


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _package(name: str) -> Finding:
    try:
        version = metadata.version(name)
        __import__(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "broken", "not installed", f"Install it with: pip install {name}")
    except (ImportError, OSError) as error:
        help = f"Install it again with: pip install --force-reinstall {name}"
        return Finding(name, "broken", f"does not import: {error}", help)
    return Finding(name, "ok", version)


def _torch() -> list[Finding]:
    from headway.observe import describe_environment

    environment = describe_environment()
    threads, cpus = environment["torch_threads"], environment["cpus"]
    devices = ", ".join(environment["accelerators"]) or "none, everything runs on the CPU"
    flags = ", ".join(f"{name} {value}" for name, value in environment["flags"].items())
    return [
        Finding("torch threads", "ok", f"{threads} on {cpus} CPUs"),
        Finding("accelerators", "ok", devices),
        Finding("flags", "ok", flags),
    ]


def _data_sets() -> list[Finding]:
    from headway.config import factories
    from headway.core.errors import HeadwayError

    findings = []
    for name, factory in factories("data").items():
        load: Callable[[], object] = factory.make
        try:
            found = Finding(
                f"data {name}", "ok", str(load()).removeprefix("Dataset(").removesuffix(")")
            )
        except HeadwayError as error:
            # A data set that is damaged harms nobody who does not name it.
            found = Finding(f"data {name}", "missing", error.message, error.help)
        findings.append(found)
    return findings


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"?")
    except OSError as error:
        help = "go to a folder that can be written, or pass --out FOLDER"
        return Finding("run folders", "broken", f"cannot be written here: {error.strerror}", help)
    return Finding("run folders", "ok", "can be written here, in runs/")


def _git() -> Finding:
    from headway.observe import describe_environment

    git = describe_environment()["git"]
    if git is None:
        return Finding("git", "missing", "no repository here, so runs note no commit")
    return Finding("git", "ok", f"{git['commit'][:12]}{' (changed)' if git['dirty'] else ''}")
