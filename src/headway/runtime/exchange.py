"""A worker's side of the exchange: join, check out, submit and check out again in one trip, leave.

It knows no link: the same calls go through a pipe or over the network.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from torch import Tensor

from headway import __version__
from headway.core import Buffers, ParameterLayout, Receipt
from headway.core.errors import ExchangeError, ProtocolError, ServerLostError
from headway.runtime import wire
from headway.runtime.encoded import Traffic
from headway.runtime.letters import REJECTED
from headway.runtime.narrow import Narrow
from headway.runtime.parcel import Parcel, WorkerLink
from headway.runtime.pending import Pending
from headway.runtime.verdicts import end_of, receipt_of, refusal_of
from headway.runtime.work import Invitation, Work, work_of

__all__ = ["Exchange", "Invitation", "Work"]

_JOIN_S: Final = 30.0
_NOTHING: Final[Mapping[str, float]] = {}
_NO_REASON: Final = "the server has not said why"


@dataclass(slots=True)
class _Told:
    """What the server has said that nobody has asked for yet."""

    stop: str | None = None
    drain: bool = False
    code: str = ""
    waiting: str = ""
    looks: list[Work] = field(default_factory=list)


@final
class Exchange:
    """A worker's conversation with its server.

    Args:
        link: The connection.
        worker: What it wants to be called; empty: as the server likes.
        layout: Of its model; ``None``: the server shall say what the model is.
        instance: What tells this process from others; by default drawn.
        machine: What it may share memory with; empty: nothing.
        receipt: Told what became of each update, and the answer where there is one.
        narrow: What compresses its updates; ``None``: nothing does.
        keeps: Whether pushes are kept until their receipt, so that :meth:`resume` can send them.

    Example::

        exchange = Exchange(link)
        exchange.join()
        exchange.ask()
        while (work := exchange.next()) is not None:
            exchange.push(work, train(work), num_examples=32, again=True)
        exchange.leave()
    """

    def __init__(
        self,
        link: WorkerLink,
        *,
        worker: str = "",
        layout: ParameterLayout | None = None,
        instance: str = "",
        machine: str = "",
        receipt: Callable[[Receipt], None] | None = None,
        narrow: Narrow | None = None,
        keeps: bool = False,
    ) -> None:
        self._link = link
        self._worker = worker
        self._layout = layout
        self._instance = instance or secrets.token_hex(8)
        self._machine = machine
        self._receipt = receipt
        self._narrow = narrow
        self._jobs: deque[Work] = deque()
        self._cancelled: set[int] = set()
        self._outstanding = Pending(keeps=keeps)
        # The job that the worker is at, and how many it has asked for and was not given.
        self._in_hand: int | None = None
        self._due = 0
        self._told = _Told()
        self._shared = False

    @property
    def stopped(self) -> str | None:
        """Why the server wants this worker to leave; ``None``: it does not."""
        return self._told.stop

    @property
    def is_dismissed(self) -> bool:
        """Whether it is this worker that is not wanted, because its updates were rejected."""
        return self._told.code == REJECTED

    @property
    def drains(self) -> bool:
        """Whether the server still takes what is nearly done."""
        return self._told.stop is None or self._told.drain

    @property
    def waiting(self) -> str:
        """Why the server gave no job when it was asked last; empty where it gave one."""
        return self._told.waiting

    @property
    def traffic(self) -> Traffic:
        """What went over the connection."""
        return self._link.traffic

    def join(self, timeout_s: float = _JOIN_S, *, holds: Iterable[int] = ()) -> Invitation:
        """Introduce oneself.

        Args:
            timeout_s: How long to wait for the answer, in seconds.
            holds: Of who comes back: its jobs that have no receipt, handed in or not.

        Raises:
            RefusedError: The server does not let this worker in.
            ServerLostError: It has gone, or did not answer in time.
        """
        layout = "" if self._layout is None else json.dumps(self._layout.describe())
        join = wire.Join(
            protocol=wire.PROTOCOL,
            library=__version__,
            worker=self._worker,
            instance=self._instance,
            layout=layout,
            machine=self._machine,
            differences=self._narrow is not None and self._narrow.reads_differences,
            holds=holds,
        )
        self._link.send(Parcel(wire.ToServer(join=join)))
        delivery = self._link.receive(timeout_s)
        if delivery is None:
            raise ServerLostError(
                "the server did not answer", expected=f"an answer within {timeout_s:g} seconds"
            )
        header = delivery.header
        if header.HasField("refused"):
            raise refusal_of(header.refused)
        if not header.HasField("welcome"):
            raise ProtocolError("the server neither welcomed nor refused this worker")
        return self._enter(header.welcome)

    def _enter(self, welcome: wire.Welcome) -> Invitation:
        try:
            model = json.loads(welcome.model) if welcome.model else None
            layout = ParameterLayout.from_description(json.loads(welcome.layout))
            instructions = dict(json.loads(welcome.instructions))
        except (ValueError, TypeError, RecursionError) as error:
            raise ProtocolError("the server's welcome cannot be read", got=str(error)) from error
        self._worker = welcome.worker
        self._shared = self._link.attach(welcome, layout)
        if self._narrow is not None:
            self._narrow.enter(
                welcome.encodings,
                layout,
                str(instructions.get("payload", "")),
                self._link.traffic,
                shared=self._shared,
            )
        return Invitation(welcome.worker, layout, model, instructions, self._shared)

    def forget_name(self) -> None:
        """The next time that it joins, the server chooses its name."""
        self._worker = ""

    def resume(self, link: WorkerLink, timeout_s: float = _JOIN_S) -> Invitation:
        """Go on over a new connection, also with a server that was started anew.

        What has no receipt is handed in again, and is applied once. The job that the worker is at
        stays with it; jobs that it has not begun are dropped, and asked for again.

        Args:
            link: It. The one before is closed.
            timeout_s: How long to wait for the answer to each question, in seconds.

        Raises:
            RefusedError: The server does not let this worker in.
            ServerLostError: It has gone again; this may be repeated.
        """
        self._link.close()
        self._link = link
        self._jobs.clear()
        # That the one in hand is no longer wanted may not have been asked yet.
        self._cancelled.intersection_update(self._in_hands)
        self._told = _Told()
        holds = [*self._outstanding.jobs, *self._in_hands.difference(self._cancelled)]
        invitation = self.join(timeout_s, holds=holds)
        for parcel in self._outstanding.again():
            self._link.send(self._fitting(parcel))
        due, self._due = self._due, 0
        try:
            for _ in range(due):
                self.ask()
        finally:
            self._due = due
        return invitation

    def overhear(self) -> None:
        """Take in what has come by now, also over a connection that has ended. Does not wait.

        Raises:
            RefusedError: The server has let this worker go.
            ServerLostError: The server has gone.
        """
        while self._hear(0.0):
            pass

    def ask(self) -> None:
        """Ask for a job. Asked twice, the next job is here while the first is worked on.

        Raises:
            ServerLostError: The server has gone.
        """
        self._due += 1
        self._link.send(Parcel(wire.ToServer(ask=wire.Ask(shared=self._shared))))

    def look(self, timeout_s: float | None = None) -> Work | None:
        """The server's model as it is now; ``None``: it wants this worker to leave, or is too slow.

        Args:
            timeout_s: How long to wait, in seconds; ``None``: for ever.

        Returns:
            No job: it is not handed in. Its vectors are valid until something else is asked for.

        Raises:
            ServerLostError: The server has gone.
        """
        looks = self._told.looks
        looks.clear()
        self._link.send(Parcel(wire.ToServer(ask=wire.Ask(shared=self._shared, look=True))))
        while not looks and self._told.stop is None:
            if not self._hear(timeout_s):
                return None
        return looks[-1] if looks else None

    def next(self, timeout_s: float | None = None) -> Work | None:
        """The next job; ``None``: the server wants this worker to leave, or none came in time.

        Args:
            timeout_s: How long to wait, in seconds; ``None``: for ever.

        Raises:
            ServerLostError: The server has gone.
        """
        while not self._jobs and self._told.stop is None:
            if not self._hear(timeout_s):
                return None
        while self._jobs and self._told.stop is None:
            work = self._jobs.popleft()
            if work.job not in self._cancelled:
                if self._narrow is not None:
                    self._narrow.begins()
                self._in_hand, self._due = work.job, max(0, self._due - 1)
                return work
            self._cancelled.discard(work.job)
            return self.next(timeout_s)
        return None

    def is_cancelled(self, work: Work) -> bool:
        """Whether the server no longer wants this; a job of a worker that shall leave is not.

        Does not wait. To be asked between two steps of a long job.

        Args:
            work: A job that was not handed in.
        """
        self.overhear()
        return work.job in self._cancelled or not self.drains

    def linger(self, work: Work, duration_s: float) -> bool:
        """Wait, and listen meanwhile: whether the job is still wanted at the end.

        Ends early where the job is cancelled, or the server wants this worker to leave.

        Args:
            work: A job that was not handed in.
            duration_s: How long, in seconds.
        """
        until = time.monotonic() + duration_s
        while (left_s := until - time.monotonic()) > 0.0:
            if work.job in self._cancelled or self._told.stop is not None:
                break
            self._hear(left_s)
        return not self.is_cancelled(work)

    def room(self) -> Tensor | None:
        """Where the next payload may be written: one that lies there is not copied by :meth:`push`.

        Waits, as :meth:`push` does, until the update before has its receipt: it lies there.

        Returns:
            Flat, as long as the model; its values do not matter. ``None``: there is no such place.

        Raises:
            ServerLostError: The server has gone.
        """
        if self._narrow is not None or (room := self._link.room()) is None:
            return None
        return room if self.settle() and not self._outstanding else None

    def push(
        self,
        work: Work,
        payload: Tensor,
        *,
        num_examples: int,
        num_steps: int = 1,
        num_processed: int = 0,
        fragment: int | None = None,
        buffers: Buffers | None = None,
        metrics: Mapping[str, float] = _NOTHING,
        again: bool = True,
    ) -> bool:
        """Hand in a job: whether it was; one that was cancelled meanwhile is not.

        Waits until the one before has its receipt.

        Args:
            work: The job.
            payload: Flat, as the instructions say. It may be written to when this returns.
            num_examples: What the payload counts for in a mean.
            num_steps: How many local steps it took.
            num_processed: How many examples the work went through.
            fragment: Which fragment the payload is.
            buffers: The model's buffers afterwards.
            metrics: What this worker reports.
            again: Whether it asks for another job.

        Raises:
            ServerLostError: The server has gone.
        """
        self.settle()
        if work.job in self._cancelled:
            self._cancelled.discard(work.job)
            self._in_hand = None
            return False
        push = wire.Push(
            job=work.job,
            base_version=work.version,
            num_examples=num_examples,
            num_steps=num_steps,
            num_processed=num_processed,
            fragment=fragment,
            metrics=metrics,
            again=again,
        )
        encoded = None
        if self._narrow is not None:
            encoded = self._narrow.encode(work.job, payload, fragment)
        parcel = self._fitting(Parcel(wire.ToServer(push=push), payload, buffers, encoded))
        self._in_hand, self._due = None, self._due + again
        self._outstanding.add(work.job, parcel)
        self._link.send(parcel)
        return True

    def drop(self, work: Work) -> None:
        """A job is not handed in: it was cancelled, or the server wants this worker to leave.

        Args:
            work: It.
        """
        self._cancelled.discard(work.job)
        self._in_hand = None

    def settle(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was handed in has its receipt: whether it has.

        Args:
            timeout_s: How long to wait, in seconds; ``None``: for ever.

        Raises:
            ServerLostError: The server has gone.
        """
        while self._outstanding and self.drains:
            if not self._hear(timeout_s):
                return False
        return True

    def leave(self, reason: str = "") -> None:
        """Say good-bye, and end the connection. May be called twice, and raises nothing.

        Args:
            reason: Why.
        """
        try:
            self._link.send(Parcel(wire.ToServer(leave=wire.Leave(reason=reason))))
        except ExchangeError:
            pass
        finally:
            self._link.close()

    @property
    def _in_hands(self) -> set[int]:
        return set() if self._in_hand is None else {self._in_hand}

    def _fitting(self, parcel: Parcel) -> Parcel:
        """An update in a form that this connection carries; what it says stays the same."""
        encoded, narrow = parcel.encoded, self._narrow
        if encoded is None or narrow is None or narrow.takes(encoded.codec):
            return parcel
        assert parcel.vector is not None, "what is encoded is a vector"
        return parcel._replace(vector=encoded.read(parcel.vector), encoded=None)

    def _hear(self, timeout_s: float | None) -> bool:
        delivery = self._link.receive(timeout_s)
        if delivery is None:
            return False
        header = delivery.header
        kind = header.WhichOneof("kind")
        if kind == "job" and header.job.look:
            self._told.looks.append(work_of(delivery))
        elif kind == "job":
            self._told.waiting = ""
            self._jobs.append(work_of(delivery))
        elif kind == "receipt":
            self._outstanding.done(header.receipt.job)
            if self._narrow is not None:
                taken = header.receipt.status != "rejected"
                self._narrow.settled(header.receipt.job, taken=taken)
            if self._receipt is not None:
                self._receipt(receipt_of(delivery))
        elif kind == "cancel":
            self._cancelled.add(header.cancel.job)
            # Another comes in its place, without being asked for.
            self._due += header.cancel.job == self._in_hand
        elif kind == "wait":
            self._told.waiting = header.wait.reason
        elif kind == "stop":
            self._told.stop = header.stop.reason or _NO_REASON
            self._told.drain, self._told.code = header.stop.drain, header.stop.code
        elif kind == "refused":
            raise end_of(header.refused)
        else:
            raise ProtocolError("the server may not say this now", got=str(kind))
        return True
