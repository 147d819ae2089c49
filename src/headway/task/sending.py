"""Tasks and algorithms on their way to another process of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.errors import ConfigurationError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["start"]


def start(process: BaseProcess, *, where: str) -> None:
    """Start a process that is given a task or an algorithm.

    Args:
        process: Not started yet.
        where: Which argument asked for it, for the error.

    Raises:
        ConfigurationError: What it is given cannot be sent to another process.
    """
    try:
        process.start()
    except (AttributeError, TypeError, ValueError) as error:
        raise _not_sendable(error, where) from error
    except Exception as error:
        if "pickl" not in type(error).__name__.lower():
            raise
        raise _not_sendable(error, where) from error


def _not_sendable(error: Exception, where: str) -> ConfigurationError:
    return ConfigurationError(
        "the task or the algorithm cannot be sent to another process",
        where=where,
        got=str(error),
        expected="functions and classes that a module defines at its top level",
        help="define the model, the loss and the like in a module, or use one process",
    )
