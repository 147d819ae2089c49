"""The network link, the server's end: where it listens, and who may connect."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, final

from headway.core import ParameterLayout
from headway.runtime import wire
from headway.runtime.chunks import Rooms, keep_memory
from headway.runtime.compression import KINDS
from headway.runtime.heartbeats import LOOK_EVERY_S, Ticker
from headway.runtime.letters import failed_letter, refused_letter
from headway.runtime.listening import address_of, check_port, listen, options
from headway.runtime.pool import Pool
from headway.runtime.quiet import grpc
from headway.runtime.rooms import Sizes
from headway.runtime.security import ServerTLS, check_server, is_authorised
from headway.runtime.session import NetworkSession
from headway.runtime.timeouts import Timeouts
from headway.runtime.vectors import Offer

if TYPE_CHECKING:
    from headway.runtime.compression import Codec
    from headway.runtime.hub import Hub
    from headway.runtime.segments import Segments

    _Handler = grpc.GenericRpcHandler[Any, Any]
else:
    _Handler = grpc.GenericRpcHandler

__all__ = ["NetworkServer"]

_STATUS_THREADS: Final = 4
_WORK: Final = "/headway.v1.Exchange/Work"
_STATUS: Final = "/headway.v1.Exchange/Status"
_EXIT_S: Final = 2.0
_NO_TOKEN: Final = "the token is missing or wrong"
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
        keep_memory()
        pool: Any = Pool(self._max_workers + _STATUS_THREADS, "headway-network")
        server = grpc.server(pool, options=options(self.timeouts))
        server.add_generic_rpc_handlers((_Calls(self._work, self._tell),))
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

    def _work(
        self, ear: _Ear, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        self._check(context, is_worker=True)
        session = NetworkSession(self, context.cancel, context.peer())
        ear.belongs_to(session)
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
            told = refused.refused
            self.hub.members.refusals.note(told.code, told.message, context.peer())
            return iter((refused.SerializeToString(),))
        threading.Thread(
            target=session.read, args=(requests,), name="headway-reader", daemon=True
        ).start()
        return session.write()

    def _tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._check(context, is_worker=False)
        told = "{}" if self._status is None else self._status()
        return wire.StatusReply(status=told).SerializeToString()

    def _check(self, context: grpc.ServicerContext, *, is_worker: bool) -> None:
        if is_authorised(context.invocation_metadata(), self._token):
            return
        if is_worker:
            self.hub.members.refusals.note("token", _NO_TOKEN, context.peer())
        context.abort(grpc.StatusCode.UNAUTHENTICATED, _NO_TOKEN)

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
class _Ear:
    """Where the messages of one call arrive, in gRPC's thread. It keeps no session alive."""

    def __init__(self) -> None:
        self._session: Callable[[], NetworkSession | None] = _nobody

    def belongs_to(self, session: NetworkSession) -> None:
        self._session = weakref.ref(session)

    def __call__(self, data: bytes) -> Any:
        session = self._session()
        return data if session is None else session.arrived(data)


def _nobody() -> None:
    return None


@final
class _Calls(_Handler):
    """What can be called. Each stream has an ear of its own.

    Args:
        work: Answers a stream.
        tell: Answers a question for the status.
    """

    def __init__(
        self,
        work: Callable[[_Ear, Iterator[bytes], grpc.ServicerContext], Iterator[bytes]],
        tell: Callable[[bytes, grpc.ServicerContext], bytes],
    ) -> None:
        self._work = work
        self._tell = tell

    def service(self, handler_call_details: Any) -> Any:
        """How a call is answered; ``None``: there is none of that name.

        Args:
            handler_call_details: Its name among them.
        """
        if handler_call_details.method == _WORK:
            ear = _Ear()
            return grpc.stream_stream_rpc_method_handler(
                partial(self._work, ear), request_deserializer=ear
            )
        if handler_call_details.method == _STATUS:
            return grpc.unary_unary_rpc_method_handler(self._tell)
        return None
