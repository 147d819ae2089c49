from __future__ import annotations

import os
import subprocess
import sys

import pytest

from headway.cli import main

QUICK = """\
seed = 0
seeds = [0, 1]
[task]
kind = "quadratic"
dim = 4
num_clients = 6
[run]
evaluate_every = 5
[stop]
updates = 20
[algorithm]
name = "fedbuff"
buffer_size = 2
[algorithms.fedavg]
name = "fedavg"
clients_per_round = 2
concurrency = 2
[algorithms.fedbuff]
name = "fedbuff"
buffer_size = 2
"""

DIGITS = """\
[data]
name = "digits"
[data.partition]
name = "iid"
num_clients = 4
[model]
name = "softmax_regression"
[stop]
updates = 20
[algorithm]
name = "fedasync"
"""


class Done:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, code, captured):
        self.code = code
        self.out = captured.out
        self.err = captured.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, with quick.toml and digits.toml."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "quick.toml").write_text(QUICK, encoding="utf-8")
    (tmp_path / "digits.toml").write_text(DIGITS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def headway(here, capsys):
    """Run the command in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, capsys.readouterr())

    return run


@pytest.fixture
def start(here):
    """Start the command as a process of its own."""
    processes = []

    def run(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "headway", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=here,
            **options,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
