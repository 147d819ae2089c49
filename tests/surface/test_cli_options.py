"""Every command with its arguments and options. A change here is one that users' scripts see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from headway.cli import app

ROOT = Path(__file__).resolve().parents[2]
RUN = [
    "--checkpoint-every",
    "--json",
    "--out",
    "--overwrite",
    "--quiet",
    "--record",
    "--set",
    "-q",
    "config",
]

SAFETY = ["--ca", "--certificate", "--insecure", "--key", "--token-file"]

COMMANDS = {
    "": ["--debug", "--install-completion", "--show-completion", "--version"],
    "compare": RUN,
    "config": [],
    "config schema": [],
    "config show": ["--json", "--set", "config"],
    "doctor": ["--json"],
    "list": ["--json", "what"],
    "replay": ["--json", "run"],
    "report": ["--json", "--out", "runs"],
    "run": sorted(
        [
            *(name for name in RUN if name != "--checkpoint-every"),
            "--checkpoint-dir",
            "--checkpoint-frequency",
        ]
    ),
    "server": sorted(
        [
            *SAFETY,
            "--checkpoint-dir",
            "--checkpoint-frequency",
            "--compression",
            "--durability",
            "--host",
            "--json",
            "--max-rejections",
            "--max-staleness",
            "--out",
            "--port",
            "--pulls",
            "--quiet",
            "--record",
            "--set",
            "--staleness-lr-factor",
            "--staleness-policy",
            "--workers",
            "-q",
            "config",
        ]
    ),
    "simulate": sorted([*RUN, "--resume"]),
    "status": sorted([*SAFETY, "--json", "--watch", "address"]),
    "worker": sorted(
        [
            *SAFETY,
            "--client",
            "--compression",
            "--epochs",
            "--json",
            "--name",
            "--prefetch",
            "--set",
            "address",
            "config",
        ]
    ),
}


def described(command, path=()):
    names = []
    for parameter in command.params:
        options = [name for name in parameter.opts if name.startswith("-")]
        names += options or [parameter.name]
    yield " ".join(path), sorted(names)
    for name, below in getattr(command, "commands", {}).items():
        yield from described(below, (*path, name))


def test_the_commands_and_their_options_are_these():
    assert dict(described(typer.main.get_command(app))) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_in_the_docs(command):
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert f"headway {command}".strip() in text
    for name in COMMANDS[command]:
        if name.startswith("--"):
            assert re.search(rf"{name}\b", text), name


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_every_exit_code_is_in_the_docs(code):
    assert re.search(rf"^\| {code} +\|", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), re.M)
