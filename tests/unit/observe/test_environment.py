"""What is said of the environment, and what is not."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import headway
from headway.observe import describe_environment

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    def run(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    try:
        run("init", "--quiet")
    except FileNotFoundError:
        pytest.skip("there is no git here")
    return run


def test_versions_hardware_and_flags() -> None:
    found = describe_environment()
    assert found["headway"] == headway.__version__
    assert (found["torch"], found["numpy"]) == (torch.__version__, np.__version__)
    assert found["python"] == platform.python_version()
    assert found["torch_threads"] == torch.get_num_threads()
    assert 1 <= found["cpus"] <= (os.cpu_count() or 1)
    assert len(found["accelerators"]) == torch.cuda.device_count()
    assert json.loads(json.dumps(found)) == found


def test_flags_follow_torch() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for wanted in (True, False):
            torch.use_deterministic_algorithms(wanted)
            assert describe_environment()["flags"]["deterministic_algorithms"] is wanted
    finally:
        torch.use_deterministic_algorithms(before)


def test_denormals_are_looked_at() -> None:
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush denormals")
        assert describe_environment()["flags"]["flush_denormal"] is True
    finally:
        torch.set_flush_denormal(False)
    assert describe_environment()["flags"]["flush_denormal"] is False


def test_it_does_not_say_who_or_where(tmp_path: Path) -> None:
    shown = json.dumps(describe_environment(tmp_path))
    named = {platform.node(), str(Path.home()), os.getcwd(), str(tmp_path)}
    # A user may be called like a word that stands here anyway.
    named.add(f'"{getpass.getuser()}"')
    assert not [name for name in named if len(name) > 3 and name in shown]


def test_commit_and_whether_it_was_changed(tmp_path: Path, git: Git) -> None:
    assert describe_environment(tmp_path)["git"] is None
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert describe_environment(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "untracked").write_text("does not count")
    assert describe_environment(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert describe_environment(tmp_path)["git"] == {"commit": commit, "dirty": True}


def test_without_a_repository_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment(tmp_path)["git"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_environment()["git"] is None


def test_a_git_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert describe_environment()["git"] is None
