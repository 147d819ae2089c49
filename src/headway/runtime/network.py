"""The network link, the server's end: one gRPC stream per worker.

Each stream has two threads: one reads what the worker sends and hands it to the hub, one writes
what the hub has for the worker. So the hub waits for no worker, and a worker that is slow to read
holds up nobody else.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, Literal, final

import grpc
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
from headway.runtime.compression import KINDS
from headway.runtime.heartbeats import LOOK_EVERY_S, Ticker, Vital, paced
from headway.runtime.leases import Pace
from headway.runtime.letters import failed_letter, refused_letter
from headway.runtime.listening import address_of, check_port, listen, options
from headway.runtime.parcel import Parcel, vectors_of
from headway.runtime.pool import Pool
from headway.runtime.rooms import Sizes
from headway.runtime.security import ServerTLS, check_server, is_authorised
from headway.runtime.segments import machine
from headway.runtime.sharing import ServerShare
from headway.runtime.timeouts import Timeouts
from headway.runtime.unsent import Letter, Unsent
from headway.runtime.vectors import Offer, ServerVectors

if TYPE_CHECKING:
    from torch import Tensor

    from headway.runtime.compression import Codec
    from headway.runtime.hub import Hub
    from headway.runtime.segments import Segments

__all__ = ["NetworkServer"]

_STATUS_THREADS: Final = 4
_UNTAKEN: Final = 4
"""How many messages of one worker may wait for the hub."""
_LOOK_EVERY_S: Final = 0.5
_EXIT_S: Final = 2.0
_BEAT: Final = bytes(((5 << 3) | 2,))
_USUAL: Final = Timeouts()


@final
class NetworkServer:
    """Takes workers in that connect.

    Args:
        hub: Who takes what they send.
        layout: Of the model.
        host: Where to listen: a name or an address.
        port: Where to listen; 0: where there is room, see :attr:`address`.
        segments: Where shared vectors lie; ``None``: none are shared.
        security: The certificate of this server; ``None``: connections are not protected.
        token: What workers have to show; ``None``: nothing.
        insecure: Whether it may listen to the network without TLS.
        max_workers: How many workers may be connected at once, at least 1.
        status: Makes the JSON that ``fetch_status`` asks for; called by a thread of its own.
        timeouts: When a silent worker is lost.
        compression: The kinds of codecs that are read; empty: none.
        pulls: How models go to workers that compress: a codec of their differences, ``"exact"``,
            or ``None``: whole.

    Raises:
        ConfigurationError: Without TLS it listens to its own machine only.

    Memory: a model for each worker whose update is on its way right now, and up to four to spare.
    """

    def __init__(
        self,
        hub: Hub,
        layout: ParameterLayout,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        segments: Segments | None = None,
        security: ServerTLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        max_workers: int = 256,
        status: Callable[[], str] | None = None,
        timeouts: Timeouts = _USUAL,
        compression: Collection[str] = KINDS,
        pulls: Codec | Literal["exact"] | None = "exact",
    ) -> None:
        check_server(host, security, token, insecure=insecure)
        self.hub = hub
        self.layout = layout
        self.segments = segments
        self.timeouts = timeouts
        self.rooms = Rooms(Sizes(layout))
        self.offer = Offer(self.rooms.sizes, compression, pulls)
        self._host = host.strip("[]")
        self._port = check_port(port)
        self._security = security
        self._token = token
        self._max_workers = max_workers
        self._status = status
        self._sessions: set[NetworkSession] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._server: grpc.Server | None = None
        self._pool: Pool | None = None
        self._ticker: Ticker | None = None

    @property
    def address(self) -> str:
        """Where it listens: ``"host:port"``."""
        return address_of(self._host, self._port)

    def start(self) -> None:
        """Listen.

        Raises:
            HeadwayError: Something else listens there, or there is no such place on this machine.
            ConfigurationError: The certificate or its key cannot be read.
        """
        pool: Any = Pool(self._max_workers + _STATUS_THREADS, "headway-network")
        server = grpc.server(pool, options=options(self.timeouts))
        handlers = {
            "Work": grpc.stream_stream_rpc_method_handler(self._work),
            "Status": grpc.unary_unary_rpc_method_handler(self._tell),
        }
        handler = grpc.method_handlers_generic_handler("headway.v1.Exchange", handlers)
        server.add_generic_rpc_handlers((handler,))
        self._port = listen(server, self._host, self._port, self._security)
        server.start()
        self._server, self._pool = server, pool
        # gRPC's threads are not to be in the middle of something when the interpreter ends.
        atexit.register(self._exit)
        self._ticker = Ticker(self._look, LOOK_EVERY_S, "headway-leases")

    def stop(self, within_s: float = 2.0) -> None:
        """End all connections, and listen no more. May be called twice.

        Args:
            within_s: How long to wait for what is still on its way to workers, in seconds.
        """
        if self._ticker is not None:
            self._ticker.close()
        with self._lock:
            self._stopped = True
            sessions = list(self._sessions)
        for session in sessions:
            self.hub.gone(session)
            session.finish()
        self._end(within_s)

    def _end(self, within_s: float | None, patience_s: float | None = None) -> None:
        atexit.unregister(self._exit)
        server, self._server = self._server, None
        if server is not None:
            server.stop(within_s).wait(patience_s)
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._ticker = self._status = None

    def _exit(self) -> None:
        self._end(None, _EXIT_S)

    # --- what gRPC calls

    def _work(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._check(context)
        session = NetworkSession(self, context.cancel)
        with self._lock:
            refused = self._refusal()
            if refused is None:
                self._sessions.add(session)
        # A stream that is broken off at once is never written to: no writer says that it ended.
        if refused is None and not context.add_callback(lambda: self.forget(session)):
            self.forget(session)
            return iter(())
        context.send_initial_metadata(())
        if refused is not None:
            return iter((refused.SerializeToString(),))
        threading.Thread(
            target=session.read, args=(requests,), name="headway-reader", daemon=True
        ).start()
        return session.write()

    def _tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._check(context)
        told = "{}" if self._status is None else self._status()
        return wire.StatusReply(status=told).SerializeToString()

    def _check(self, context: grpc.ServicerContext) -> None:
        if not is_authorised(context.invocation_metadata(), self._token):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")

    def _look(self) -> None:
        with self._lock:
            sessions = list(self._sessions)
        ended = self._ended()
        for session in sessions:
            if ended is None:
                session.look()
            else:
                # It came when nobody took messages any more.
                session.send(ended)
                session.finish()

    def _refusal(self) -> wire.ToWorker | None:
        if (ended := self._ended()) is not None:
            return ended
        if self._stopped:
            return refused_letter("stopping", "the server is about to end", "")
        if len(self._sessions) < self._max_workers:
            return None
        return refused_letter(
            "full",
            f"the server has {self._max_workers} connections, and takes no more",
            "start it with a larger max_workers, or fewer workers",
        )

    def _ended(self) -> wire.ToWorker | None:
        """What to say where no hub answers any more; ``None``: it does."""
        if self.hub.state != "ended":
            return None
        if self.hub.error is not None:
            return failed_letter(self.hub.error)
        return refused_letter("stopping", "the server has ended")

    def forget(self, session: NetworkSession) -> None:
        """A session has ended.

        Args:
            session: It.
        """
        with self._lock:
            self._sessions.discard(session)


@final
class NetworkSession:
    """A worker at the other end of a stream. The hub's thread calls what :class:`Session` names.

    Args:
        server: Whose.
        cancel: Breaks the stream off.
    """

    def __init__(self, server: NetworkServer, cancel: Callable[[], object]) -> None:
        self._server = server
        self._cancel = cancel
        self._hub = server.hub
        self._share: ServerShare | None = None
        self._shares = False
        self._same_machine = False
        self._joined = False
        self._closed = False
        self._vectors = ServerVectors(server.offer)
        self.traffic = self._vectors.traffic
        self._unsent = Unsent()
        self._untaken = threading.Semaphore(_UNTAKEN)
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
            self._share.put(vectors_of(header), vector, buffers, header.job.id)
            vector = buffers = None
        if not self._unsent.put(Letter(header, vector, buffers)):
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
        self.send(header)

    def close(self) -> None:
        """Let the worker go, once it has been sent what was meant for it."""
        self.finish()
        if self._share is not None:
            self._share.close()
            self._share = None

    # --- the stream's threads

    def finish(self) -> None:
        """Nothing more is sent. For any thread."""
        self._closed = True
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
                if letter.vector is None and letter.header.HasField("receipt"):
                    yield from self._with_what_follows(letter)
                else:
                    yield from self._messages(letter)
        except Empty:
            self._hub.gone(self)
        finally:
            self._closed = True
            self._vectors.close()
            self._server.forget(self)

    def _with_what_follows(self, receipt: Letter) -> Iterator[bytes]:
        """A receipt travels with the job that comes right after it, if that is here by now."""
        try:
            after = self._unsent.get(0.0)
        except Empty:
            yield from self._messages(receipt)
            return
        if after is None:
            self._unsent.finish()
            yield from self._messages(receipt)
        elif after.header.HasField("job"):
            after.header.before.append(receipt.header)
            yield from self._messages(after)
        else:
            yield from self._messages(receipt)
            yield from self._messages(after)

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

    def _hear(self, requests: Iterator[bytes]) -> bytes:
        """The next message that is no heartbeat."""
        while True:
            data = next(requests)
            self.traffic.up_bytes += len(data)
            self._vital.heard()
            if not self._joined or data[:1] != _BEAT:
                return data
            said = wire.ToServer.FromString(data)
            if not said.HasField("beat"):
                return data
            self._vital.beat(said.beat.slack_s)
            answer = wire.ToWorker(beat=wire.Beat(number=said.beat.number))
            self._unsent.put(Letter(answer))

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
            self._hub.gone(self)
            self.finish()
        except BaseException:
            self._hub.gone(self)
            self.finish()
            raise

    def _read_one(self, requests: Iterator[bytes]) -> None:
        data = self._hear(requests)
        if chunk_data(data) is not None:
            raise ProtocolError("a chunk that belongs to nothing")
        header = wire.ToServer.FromString(data)
        kind = header.WhichOneof("kind")
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
                hear = partial(self._hear, requests)
                vector, buffers = self._vectors.fill(room, header.push.update, hear)
                self._vital.in_message = False
            self._wait_for_the_hub()
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
