"""The command ``headway``.

What belongs here: reading arguments, showing progress and results, and turning errors into a few
lines and an exit code. What does not: anything that a Python program might want to do too.

Importing this loads neither torch nor anything of Headway: a command loads what it needs when it
runs, so that ``headway --help`` answers at once.
"""

from __future__ import annotations

from headway.cli.app import app, main

__all__ = ["app", "main"]
