"""A worker process that trains for a task: what it does from its first job to its last.

Nothing here knows a server, a hub or the simulator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import torch

from headway.core import Buffers, Checkout, Receipt
from headway.core.errors import ServerLostError
from headway.runtime.exchange import Exchange, Work
from headway.task import Assignment, LocalResult
from headway.task.replicas import Replicas

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.runtime.parcel import WorkerLink
    from headway.task import Objective

__all__ = ["Trainee"]

_CPU: Final = torch.device("cpu")


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
        self._exchange = Exchange(link, worker=name, layout=start.layout, receipt=self._told)
        self._device = device
        self._slowdown = slowdown
        self._asks = 2 if prefetch else 1
        self._clock = clock
        self._trainer = task.trainer(algorithm, device)
        self._tells_clients = bool(algorithm.client)
        self._payload = algorithm.payload
        # The server's layout knows the fragments; until it is here, only what they begin with is.
        self._initial = None if algorithm.view is None else start.parameters
        self._replicas: Replicas | None = None
        self._clients: dict[int, int] = {}
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
        """Work until the server wants no more, or has gone."""
        try:
            self.begin()
            while self.step():
                pass
            self._exchange.settle()
        except ServerLostError:
            # It ends when it likes; its own side says why.
            pass
        finally:
            self._exchange.leave()

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
        if self._slowdown > 1.0:
            took_s = self._clock() - began
            wanted = self._exchange.linger(work, (self._slowdown - 1.0) * took_s)
        else:
            wanted = not self._exchange.is_cancelled(work)
        if wanted:
            self._hand_in(work, result)
        return True

    def _train(self, work: Work) -> LocalResult:
        self.client, order = work.client, work.order
        if self._replicas is None:
            assert work.parameters is not None, "only a view can send nothing"
            parameters = work.parameters
        else:
            ticket = Checkout(work.version, work.parameters, work.job, order, work.buffers)
            parameters = self._replicas.receive(work.client, ticket)
        buffers = work.buffers
        if self._device != _CPU:
            parameters = parameters.to(self._device)
            buffers = _moved(buffers, self._device)
        given = Assignment(work.client, parameters, buffers, order, work.seed)
        return self._on_cpu(self._trainer.train(given))

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
