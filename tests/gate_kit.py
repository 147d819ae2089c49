"""A gate that real processes wait at, so that a test says in which order their updates arrive.

Whoever is about to hand something in says which client it is for, in one byte, and waits for one
byte in return. Nothing else goes through, so nothing has to be unpickled.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway import AsyncWorker, core
from headway.task import Assignment, LocalResult
from tests.simulation_kit import Chase, ChaseTrainer
from tests.waiting_kit import WAIT_S


class Gate:
    """Where they wait.

    Args:
        path: Of the socket, of at most 100 characters; nothing is there yet.
    """

    def __init__(self, path: Path) -> None:
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen()
        self._here: dict[int, socket.socket] = {}
        self._lines: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)

    def play(self, order: Iterable[int], num_clients: int) -> None:
        """Let clients through in this order, each when what came before it has been taken.

        A process whose update was taken comes to the gate with its next job, or has ended.

        Args:
            order: Client by client.
            num_clients: How many wait here before the first goes.
        """
        while len(self._here) < num_clients:
            self._hear()
        for client in order:
            passing = self._here.pop(client)
            passing.send(b".")
            while self._hear() is not passing:
                pass

    def close(self) -> None:
        """Let everybody through who waits or comes."""
        for line in [self._door, *self._lines]:
            line.close()
        self._selector.close()

    def _hear(self) -> socket.socket | None:
        """Wait for something: who said that it is here, or left; ``None``: somebody is new."""
        ready = self._selector.select(WAIT_S)
        assert ready, "nobody comes to the gate"
        key, _ = ready[0]
        said_by = key.fileobj
        assert isinstance(said_by, socket.socket)
        if said_by is self._door:
            self._lines.append(self._door.accept()[0])
            self._selector.register(self._lines[-1], selectors.EVENT_READ)
            return None
        if said := said_by.recv(1):
            self._here[said[0]] = said_by
        else:
            self._selector.unregister(said_by)
        return said_by


class Queueing:
    """A process's end of a gate; it comes to it when it is first used.

    Args:
        path: Of the gate.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._line: socket.socket | None = None

    def wait(self, client: int) -> None:
        """Wait until this client's update may arrive, or the gate is gone.

        Args:
            client: Below 256.
        """
        try:
            if self._line is None:
                self._line = socket.socket(socket.AF_UNIX)
                self._line.connect(self._path)
            self._line.send(bytes([client]))
            self._line.recv(1)
        except OSError:
            pass

    def close(self) -> None:
        """Say that nothing more comes from here."""
        if self._line is not None:
            self._line.close()


class GatedChase(Chase):
    """A chase whose trainers wait at a gate before they train.

    Args:
        path: Of the gate.
        targets: One number for each client.
        options: Further ones of a chase.
    """

    def __init__(self, path: str, targets: list[float], **options: Any) -> None:
        super().__init__(targets, **options)
        self.path = path

    def trainer(self, algorithm: core.Algorithm, device: torch.device) -> ChaseTrainer:
        return GatedTrainer(self, algorithm.payload)


class GatedTrainer(ChaseTrainer):
    def __init__(self, task: GatedChase, payload: core.PayloadKind) -> None:
        super().__init__(task, payload)
        self._queueing = Queueing(task.path)

    def train(self, assignment: Assignment) -> LocalResult:
        # By now the worker has the model that this job starts from.
        self._queueing.wait(assignment.client)
        return super().train(assignment)


class GatedLoss:
    """Half the squared distance, whose gradient is ``base - target``; it waits before it is told.

    Args:
        path: Of the gate.
        client: Whose loss it is.
    """

    def __init__(self, path: str, client: int) -> None:
        self.queueing = Queueing(path)
        self._client = client

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.queueing.wait(self._client)
        return 0.5 * (outputs - targets).square().sum()


def visit(
    places: Sequence[tuple[str, str]], client: int, target: float, dim: int, batches: int
) -> None:
    """What a process does: it trains as one client of a chase, for one parameter server after another.

    Args:
        places: The address of each server, and where its gate is.
        client: Which client.
        target: What it wants each value of the model to be.
        dim: How many values there are.
        batches: How many updates it makes for each.
    """
    torch.set_num_threads(1)
    batch = torch.ones(1, 1), torch.full((1, dim), target)
    for address, path in places:
        loss = GatedLoss(path, client)
        model = torch.nn.Linear(1, dim, bias=False)
        worker = AsyncWorker(address, name=f"client-{client}", model=model)
        history = worker.train(dataloader=[batch] * batches, loss_fn=loss)
        assert history.updates == batches, history
        loss.queueing.close()
