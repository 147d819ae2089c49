"""When a run ends: the first of several limits, or a metric that reaches its target."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, final

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.observe.points import Direction, direction_of
from headway.simulation.arguments import check_count, check_number, check_positive

__all__ = ["Progress", "Stop", "Target", "until"]


@final
@dataclass(slots=True)
class Progress:
    """How far a run is; one object that the run keeps up to date.

    Attributes:
        updates: Submitted updates that reached the server, whatever became of them.
        versions: Changes of the server's model.
        virtual_time_s: Virtual time of the newest event.
        wall_time_s: Real time since the start.
        metrics: What the newest evaluation measured; empty before the first.
    """

    updates: int = 0
    versions: int = 0
    virtual_time_s: float = 0.0
    wall_time_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """A value that a metric is to reach.

    Args:
        metric: Its name in the results of an evaluation.
        value: What it is to reach; finite.
        direction: ``"max"`` if larger is better, ``"min"`` if smaller is. By default ``"min"`` for
            names that speak of a loss or an error, and ``"max"`` for others.

    Raises:
        ArgumentTypeError: If the name is no string or the value no number.
        ConfigurationError: If the value is not finite or the direction unknown.

    Example:
        >>> print(Target("accuracy", 0.85), "|", Target("test_loss", 0.3))
        accuracy >= 0.85 | test_loss <= 0.3
        >>> Target("accuracy", 0.85).is_met(0.9)
        True
    """

    metric: str
    value: float
    direction: Direction | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            raise _not_a_target((self.metric, self.value))
        object.__setattr__(
            self, "value", check_number("target", self.value, where="until(target=...)")
        )
        object.__setattr__(self, "direction", direction_of(self.metric, self.direction))

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.direction == 'max' else '<='} {self.value:.10g}"

    def is_met(self, value: float) -> bool:
        """Whether a measured value has reached it; NaN never has."""
        return value >= self.value if self.direction == "max" else value <= self.value


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """What ends a run: the first of its criteria that is met. Made by :func:`until`.

    Example:
        >>> stop = until(updates=1000, target=("accuracy", 0.85))
        >>> print(stop)
        updates >= 1000 or target accuracy >= 0.85
        >>> print(stop.reason(Progress(updates=400, metrics={"accuracy": 0.71})))
        None
        >>> print(stop.reason(Progress(updates=600, metrics={"accuracy": 0.86})))
        target accuracy >= 0.85
    """

    updates: int | None = None
    versions: int | None = None
    virtual_time_s: float | None = None
    target: Target | None = None
    wall_time_s: float | None = None
    # The same limits with "never" for None, so that the check after each job is four comparisons.
    _updates: int = field(init=False, repr=False, compare=False)
    _versions: int = field(init=False, repr=False, compare=False)
    _virtual_time_s: float = field(init=False, repr=False, compare=False)
    _wall_time_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, check, never in (
            ("updates", check_count, sys.maxsize),
            ("versions", check_count, sys.maxsize),
            ("virtual_time_s", check_positive, inf),
            ("wall_time_s", check_positive, inf),
        ):
            given = getattr(self, name)
            limit = None if given is None else check(name, given, where="until")
            object.__setattr__(self, name, limit)
            object.__setattr__(self, f"_{name}", never if limit is None else limit)
        if self.target is None and not self._limits():
            raise ConfigurationError(
                "nothing would ever end this run",
                where="until()",
                expected="at least one of updates, versions, virtual_time_s, target, wall_time_s",
                help="pass a limit, for example until(updates=1000)",
            )

    def __str__(self) -> str:
        criteria = [f"{name} >= {limit:.10g}" for name, limit in self._limits()]
        return " or ".join([*criteria, *([f"target {self.target}"] if self.target else [])])

    def is_due(self, progress: Progress) -> bool:
        """Whether a limit is reached; the cheap check after each job, which leaves out the target.

        Args:
            progress: How far the run is. Its ``wall_time_s`` is only looked at if
                :attr:`wall_time_s` is set.

        Returns:
            Whether :meth:`reason` names a limit.
        """
        return (
            progress.updates >= self._updates
            or progress.virtual_time_s >= self._virtual_time_s
            or progress.versions >= self._versions
            or progress.wall_time_s >= self._wall_time_s
        )

    def reason(self, progress: Progress) -> str | None:
        """Why the run ends here, or None if it does not.

        Args:
            progress: How far the run is.

        Returns:
            The criterion that is met, such as ``"target accuracy >= 0.85"``; of several the target
            first.

        Raises:
            UnknownNameError: If the newest evaluation has not measured the target's metric.
        """
        if self.target is not None and progress.metrics:
            value = progress.metrics.get(self.target.metric)
            if value is None:
                raise UnknownNameError.of(
                    "metric", self.target.metric, progress.metrics, where="until(target=...)"
                )
            if self.target.is_met(value):
                return f"target {self.target}"
        for name, limit in self._limits():
            if getattr(progress, name) >= limit:
                return f"{name} >= {limit:.10g}"
        return None

    def fraction(self, progress: Progress) -> float | None:
        """How much of the nearest limit is used up, for a display of the time left.

        Args:
            progress: How far the run is.

        Returns:
            A float in [0, 1], or None where only a target is set: how far off it is cannot be told.
        """
        used = [getattr(progress, name) / limit for name, limit in self._limits()]
        return min(1.0, max(used)) if used else None

    def describe(self) -> dict[str, Any]:
        """The criteria that are set, as a plain tree: the arguments of :func:`until`."""
        tree: dict[str, Any] = dict(self._limits())
        if self.target is not None:
            tree["target"] = [self.target.metric, self.target.value, self.target.direction]
        return tree

    def _limits(self) -> list[tuple[str, float]]:
        limits = (
            ("updates", self.updates),
            ("versions", self.versions),
            ("virtual_time_s", self.virtual_time_s),
            ("wall_time_s", self.wall_time_s),
        )
        return [(name, limit) for name, limit in limits if limit is not None]


def until(
    *,
    updates: int | None = None,
    versions: int | None = None,
    virtual_time_s: float | None = None,
    target: Target | tuple[Any, ...] | list[Any] | None = None,
    wall_time_s: float | None = None,
) -> Stop:
    """Say when a run ends: as soon as the first of these is reached.

    Args:
        updates: Submitted updates that reached the server, whatever became of them; at least 1.
        versions: Changes of the server's model; at least 1.
        virtual_time_s: Virtual seconds, above 0; nothing after this time happens.
        target: A :class:`Target`, or ``(metric, value)`` or ``(metric, value, direction)``; looked
            at after each evaluation.
        wall_time_s: Real seconds, above 0. The only criterion that may end two runs with the same
            seed at different places.

    Returns:
        The criteria, checked.

    Raises:
        ArgumentTypeError: If a value is of the wrong kind.
        ConfigurationError: If a value is outside its range, or nothing is given.

    Example:
        >>> until(virtual_time_s=600, target=("accuracy", 0.85)).target
        Target(metric='accuracy', value=0.85, direction='max')
    """
    return Stop(updates, versions, virtual_time_s, _as_target(target), wall_time_s)


def _as_target(value: object) -> Target | None:
    if value is None or isinstance(value, Target):
        return value
    if isinstance(value, tuple | list) and 2 <= len(value) <= 3:
        return Target(*value)
    raise _not_a_target(value)


def _not_a_target(value: object) -> ArgumentTypeError:
    return ArgumentTypeError(
        "this is not a target",
        where="until(target=...)",
        got=repr(value),
        expected='(metric, value) or (metric, value, "max" or "min")',
        help='write target=("accuracy", 0.85)',
    )
