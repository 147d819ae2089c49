"""A message with the vectors that belong to it, and the two ends of a link."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from headway.core import Buffers, ParameterLayout
from headway.runtime.encoded import Traffic
from headway.runtime.narrow import Encoded
from headway.runtime.wire import ToServer, ToWorker, Vectors, Welcome

__all__ = ["Delivery", "Parcel", "Session", "WorkerLink", "vectors_of"]


class Parcel(NamedTuple):
    """What a worker sends.

    Attributes:
        header: The message.
        vector: Its vector, flat, where it has one.
        buffers: The buffers with it.
        encoded: What is sent in place of the vector; ``None``: itself.
    """

    header: ToServer
    vector: Tensor | None = None
    buffers: Buffers | None = None
    encoded: Encoded | None = None


class Delivery(NamedTuple):
    """What a worker is sent.

    Attributes:
        header: The message.
        vector: Its vector, flat, where it has one. Read only, and valid until the worker has
            answered: the job's push, or for an answer the next push.
        buffers: The buffers with it; likewise.
    """

    header: ToWorker
    vector: Tensor | None = None
    buffers: Buffers | None = None


class Session(Protocol):
    """One connected worker, as the server sees it. Its methods are called by the hub's thread."""

    @property
    def carrier(self) -> str:
        """How its vectors travel: ``"shared memory"`` or ``"inline"``."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What went over its connection."""
        ...

    def send(
        self, header: ToWorker, vector: Tensor | None = None, buffers: Buffers | None = None
    ) -> None:
        """Send a message; it does not wait for the worker, and raises nothing if it has gone.

        Args:
            header: The message; where it has vectors, the link says in it how they travel.
            vector: Its vector. It stays as it is until the worker has answered.
            buffers: The buffers with it; likewise.
        """
        ...

    def welcome(self, header: ToWorker) -> None:
        """Send the welcome, with what the link offers put into it.

        Args:
            header: The message.
        """
        ...

    def close(self) -> None:
        """Let the worker go: nothing more comes from it. May be called twice."""
        ...


class WorkerLink(Protocol):
    """The connection to a server, as the worker sees it. For one thread, but for :meth:`close`."""

    @property
    def traffic(self) -> Traffic:
        """What went over it."""
        ...

    def send(self, parcel: Parcel) -> None:
        """Send a message.

        Args:
            parcel: The message; its vectors may be written to again when this returns.

        Raises:
            ServerLostError: The connection has ended.
        """
        ...

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """The next message; ``None``: none came in time.

        Args:
            timeout_s: How long to wait, in seconds; 0: not at all; ``None``: for ever.

        Raises:
            ServerLostError: The connection has ended.
            ProtocolError: What came is no message of the protocol.
        """
        ...

    def attach(self, welcome: Welcome, layout: ParameterLayout) -> bool:
        """Make ready for vectors: whether they travel through shared memory from now on.

        Called once, before the first vector.

        Args:
            welcome: What the server said, and offered.
            layout: Of the server's model.
        """
        ...

    def room(self) -> Tensor | None:
        """Where the vector of a push will lie: one that lies there already is not copied.

        Returns:
            Flat, as long as the model; ``None``: it goes elsewhere, or :meth:`attach` was not called.
        """
        ...

    def close(self) -> None:
        """End the connection. May be called twice."""
        ...


def vectors_of(header: ToWorker) -> Vectors:
    """Where a message says how its vectors travel.

    Args:
        header: A job or a receipt.
    """
    return header.job.model if header.HasField("job") else header.receipt.answer
