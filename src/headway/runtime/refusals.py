"""Who was not let in: how often, by reason, and what the newest of each was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import unquote

__all__ = ["Refusals", "readable"]

_WORDS: Final = 300
_AT_THE_END: Final = frozenset({"stopping", "failed"})
"""What every worker hears of a server that ends: nothing is wrong with the worker."""


@final
@dataclass(slots=True)
class _Row:
    """All that were refused for one reason.

    Attributes:
        count: How many.
        words: What the newest was told.
        origin: Where that came from; empty: not known.
        when_s: When.
    """

    count: int
    words: str
    origin: str
    when_s: float


@final
class Refusals:
    """Counts them, in one row for each code: who tries a thousand times takes no more room.

    For any thread: a token is looked at where the call arrives, a model by the hub.

    Args:
        clock: Seconds.

    Attributes:
        noticed: Called with the code and a line for people, by whoever refuses; ``None``: nobody is told.

    Example:
        >>> refusals = Refusals(lambda: 0.0)
        >>> refusals.note("token", "the token is missing or wrong", "ipv4:10.0.0.3:41812")
        >>> refusals.text
        'a worker was refused: token (the token is missing or wrong)'
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.noticed: Callable[[str, str], object] | None = None
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._lock = threading.Lock()

    def note(self, code: str, message: str, peer: str = "") -> None:
        """A worker is refused.

        Args:
            code: Why, one word of the server's own.
            message: Why, in words; they may quote what the worker has said.
            peer: Where it comes from, as gRPC writes it; empty: not known.
        """
        if code in _AT_THE_END:
            return
        words, origin = readable(message), _host(peer)
        with self._lock:
            before = self._rows.pop(code, None)
            count = 1 if before is None else before.count + 1
            # The newest is the last one.
            self._rows[code] = _Row(count, words, origin, self._clock())
        if self.noticed is not None:
            who = f"a worker from {origin}" if origin else "a worker"
            self.noticed(code, f"{who} was refused, {code}: {words}")

    @property
    def text(self) -> str:
        """How often and why, the newest reason first; empty: nobody was refused."""
        with self._lock:
            rows = list(reversed(self._rows.items()))
        total = sum(row.count for _, row in rows)
        if total < 2:
            told = [f"a worker was refused: {code} ({row.words})" for code, row in rows]
            return "".join(told)
        parts = ", ".join(f"{code} {row.count:,} ({row.words})" for code, row in rows)
        return f"workers were refused {total:,} times: {parts}"

    def describe(self) -> dict[str, Any]:
        """The same in plain JSON: the total, the count of each code, and the newest of each."""
        now = self._clock()
        with self._lock:
            rows = list(reversed(self._rows.items()))
        return {
            "total": sum(row.count for _, row in rows),
            "reasons": {code: row.count for code, row in sorted(rows)},
            "newest": [
                {
                    "code": code,
                    "message": row.words,
                    "from": row.origin or None,
                    "ago_s": round(now - row.when_s, 3),
                }
                for code, row in rows
            ],
        }


def readable(message: str) -> str:
    r"""One line of bounded length that a terminal can be shown, whatever a stranger has put into it.

    Args:
        message: What was said.

    Example:
        >>> readable("a layer\r\n\x1b[2Jnamed \ud800")
        'a layer ?[2Jnamed ?'
    """
    cut = message if len(message) <= _WORDS else f"{message[:_WORDS]} ..."
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(cut.split()))


def _host(peer: str) -> str:
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return readable(unquote(place).rpartition(":")[0].strip("[]"))
