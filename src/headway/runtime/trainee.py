"""A worker process that trains for a task: what it does from its first job to its last.

Nothing here knows a server, a hub or the simulator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, final

import torch

from headway.core import Buffers, Checkout, Receipt
from headway.core.errors import RefusedError, ServerLostError
from headway.runtime.exchange import Exchange, Work
from headway.runtime.local import SILENT
from headway.task import Assignment, Cancelled, LocalResult
from headway.task.replicas import Replicas
from headway.task.trainer import Trainer

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Algorithm
    from headway.runtime.parcel import WorkerLink
    from headway.task import Objective

__all__ = ["Trainee"]

_CPU: Final = torch.device("cpu")
_LOOK_EVERY_S: Final = 0.5


@final
class Trainee:
    """Does the jobs of a task's clients, whoever's turn it is.

    A job gives what it gives in the simulator: it starts from the same model, order and seed. What
    a client keeps between its jobs lives here, so the server sends it here each time.

    Args:
        link: To the server.
        task: Whose jobs.
        algorithm: Which payload is due.
        seed: Of the run, for the model that replicas begin with.
        name: What it is called; empty: as the server likes.
        device: Where it trains; vectors travel through the CPU's memory.
        slowdown: Each job takes so many times as long, at least 1: it waits when it has trained.
        prefetch: Whether the next job is asked for while one is worked on.
        clock: Of this process, in seconds.

    Attributes:
        client: Whose job is being done; what went wrong, went wrong there. -1: none yet.
        num_pushed: How many jobs were handed in.
    """

    def __init__(
        self,
        link: WorkerLink,
        task: Objective,
        algorithm: Algorithm,
        *,
        seed: int = 0,
        name: str = "",
        device: torch.device = _CPU,
        slowdown: float = 1.0,
        prefetch: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        start = task.start(seed, _CPU)
        self._meet = partial(Exchange, link, worker=name, layout=start.layout, receipt=self._told)
        self._exchange = self._meet()
        self._device = device
        self._slowdown = slowdown
        self._asks = 2 if prefetch else 1
        self._clock = clock
        self._make_trainer = partial(task.trainer, algorithm, device)
        self._trainer = self._make_trainer()
        self._tells_clients = bool(algorithm.client)
        self._payload = algorithm.payload
        # The server's layout knows the fragments; until it is here, only what they begin with is.
        self._initial = None if algorithm.view is None else start.parameters
        self._replicas: Replicas | None = None
        self._clients: dict[int, int] = {}
        self._leaves = False
        self.client = -1
        self.num_pushed = 0

    def begin(self) -> None:
        """Join, and ask for the first job.

        Raises:
            RefusedError: The server does not let this worker in.
            ServerLostError: It has gone.
        """
        layout = self._exchange.join().layout
        if self._initial is not None:
            self._replicas = Replicas(self._initial, layout, self._payload)
        for _ in range(self._asks):
            self._exchange.ask()

    def run(self) -> None:
        """Work until the server wants no more, or has gone.

        A worker that was silent for so long that its server has taken it for lost, joins again.
        """
        try:
            self.begin()
            while not self._is_done():
                self._begin_again()
        except ServerLostError:
            # It ends when it likes; its own side says why.
            pass
        finally:
            self._exchange.leave()

    def leave_soon(self) -> None:
        """Hand in what is being done, and leave. For a signal handler."""
        self._leaves = True

    def _is_done(self) -> bool:
        """Work, and say whether that was all; otherwise the server has given this worker up."""
        try:
            while not self._leaves and self._exchange.stopped is None:
                self.step(_LOOK_EVERY_S)
            self._exchange.settle()
        except RefusedError as error:
            if error.code != SILENT:
                raise
            return self._leaves
        return True

    def _begin_again(self) -> None:
        self._clients.clear()
        if self._tells_clients or self._initial is not None:
            # Its clients have gone on elsewhere, without what they kept here.
            self._trainer = self._make_trainer()
        self._exchange = self._meet()
        try:
            self.begin()
        except RefusedError as error:
            raise ServerLostError("the server wants no worker any more") from error

    def step(self, timeout_s: float | None = None) -> bool:
        """Do one job, and ask for the next: whether there was one.

        Args:
            timeout_s: How long to wait for it, in seconds; ``None``: until the server wants this
                worker to leave.
        """
        work = self._exchange.next(timeout_s)
        if work is None:
            return False
        began = self._clock()
        result = self._train(work)
        if result is not None and self._is_wanted(work, self._clock() - began):
            self._hand_in(work, result)
        else:
            self._exchange.drop(work)
        return True

    def _is_wanted(self, work: Work, took_s: float) -> bool:
        """Take as long as this worker is slow: whether the job is wanted at the end."""
        if self._slowdown > 1.0:
            return self._exchange.linger(work, (self._slowdown - 1.0) * took_s)
        return not self._exchange.is_cancelled(work)

    def _train(self, work: Work) -> LocalResult | None:
        """Do a job; ``None``: it was cancelled meanwhile."""
        self.client, order = work.client, work.order
        parameters = work.parameters
        if self._replicas is not None:
            parameters = self._own_model(self._replicas, work)
        if parameters is None:
            return None
        buffers = work.buffers
        if self._device != _CPU:
            parameters = parameters.to(self._device)
            buffers = _moved(buffers, self._device)
        is_cancelled = partial(self._exchange.is_cancelled, work)
        given = Assignment(work.client, parameters, buffers, order, work.seed, is_cancelled)
        if isinstance(self._trainer, Trainer) and self._replicas is None:
            # Others may keep what they return. And a fragment that a view sends would lie inside of it.
            given = given._replace(room=self._exchange.room)
        try:
            return self._on_cpu(self._trainer.train(given))
        except Cancelled:
            return None

    def _own_model(self, replicas: Replicas, work: Work) -> Tensor | None:
        """What a client that keeps a model starts from; ``None``: the server ends."""
        ticket = Checkout(work.version, work.parameters, work.job, work.order, work.buffers)
        if replicas.lacks(work.client, ticket):
            # It went with the process that had it: the server's is the nearest that there is.
            seen = self._exchange.look()
            if seen is None or seen.parameters is None:
                return None
            replicas.begin(work.client, seen.parameters)
        return replicas.receive(work.client, ticket)

    def _on_cpu(self, result: LocalResult) -> LocalResult:
        if self._device == _CPU:
            return result
        return result._replace(
            payload=result.payload.to(_CPU), buffers=_moved(result.buffers, _CPU)
        )

    def _hand_in(self, work: Work, result: LocalResult) -> None:
        fragment = work.order.fragment
        if self._replicas is not None:
            result = self._replicas.train(work.client, result, fragment)
        handed_in = self._exchange.push(
            work,
            result.payload,
            num_examples=result.num_examples,
            num_steps=result.num_steps,
            num_processed=result.num_processed,
            fragment=fragment,
            buffers=result.buffers,
            metrics=result.metrics,
            again=not self._leaves,
        )
        if handed_in:
            self._clients[work.job] = work.client
            self.num_pushed += 1

    def _told(self, receipt: Receipt) -> None:
        client = self._clients.pop(receipt.job, None)
        if client is None:
            return
        if self._tells_clients:
            self._trainer.receipt(client, receipt)
        if self._replicas is not None and receipt.answer is not None:
            self._replicas.answer(client, receipt.answer)


def _moved(buffers: Buffers | None, device: torch.device) -> Buffers | None:
    if buffers is None:
        return None
    return Buffers(buffers.floating.to(device), buffers.integer.to(device))
