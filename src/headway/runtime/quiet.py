"""gRPC, without its own messages on stderr: whoever here needs it takes it from here.

Of its accord it tells there of every connection that was idle and is closed, which is no news to
anybody. It reads how much to say when it is loaded, and never again; what a user has set stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["grpc"]

_NAME: Final = "GRPC_VERBOSITY"


@contextmanager
def _errors_only() -> Iterator[None]:
    """Processes that are started later find the environment as it was."""
    if _NAME in os.environ:
        yield
        return
    os.environ[_NAME] = "ERROR"
    try:
        yield
    finally:
        del os.environ[_NAME]


with _errors_only():
    import grpc
