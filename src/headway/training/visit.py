"""One training of a worker at its server: jobs one after the other, until the data or the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import ceil, inf, nan
from typing import TYPE_CHECKING, Final, TypeVar, final

from headway.core.errors import ConfigurationError, ServerLostError
from headway.training.batches import Batch, Stream
from headway.training.history import History, Row

if TYPE_CHECKING:
    from headway.core import Receipt
    from headway.runtime.exchange import Exchange, Work
    from headway.task import LocalResult
    from headway.training.batches import Passes
    from headway.training.comeback import Comeback
    from headway.training.ending import Ending
    from headway.training.learner import Learner, Meter

__all__ = ["Diary", "Visit"]

_T = TypeVar("_T")
_LOOK_EVERY_S: Final = 0.5
_SETTLE_S: Final = 2.0
"""How long one who wants to leave waits for receipts, in all."""
_LOOK_S: Final = 30.0


@final
class Diary:
    """Fills a history while a worker trains.

    Args:
        history: Filled here.
        meter: What is measured.
        every: Batches from one row to the next, at least 1.
    """

    def __init__(self, history: History, meter: Meter, every: int) -> None:
        self.history = history
        self._meter = meter
        self._every = every
        self._began_s = self._row_s = time.perf_counter()
        self._row_batches = self._row_examples = 0
        self._staleness = (0, 0)

    def receipt(self, receipt: Receipt) -> None:
        """Take a receipt in.

        Args:
            receipt: The server's.
        """
        self.history.note(receipt)
        if receipt.status != "rejected":
            total, count = self._staleness
            self._staleness = (total + receipt.staleness, count + 1)

    def batch(self, batch: Batch) -> None:
        """A batch is about to be gone through; if a row is due, it is written first.

        Args:
            batch: It.
        """
        history = self.history
        if history.batches - self._row_batches >= self._every:
            self._write()
        history.batches += 1
        history.examples += batch.size

    def close(self) -> None:
        """The training has ended."""
        if self.history.batches > self._row_batches:
            self._write()
        self.history.wall_time_s = time.perf_counter() - self._began_s

    def _write(self) -> None:
        history, now = self.history, time.perf_counter()
        total, count = self._staleness
        examples = history.examples - self._row_examples
        history.rows.append(
            Row(
                batches=history.batches,
                examples=history.examples,
                updates=history.updates,
                version=history.version,
                staleness=total / count if count else nan,
                samples_per_s=examples / max(now - self._row_s, 1e-9),
                time_s=now - self._began_s,
                metrics=self._meter.take(),
            )
        )
        self._row_s, self._staleness = now, (0, 0)
        self._row_batches, self._row_examples = history.batches, history.examples


@final
class Visit:
    """A worker's jobs at a server.

    Args:
        exchange: One that has joined.
        learner: Who trains.
        diary: What is written down.
        passes: The data.
        epochs: How many passes in all.
        update_frequency: Batches in a job that says nothing of its size.
        local_epochs: Passes in such a job instead; ``None``: it has ``update_frequency`` batches.
        prefetch: Whether a job is asked for while one is worked on.
        comeback: What finds the server again, when it is lost.
        wanted: Whether the user wants this to end.
    """

    def __init__(
        self,
        exchange: Exchange,
        learner: Learner,
        diary: Diary,
        *,
        passes: Passes,
        epochs: float,
        update_frequency: int,
        local_epochs: float | None,
        prefetch: bool,
        comeback: Comeback,
        wanted: Ending,
    ) -> None:
        self._exchange = exchange
        self._learner = learner
        self._diary = diary
        self._passes = passes
        self._epochs = epochs
        self._local_epochs = local_epochs
        self._prefetch = prefetch
        self._comeback = comeback
        self._wanted = wanted
        self._usual = update_frequency if local_epochs is None else self._steps_of(local_epochs)
        # Whether the present job was cancelled: a server that is lost after that is not asked again.
        self._gave_up = False
        self._until_s = inf
        self._stream: Stream

    def keep(self) -> None:
        """Have the learner hold a model of its own, which begins as the server's is now.

        Raises:
            ServerLostError: The server has gone, without a word, and did not come back.
        """
        seen = self._surely(partial(self._exchange.look, _LOOK_S))
        if seen is not None:
            assert seen.parameters is not None, "a look shows the model"
            self._learner.keep(seen.parameters)

    def run(self, seed: int | None) -> None:
        """Work until the data are used up, the server ends the run, or the user does.

        Args:
            seed: Of the order of the data; ``None``: as the server says.

        Raises:
            ServerLostError: The server has gone, without a word, and did not come back.
        """
        exchange = self._exchange
        self._once(exchange.ask)
        work = self._next()
        if work is None:
            return
        self._stream = Stream(self._passes, self._epochs, work.seed if seed is None else seed)
        ahead = 0
        if self._prefetch and self._stream.has(self._usual + 1):
            self._once(exchange.ask)
            ahead = 1
        while work is not None:
            result = self._train(work)
            if result is not None:
                again = not self._wanted and self._stream.has(1 + ahead * self._usual)
                self._hand_in(work, result, again=again)
                if not again:
                    ahead -= 1
            elif self._gave_up:
                self._diary.history.receipts["cancelled"] += 1
            if ahead < 0 or self._wanted or not self._stream.has(1):
                break
            work = self._next()
        self._settle()

    def _train(self, work: Work) -> LocalResult | None:
        order = work.order
        steps, held = self._usual, None
        if order.steps is not None:
            steps = max(1, order.steps)
        elif order.epochs is not None:
            steps = self._steps_of(order.epochs)
        if order.epochs is not None or (self._local_epochs is not None and order.steps is None):
            held = self._passes.num_examples
        self._diary.history.version = max(self._diary.history.version, work.version)
        self._gave_up = False
        return self._learner.train(
            work,
            self._batch,
            steps,
            is_cancelled=lambda: self._is_cancelled(work),
            held=held,
        )

    def _batch(self) -> Batch | None:
        # What is done so far is handed in, as a smaller job.
        if self._wanted and self._diary.history.batches:
            return None
        batch = self._stream.take()
        if batch is not None:
            self._diary.batch(batch)
        return batch

    def _hand_in(self, work: Work, result: LocalResult, *, again: bool) -> None:
        history = self._diary.history
        history.updates += 1
        push = partial(
            self._exchange.push,
            work,
            result.payload,
            num_examples=result.num_examples,
            num_steps=result.num_steps,
            num_processed=result.num_processed,
            fragment=work.order.fragment,
            buffers=result.buffers,
            metrics=result.metrics,
            again=again,
        )
        # Who wants to leave does not wait for a server that takes nothing.
        if not self._settle() or self._once(push) is False:
            history.updates -= 1
            history.receipts["cancelled"] += 1
        if self._learner.has_chain:
            # Its transforms learn what became of one payload before they make the next.
            self._settle()

    def _next(self) -> Work | None:
        began = time.perf_counter()
        exchange = self._exchange
        hear = partial(exchange.next, _LOOK_EVERY_S)
        work = self._surely(hear)
        while work is None and exchange.stopped is None and not self._wanted:
            self._diary.history.waits_for = exchange.waiting
            work = self._surely(hear)
        self._diary.history.waits_for = "" if work is not None else exchange.waiting
        self._diary.history.waited_s += time.perf_counter() - began
        return work

    def _is_cancelled(self, work: Work) -> bool:
        """Whether a job is no longer wanted. While the server is lost it is.

        A server that was started anew may still have it in flight.
        """
        try:
            self._gave_up = self._comeback.attempt() and self._exchange.is_cancelled(work)
        except ServerLostError as error:
            self._lost(error)
        return self._gave_up

    def _lost(self, error: ServerLostError) -> None:
        # What it said last may not have been heard: receipts, or that it was about to end.
        try:
            self._exchange.overhear()
        except ServerLostError as last:
            error = last if last.code else error
        if self._exchange.stopped is not None:
            raise error
        self._comeback.lost(error)

    def _settle(self) -> bool:
        """Wait for the receipts, where the user wants this to end not for ever: whether all came."""
        while not self._surely(partial(self._exchange.settle, _LOOK_EVERY_S)):
            if self._wanted:
                self._until_s = min(self._until_s, time.monotonic() + _SETTLE_S)
            if time.monotonic() >= self._until_s:
                return False
        return True

    def _once(self, say: Callable[[], _T]) -> _T | None:
        """Say something that the exchange says again by itself, when it resumes."""
        self._surely(lambda: None)
        try:
            return say()
        except ServerLostError as error:
            self._lost(error)
            self._surely(lambda: None)
        return None

    def _surely(self, say: Callable[[], _T]) -> _T:
        """Say something to the server; where it is lost, once more when it is there again."""
        while True:
            try:
                self._comeback.come_back()
                return say()
            except ServerLostError as error:
                if self._comeback.is_lost:
                    raise
                self._lost(error)
            finally:
                self._diary.history.reconnects = self._comeback.count

    def _steps_of(self, epochs: float) -> int:
        per_pass = self._passes.num_batches
        if per_pass is None:
            raise ConfigurationError(
                "local epochs need data of a known length",
                where="AsyncWorker.train(dataloader=...)",
                got="a loader that does not say how many batches it has",
                help="give one with len(), or update_frequency= in place of local_epochs=",
            )
        return max(1, ceil(epochs * per_pass * (1.0 - 1e-12)))
