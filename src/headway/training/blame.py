"""Where a worker was when the user's own model, loss or data raised an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headway.core.errors import HeadwayError

__all__ = ["told_where"]


@contextmanager
def told_where(words: Callable[[], str]) -> Iterator[None]:
    """Add to errors where they came from. Those of this package say it themselves.

    Args:
        words: Says it, at the time of the error.

    Example:
        >>> try:
        ...     with told_where(lambda: "worker-0, batch 3"):
        ...         [][0]
        ... except IndexError as error:
        ...     error.__notes__
        ['Headway: in worker-0, batch 3']
    """
    try:
        yield
    except HeadwayError:
        raise
    except Exception as error:
        error.add_note(f"Headway: in {words()}")
        raise
