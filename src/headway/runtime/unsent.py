"""What waits to be sent to a worker: not more than one that reads has ever before it."""

from __future__ import annotations

import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple, final

from headway.core import Buffers
from headway.runtime.wire import Job, ToWorker

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Server
    from headway.observe.tally import Tally

__all__ = ["Letter", "Looks", "Unsent"]

_MESSAGES: Final = 256
_MODELS: Final = 8
"""A worker has no room for more."""


class Letter(NamedTuple):
    """What a writer has to send."""

    header: ToWorker
    vector: Tensor | None = None
    buffers: Buffers | None = None


@final
class Unsent:
    """One worker's messages, in their order. For any thread.

    Memory: at most eight models, of which one or two were only looked at.
    """

    def __init__(self) -> None:
        self._letters: SimpleQueue[Letter | None] = SimpleQueue()
        self._models = threading.Semaphore(_MODELS)
        self._looks = threading.Semaphore(1)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another message."""
        return self._letters.qsize() >= _MESSAGES

    def put(self, letter: Letter) -> bool:
        """Have a message sent: False where this worker asks and asks, and does not read.

        Args:
            letter: It.
        """
        if self.is_full:
            return False
        if letter.header.job.look and not self._looks.acquire(blocking=False):
            return False
        if letter.vector is not None and not self._models.acquire(blocking=False):
            return False
        self._letters.put(letter)
        return True

    def get(self, timeout_s: float | None = None) -> Letter | None:
        """The next message; ``None``: nothing more comes.

        Args:
            timeout_s: How long to wait, in seconds; 0: not at all; ``None``: for ever.

        Raises:
            queue.Empty: None came in time.
        """
        letter = (
            self._letters.get_nowait() if timeout_s == 0.0 else self._letters.get(True, timeout_s)
        )
        if letter is not None and letter.header.job.look:
            self._looks.release()
        return letter

    def sent(self, letter: Letter) -> None:
        """All of a message is out.

        Args:
            letter: It.
        """
        if letter.vector is not None:
            self._models.release()

    def finish(self) -> None:
        """Nothing more comes. May be called twice."""
        self._letters.put(None)


@final
class Looks:
    """Copies of a server's model for who looks at it: one for all who look at the same version.

    Memory: one model while somebody needs it.
    """

    def __init__(self) -> None:
        self._version = -1
        self._copies: list[weakref.ref[Tensor]] = []

    def letter(self, server: Server, tally: Tally) -> Letter:
        """The model as it is now, without a job.

        Args:
            server: Whose.
            tally: Where it is counted.
        """
        taken = self.take(server.version, server.parameters, server.buffers)
        tally.send(*taken)
        return Letter(ToWorker(job=Job(version=server.version, look=True)), *taken)

    def take(
        self, version: int, parameters: Tensor, buffers: Buffers | None
    ) -> tuple[Tensor, Buffers | None]:
        """A copy, to be read only.

        Args:
            version: Of the model.
            parameters: The model as it is.
            buffers: Likewise.

        Example:
            >>> import torch
            >>> looks, model = Looks(), torch.zeros(3)
            >>> first, _ = looks.take(1, model, None)
            >>> looks.take(1, model, None)[0] is first, looks.take(2, model, None)[0] is first
            (True, False)
        """
        kept = [copy for ref in self._copies if (copy := ref()) is not None]
        if version == self._version and len(kept) == (1 if buffers is None else 3):
            return kept[0], None if buffers is None else Buffers(kept[1], kept[2])
        taken = parameters.clone()
        held = None if buffers is None else buffers.clone()
        tensors = [taken] if held is None else [taken, held.floating, held.integer]
        self._version, self._copies = version, [weakref.ref(tensor) for tensor in tensors]
        return taken, held
