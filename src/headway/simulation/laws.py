"""Laws of time: how a uniform number becomes the seconds that a job or a step takes.

Each is a frozen dataclass whose fields are its options, checked when it is made; its ``draw_s`` is
the quantile function of its distribution. The factories in :mod:`headway.simulation.population`
are the way to use them; a class like these, given to ``Population``, adds a law of your own.
"""

from __future__ import annotations

from dataclasses import Field, dataclass
from math import exp, inf, log
from typing import Any, ClassVar, Protocol, final

from headway.core.errors import ConfigurationError
from headway.simulation.arguments import check_number, check_positive
from headway.task.streams import normal_quantile

__all__ = [
    "Constant",
    "Exponential",
    "Given",
    "HalfNormal",
    "Law",
    "LogNormal",
    "Pareto",
    "Uniform",
]


class Law(Protocol):
    """What a population asks of a law: a frozen dataclass whose fields are its options.

    Attributes:
        name: The name of the factory that makes populations with it.
        fixed: Whether the time depends on the client alone, never on ``u``.
    """

    name: ClassVar[str]
    fixed: ClassVar[bool]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def draw_s(self, client: int, u: float, /) -> float:
        """The time, positive and finite, for ``u`` in [2**-53, 1 - 2**-53]; increasing in u."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """Always ``time_s``.

    Example:
        >>> Constant(time_s=2.0).draw_s(0, 0.5)
        2.0
    """

    name: ClassVar[str] = "constant"
    fixed: ClassVar[bool] = True
    time_s: float

    def __post_init__(self) -> None:
        _positive(self, "time_s")

    def draw_s(self, client: int, u: float, /) -> float:
        """``time_s``."""
        return self.time_s


@final
@dataclass(frozen=True, slots=True)
class Given:
    """A time for each client, from a list.

    Example:
        >>> Given(times_s=(1.0, 4.0)).draw_s(1, 0.5)
        4.0
    """

    name: ClassVar[str] = "from_times"
    fixed: ClassVar[bool] = True
    times_s: tuple[float, ...]

    def __post_init__(self) -> None:
        where = "population.from_times"
        times = tuple(
            check_positive(f"times_s[{client}]", time_s, where=where)
            for client, time_s in enumerate(self.times_s)
        )
        object.__setattr__(self, "times_s", times)

    def draw_s(self, client: int, u: float, /) -> float:
        """``times_s[client]``."""
        return self.times_s[client]


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """Evenly between ``low_s`` and ``high_s``.

    Example:
        >>> Uniform(low_s=1.0, high_s=3.0).draw_s(0, 0.5)
        2.0
    """

    name: ClassVar[str] = "uniform"
    fixed: ClassVar[bool] = False
    low_s: float
    high_s: float

    def __post_init__(self) -> None:
        _positive(self, "low_s", "high_s")
        if self.low_s > self.high_s:
            raise ConfigurationError(
                "the lowest time is above the highest",
                where="population.uniform",
                got=f"low_s = {self.low_s}, high_s = {self.high_s}",
                expected="low_s <= high_s",
                help="exchange the two",
            )

    def draw_s(self, client: int, u: float, /) -> float:
        """``low_s + (high_s - low_s) * u``."""
        return self.low_s + (self.high_s - self.low_s) * u


@final
@dataclass(frozen=True, slots=True)
class LogNormal:
    """``median_s * exp(sigma * Z)`` with a standard normal ``Z``.

    Example:
        >>> LogNormal(median_s=2.0, sigma=0.8).draw_s(0, 0.5)
        2.0
    """

    name: ClassVar[str] = "lognormal"
    fixed: ClassVar[bool] = False
    median_s: float
    sigma: float

    def __post_init__(self) -> None:
        _positive(self, "median_s")
        _not_negative(self, "sigma")
        _check_reach(self)

    def draw_s(self, client: int, u: float, /) -> float:
        """``median_s * exp(sigma * normal_quantile(u))``."""
        return self.median_s * exp(self.sigma * normal_quantile(u))


@final
@dataclass(frozen=True, slots=True)
class HalfNormal:
    """``minimum_s + scale_s * |Z|`` with a standard normal ``Z``.

    Example:
        >>> round(HalfNormal(scale_s=1.0, minimum_s=0.5).draw_s(0, 0.5), 6)
        1.17449
    """

    name: ClassVar[str] = "halfnormal"
    fixed: ClassVar[bool] = False
    scale_s: float
    minimum_s: float

    def __post_init__(self) -> None:
        _positive(self, "scale_s")
        _not_negative(self, "minimum_s")
        _check_reach(self)

    def draw_s(self, client: int, u: float, /) -> float:
        """``minimum_s + scale_s * normal_quantile((1 + u) / 2)``."""
        # By symmetry through the lower tail, where (1 - u) / 2 is exact; (1 + u) / 2 can round to 1.
        return self.minimum_s - self.scale_s * normal_quantile(0.5 * (1.0 - u))


@final
@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless times with mean ``mean_s``.

    Example:
        >>> round(Exponential(mean_s=1.0).draw_s(0, 0.5), 6)
        0.693147
    """

    name: ClassVar[str] = "exponential"
    fixed: ClassVar[bool] = False
    mean_s: float

    def __post_init__(self) -> None:
        _positive(self, "mean_s")
        _check_reach(self)

    def draw_s(self, client: int, u: float, /) -> float:
        """``-mean_s * log(1 - u)``."""
        return -self.mean_s * log(1.0 - u)


@final
@dataclass(frozen=True, slots=True)
class Pareto:
    """At least ``minimum_s``, with a tail that falls as ``time**-shape``.

    Example:
        >>> Pareto(minimum_s=1.0, shape=2.0).draw_s(0, 0.75)
        2.0
    """

    name: ClassVar[str] = "pareto"
    fixed: ClassVar[bool] = False
    minimum_s: float
    shape: float

    def __post_init__(self) -> None:
        _positive(self, "minimum_s", "shape")
        _check_reach(self)

    def draw_s(self, client: int, u: float, /) -> float:
        """``minimum_s * (1 - u) ** (-1 / shape)``."""
        # 1 - u is exact, see :func:`headway.task.streams.uniform`.
        power: float = (1.0 - u) ** (-1.0 / self.shape)
        return self.minimum_s * power


def _positive(law: Law, *options: str) -> None:
    for option in options:
        value = check_positive(option, getattr(law, option), where=f"population.{law.name}")
        object.__setattr__(law, option, value)


def _not_negative(law: Law, option: str) -> None:
    value = getattr(law, option)
    value = check_number(option, value, where=f"population.{law.name}", minimum=0)
    object.__setattr__(law, option, value)


def _check_reach(law: Law) -> None:
    for u in (2.0**-53, 1.0 - 2.0**-53):
        try:
            time_s = law.draw_s(0, u)
        except OverflowError:
            time_s = inf
        if not 0.0 < time_s < inf:
            raise ConfigurationError(
                "these options give times too large or too small for floating point",
                where=f"population.{law.name}",
                got=repr(law),
                help="times of usual clients lie between milliseconds and days; sigma is about 1",
            )
