"""gRPC as it is used here, without its own messages on stderr: whoever needs it takes it from here.

Of its accord it tells there of every connection that was idle and is closed, which is no news to
anybody. And it has threads of its own to wait for the network, which wake the thread that waits
for the message; its older way is to let that thread wait for the network itself, which saves two
changes of threads at each end. Both are read when it is loaded, and never again; what a user has set
stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Final

__all__ = ["grpc"]

_BEFORE: Final = (1, 86)
"""Versions before this one were tried, from 1.70 on; one that does not know a name says so aloud."""


def _settings() -> dict[str, str]:
    """By name, what gRPC finds in the environment when it is loaded."""
    settings = {"GRPC_VERBOSITY": "ERROR"}
    try:
        major, minor, *_ = map(int, version("grpcio").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return settings
    if (major, minor) < _BEFORE:
        settings["GRPC_EXPERIMENTS"] = "-event_engine_client,-event_engine_listener"
    return settings


@contextmanager
def _in_the_environment(settings: dict[str, str]) -> Iterator[None]:
    """Processes that are started later find the environment as it was."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


with _in_the_environment(_settings()):
    import grpc
