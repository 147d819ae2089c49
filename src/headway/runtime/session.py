"""One worker's gRPC stream, as the server has it.

Each stream has two threads: one reads what the worker sends and hands it to the hub, one writes
what the hub has for the worker. So the hub waits for no worker, and a worker that is slow to read
holds up nobody else. A message that is complete is handed over by the thread of gRPC's that has it
first, where that does not have to wait: to wake the reader takes longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from google.protobuf.message import DecodeError

from headway.core import Buffers, ParameterLayout
from headway.core.errors import HeadwayError, ProtocolError
from headway.runtime import wire
from headway.runtime.chunks import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    Rooms,
    as_chunk,
    chunk_data,
)
from headway.runtime.heartbeats import Vital, paced
from headway.runtime.leases import Pace
from headway.runtime.parcel import Parcel, vectors_of
from headway.runtime.quiet import grpc
from headway.runtime.segments import machine
from headway.runtime.sharing import ServerShare
from headway.runtime.timeouts import Timeouts
from headway.runtime.unsent import Letter, Unsent
from headway.runtime.vectors import Offer, ServerVectors

if TYPE_CHECKING:
    from torch import Tensor

    from headway.runtime.hub import Hub
    from headway.runtime.segments import Segments

__all__ = ["NetworkSession", "Owner"]

_UNTAKEN: Final = 4
"""How many messages of one worker may wait for the hub."""
_LOOK_EVERY_S: Final = 0.5
_BEAT: Final = bytes(((5 << 3) | 2,))
_SHORT: Final = 2 * INLINE_BYTES
"""What gRPC's thread, which serves all workers, takes of one."""
_TAKEN: Final = object()
"""What the reader finds in place of a message that was taken already."""


class Owner(Protocol):
    """What a session needs of the server that it belongs to."""

    hub: Hub
    layout: ParameterLayout
    segments: Segments | None
    timeouts: Timeouts
    rooms: Rooms
    offer: Offer

    def forget(self, session: NetworkSession) -> None:
        """A session has ended.

        Args:
            session: It.
        """
        ...


@final
class NetworkSession:
    """A worker at the other end of a stream. The hub's thread calls what :class:`Session` names.

    Args:
        server: Whose.
        cancel: Breaks the stream off.
        peer: Where the worker is, as gRPC writes it; empty: not known.
    """

    def __init__(self, server: Owner, cancel: Callable[[], object], peer: str = "") -> None:
        self.peer = peer
        self._server = server
        self._cancel = cancel
        self._hub = server.hub
        self._share: ServerShare | None = None
        self._shares = False
        self._same_machine = False
        self._joined = False
        self._closed = False
        self._answered = threading.Event()
        self._vectors = ServerVectors(server.offer)
        self.traffic = self._vectors.traffic
        self._unsent = Unsent()
        self._untaken = threading.Semaphore(_UNTAKEN)
        # Whether the next message may be taken by who has it first.
        self._is_prompt = False
        self._held: Letter | None = None
        self._pace = Pace(server.timeouts.heartbeat_s)
        self._vital = Vital(server.timeouts)

    @property
    def carrier(self) -> str:
        """How its vectors travel."""
        return "shared memory" if self._shares else "inline"

    # --- the hub's thread

    def send(
        self, header: wire.ToWorker, vector: Tensor | None = None, buffers: Buffers | None = None
    ) -> None:
        """Have a message sent; a vector in shared memory stays where it is.

        Args:
            header: The message.
            vector: Its vector. It is read later, by the writer.
            buffers: The buffers with it.
        """
        if self._closed:
            return
        if self._share is not None and header.HasField("cancel"):
            self._share.ended(header.cancel.job)
        if vector is not None and self._shares and self._share is not None:
            try:
                self._share.put(vectors_of(header), vector, buffers, header.job.id)
                vector = buffers = None
            except HeadwayError as error:
                # It goes with the message, as to any other machine.
                assert self._server.segments is not None
                self._server.segments.lacking(error)
        letter = Letter(header, vector, buffers)
        held, self._held = self._held, None
        if held is not None and header.HasField("job"):
            header.before.append(held.header)
        elif held is not None:
            self._put(held)
        if vector is None and header.HasField("receipt") and not header.receipt.answer.num_values:
            # It waits for the job right behind it, until the hub's turn ends.
            self._held = letter
            self._hub.loop.post(self._flush)
        else:
            self._put(letter)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._put(held)

    def _put(self, letter: Letter) -> None:
        if not self._unsent.put(letter):
            # It asks and asks, and does not read the answers.
            self._closed = True
            self._cancel()
            self._hub.gone(self)

    def welcome(self, header: wire.ToWorker) -> None:
        """Send the welcome, and offer a worker of this machine to share memory.

        Args:
            header: The message.
        """
        header.welcome.max_message_bytes = MESSAGE_BYTES
        self._vectors.welcome(header.welcome)
        header.welcome.heartbeat_s = self._server.timeouts.heartbeat_s
        header.welcome.lease_s = self._server.timeouts.lease_s
        if self._same_machine and self._server.segments is not None:
            share = ServerShare(self._server.segments, self._server.layout)
            # Without room for it the worker sends chunks, as from any other machine.
            with suppress(HeadwayError):
                share.offer(header.welcome)
                self._share = share
        self._joined = True
        self._answered.set()
        self.send(header)

    def close(self) -> None:
        """Let the worker go, once it has been sent what was meant for it."""
        self._flush()
        self.finish()
        if self._share is not None:
            self._share.close()
            self._share = None

    # --- the stream's threads

    def finish(self) -> None:
        """Nothing more is sent. For any thread."""
        self._closed = True
        self._answered.set()
        self._unsent.finish()

    def write(self) -> Iterator[bytes]:
        """What the stream sends.

        Yields:
            Messages.
        """
        patience: float | None = self._server.timeouts.join_s
        try:
            while (letter := self._unsent.get(patience)) is not None:
                patience = None
                yield from self._messages(letter)
        except Empty:
            self._hub.gone(self)
        finally:
            self._closed = True
            self._answered.set()
            self._vectors.close()
            self._server.forget(self)

    def _messages(self, letter: Letter) -> Iterator[bytes]:
        pieces = self._pieces(letter, min(INLINE_BYTES, self._pace.num_bytes))
        data = letter.header.SerializeToString()
        self.traffic.down_bytes += len(data)
        yield data
        for piece in paced(pieces, self._pace):
            data = as_chunk(piece)
            self.traffic.down_bytes += len(data)
            yield data
        self._unsent.sent(letter)

    def _pieces(self, letter: Letter, limit: int) -> Iterator[memoryview]:
        header, vector, buffers = letter
        if vector is None:
            return iter(())
        if buffers is not None:
            buffers = Buffers(buffers.floating.cpu(), buffers.integer.cpu())
        return self._vectors.put(header, vector.detach().cpu(), buffers, limit)

    def look(self) -> None:
        """Let the worker go if it was silent for too long. For the thread that looks at leases."""
        if self._vital.is_lost() and not self._closed:
            self._hub.gone(self)
            self.finish()
            # A worker that does not read holds up the writer.
            self._cancel()

    def arrived(self, data: bytes) -> Any:
        """Take a message, in the thread of gRPC's that serves all workers, if that takes no time.

        Args:
            data: The message.

        Returns:
            What there is to it for the reader: itself, nothing, or an error.
        """
        self.traffic.up_bytes += len(data)
        self._vital.heard()
        if not self._joined or len(data) > _SHORT or not (self._is_prompt or data[:1] == _BEAT):
            return data
        try:
            if chunk_data(data) is not None:
                return data
            header = wire.ToServer.FromString(data)
            kind = header.WhichOneof("kind")
            if kind == "beat":
                self._beat(header.beat)
                return _TAKEN
            if not self._is_prompt:
                return data
            if kind == "join" or (kind == "push" and not _is_complete(header.push.update)):
                return data
            if not self._untaken.acquire(blocking=False):
                return data
            self._take(header, kind, _no_more)
        except Exception as problem:  # noqa: BLE001 (the reader raises it)
            return problem
        return _TAKEN

    def _hear(self, requests: Iterator[bytes]) -> bytes:
        """The next message that was not taken."""
        found: Any = _TAKEN
        while found is _TAKEN:
            found = next(requests)
        if isinstance(found, Exception):
            raise found
        data: bytes = found
        return data

    def _beat(self, beat: wire.Beat) -> None:
        self._vital.beat(beat.slack_s)
        self._unsent.put(Letter(wire.ToWorker(beat=wire.Beat(number=beat.number))))

    def read(self, requests: Iterator[bytes]) -> None:
        """Read the stream until it ends.

        Args:
            requests: What the worker sends.
        """
        try:
            while not self._closed:
                self._read_one(requests)
        except (DecodeError, ProtocolError) as error:
            # The writer still has to say so.
            message = str(error)
            self._hub.loop.post(lambda: self._hub.refuse(self, "protocol_error", message))
        except (StopIteration, grpc.RpcError):
            self.finish()
        except BaseException:
            self.finish()
            raise
        finally:
            # Also where the writer was the first to see that the worker has gone.
            self._hub.gone(self)

    def _read_one(self, requests: Iterator[bytes]) -> None:
        self._is_prompt = self._joined
        data = self._hear(requests)
        self._is_prompt = False
        if chunk_data(data) is not None:
            raise ProtocolError("a chunk that belongs to nothing")
        header = wire.ToServer.FromString(data)
        kind = header.WhichOneof("kind")
        self._wait_for_the_hub()
        self._take(header, kind, partial(self._hear, requests))
        if kind == "join":
            # What it says at once after that is heard when it is known whether it is let in.
            self._answered.wait()

    def _take(self, header: wire.ToServer, kind: str | None, hear: Callable[[], bytes]) -> None:
        """Hand a message to the hub, with its vector."""
        vector, buffers, room = None, None, None
        if kind == "join":
            self._same_machine = header.join.machine == machine() != ""
            self._vectors.joins(header.join)
        elif not self._joined:
            raise ProtocolError("a worker joins before it says anything else", got=str(kind))
        elif kind == "ask":
            self._shares = header.ask.shared and self._share is not None
            if self._shares:
                self._vectors.shares()
        elif kind == "push" and header.push.update.HasField("place"):
            vector, buffers = self._shared_update(header.push)
        elif kind == "push":
            self._vectors.check(header.push.update)
            room = self._server.rooms.take() if header.push.update.num_values else None
        # Only now is there a room to give back.
        try:
            if room is not None:
                self._vital.in_message = True
                vector, buffers = self._vectors.fill(room, header.push.update, hear)
                self._vital.in_message = False
        except BaseException:
            if room is not None:
                self._server.rooms.give(room)
            raise
        self._hub.post(self, Parcel(header, vector, buffers), lambda: self._taken(room))

    def _shared_update(self, push: wire.Push) -> tuple[Tensor | None, Buffers | None]:
        share = self._share
        if share is None:
            raise ProtocolError("a vector in memory that is not shared")
        # Who writes there has mapped it.
        self._shares = True
        self._vectors.shares()
        share.ended(push.job)
        return share.take(push.update)

    def _wait_for_the_hub(self) -> None:
        while not self._untaken.acquire(timeout=_LOOK_EVERY_S):
            if self._closed:
                raise StopIteration
            # It is this side that keeps the other waiting.
            self._vital.heard()

    def _taken(self, room: Any) -> None:
        self._untaken.release()
        if room is not None:
            self._server.rooms.give(room)


def _is_complete(vectors: wire.Vectors) -> bool:
    """Whether no chunks follow, and nothing is to be decoded."""
    if vectors.HasField("place") or not vectors.num_values:
        return True
    return bool(vectors.inline and not vectors.encoding)


def _no_more() -> bytes:
    raise ProtocolError("a vector is not complete, and something else follows")
