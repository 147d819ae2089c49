"""Where a worker was when the user's own model, loss or data raised an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headway.core.errors import HeadwayError
from headway.runtime.refusals import readable

__all__ = ["farewell_of", "told_where"]


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


def farewell_of(error: Exception) -> str:
    """What a worker that an error ends tells the server: one line.

    Of an error of somebody else's only the kind is told: its words may quote the worker's data.

    Args:
        error: It.

    Example:
        >>> farewell_of(HeadwayError("the optimizer is the server's"))
        "HeadwayError: the optimizer is the server's"
        >>> farewell_of(ValueError("bad row: ada, 1815"))
        'ValueError'
    """
    kind = type(error).__name__
    return readable(f"{kind}: {error.message}" if isinstance(error, HeadwayError) else kind)
