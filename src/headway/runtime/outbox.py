"""What leaves a hub: each message when all that it tells of is on the disk."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

from headway.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from headway.core import Buffers
    from headway.runtime.loop import Loop
    from headway.runtime.parcel import Session
    from headway.runtime.wire import ToWorker

__all__ = ["Log", "Outbox"]

_MESSAGES: Final = 256
"""More than a worker ever has before it."""
_MODELS: Final = 8
"""Likewise of messages that hold a vector."""
_AGAIN_S: Final = 0.25


class Log(Protocol):
    """A log that must be on the disk before what it holds is told."""

    @property
    def sequence(self) -> int:
        """The number of the newest record."""
        ...

    @property
    def durable(self) -> int:
        """All records up to this number are on the disk."""
        ...

    def sync(self) -> int:
        """Bring what was appended to the disk: up to which record everything is there.

        Raises:
            CheckpointError: The disk failed.
        """
        ...


class _Letter(NamedTuple):
    """What waits for record ``number``."""

    number: int
    session: Session
    header: ToWorker
    vector: Tensor | None
    buffers: Buffers | None


@final
class Outbox:
    """Keeps messages until the log is on the disk that far, in the order in which they came.

    Another thread syncs the log as soon as something waits for it. What comes meanwhile waits for
    the sync after that: many workers share one, and one worker alone waits for one. The hub's thread
    never waits for the disk. A worker that asks and asks meanwhile is let go.

    Args:
        loop: The hub's; its thread calls everything but :attr:`problem`.
        log: The server's log; ``None``: messages leave at once.
        changed: Called in the hub's thread with the error when the disk fails, and with ``None``
            when that is over.

    Memory: at most eight vectors for each worker that is here.

    Attributes:
        problem: Why the log could not be synced when that was tried last; ``None``: it could.
        num_syncs: How often it was.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log | None,
        changed: Callable[[CheckpointError | None], object] | None = None,
    ) -> None:
        self.problem: CheckpointError | None = None
        self.num_syncs = 0
        self._loop = loop
        self._log = log
        self._letters: deque[_Letter] = deque()
        self._of: Counter[Session] = Counter()
        self._models: Counter[Session] = Counter()
        self._changed = changed
        self._told = False
        self._target = 0
        self._calls = False
        self._wanted = threading.Condition()
        self._over = False
        self._thread: threading.Thread | None = None

    @property
    def num_waiting(self) -> int:
        """How many messages wait for the disk."""
        return len(self._letters)

    def send(
        self,
        session: Session,
        header: ToWorker,
        vector: Tensor | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        """Send a message as soon as that is allowed.

        Args:
            session: To whom.
            header: The message.
            vector: Its vector: of a job, which stays as it is; or an answer, which is copied here if
                it has to wait.
            buffers: The buffers with it.
        """
        log = self._log
        if log is None or (not self._letters and log.durable >= log.sequence):
            session.send(header, vector, buffers)
            return
        if self._of[session] >= _MESSAGES or (
            vector is not None and self._models[session] >= _MODELS
        ):
            # It asks and asks, while the disk is slow.
            session.close()
            return
        if vector is not None and header.HasField("receipt"):
            # The rule may use its memory again for the next one.
            vector = vector.clone()
        self._of[session] += 1
        self._models[session] += vector is not None
        self._letters.append(_Letter(log.sequence, session, header, vector, buffers))
        self._want(log)

    def release(self) -> None:
        """Send what is allowed by now."""
        if self._log is None:
            return
        durable, letters = self._log.durable, self._letters
        while letters and letters[0].number <= durable:
            letter = letters.popleft()
            self._count_off(letter)
            letter.session.send(letter.header, letter.vector, letter.buffers)
        problem = self.problem
        if self._changed is not None and (problem is not None) != self._told:
            self._told = problem is not None
            self._changed(problem)

    def forget(self, session: Session) -> None:
        """A worker is gone: nothing waits for it.

        Args:
            session: Its connection.
        """
        if self._of[session]:
            self._letters = deque(one for one in self._letters if one.session is not session)
        del self._of[session], self._models[session]

    def _count_off(self, letter: _Letter) -> None:
        session = letter.session
        self._of[session] -= 1
        self._models[session] -= letter.vector is not None
        if not self._of[session]:
            del self._of[session], self._models[session]

    def close(self) -> None:
        """Sync for the last time, and send what that allows. What it does not is never sent."""
        with self._wanted:
            self._over = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join()
        if self._log is not None and self._letters:
            self._sync(self._log)
            self.release()
        self._letters.clear()
        self._of.clear()
        self._models.clear()

    def _want(self, log: Log) -> None:
        if self._thread is None and not self._over:
            self._thread = threading.Thread(
                target=self._run, args=(log,), name="headway-sync", daemon=True
            )
            self._thread.start()
        if not self._calls:
            # A receipt and the job that follows it share a sync: not before both are in the log.
            self._calls = True
            self._loop.post(lambda: self._call(log))

    def _call(self, log: Log) -> None:
        self._calls = False
        with self._wanted:
            self._target = log.sequence
            self._wanted.notify()

    def _run(self, log: Log) -> None:
        told = 0
        while True:
            with self._wanted:
                while self._target <= told and not self._over:
                    self._wanted.wait()
                if self._over:
                    return
                target = self._target
            # A checkpoint that was begun or written meanwhile has brought it there, too: then the
            # hub still has to hear of it.
            if log.durable < target:
                self._sync(log)
            else:
                self.problem = None
            told = log.durable
            self._loop.post(self.release)
            if told < target:
                # A disk that failed: what helps is a checkpoint, which others write.
                with self._wanted:
                    self._wanted.wait_for(lambda: self._over, _AGAIN_S)

    def _sync(self, log: Log) -> None:
        try:
            log.sync()
        except CheckpointError as error:
            self.problem = error
            return
        self.problem = None
        self.num_syncs += 1
