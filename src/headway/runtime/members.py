"""Who is connected, and what each has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from headway.runtime import wire
from headway.runtime.encoded import Traffic
from headway.runtime.letters import failed_letter, refused_letter
from headway.runtime.refusals import Refusals, readable

if TYPE_CHECKING:
    from headway.core import Receipt
    from headway.runtime.parcel import Parcel, Session

__all__ = ["Member", "Members"]

_RECENT = 0.1
_REMEMBERED = 1024


@final
@dataclass(slots=True, eq=False)
class Member:
    """A worker that was let in, and all that is told of it.

    Attributes:
        name: Its name.
        index: A number that it keeps, from 0, in the order in which names were first seen.
        instance: What its process calls itself.
        session: Its connection; ``None``: it is not here now.
        joined_s: When it joined last, in the server's seconds.
        seen_s: When it was heard of last.
        jobs: Its jobs in flight.
        asking: How many jobs it has asked for and not been given.
        waits: Why it was given none; empty: it was, or it has left.
        works: Whether it has asked for a job, or handed one in, since this server's start.
        looked: Whether it has looked at the model.
        known: Whether the server may know it, and has to hear when it is gone.
        counts: Receipts by status, and rejected ones as ``"rejected:<reason>"``.
        in_a_row: Reasons for which its updates were rejected since one was taken, those left out
            that are not its own affair. Whoever comes back under the same name goes on with it.
        told: Why it was told to stop, and has not come back since; empty: it was not.
        staleness: Of its recent updates, in versions.
        left: Why it is not here: ``"left"`` or ``"lost"``.
        farewell: What it said when it left, made fit to be shown; empty: nothing.
        carrier: How its vectors travel: ``"shared memory"`` or ``"inline"``.
        traffic: What it has sent and was sent, over all its connections.
    """

    name: str
    index: int
    instance: str
    session: Session | None
    joined_s: float
    seen_s: float
    jobs: set[int] = field(default_factory=set)
    asking: int = 0
    waits: str = ""
    works: bool = False
    looked: bool = False
    known: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    in_a_row: Counter[str] = field(default_factory=Counter)
    told: str = ""
    staleness: float = 0.0
    left: str = ""
    farewell: str = ""
    carrier: str = ""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def came_for_nothing(self) -> bool:
        """Whether it has left in order, and had neither asked for a job nor looked at the model."""
        began = self.works or self.known or self.looked or self.counts["updates"]
        return self.left == "left" and not began

    def hear(self, kind: str | None, parcel: Parcel, carrier: str, now: float) -> None:
        """It has said something.

        Args:
            kind: Of the message.
            parcel: The message.
            carrier: How its vectors travel.
            now: The server's time.
        """
        self.seen_s, self.carrier = now, carrier
        if kind == "leave":
            self.farewell = readable(parcel.header.leave.reason)
        elif kind == "ask" and parcel.header.ask.look:
            self.looked = True

    def note(self, receipt: Receipt) -> None:
        """Count a receipt.

        Args:
            receipt: What became of an update of its.
        """
        self.counts["updates"] += 1
        self.counts[receipt.status] += 1
        if receipt.status == "rejected":
            self.counts[f"rejected:{receipt.reason}"] += 1
            return
        share = 1.0 if self.counts["applied"] + self.counts["buffered"] == 1 else _RECENT
        self.staleness += share * (receipt.staleness - self.staleness)

    def describe(self, now: float) -> dict[str, Any]:
        """Say in plain JSON how it is.

        Args:
            now: The server's time.
        """
        state = self.left or ("working" if self.jobs else "waiting" if self.asking else "idle")
        if self.told:
            state = "told to stop"
        return {
            "name": self.name,
            "state": state,
            "waits": self.waits or None,
            "carrier": self.carrier,
            **self.traffic.describe(),
            "jobs": len(self.jobs),
            "updates": self.counts["updates"],
            "applied": self.counts["applied"],
            "buffered": self.counts["buffered"],
            "rejected": self.counts["rejected"],
            "reasons": {
                key.partition(":")[2]: count
                for key, count in sorted(self.counts.items())
                if key.startswith("rejected:")
            },
            "rejected_in_a_row": self.in_a_row.total(),
            "told_to_stop": self.told or None,
            "farewell": self.farewell or None,
            "lost": self.counts["lost"],
            "staleness": round(self.staleness, 3),
            "joined_s": round(self.joined_s, 3),
            "seen_s_ago": round(max(0.0, now - self.seen_s), 3),
        }


@final
class Members:
    """The workers that were let in, by name and by connection.

    Of those who have left, the last thousand or so are remembered: a server that runs for months is
    visited by workers without number.

    Attributes:
        num_names: How many names were ever seen; the number of the next new one.
        num_working: How many have asked for a job since the start: not those who only looked.
        noticed: Called with a worker, what has happened to it, and how many are here:
            ``"joined"``, ``"left"``, ``"lost"``, ``"told to stop"``, or ``"rejected"``: for some time.
            By the hub's thread; ``None``: nobody is told.
        refusals: Who was not let in, or let go for what it said. For any thread.
    """

    def __init__(self) -> None:
        self.noticed: Callable[[Member, str, int], object] | None = None
        self.by_name: dict[str, Member] = {}
        self.here: dict[Session, Member] = {}
        self.refusals = Refusals()
        self.num_names = 0
        self.num_working = 0
        self._gone: dict[str, None] = {}

    def free_name(self) -> str:
        """A name that nobody has had."""
        number = self.num_names
        while f"worker-{number}" in self.by_name:
            number += 1
        return f"worker-{number}"

    def join(self, name: str, instance: str, session: Session, now: float) -> Member:
        """Let a worker in.

        Args:
            name: Of one that is not here now; empty: one that nobody has had.
            instance: What its process calls itself.
            session: Its connection.
            now: The server's time.
        """
        name = name or self.free_name()
        member = self.by_name.get(name)
        if member is None:
            member = self._new(name, self.num_names, now)
        self._gone.pop(name, None)
        member.instance, member.session = instance, session
        before, member.traffic = member.traffic, session.traffic
        member.traffic.add(before)
        member.joined_s = member.seen_s = now
        member.asking, member.left, member.told, member.farewell = 0, "", "", ""
        self.here[session] = member
        self.notice(member, "joined")
        return member

    def restore(
        self, name: str, now: float, index: int | None = None, *, left: str = "lost"
    ) -> Member:
        """One that an earlier life of the server has known; it is not here.

        Args:
            name: Its name.
            now: The server's time.
            index: Its number; ``None``: a new one.
            left: Why it is not here: ``"left"`` or ``"lost"``.
        """
        member = self._new(name, self.num_names if index is None else index, now)
        member.left, member.known = left, True
        self._gone[name] = None
        return member

    def refuse(self, session: Session, code: str, message: str, help: str = "") -> None:
        """Tell a worker that it cannot be in, and remember that.

        Args:
            session: Whose.
            code: Why, one word.
            message: Why, in words.
            help: What to do.
        """
        # Who is in the same process, or at the other end of a pipe, comes from nowhere.
        self.refusals.note(code, message, getattr(session, "peer", ""))
        session.send(refused_letter(code, message, help))

    def asked(self, member: Member) -> None:
        """It wants a job.

        Args:
            member: Who.
        """
        member.asking += 1
        self.worked(member)

    def worked(self, member: Member) -> None:
        """It is one that works.

        Args:
            member: Who.
        """
        self.num_working += not member.works
        member.works = member.known = True

    def notice(self, member: Member, what: str) -> None:
        """Something that a person may want to know has happened to a worker.

        Args:
            member: Who.
            what: In a few words.
        """
        if self.noticed is not None:
            self.noticed(member, what, len(self.here))

    def tell(self, header: wire.ToWorker) -> None:
        """Send all who are here a message.

        Args:
            header: It.
        """
        for session in list(self.here):
            session.send(header)

    def tell_of(self, problem: Exception | None) -> None:
        """Say to all why nothing is acknowledged now; what is said of a job later is the newest.

        Args:
            problem: Why; ``None``: it is over.
        """
        self.tell(_about(problem))

    def tell_again(self, session: Session, problem: Exception) -> None:
        """Say to one of them why what it has sent since waits, too.

        Args:
            session: Whose; of one that is not in, nothing is done.
            problem: Why.
        """
        if session in self.here:
            session.send(_about(problem))

    def close(self, error: BaseException | None) -> None:
        """Let all go.

        Args:
            error: What has ended the server, which they are told; ``None``: nothing has.
        """
        for session in list(self.here):
            if error is not None:
                session.send(failed_letter(error))
            session.close()

    def leave(self, member: Member, why: str) -> None:
        """It is no longer here.

        Args:
            member: Who.
            why: ``"left"`` or ``"lost"``.
        """
        if member.session is not None:
            self.here.pop(member.session, None)
        member.session, member.left, member.asking, member.waits = None, why, 0, ""
        member.jobs = set()
        self.notice(member, why)
        self._gone[member.name] = None
        while len(self._gone) > _REMEMBERED:
            name = next(iter(self._gone))
            del self._gone[name]
            # What it still has out may come back with it.
            if not self.by_name[name].jobs:
                del self.by_name[name]

    def _new(self, name: str, index: int, now: float) -> Member:
        member = self.by_name[name] = Member(name, index, "", None, now, now)
        self.num_names = max(self.num_names, index + 1)
        return member


def _about(problem: Exception | None) -> wire.ToWorker:
    reason = "the server can log again" if problem is None else str(problem)
    return wire.ToWorker(wait=wire.Wait(reason=reason))
