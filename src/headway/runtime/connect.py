"""The network link, the worker's end: a stream to the server, and a thread that reads it.

The thread receives models into rooms that wait for them, so that the next one arrives while the
worker computes. Nothing here knows a server's modules.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isfinite
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any, Final, final

import grpc
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
)
from headway.runtime.finding import Place, find, why
from headway.runtime.heartbeats import Heart, Ticker, paced
from headway.runtime.leases import Pace
from headway.runtime.parcel import Delivery, Parcel, vectors_of
from headway.runtime.rooms import Room, Sizes
from headway.runtime.security import WorkerTLS, check_worker, metadata
from headway.runtime.sharing import WorkerShare
from headway.runtime.vectors import WorkerVectors

__all__ = ["NetworkLink", "fetch_status"]

_WORK: Final = "/headway.v1.Exchange/Work"
_STATUS: Final = "/headway.v1.Exchange/Status"
_AHEAD: Final = 2
"""How many chunks may wait for the network: one is sent while the next is copied."""
_ROOMS: Final = 8
"""More models than a server gives one worker at a time."""
_UNREAD: Final = 4096
_FAREWELL_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.5
_CHUNK_S: Final = 0.5
"""How long a chunk may take, where the server does not say."""
_BEAT: Final = bytes(((8 << 3) | 2,))
_WELCOME_BYTES: Final = 16 << 20
"""A welcome describes the model, and a large model's description is long."""
_NOTHING: Final = ParameterLayout(())
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", _WELCOME_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # The server goes and comes back elsewhere: no connection of another link is used again.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


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
        self._outbox: Queue[bytes | None] = Queue(_AHEAD)
        self._inbox: SimpleQueue[Delivery | ExchangeError] = SimpleQueue()
        self._error: ExchangeError | None = None
        self._was_silent = False
        self._closed = threading.Event()
        self._over = threading.Event()
        self._ready = threading.Event()
        self._channel = _open(place, security, connect_timeout_s, once=once)
        self._call: Any = self._channel.stream_stream(_WORK)(
            self._requests(), metadata=metadata(token)
        )
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
        self._put(header.SerializeToString())
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
        if self._share is not None and told.header.WhichOneof("kind") in ("job", "receipt"):
            return self._shared(told.header)
        return told

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
                return True
        rooms = Rooms(self._sizes, keep=_ROOMS)
        for room in [rooms.take() for _ in range(2)]:
            rooms.give(room)
        self._rooms = rooms
        return False

    def close(self) -> None:
        """End the connection. What was sent still goes out. May be called twice."""
        if not self._closed.is_set():
            self._closed.set()
            if self._ticker is not None:
                self._ticker.close()
            # With room in it: whoever fills it stops when the link is closed.
            with suppress(Full):
                self._outbox.put(None, timeout=_FAREWELL_S)
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
            with suppress(Full):
                self._outbox.put(data, timeout=_LOOK_EVERY_S)
                self.traffic.up_bytes += len(data)
                return
        raise self._lost(None)

    def _requests(self) -> Iterator[bytes]:
        while (data := self._outbox.get()) is not None:
            yield data

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
        with suppress(Full):
            self._outbox.put_nowait(wire.ToServer(beat=beat).SerializeToString())
            return True
        return False

    def _silent(self) -> None:
        self._was_silent = True
        self._call.cancel()

    def _hear(self) -> bytes:
        """The next message that answers no heartbeat."""
        while True:
            data: bytes = next(self._call)
            self.traffic.down_bytes += len(data)
            heart = self._heart
            if heart is None:
                return data
            heart.heard()
            if data[:1] != _BEAT:
                return data
            said = wire.ToWorker.FromString(data)
            if not said.HasField("beat"):
                return data
            heart.answered(said.beat)

    # --- receiving, in a thread

    def _read(self) -> None:
        error: ExchangeError
        try:
            self._call.initial_metadata()
            # A call that has failed has metadata too: none.
            if self._call.is_active() or _code(self._call) == "OK":
                self._ready.set()
            while True:
                self._inbox.put(self._next())
                if self._inbox.qsize() > _UNREAD:
                    raise ProtocolError("the server says more than a worker can hear")
        except StopIteration:
            error = self._lost(None)
        except grpc.RpcError as problem:
            error = self._refused() if _code(problem) == "UNAUTHENTICATED" else self._lost(problem)
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
        with suppress(Full):
            self._outbox.put_nowait(None)

    def _next(self) -> Delivery:
        data = self._hear()
        if chunk_data(data) is not None:
            raise ProtocolError("a chunk that belongs to nothing")
        header = wire.ToWorker.FromString(data)
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
        if self._share is not None or header.WhichOneof("kind") not in ("job", "receipt"):
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
        vector, buffers = self._vectors.fill(room, vectors, self._hear, len(data))
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

    def _shared(self, header: wire.ToWorker) -> Delivery:
        assert self._share is not None
        try:
            return Delivery(header, *self._share.take(vectors_of(header)))
        except (OSError, ValueError) as error:
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
        if self._over.is_set():
            told = self._inbox.get()
            self.close()
            assert isinstance(told, ExchangeError)
            raise told

    def _refused(self) -> RefusedError:
        return RefusedError(
            "the server wants another token",
            where=str(self._place),
            help="give token=..., the same that the server was started with",
        )

    def _lost(self, problem: grpc.RpcError | None) -> ServerLostError:
        code = "" if problem is None else _code(problem)
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


def fetch_status(
    address: str,
    *,
    security: WorkerTLS | None = None,
    token: str | None = None,
    insecure: bool = False,
    timeout_s: float = 10.0,
) -> dict[str, Any]:
    """Ask a server how it is.

    Args:
        address: ``"host:port"``.
        security: How to know the server; ``None``: the connection is not protected.
        token: What the server wants to be shown; ``None``: nothing.
        insecure: Whether the token may travel without protection.
        timeout_s: How long to wait, in seconds.

    Raises:
        ConfigurationError: The address is none, or the token would travel in the open.
        RefusedError: The server wants another token.
        ServerLostError: There is no such server; the error says what was found instead.
        ProtocolError: Its answer cannot be read.
    """
    place = Place.of(address)
    check_worker(place.host, security, token, insecure=insecure)
    channel = _open(place, security, timeout_s)
    ask: Callable[..., bytes] = channel.unary_unary(_STATUS)
    try:
        request = wire.StatusRequest().SerializeToString()
        reply = ask(request, timeout=timeout_s, metadata=metadata(token))
        return dict(json.loads(wire.StatusReply.FromString(reply).status))
    except grpc.RpcError as error:
        code, details = _code(error), str(getattr(error, "details", str)() or "")
        if code == "UNAUTHENTICATED":
            raise RefusedError(
                "the server wants another token", where=str(place), help="give token=..."
            ) from None
        message, help = why(place, code, details, security)
        raise ServerLostError(message, where=str(place), got=details or None, help=help) from error
    except (DecodeError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("the server's status cannot be read", got=str(error)) from error
    finally:
        channel.close()


def _open(place: Place, security: WorkerTLS | None, timeout_s: float, *, once: bool = False) -> Any:
    options: list[tuple[str, Any]] = list(_OPTIONS)
    credentials: Any = None if security is None else security.credentials()
    find(place, timeout_s, once=once)
    if security is None:
        return grpc.insecure_channel(str(place), options=options)
    if security.server_name is not None:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    return grpc.secure_channel(str(place), credentials, options=options)


def _code(error: grpc.RpcError) -> str:
    code = getattr(error, "code", lambda: None)()
    return "" if code is None else str(code.name)
