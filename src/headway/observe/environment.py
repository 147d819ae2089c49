"""Where a run was made: versions, hardware and settings that can change its numbers.

Nothing in it says who made it: no host, user or folder names.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

__all__ = ["describe_environment"]

_GIT_TIMEOUT_S: Final = 5.0


def describe_environment(folder: str | Path | None = None) -> dict[str, Any]:
    """Describe the environment of this process, as a plain tree.

    Args:
        folder: Where to look for a git repository; by default the current folder.

    Returns:
        ``"headway"``, ``"python"``, ``"torch"``, ``"numpy"``: versions. ``"platform"``,
        ``"machine"``, ``"cpus"`` (that this process may use), ``"torch_threads"``,
        ``"accelerators"``: names. ``"flags"``: torch settings that change results. ``"git"``:
        commit and whether tracked files were changed; ``None`` outside a repository or without git.

    Example:
        >>> sorted(describe_environment())[:4]
        ['accelerators', 'cpus', 'flags', 'git']
    """
    return {
        "headway": _headway_version(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpus": _num_cpus(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": _accelerators(),
        "flags": _flags(),
        "git": _git(Path.cwd() if folder is None else Path(folder)),
    }


def _headway_version() -> str:
    # What is being run, which need not be what is installed.
    package = sys.modules.get("headway")
    version = getattr(package, "__version__", None)
    if version is None:
        try:
            version = metadata.version("headway")
        except metadata.PackageNotFoundError:
            version = "unknown"
    return str(version)


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerators() -> list[str]:
    # Asking whether there is one must not start it up: a run on the CPU stays there.
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _flags() -> dict[str, Any]:
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "flush_denormal": _flushes_denormals(),
    }


def _flushes_denormals() -> bool:
    # There is no getter; a denormal number that becomes 0 tells.
    return bool(torch.tensor(1e-40, dtype=torch.float32) * 1.0 == 0.0)


def _git(folder: Path) -> dict[str, Any] | None:
    commit = _run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": None if changed is None else bool(changed.strip())}


def _run_git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command; ``None`` if there is no git, no repository or no answer."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            # Reading must not take git's lock, which another program may be waiting for.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
