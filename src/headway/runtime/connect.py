"""The network link, the worker's end: a stream to the server, and a thread that reads it.

The thread receives models into rooms that wait for them, so that the next one arrives while the
worker computes. A message that is complete is taken by gRPC's own thread, which has it first: to
wake another one takes longer than that. Nothing here knows a server's modules.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, final

from google.protobuf.message import DecodeError

from headway.core import Buffers, ParameterLayout
from headway.core.errors import ExchangeError, ProtocolError, RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.chunks import (
    INLINE_BYTES,
    MESSAGE_BYTES,
    Rooms,
    as_chunk,
    chunk_data,
    keep_memory,
)
from headway.runtime.dialing import code_of, dial, fetch_status
from headway.runtime.finding import Place, why
from headway.runtime.heartbeats import Heart, Ticker, paced
from headway.runtime.leases import Pace
from headway.runtime.outgoing import Outgoing
from headway.runtime.parcel import Delivery, Parcel, vectors_of
from headway.runtime.quiet import grpc
from headway.runtime.rooms import Room, Sizes
from headway.runtime.security import WorkerTLS, check_worker, metadata
from headway.runtime.sharing import WorkerShare
from headway.runtime.vectors import WorkerVectors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NetworkLink", "fetch_status"]

_WORK: Final = "/headway.v1.Exchange/Work"
_AHEAD: Final = 2
"""How many chunks may wait for the network: one is sent while the next is copied."""
_ROOMS: Final = 8
"""More models than a server gives one worker at a time."""
_UNREAD: Final = 4096
_FAREWELL_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.5
_CHUNK_S: Final = 0.5
"""How long a chunk may take, where the server does not say."""
_NOTHING: Final = ParameterLayout(())
_TAKEN: Final = object()
"""What the reading thread finds in place of a message that was taken already."""


@final
class NetworkLink:
    """A worker's connection to a server elsewhere.

    Args:
        address: ``"host:port"``.
        security: How to know the server; ``None``: the connection is not protected.
        token: What the server wants to be shown; ``None``: nothing.
        insecure: Whether the token may travel without protection.
        connect_timeout_s: How long to wait for a server that does not listen yet, in seconds.
        once: Whether one that does not listen yet is lost at once.

    Raises:
        ConfigurationError: The address is none, or the token would travel in the open.
        RefusedError: The server wants another token.
        ServerLostError: There is no such server; the error says what was found instead.
    """

    def __init__(
        self,
        address: str,
        *,
        security: WorkerTLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        connect_timeout_s: float = 10.0,
        once: bool = False,
    ) -> None:
        place = Place.of(address)
        check_worker(place.host, security, token, insecure=insecure)
        self._place = place
        self._security = security
        self._sizes: Sizes | None = None
        self._rooms = Rooms(Sizes(_NOTHING), keep=0)
        self._share: WorkerShare | None = None
        self._may_share = self._shares = False
        self._max_bytes = MESSAGE_BYTES
        self._vectors = WorkerVectors()
        self.traffic = self._vectors.traffic
        self._heart: Heart | None = None
        self._ticker: Ticker | None = None
        self._pace = Pace(_CHUNK_S)
        # Rooms in use: of jobs by id; of looks, until the worker asks for something; of answers,
        # until it hands in something.
        self._models: dict[int, Room] = {}
        self._looks: list[Room] = []
        self._answers: list[Room] = []
        self._outgoing = Outgoing(_AHEAD)
        self._inbox: SimpleQueue[Delivery | ExchangeError] = SimpleQueue()
        self._error: ExchangeError | None = None
        # Whether the reading thread is at a message that is not complete.
        self._fills = False
        self._spoke = self._was_silent = False
        self._closed = threading.Event()
        self._over = threading.Event()
        self._ready = threading.Event()
        self._channel = dial(place, security, connect_timeout_s, once=once)
        work = self._channel.stream_stream(_WORK, response_deserializer=self._arrived)
        self._call: Any = work(iter(self._outgoing), metadata=metadata(token))
        self._reader = threading.Thread(target=self._read, name="headway-link", daemon=True)
        self._reader.start()
        self._wait_until_ready(connect_timeout_s)

    @property
    def carrier(self) -> str:
        """How vectors travel."""
        return "shared memory" if self._shares else "inline"

    def send(self, parcel: Parcel) -> None:
        """Send a message; waits while the network is busy.

        Args:
            parcel: The message.

        Raises:
            ServerLostError: The server has gone.
            ProtocolError: The message is larger than the server takes.
        """
        header, vector, buffers, encoded = parcel
        if header.HasField("join"):
            self._may_share = bool(header.join.machine)
        self._vectors.said(header)
        # What comes after the first byte is out is no longer of before.
        over = self._over_with(header)
        rest: Iterator[memoryview] = iter(())
        if vector is not None and self._share is not None:
            self._share.put(header.push.update, vector, buffers)
        elif vector is not None:
            limit = min(INLINE_BYTES, self._pace.num_bytes)
            vector, buffers = self._prepared(vector, buffers)
            rest = self._vectors.put(header.push.update, vector, buffers, encoded, limit)
        try:
            self._put(header.SerializeToString())
        except ServerLostError:
            # A server that does not let anybody in says why, and ends the connection at once.
            if not (self._spoke and header.HasField("join")):
                raise
        for piece in paced(rest, self._pace):
            self._put(as_chunk(piece))
        for room in over:
            self._rooms.give(room)

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """The next message; ``None``: none came in time.

        Args:
            timeout_s: How long to wait, in seconds; 0: not at all; ``None``: for ever.

        Raises:
            ServerLostError: The server has gone.
            ProtocolError: What came is no message of the protocol.
        """
        while True:
            if self._error is not None and self._inbox.empty():
                raise self._error
            try:
                if timeout_s is not None and timeout_s <= 0.0:
                    told = self._inbox.get_nowait()
                else:
                    told = self._inbox.get(timeout=timeout_s)
            except Empty:
                return None
            if isinstance(told, ExchangeError):
                self._error = told
                raise told
            if told.vector is not None or not self._is_placed(told.header):
                return told
            if (delivery := self._shared(told.header)) is not None:
                return delivery

    def attach(self, welcome: wire.Welcome, layout: ParameterLayout) -> bool:
        """Map the segment that the server offers, where it does and that works.

        Args:
            welcome: What the server said, and offered.
            layout: Of the server's model.
        """
        self._sizes = Sizes(layout)
        self._max_bytes = int(welcome.max_message_bytes) or MESSAGE_BYTES
        self._vectors.attach(welcome, self._sizes)
        self._live(welcome.heartbeat_s, welcome.lease_s)
        if self._may_share and welcome.HasField("pushes"):
            # It looked like the same machine, and is not: then as over any network.
            with suppress(OSError, ValueError):
                self._share = WorkerShare(layout, welcome)
                self._vectors.shares()
                self._shares = True
        # A server that shares sends what there is no room for.
        rooms = Rooms(self._sizes, keep=_ROOMS)
        if not self._shares:
            keep_memory()
            for room in [rooms.take() for _ in range(2)]:
                rooms.give(room)
        self._rooms = rooms
        return self._shares

    def room(self) -> Tensor | None:
        """Where the vector of a push will lie; ``None``: in messages."""
        return None if self._share is None else self._share.vector

    def close(self) -> None:
        """End the connection. What was sent still goes out. May be called twice."""
        if not self._closed.is_set():
            self._closed.set()
            if self._ticker is not None:
                self._ticker.close()
            self._outgoing.finish()
            self._over.wait(_FAREWELL_S)
            self._call.cancel()
            self._channel.close()
            self._reader.join(_FAREWELL_S)
            # What refers to this link would keep the memory that it shares.
            self._ticker = self._heart = self._share = None

    # --- sending

    def _prepared(self, vector: Any, buffers: Buffers | None) -> tuple[Any, Buffers | None]:
        assert self._sizes is not None, "the server has not said what its model is"
        vector = vector.detach().to("cpu", self._sizes.dtype).contiguous()
        if buffers is not None:
            floating = buffers.floating.detach().to("cpu", self._sizes.dtype)
            buffers = Buffers(floating, buffers.integer.cpu())
        return vector, buffers

    def _put(self, data: bytes) -> None:
        if len(data) > self._max_bytes:
            raise ProtocolError(
                "a message is larger than the server takes",
                got=f"{len(data):,} bytes",
                expected=f"at most {self._max_bytes:,}",
                help="a model of so many layers joins without a description: give no layout",
            )
        while not self._over.is_set() and not self._closed.is_set():
            if self._outgoing.put(data, _LOOK_EVERY_S):
                self.traffic.up_bytes += len(data)
                return
        raise self._lost(None)

    def _over_with(self, header: wire.ToServer) -> list[Room]:
        """Rooms that nobody needs when this is sent."""
        over: list[Room] = []
        if header.HasField("push"):
            over, self._answers = self._answers, []
            room = self._models.pop(header.push.job, None)
            if room is not None:
                over.append(room)
        if header.HasField("push") or header.HasField("ask"):
            over += self._looks
            self._looks = []
        return over

    # --- living

    def _live(self, heartbeat_s: float, lease_s: float) -> None:
        """Send heartbeats from now on, if the server wants them."""
        if not heartbeat_s > 0.0 or not isfinite(lease_s) or lease_s < heartbeat_s:
            return
        self._pace = Pace(heartbeat_s)
        self._heart = Heart(heartbeat_s, lease_s, send=self._beat, lost=self._silent)
        self._heart.beat()
        self._ticker = Ticker(self._heart.beat, heartbeat_s, "headway-heart")

    def _beat(self, beat: wire.Beat) -> bool:
        return self._outgoing.put(wire.ToServer(beat=beat).SerializeToString())

    def _silent(self) -> None:
        self._was_silent = True
        self._call.cancel()

    # --- receiving, in a thread of gRPC's

    def _arrived(self, data: bytes) -> Any:
        """What there is to a message for the reading thread: itself, nothing, or an error."""
        self.traffic.down_bytes += len(data)
        heart = self._heart
        if heart is not None:
            heart.heard()
        try:
            if chunk_data(data) is not None:
                return data
            header = wire.ToWorker.FromString(data)
            if heart is not None and header.HasField("beat"):
                heart.answered(header.beat)
            elif self._fills or not self._is_complete(header):
                return data
            else:
                self._take(header, len(data))
        except Exception as problem:  # noqa: BLE001 (the reading thread raises it)
            return problem
        return _TAKEN

    def _is_complete(self, header: wire.ToWorker) -> bool:
        """Whether no chunks follow, and nothing is to be decoded."""
        if self._is_placed(header) or header.WhichOneof("kind") not in ("job", "receipt"):
            return True
        vectors = vectors_of(header)
        return not vectors.num_values or bool(vectors.inline and not vectors.encoding)

    # --- receiving, in a thread of its own

    def _hear(self) -> bytes:
        """The next message that was not taken."""
        while (found := next(self._call)) is _TAKEN:
            pass
        if isinstance(found, Exception):
            raise found
        data: bytes = found
        return data

    def _read(self) -> None:
        error: ExchangeError
        try:
            self._call.initial_metadata()
            # A call that has failed has metadata too: none.
            if self._call.is_active() or code_of(self._call) == "OK":
                self._ready.set()
            while True:
                data = self._hear()
                if chunk_data(data) is not None:
                    raise ProtocolError("a chunk that belongs to nothing")
                self._fills = True
                self._take(wire.ToWorker.FromString(data), len(data))
                self._fills = False
        except StopIteration:
            error = self._lost(None)
        except grpc.RpcError as problem:
            error = (
                self._refused() if code_of(problem) == "UNAUTHENTICATED" else self._lost(problem)
            )
        except DecodeError as problem:
            error = ProtocolError("what the server said cannot be read", got=str(problem))
        except ExchangeError as problem:
            error = problem
        except (OSError, ValueError) as problem:
            error = ProtocolError("what the server sent cannot be found", got=str(problem))
        self._over.set()
        self._inbox.put(error)
        self._ready.set()
        self._call.cancel()
        # Wakes the thread that sends.
        self._outgoing.finish()

    def _take(self, header: wire.ToWorker, num_bytes: int) -> None:
        self._spoke = True
        if self._inbox.qsize() >= _UNREAD:
            raise ProtocolError("the server says more than a worker can hear")
        for receipt in header.before:
            if receipt.WhichOneof("kind") != "receipt" or receipt.before:
                raise ProtocolError("only receipts go before a job")
            if self._share is None and receipt.receipt.answer.num_values:
                raise ProtocolError("an answer without its vector")
            self._inbox.put(Delivery(receipt))
        if header.HasField("cancel"):
            self._abandon(header.cancel.job)
        if header.HasField("wait"):
            self._vectors.waits()
        self._inbox.put(self._delivery(header, num_bytes))

    def _delivery(self, header: wire.ToWorker, num_bytes: int) -> Delivery:
        if self._is_placed(header) or header.WhichOneof("kind") not in ("job", "receipt"):
            return Delivery(header)
        vectors = vectors_of(header)
        if not vectors.num_values:
            return Delivery(header)
        if self._sizes is None or vectors.HasField("place"):
            raise ProtocolError("a vector lies where none may")
        self._vectors.check(vectors)
        if self._rooms.num_out >= _ROOMS:
            raise ProtocolError("the server sends more models than it was asked for")
        room = self._rooms.take()
        vector, buffers = self._vectors.fill(room, vectors, self._hear, num_bytes)
        if header.HasField("receipt"):
            self._answers.append(room)
        elif header.job.look:
            self._looks.append(room)
        else:
            self._models[header.job.id] = room
        return Delivery(header, vector, buffers)

    def _abandon(self, job: int) -> None:
        room = self._models.pop(job, None)
        if room is not None:
            self._rooms.give(room)

    def _is_placed(self, header: wire.ToWorker) -> bool:
        """Whether its vectors lie in memory that the server shares."""
        return (
            self._share is not None
            and header.WhichOneof("kind") in ("job", "receipt")
            and vectors_of(header).HasField("place")
        )

    def _shared(self, header: wire.ToWorker) -> Delivery | None:
        """A message with its vectors; ``None``: what a server that has gone has taken with it."""
        assert self._share is not None
        try:
            return Delivery(header, *self._share.take(vectors_of(header)))
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and self._over.is_set():
                return None
            raise ProtocolError(
                "memory that the server shares cannot be opened", got=str(error)
            ) from error

    # --- what went wrong

    def _wait_until_ready(self, timeout_s: float) -> None:
        if not self._ready.wait(timeout_s):
            self._call.cancel()
            self.close()
            raise ServerLostError(
                "something listens there, and does not answer",
                where=str(self._place),
                expected=f"an answer within {timeout_s:g} seconds",
                help="check the port; a server that uses TLS wants a worker that does",
            )
        if self._over.is_set() and not self._spoke:
            told = self._inbox.get()
            self.close()
            assert isinstance(told, ExchangeError)
            raise told

    def _refused(self) -> RefusedError:
        return RefusedError(
            "the server wants another token",
            where=str(self._place),
            help="give token=... (--token-file), the same that the server was started with",
        )

    def _lost(self, problem: grpc.RpcError | None) -> ServerLostError:
        code = "" if problem is None else code_of(problem)
        details = "" if problem is None else str(getattr(problem, "details", str)() or "")
        message, help = "the server has gone", "its own messages say why"
        if self._was_silent:
            message = "the server is silent"
            help = "it was stopped, or the network between is cut"
        elif problem is not None and not self._was_there:
            message, help = why(self._place, code, details, self._security)
        elif code == "RESOURCE_EXHAUSTED":
            message = "the server broke the connection off"
        return ServerLostError(message, where=str(self._place), got=details or None, help=help)

    @property
    def _was_there(self) -> bool:
        return self._sizes is not None
