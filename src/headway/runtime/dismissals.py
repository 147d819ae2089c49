"""Workers whose updates are rejected again and again: how that is judged, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from headway.core import Noted

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.core import Receipt
    from headway.runtime.members import Member
    from headway.runtime.parcel import Session

__all__ = ["MAX_REJECTIONS", "Dismissals"]

MAX_REJECTIONS: Final = 20
LEAVE_S: Final = 5.0
"""How long a worker that was told to stop has for leaving, in seconds."""
_FAULTS: Final = frozenset(
    {
        "bad_count",
        "bad_weight",
        "future_version",
        "not_finite",
        "wrong_buffers",
        "wrong_dtype",
        "wrong_fragment",
        "wrong_size",
        "wrong_type",
        "wrong_version",
    }
)
"""What is wrong with an update itself."""
_NOT_ITS_OWN: Final = frozenset(
    {"cancelled", "lost", "mean_not_finite", "transform_failed", "wrong_device"}
)
"""What the server did, or others."""
_NOBODYS: Final = frozenset({"unknown_job", "unknown_worker"})
_SOUND_FOR_A_FAULT: Final = 50
"""A sound update that the algorithm has no use for is no fault; for ever, it is of no use."""


@final
class Dismissals:
    """Judges each receipt, and knows who was told to stop and has not left. For the hub's thread.

    A worker is told to stop when ``max_rejections`` of its updates in a row had something wrong in
    them: not finite, of another size or dtype, of a version that it was not given, with counts that
    cannot be. An update that is sound and that the algorithm does not take, because it is too stale,
    say, counts a fiftieth of one. One that is rejected for what the server or others did (a job that
    was cancelled or lost, an error in a rule) counts nothing, and one that is taken ends the row.

    Args:
        max_rejections: At least 1; ``None``: nobody is told to stop.
        noticed: Called with a worker and ``"rejected"``, once in a row, where so many of its updates
            were not taken and it is not told to stop yet.

    Attributes:
        num_told: How many were told to stop.

    Example:
        >>> from headway.core import Receipt
        >>> from headway.runtime.members import Member
        >>> ada = Member("ada", 0, "", None, 0.0, 0.0)
        >>> bad = Receipt("rejected", "not_finite", 0, 0.0, 0, 1)
        >>> stale, good = bad._replace(reason="too_stale"), bad._replace(status="applied", reason="")
        >>> dismissals = Dismissals(2)
        >>> [dismissals.judge(ada, receipt) for receipt in (bad, stale, good, bad, stale, bad)]
        ['', '', '', '', '', 'the last 3 updates were rejected: 2 not_finite, 1 too_stale']
    """

    def __init__(
        self,
        max_rejections: int | None,
        noticed: Callable[[Member, str], object] | None = None,
    ) -> None:
        self.max_rejections = max_rejections
        self._noticed = noticed
        self.num_told = 0
        self._leaving: dict[Session, float] = {}

    @property
    def due_s(self) -> float | None:
        """When to look who has not left; ``None``: everybody has."""
        return min(self._leaving.values(), default=None)

    def judge(self, member: Member, receipt: Receipt, *, was_out: bool = True) -> str:
        """Take a receipt in: why this worker shall stop now; empty: it need not.

        Args:
            member: Whose update it was.
            receipt: What became of it.
            was_out: Whether its job was out, with this worker. Else it was judged before, or is late,
                or is nobody's: only the last counts, as a sound one.
        """
        row = member.in_a_row
        if receipt.status != "rejected":
            # A receipt that is given again is no news.
            if was_out:
                row.clear()
            return ""
        if receipt.reason in _NOT_ITS_OWN or not (was_out or receipt.reason in _NOBODYS):
            return ""
        row[receipt.reason] += 1
        if self.max_rejections is None:
            return ""
        faults = sum(count for reason, count in row.items() if reason in _FAULTS)
        score = faults * _SOUND_FOR_A_FAULT + row.total() - faults
        if score >= self.max_rejections * _SOUND_FOR_A_FAULT:
            return row_text(member)
        if row.total() == self.max_rejections and self._noticed is not None:
            self._noticed(member, "rejected")
        return ""

    def begin(self, member: Member, session: Session, reason: str, now: float) -> Noted:
        """A worker is told to stop: what is written down.

        Args:
            member: Who.
            session: Its connection.
            reason: Why, in words.
            now: The server's time.
        """
        member.told, member.asking = reason, 0
        self.num_told += 1
        self._leaving[session] = now + LEAVE_S
        return Noted(now, "told_to_stop", {"worker": member.name, "reason": reason})

    def left(self, session: Session) -> None:
        """A connection has ended.

        Args:
            session: It.
        """
        self._leaving.pop(session, None)

    def expired(self, now: float) -> list[Session]:
        """Those who were told to stop, and are here still after their time.

        Args:
            now: The server's time.
        """
        if not self._leaving:
            return []
        return [session for session, until_s in self._leaving.items() if now >= until_s]


def row_text(member: Member) -> str:
    """How a worker's updates have been rejected lately, in words.

    Args:
        member: It.
    """
    count = member.in_a_row.total()
    reasons = ", ".join(f"{many:,} {reason}" for reason, many in member.in_a_row.most_common())
    which = "update was" if count == 1 else f"{count:,} updates were"
    return f"the last {which} rejected: {reasons}"
