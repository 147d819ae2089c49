"""When a run is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from headway.core.errors import ConfigurationError
from headway.simulation.arguments import check_count, check_positive

__all__ = ["Every", "every"]


@final
@dataclass(frozen=True, slots=True)
class Every:
    """The distance between two evaluations; made by :func:`every`. Exactly one is set."""

    updates: int | None = None
    versions: int | None = None
    virtual_time_s: float | None = None

    def __str__(self) -> str:
        if self.updates is not None:
            return f"every {self.updates} updates"
        if self.versions is not None:
            return f"every {self.versions} versions"
        return f"every {self.virtual_time_s} virtual seconds"


def every(
    *,
    updates: int | None = None,
    versions: int | None = None,
    virtual_time_s: float | None = None,
) -> Every:
    """Say how often the model is evaluated: by exactly one clock.

    A buffered algorithm makes one version of many updates, so "every 10 versions" and "every 10
    updates" are different distances; comparisons should use updates or virtual time.

    Args:
        updates: After so many arrived updates, at least 1.
        versions: After so many model changes, at least 1.
        virtual_time_s: After so many virtual seconds, above 0.

    Returns:
        The distance, checked.

    Raises:
        ConfigurationError: None or several are given, or one is outside its range.

    Example:
        >>> print(every(updates=50))
        every 50 updates
    """
    given = [value for value in (updates, versions, virtual_time_s) if value is not None]
    if len(given) != 1:
        raise ConfigurationError(
            "evaluations need exactly one clock",
            where="every()",
            got=f"{len(given)} of updates, versions, virtual_time_s",
            help="write every(updates=50)",
        )
    if updates is not None:
        check_count("updates", updates, where="every()")
    if versions is not None:
        check_count("versions", versions, where="every()")
    if virtual_time_s is not None:
        check_positive("virtual_time_s", virtual_time_s, where="every()")
    return Every(updates, versions, virtual_time_s)


def as_every(value: Every | int, name: str = "evaluate_every") -> Every:
    """Take a bare number for a number of updates.

    Args:
        value: A distance, or a number of updates of at least 1.
        name: What the argument is called.

    Raises:
        ArgumentTypeError: It is neither.
        ConfigurationError: It is below 1.
    """
    if isinstance(value, Every):
        return value
    return Every(updates=check_count(name, value, where=f"{name}=..."))
