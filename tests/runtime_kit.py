"""The real hub and the real training loop in one process, with the order of arrivals in a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from multiprocessing import Pipe
from typing import Any, NamedTuple

import torch

from headway import core
from headway.runtime.connect import NetworkLink
from headway.runtime.hub import Hub
from headway.runtime.local import LocalLink, LocalSession
from headway.runtime.network import NetworkServer
from headway.runtime.parcel import WorkerLink
from headway.runtime.porter import Porter
from headway.runtime.segments import Segments, SharedMemory
from headway.runtime.trainee import Trainee
from headway.simulation.population import client_name
from headway.simulation.settings import Settings, server_for
from headway.task import Cancelled, LocalResult
from tests.simulation_kit import Chase, ChaseTrainer

TURNS = 100_000


class Arrival(NamedTuple):
    """A job that comes back, and when."""

    job: int
    time: float


def script(events: Iterable[core.Event]) -> list[Arrival]:
    """The order of arrivals of a run."""
    return [Arrival(e.job, e.time) for e in events if isinstance(e, core.Submitted)]


Connect = Callable[[Hub, Segments, core.ParameterLayout], WorkerLink]
"""Makes the worker's end of a link to this hub."""


def local(hub: Hub, segments: Segments, layout: core.ParameterLayout) -> WorkerLink:
    ours, theirs = Pipe()
    LocalSession(hub, ours, segments, layout)
    return LocalLink(theirs)


_LISTENING: dict[Hub, NetworkServer] = {}


def network(hub: Hub, segments: Segments, layout: core.ParameterLayout) -> WorkerLink:
    """Over gRPC, every worker of a hub to the same port."""
    if hub not in _LISTENING:
        server = _LISTENING[hub] = NetworkServer(hub, layout)
        server.start()
    return NetworkLink(_LISTENING[hub].address)


LINKS: dict[str, Connect] = {"local": local, "network": network}
"""By name; every scripted test goes over all of them."""


class Scripted:
    """A run of real parts. The clock and the order of arrivals are the script's.

    Args:
        settings: Of the run; concurrency is the number of workers.
        num_workers: How many loops train.
        link: One of :data:`LINKS`.
        options: Further arguments of the loops.
    """

    def __init__(
        self, settings: Settings, num_workers: int, *, link: str = "local", **options: Any
    ) -> None:
        task, algorithm = settings.task, settings.algorithm
        self.now = 0.0
        self.segments = Segments()
        self.server = server_for(settings, lambda layout: SharedMemory(self.segments, layout))
        able = [c for c in range(task.num_clients) if task.num_examples(c) > 0]
        self.hub = Hub(
            self.server,
            Porter(self.server.layout, {}),
            seed=settings.seed,
            clients={client_name(client): client for client in able},
            pinned=bool(algorithm.client) or algorithm.view is not None,
            clock=lambda: self.now,
        )
        self.trainees: dict[str, Trainee] = {}
        self.refused = 0
        self._count_refusals()
        self.hub.turn()
        for index in range(num_workers):
            name = f"worker-{index}"
            end = LINKS[link](self.hub, self.segments, self.server.layout)
            trainee = Trainee(end, task, algorithm, seed=settings.seed, name=name, **options)
            self.trainees[name] = trainee
            self._begin(trainee)
            self._turn_until(lambda name=name: bool(self.hub.members.by_name[name].jobs))

    def play(self, arrivals: Iterable[Arrival]) -> Scripted:
        """Let jobs come back in this order, at these times."""
        for job, when in arrivals:
            self.now = when
            trainee = self.trainees[self.holder(job)]
            updates = self.hub.tally.updates
            # A job that was cancelled meanwhile is done in vain: it is not handed in, or, where
            # the word of it was still on its way, refused.
            while self.hub.tally.updates == updates:
                pushed, refused = trainee.num_pushed, self.refused
                assert trainee.step(timeout_s=30.0)
                if trainee.num_pushed > pushed:
                    self._turn_until(
                        lambda updates=updates, refused=refused: (
                            self.hub.tally.updates > updates or self.refused > refused
                        )
                    )
        return self

    def holder(self, job: int) -> str:
        """Who works on a job."""
        (name,) = [m.name for m in self.hub.members.by_name.values() if job in m.jobs]
        return name

    def close(self) -> None:
        """Let everybody go."""
        for trainee in self.trainees.values():
            trainee._exchange.leave()
        for session in list(self.hub.members.here):
            session.close()
        if (server := _LISTENING.pop(self.hub, None)) is not None:
            server.stop()
        self.hub.loop.close()
        self.segments.close()

    def _count_refusals(self) -> None:
        send = self.hub.outbox.send

        def counting(session: Any, header: Any, *rest: Any) -> None:
            self.refused += header.receipt.reason == "unknown_job"
            send(session, header, *rest)

        self.hub.outbox.send = counting  # type: ignore[method-assign]

    def _begin(self, trainee: Trainee) -> None:
        # To join waits for an answer, which this thread gives.
        thread = threading.Thread(target=trainee.begin)
        thread.start()
        while thread.is_alive():
            self.hub.turn()
        thread.join()

    def _turn_until(self, done: Callable[[], bool]) -> None:
        moment = threading.Event()
        for _ in range(TURNS):
            self.hub.turn()
            if done():
                # A receipt waits for the job right behind it until the turn has ended.
                self.hub.turn()
                return
            if self.hub in _LISTENING:
                # What is on its way is in the hands of other threads.
                moment.wait(0.001)
        raise AssertionError("the hub waits for something that does not come")


class Fails(Chase):
    """A task whose third client cannot train."""

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        return FailsAtTwo(self, algorithm.payload)


class FailsAtTwo(ChaseTrainer):
    def train(self, assignment: Any) -> LocalResult:
        if assignment.client == 2:
            raise ArithmeticError("no such target")
        return super().train(assignment)


class Endless(Chase):
    """A task whose first client trains until nobody wants its job any more."""

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        return EndlessAtZero(self, algorithm.payload)


class EndlessAtZero(ChaseTrainer):
    def train(self, assignment: Any) -> LocalResult:
        moment = threading.Event()
        while assignment.client == 0:
            if assignment.is_cancelled():
                raise Cancelled
            moment.wait(0.001)
        return super().train(assignment)


class FailsToBegin(Chase):
    """A task that cannot be trained anywhere but where it was made."""

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        raise ArithmeticError("no trainer here")


class Judges(Chase):
    """A task whose evaluation fails once there has been training."""

    def evaluate(self, parameters: Any, buffers: Any = None) -> dict[str, float]:
        if float(parameters[0]):
            raise ArithmeticError("cannot judge this")
        return {"value": 0.0}
