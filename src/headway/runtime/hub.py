"""Where everything meets: one thread that owns the server, and does what its effects say.

Links hand in what workers send; the hub calls the server's doors, one at a time, and hands answers
back. It knows no algorithm, no socket and no file.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

from headway.core import Cancel, Checkout, Effect, Reply, Server, Wait, Wake
from headway.core.errors import CheckpointError, HeadwayError, ProtocolError
from headway.observe.tally import Tally
from headway.runtime import letters, wire
from headway.runtime.deals import Deals, Given, training_key
from headway.runtime.dismissals import Dismissals
from headway.runtime.life import Life, State
from headway.runtime.loop import Loop
from headway.runtime.members import Member, Members
from headway.runtime.outbox import Outbox
from headway.runtime.parcel import Parcel, Session
from headway.runtime.patience import Patience
from headway.runtime.porter import Porter
from headway.runtime.returning import Returning
from headway.runtime.unsent import Looks
from headway.task.streams import job_bits

if TYPE_CHECKING:
    from headway.checkpoint import LoggedServer

__all__ = ["Hub"]

_T = TypeVar("_T")
_DRAIN_S: Final = 5.0
_IDLE_S: Final = 3600.0


@final
class Hub:
    """Runs a server for the workers of any number of links.

    Args:
        server: The state machine; from now on nobody else calls its doors.
        porter: Who is let in, and what they are told.
        seed: Of the run: each job's random stream comes from it.
        clients: The clients whose work is done here, with the number of each (by default its place),
            where workers are mere executors that take whoever's turn it is; ``None``: each worker does its own work.
        pinned: Over how many executors clients are spread, each to stay with one: see :class:`Deals`.
        clock: The server's time in seconds; by default, seconds since the hub was made.
        settled: Called by the hub's thread when it has done all that there was to do.
        arrived: Called by the hub's thread after each update, also where several come in one turn.
        logged: The server with its log: what workers are told is on the disk by then.
        max_rejections: When a worker is told to stop: see :class:`Dismissals`. ``None``: never.

    Attributes:
        server: The state machine. For the hub's thread only; others use :meth:`call`.
        tally: What was counted.
        members: Who is here.
        error: What ended the hub, if that was an error.
    """

    def __init__(
        self,
        server: Server,
        porter: Porter,
        *,
        seed: int = 0,
        clients: Mapping[str, int] | Iterable[str] | None = None,
        pinned: int = 0,
        clock: Callable[[], float] | None = None,
        settled: Callable[[Hub], None] | None = None,
        arrived: Callable[[Hub], None] | None = None,
        logged: LoggedServer | None = None,
        max_rejections: int | None = None,
    ) -> None:
        began = time.monotonic()
        self.server = server
        self.doors: Server | LoggedServer = logged or server
        self.tally = Tally()
        self.members = Members()
        self.error: BaseException | None = None
        self.clock = clock or (lambda: time.monotonic() - began)
        self.settled = settled
        self.arrived = arrived
        self._porter = porter
        self._training_key = training_key(seed, 0 if logged is None else server.incarnation)
        self._deals = Deals(clients, pinned=pinned)
        self.loop = Loop()
        self.outbox = Outbox(self.loop, logged and logged.journal, self.members.tell_of)
        self.dismissals = Dismissals(max_rejections, self.members.notice)
        self.patience = Patience(self.members.tell_of)
        self.returning = Returning(self.members, self._deals, self.tally, self._free, self._carry)
        self._looks = Looks()
        self._timers: list[float] = []
        self._life = Life()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    @property
    def state(self) -> State:
        """How far it is in its life."""
        return self._life.state

    @property
    def now(self) -> float:
        """The server's time, in seconds."""
        return self.clock()

    @property
    def is_stuck(self) -> bool:
        """Whether executors have nothing to do, and nothing that could change that will come."""
        return self._deals.is_stuck and not self._timers

    # --- for any thread

    def start(self) -> None:
        """Run in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="headway-hub", daemon=True)
        self._thread.start()

    def post(
        self, session: Session, parcel: Parcel, done: Callable[[], None] | None = None
    ) -> None:
        """Hand in what a worker sent.

        Args:
            session: Who.
            parcel: What.
            done: Called when its vectors are no longer needed.
        """
        self.loop.post(lambda: self.take(session, parcel, done))

    def gone(self, session: Session) -> None:
        """A connection has ended; it may be told twice.

        Args:
            session: Whose.
        """
        self.loop.post(lambda: self.drop(session, "lost"))

    def call(self, function: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Have the hub's thread call a function, between two messages.

        Args:
            function: Without arguments; it may use :attr:`server`.
            timeout_s: How long to wait for its value.

        Returns:
            Its value. Where the hub does not run, it is called here.

        Raises:
            Exception: What the function raised.
        """
        return self.loop.call(function, timeout_s)

    def stop(self, reason: str, *, drain: bool = False, within_s: float = _DRAIN_S) -> None:
        """End: workers are told to leave, and what they still hand in is taken if it shall be.

        Args:
            reason: What they are told.
            drain: Whether work that is nearly done is wanted.
            within_s: How long to wait for them, in seconds.
        """
        if self._life.runs and self.loop.is_own():
            # At once: what came in the same turn is not taken any more.
            self._begin_to_stop(reason, drain=drain, within_s=within_s)
            return
        self.loop.post(lambda: self._begin_to_stop(reason, drain=drain, within_s=within_s))

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended: whether it has.

        Args:
            timeout_s: How long, in seconds; ``None``: for ever.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._ended.is_set()

    # --- the loop

    def run(self) -> None:
        """Serve until it is stopped. An error in an algorithm ends it: see :attr:`error`."""
        self.loop.own()
        self._life.begin()
        try:
            self._begin()
            while not self._life.is_over(len(self.members.here), self.now):
                self._turn(self._patience())
        except BaseException as error:  # noqa: BLE001 (whoever waits for the hub raises it)
            self.error = error
        finally:
            self._end()

    def turn(self) -> None:
        """Do what there is to do, without waiting: for shells and tests that have a loop."""
        if self.state == "new":
            self._life.begin()
            self._begin()
        self._turn(0.0)

    def _turn(self, patience_s: float) -> None:
        self.loop.turn(patience_s)
        self.patience.try_again(self.now)
        self._fire()
        if self.settled is not None:
            self.settled(self)

    def _begin(self) -> None:
        if (names := self._deals.clients) is not None:
            effects = self.doors.register(names, self.now).effects
            self._carry((*effects, *map(Wake, self.server.woken)))
        self._timers = sorted(self.server.timers)

    def _patience(self) -> float:
        dues = [self.patience.due_s, self.returning.due_s, self.dismissals.due_s]
        dues += [*self._timers[:1], self._deals.due_s if self._life.runs else self._life.ends_at]
        first = min((due for due in dues if due is not None), default=self.now + _IDLE_S)
        return max(0.0, first - self.now)

    def _end(self) -> None:
        # Whoever waits for the end is told of it, whatever fails on the way.
        for part in (self._wind_up, self._settle, self.loop.close, self.returning.close):
            try:
                part()
            except BaseException as error:  # noqa: BLE001 (likewise)
                self.error = self.error or error
        self.clock, self.settled, self.arrived = partial(float, self.now), None, None
        self._ended.set()

    def _wind_up(self) -> None:
        self.patience.drop()
        self.outbox.close()
        self.members.close(self.error)
        self._deals.leave(self.tally, self.now)
        if self.error is None:
            self.doors.tick(self.now, closing=True)

    def _settle(self) -> None:
        self._life.end()
        self.tally.close(self.server.version)
        if self.settled is not None:
            with suppress(HeadwayError):
                self.settled(self)

    # --- what workers say

    def take(
        self, session: Session, parcel: Parcel, done: Callable[[], None] | None = None
    ) -> None:
        """Take a message, in the hub's thread.

        Args:
            session: Who sent it.
            parcel: What.
            done: Called when its vectors are no longer needed: later, where the log has no room.
        """
        action = partial(self._take, session, parcel)
        if parcel.header.HasField("join"):
            # Whoever comes hears what it waits for, and is not let in when it has gone again.
            self.patience.at_once(action, done)
            return
        if self.patience.num_waiting and self.patience.problem is not None:
            # Its job or receipt may have come to it after the others were told.
            self.members.tell_again(session, self.patience.problem)
        self.patience.do(action, self.now, done, owner=session)

    def _take(self, session: Session, parcel: Parcel) -> None:
        kind = parcel.header.WhichOneof("kind")
        member = self.members.here.get(session)
        try:
            if member is None:
                self._let_in(session, kind, parcel)
                return
            member.hear(kind, parcel, session.carrier, self.now)
            if member.told and kind != "leave":
                # What it says now was on its way when it was told to stop.
                return
            if kind == "push":
                self._push(member, session, parcel)
            elif kind == "ask" and parcel.header.ask.look:
                self.outbox.send(session, *self._looks.letter(self.server, self.tally))
            elif kind == "ask":
                self._ask(member, session)
            elif kind == "leave":
                self.drop(session, "left")
            else:
                raise ProtocolError("a worker may not say this now", got=str(kind))
        except ProtocolError as error:
            self.refuse(session, "protocol_error", str(error))

    def refuse(self, session: Session, code: str, message: str, help: str = "") -> None:
        """Tell a worker that it cannot be in, and let it go.

        Args:
            session: Who.
            code: Why, one word.
            message: Why, in words.
            help: What to do.
        """
        self.members.refuse(session, code, message, help)
        self.drop(session, "lost")

    def drop(self, session: Session, why: str) -> None:
        """A worker is gone: its jobs are freed, and nobody waits for it.

        Args:
            session: Who.
            why: ``"left"`` or ``"lost"``.
        """
        member = self.members.here.get(session)
        session.close()
        self.dismissals.left(session)
        self.patience.forget(session)
        self.outbox.forget(session)
        if member is None:
            return
        if self._life.stops and why == "left":
            # Its jobs are in flight at the end, which is no loss.
            self.members.leave(member, why)
            return
        jobs = self._deals.lose(member, self.tally, self.now)
        self.members.leave(member, why)
        self._part(member, jobs)

    def _part(self, member: Member, jobs: list[Given]) -> None:
        self.returning.left(member)
        known, member.known = member.known, False
        for name, again in self._deals.left(member, jobs):
            # The server has nothing to free for who never asked.
            if known or again:
                self._lose(name, again)

    def _dismiss(self, member: Member, session: Session, reason: str) -> None:
        """Tell one worker to stop: it gets no job any more, and what it sends is not taken."""
        self.server.events.append(self.dismissals.begin(member, session, reason, self.now))
        self.outbox.send(session, letters.stop_letter(reason))
        self._part(member, self._deals.lose(member, self.tally, self.now))
        self.members.notice(member, "told to stop")

    def _free(self, member: Member, again: bool) -> None:
        self._deals.lose(member, self.tally, self.now)
        self._lose(member.name, again)

    def _lose(self, name: str, again: bool) -> None:
        self._go_through(lambda: self.doors.lose(name, self.now, again=again))

    def _go_through(self, door: Callable[[], Reply]) -> None:
        self.patience.do(lambda: self._carry(door().effects), self.now)

    def _let_in(self, session: Session, kind: str | None, parcel: Parcel) -> None:
        if kind != "join":
            raise ProtocolError("a worker joins before it says anything else", got=str(kind))
        join = parcel.header.join
        if not self._life.runs:
            self.refuse(session, "stopping", "the server is about to end")
            return
        before = self.members.by_name.get(join.worker)
        if (refused := self._porter.refusal(join, before)) is not None:
            self.refuse(session, *refused)
            return
        if before is not None and before.session is not None:
            # It has come back sooner than its old connection was seen to end.
            self.drop(before.session, "lost")
        member = self.members.join(join.worker, join.instance, session, self.now)
        welcome = self._porter.welcome(member.name, self.server.incarnation)
        session.welcome(wire.ToWorker(welcome=welcome))
        self.returning.joined(member, join.holds)

    def _ask(self, member: Member, session: Session) -> None:
        if self._deals.clients is not None:
            self.members.asked(member)
            self._deals.asked(member)
            self._pair()
        elif not self.returning.asked(member):
            ticket = self.doors.checkout(member.name, self.now)
            self.members.asked(member)
            self._deal(member, ticket)

    def _push(self, member: Member, session: Session, parcel: Parcel) -> None:
        push, now = parcel.header.push, self.now
        if not self._life.takes_pushes:
            return
        given = self._deals.given(push.job, member)
        if given is None and self._deals.clients is not None:
            # Cancelled while it was on its way; the cancellation has asked for the next one.
            self.outbox.send(session, letters.rejected_letter(push.job, "unknown_job"))
            return
        name = member.name if given is None else given.name
        update = letters.read_update(name, parcel)
        again = push.again if self._deals.clients is None else True
        num_repeated = self.server.counts["duplicates"]
        try:
            receipt = self.doors.submit(update, now, again=again and self._life.runs)
        except CheckpointError:
            raise
        except Exception:
            self.outbox.send(session, letters.rejected_letter(push.job, "transform_failed"))
            raise
        member.note(receipt)
        if given is not None:
            self._deals.end(push.job)
            member.jobs.discard(push.job)
            self.members.worked(member)
            examples = letters.work_in(parcel, receipt)
            self.tally.arrive(given.number, update, receipt, examples, now - given.since_s)
        elif self.server.counts["duplicates"] == num_repeated:
            self.tally.stray(receipt)
        if push.again:
            self._deals.asks_again(member)
        self.outbox.send(session, letters.receipt_letter(receipt), receipt.answer)
        why = self.dismissals.judge(member, receipt, was_out=given is not None)
        if why and not self._life.stops:
            self._dismiss(member, session, why)
        else:
            self.returning.pushed(member, again=again and self._life.runs)
        self._carry(receipt.effects)
        if self._deals.clients is not None:
            self._pair()
        elif again and given is not None and Wake(name) not in receipt.effects:
            self._carry((Wake(name),))  # to be told why it waits
        if self.arrived is not None:
            self.arrived(self)

    # --- what the server says

    def _carry(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Wake):
                self.patience.do(partial(self._woken, effect.worker), self.now)
            elif isinstance(effect, Cancel):
                self._cancel(effect)
            else:
                heapq.heappush(self._timers, effect.at)

    def _woken(self, name: str) -> None:
        if not self._life.runs:
            return
        if self._deals.clients is not None:
            self._deals.ready(name)
            self._pair()
            return
        member = self.members.by_name.get(name)
        if member is not None and member.session is not None:
            if not member.told:
                self._deal(member, self.doors.checkout(name, self.now))
        elif not self.returning.expects(name):
            # The place of one that may come back is kept.
            self._lose(name, False)

    def _pair(self) -> None:
        """Give clients whose turn it is to executors that have nothing to do."""
        while self._life.runs and (pair := self._deals.pair(self.clock)) is not None:
            name, member = pair
            self._deal(member, self.doors.checkout(name, self.now), name)

    def _deal(self, member: Member, ticket: Checkout | Wait, name: str | None = None) -> None:
        session = member.session
        if session is None:
            return
        if isinstance(ticket, Wait):
            member.waits = ticket.reason
            self.outbox.send(session, wire.ToWorker(wait=wire.Wait(reason=ticket.reason)))
            self._carry(ticket.effects)
            return
        index, number = self._deals.give(ticket, member, name, self.tally, self.now)
        seed = job_bits(self._training_key, index, number) >> 1
        letter = letters.job_letter(ticket, index, seed)
        self.outbox.send(session, letter, ticket.parameters, ticket.buffers)
        self._carry(ticket.effects)

    def _cancel(self, effect: Cancel) -> None:
        given = self._deals.cancel(effect.job, self.tally, self.now)
        if given is not None and (member := given.member).session is not None:
            self.outbox.send(member.session, wire.ToWorker(cancel=wire.Cancel(job=effect.job)))
            self._deals.asks_again(member)

    def _fire(self) -> None:
        if self._timers and self._timers[0] <= self.now:
            while self._timers and self._timers[0] <= self.now:
                heapq.heappop(self._timers)
            self._go_through(lambda: self.doors.tick(self.now))
        self.returning.expire(self.now)
        if self._deals.due_s is not None:
            self._pair()
        for session in self.dismissals.expired(self.now):
            self.drop(session, "lost")

    # --- beginning and end

    def _begin_to_stop(self, reason: str, *, drain: bool, within_s: float) -> None:
        if self._life.stop(self.now, drain=drain, within_s=within_s):
            self.members.tell(wire.ToWorker(stop=wire.Stop(reason=reason, drain=drain)))
