"""When clients may start: windows from a trace, or a daily rhythm that belongs to the seed.

A client starts a job only inside one of its windows. Every answer is a pure function of the client,
the time and the seed, so there is no state here, and nothing to save. Times are virtual seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import inf, isfinite, nextafter, ulp
from typing import Any, Final, Literal, Protocol, final

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation.arguments import check_number, check_positive, is_list
from headway.task.streams import Purpose, job_uniform, stream_key

__all__ = ["Availability", "Diurnal", "Leaving", "Spans", "Windows"]

Leaving = Literal["finish", "lose"]
"""What a client does with a job that outlasts its window: it ends it, or the job is lost."""

Spans = tuple[tuple[float, float], ...]
"""One client's windows, each from a start up to but without an end; in order, apart."""

_WHERE: Final = "population.with_windows"
_LEAVING: Final = ("finish", "lose")


class Availability(Protocol):
    """When each client may start."""

    @property
    def leaving(self) -> Leaving:
        """What becomes of a job that outlasts its window."""
        ...

    def opens_s(self, client: int, now: float, seed: int) -> float:
        """The first time from ``now`` on at which it may start: ``now`` itself, later, or inf."""
        ...

    def closes_s(self, client: int, now: float, seed: int) -> float:
        """When the window that is open at ``now`` ends; inf: never."""
        ...

    def describe(self) -> dict[str, Any]:
        """It as a plain tree."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Windows:
    """Windows for each client, once or again and again.

    Args:
        spans: One entry a client; a client without a window never starts.
        period_s: After which they repeat, in virtual seconds, at least the last end: one for all or
            one for each client; ``None``: they come once.
        leaving: What becomes of a job that outlasts its window.

    Raises:
        ConfigurationError: A window is empty, overlaps another or lies outside the period.

    Example:
        >>> days = Windows((((0.0, 8.0),), ((20.0, 24.0),)), period_s=24.0)
        >>> days.opens_s(0, 9.0, seed=0), days.opens_s(1, 21.0, seed=0)
        (24.0, 21.0)
    """

    spans: tuple[Spans, ...]
    period_s: float | tuple[float, ...] | None = None
    leaving: Leaving = "finish"

    def __post_init__(self) -> None:
        check_leaving(self.leaving, _WHERE)
        object.__setattr__(self, "period_s", _checked_period(self.period_s, len(self.spans)))
        spans = tuple(
            _joined(client, given, self._period_s(client) or inf)
            for client, given in enumerate(self.spans)
        )
        object.__setattr__(self, "spans", spans)

    def opens_s(self, client: int, now: float, seed: int) -> float:
        """``now`` inside a window, else the start of the next one; inf after the last."""
        spans, period = self.spans[client], self._period_s(client)
        if not spans:
            return inf
        local = now if period is None else now % period
        after = bisect_right(spans, (local, inf))
        if after and local < spans[after - 1][1]:
            return now
        if after < len(spans):
            wait = spans[after][0] - local
        elif period is None:
            return inf
        else:
            wait = period - local + spans[0][0]
        return _landed(now + wait, lambda t: self._is_open(client, t))

    def closes_s(self, client: int, now: float, seed: int) -> float:
        """The end of the window around ``now``; one that goes on in the next period is one."""
        spans, period = self.spans[client], self._period_s(client)
        local = now if period is None else now % period
        start, end = spans[max(0, bisect_right(spans, (local, inf)) - 1)]
        if period is not None and end == period and spans[0][0] == 0.0:
            if start == 0.0:
                return inf
            end += spans[0][1]
        if period is None:
            return end
        return _landed(now + (end - local), lambda t: not self._is_open(client, t))

    def describe(self) -> dict[str, Any]:
        """How many windows there are, and a digest of them: there may be millions."""
        digest = sha256(repr((self.spans, self.period_s)).encode()).hexdigest()[:16]
        count = sum(map(len, self.spans))
        return {
            "name": "windows",
            "num_windows": count,
            "digest": digest,
            "period_s": "one for each client" if type(self.period_s) is tuple else self.period_s,
            "leaving": self.leaving,
        }

    def _period_s(self, client: int) -> float | None:
        period = self.period_s
        return period[client] if isinstance(period, tuple) else period

    def _is_open(self, client: int, now: float) -> bool:
        spans, period = self.spans[client], self._period_s(client)
        local = now if period is None else now % period
        after = bisect_right(spans, (local, inf))
        return after > 0 and local < spans[after - 1][1]


@final
@dataclass(frozen=True, slots=True)
class Diurnal:
    """One window a day for each client, which begins at an hour that belongs to it.

    ``begin = spread * period_s * u`` with a uniform ``u`` of (seed, client); it is open while
    ``(now - begin) mod period_s < open_s``. With a spread of 1 the share that is available is
    ``open_s / period_s`` at any time; with 0 all come and go together.

    Args:
        open_s: Length of the window, in virtual seconds, above 0, at most ``period_s``.
        period_s: Length of a day, in virtual seconds, above 0.
        spread: Over which share of the day the beginnings lie, in [0, 1].
        leaving: What becomes of a job that outlasts its window.

    Raises:
        ConfigurationError: A value is outside its range.

    Example:
        >>> nights = Diurnal(open_s=8.0, period_s=24.0, spread=0.0)
        >>> nights.opens_s(0, 7.0, seed=0), nights.opens_s(0, 9.0, seed=0)
        (7.0, 24.0)
    """

    open_s: float
    period_s: float = 86_400.0
    spread: float = 1.0
    leaving: Leaving = "finish"

    def __post_init__(self) -> None:
        where = "population.with_diurnal"
        check_leaving(self.leaving, where)
        period = check_positive("period_s", self.period_s, where=where)
        length = check_positive("open_s", self.open_s, where=where)
        spread = check_number("spread", self.spread, where=where, minimum=0)
        for name, value, most in (("open_s", length, period), ("spread", spread, 1.0)):
            if value > most:
                raise ConfigurationError(
                    f"{name} is too large",
                    where=where,
                    got=f"{name} = {value:g}",
                    expected=f"at most {most:g}",
                    help="open_s is a part of period_s; spread is a share of it",
                )
            object.__setattr__(self, name, value)
        object.__setattr__(self, "period_s", period)

    def opens_s(self, client: int, now: float, seed: int) -> float:
        """``now`` inside the window, else the next day's beginning."""
        local = self._local(client, now, seed)
        if local < self.open_s:
            return now
        landed = now + (self.period_s - local)
        return _landed(landed, lambda t: self._local(client, t, seed) < self.open_s)

    def closes_s(self, client: int, now: float, seed: int) -> float:
        """The end of the window around ``now``; inf where it is the whole day."""
        if self.open_s == self.period_s:
            return inf
        closing = now + (self.open_s - self._local(client, now, seed))
        return _landed(closing, lambda t: self._local(client, t, seed) >= self.open_s)

    def describe(self) -> dict[str, Any]:
        """Its options."""
        return {
            "name": "diurnal",
            "open_s": self.open_s,
            "period_s": self.period_s,
            "spread": self.spread,
            "leaving": self.leaving,
        }

    def _local(self, client: int, now: float, seed: int) -> float:
        u = job_uniform(stream_key(seed, Purpose.DAY), client, 0)
        return (now - self.spread * self.period_s * u) % self.period_s


def _landed(time_s: float, is_there: Callable[[float], bool]) -> float:
    """The first float at or just after ``time_s`` that is beyond the border it stands for.

    A rounded sum may lie a hair before it: a window would still be shut at its beginning, or open
    at its end, and whoever asks again then would do so for ever.
    """
    step = ulp(time_s)
    time_s = max(time_s, nextafter(0.0, inf))
    while time_s < inf and not is_there(time_s):
        time_s += step
        step *= 2.0
    return time_s


def _checked_period(
    period_s: float | Iterable[float] | None, num_clients: int
) -> float | tuple[float, ...] | None:
    if period_s is None:
        return None
    if not isinstance(period_s, Iterable):
        return check_positive("period_s", period_s, where=_WHERE)
    periods = tuple(check_positive("a period", period, where=_WHERE) for period in period_s)
    if len(periods) != num_clients:
        raise ConfigurationError(
            "there must be one period for each client",
            where=_WHERE,
            got=f"{len(periods)} periods, {num_clients} clients",
            help="or give one number for all",
        )
    return periods


def _joined(client: int, given: Iterable[Iterable[float]], limit: float) -> Spans:
    """A client's windows in order, those that touch as one."""
    if not is_list(given):
        raise _no_windows(client, given)
    checked = sorted(_checked(client, span, limit) for span in given)
    joined: list[tuple[float, float]] = []
    for start, end in checked:
        if joined and start < joined[-1][1]:
            raise _unusable(
                client, f"{joined[-1]} and {(start, end)}", "windows that do not overlap"
            )
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _checked(client: int, span: Iterable[float], limit: float) -> tuple[float, float]:
    if not is_list(span):
        raise _no_windows(client, span)
    ends = tuple(span)
    if len(ends) != 2:
        raise _unusable(client, repr(ends), "a start and an end")
    start = check_number(f"a start of client {client}", ends[0], where=_WHERE, minimum=0)
    end = float(ends[1]) if ends[1] == inf else check_number("its end", ends[1], where=_WHERE)
    if start < end <= limit:
        return start, end
    upper = f" <= period_s = {limit:g}" if isfinite(limit) else ""
    raise _unusable(client, f"[{start:g}, {end:g}]", f"0 <= start < end{upper}")


def _no_windows(client: int, got: object) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"client {client} must have a list of windows",
        where=_WHERE,
        got=repr(got),
        expected="[start, end] pairs",
        help="write [[start, end], ...] for each client, [] for one that never starts",
    )


def _unusable(client: int, got: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"client {client} has a window that cannot be used",
        where=_WHERE,
        got=got,
        expected=expected,
        help="windows are [start, end] in virtual seconds",
    )


def check_leaving(leaving: str, where: str) -> None:
    """Refuse what is no way to leave.

    Args:
        leaving: What was given.
        where: The function it was given to.

    Raises:
        UnknownNameError: It is neither ``"finish"`` nor ``"lose"``.
    """
    if leaving not in _LEAVING:
        raise UnknownNameError.of("leaving", str(leaving), _LEAVING, where=where)
