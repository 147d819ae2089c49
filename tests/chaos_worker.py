"""A worker of the chaos harness: its work takes a fixed time, and it writes down all that it does.

It is an ``AsyncWorker`` in all but its learner, which waits, and then takes a step of least squares
on a grid: sums of such steps are exact in float32, in any order, so that arithmetic finds each one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor

import headway
from headway.core import Receipt
from headway.core.errors import RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Work
from headway.runtime.parcel import Parcel
from headway.runtime.timeouts import Retry
from headway.task import LocalResult
from headway.training import worker as training

SIZE: Final = 8
GRID: Final = 4096.0
TRUTH: Final = torch.arange(1.0, SIZE + 1.0, dtype=torch.float64) / 8.0
_BATCH: Final = 16
_RATE: Final = 0.02
_NOISE: Final = 0.5
_SLICE_S: Final = 0.05


def step_of(parameters: Tensor, job: int) -> Tensor:
    """What a job's update is: a step of SGD on examples of its own, rounded to the grid.

    Args:
        parameters: What the job starts from.
        job: Its id, which draws the examples.
    """
    stream = torch.Generator().manual_seed(job)
    inputs = torch.randn(_BATCH, SIZE, generator=stream, dtype=torch.float64)
    noise = _NOISE * torch.randn(_BATCH, generator=stream, dtype=torch.float64)
    errors = (inputs * (parameters.double() - TRUTH)).sum(1) - noise
    gradient = (inputs * errors[:, None]).mean(0)
    return (torch.round(-_RATE * GRID * gradient) / GRID).float()


def loss_of(parameters: Tensor) -> float:
    """The expected loss, less what the noise in the targets costs whatever the model.

    Args:
        parameters: Of the model.
    """
    return float(0.5 * (parameters.double() - TRUTH).square().sum())


class Notes:
    """A file of lines, each with its time, that is there when its writer has been killed.

    Args:
        path: The file; what is in it stays.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *words: object) -> None:
        """Append a line.

        Args:
            words: What happened.
        """
        line = " ".join(map(str, (f"{time.monotonic():.6f}", *words)))
        os.write(self._file, f"{line}\n".encode())


class Waiting:
    """A learner whose jobs take a fixed time, in which nothing is computed.

    Args:
        notes: What it does and hears.
        work_s: How long a job takes.
    """

    has_chain = False

    def __init__(self, notes: Notes, work_s: float) -> None:
        self._notes = notes
        self._work_s = work_s
        self._pause = threading.Event()

    def train(
        self,
        work: Work,
        batches: Callable[[], Any],
        num_steps: int,
        *,
        is_cancelled: Callable[[], bool],
        held: int | None = None,
    ) -> LocalResult | None:
        """Do a job."""
        until = time.monotonic() + self._work_s
        assert work.parameters is not None
        payload = step_of(work.parameters, work.job)
        if batches() is None:
            return None
        while (left_s := until - time.monotonic()) > 0.0:
            if is_cancelled():
                return None
            self._pause.wait(min(left_s, _SLICE_S))
        if is_cancelled():
            return None
        self._notes.write("pushed", work.job)
        return LocalResult(payload, 1, 1, 1, {})

    def receipt(self, receipt: Receipt) -> None:
        """Write down what became of an update."""
        reason = receipt.reason or "-"
        self._notes.write("told", receipt.job, receipt.status, receipt.version, reason)


def _stutter(wanted: threading.Event, notes: Notes) -> None:
    """Have the next push said twice, whenever that is wanted."""
    send = NetworkLink.send

    def twice(link: NetworkLink, parcel: Parcel) -> None:
        if not (parcel.header.HasField("push") and wanted.is_set()):
            send(link, parcel)
            return
        wanted.clear()
        # The link writes into a header.
        header = wire.ToServer()
        header.CopyFrom(parcel.header)
        header.push.again = False
        send(link, parcel)
        notes.write("twice", header.push.job)
        send(link, parcel._replace(header=header))

    NetworkLink.send = twice  # type: ignore[assignment,method-assign]


def _listen(repeat: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "repeat":
            repeat.set()
    # Nobody is left who could want anything of this process.
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Work until SIGTERM."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    notes, repeat = Notes(Path(told["notes"])), threading.Event()
    notes.write("began", os.getpid())
    threading.Thread(target=_listen, args=(repeat,), daemon=True).start()
    _stutter(repeat, notes)
    learner = Waiting(notes, told["work_s"])
    training.Learner = lambda *_, **__: learner  # type: ignore[assignment,attr-defined]
    worker = headway.AsyncWorker(
        told["address"], name=told["name"], local_batch_size=1, shared_memory=False
    )
    data = torch.zeros(1, SIZE), torch.zeros(1, 1)
    waits = Retry().waits(Random(told["name"]))
    while True:
        try:
            history = worker.train(
                data, epochs=1e9, loss_fn="mse", optimizer=headway.optim.SGD(lr=0.1), seed=0
            )
        except (RefusedError, ServerLostError) as error:
            # At the door: the server is away, or has not seen yet that the one before was killed.
            notes.write("outside", type(error).__name__, error.code or "-")
            time.sleep(next(waits))
        else:
            notes.write("left", history.reconnects)
            return


if __name__ == "__main__":
    main()
