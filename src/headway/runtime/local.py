"""The local link: a pipe for messages, shared memory for vectors.

For workers that were started here. The hub's own thread reads the pipes, so that a message costs
no change of threads on its way. A thread of the worker says that it lives; one that is silent for
too long, or does not read, is taken for lost, and joins again when it is heard of.
"""

from __future__ import annotations

import logging
import select
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final, final

from google.protobuf.message import DecodeError

from headway.core import Buffers, ParameterLayout
from headway.core.errors import ProtocolError, ServerLostError
from headway.runtime.encoded import SHARED, Traffic
from headway.runtime.heartbeats import Ticker, Vital
from headway.runtime.letters import refused_letter
from headway.runtime.loop import give_way
from headway.runtime.parcel import Delivery, Parcel, vectors_of
from headway.runtime.sharing import ServerShare, WorkerShare
from headway.runtime.timeouts import Timeouts
from headway.runtime.wire import Beat, ToServer, ToWorker, Welcome

if TYPE_CHECKING:
    from torch import Tensor

    from headway.runtime.hub import Hub
    from headway.runtime.segments import Segments

__all__ = ["SILENT", "LocalLink", "LocalSession"]

SILENT: Final = "silent"
"""Why a worker is let go that may come back: it was not heard of for too long."""

_LOG: Final = logging.getLogger("headway")
_USUAL: Final = Timeouts()
_BEAT: Final = ToServer(beat=Beat(number=1)).SerializeToString()
_MESSAGE_BYTES: Final = 1 << 20
"""More than any message without its vectors has."""


@final
class LocalSession:
    """A worker at the other end of a pipe.

    Args:
        hub: Who takes what it sends.
        pipe: This end of it.
        segments: Where shared vectors lie.
        layout: Of the model.
        timeouts: How often it says that it lives, and when it is taken for lost.
        clock: In seconds.

    Attributes:
        num_losses: How often it was taken for lost, though its process was there.
    """

    def __init__(
        self,
        hub: Hub,
        pipe: Connection,
        segments: Segments,
        layout: ParameterLayout,
        timeouts: Timeouts = _USUAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._pipe = pipe
        self._new_share = partial(ServerShare, segments, layout)
        self._share = self._new_share()
        self._held: ToWorker | None = None
        self._timeouts = timeouts
        self._vital = Vital(timeouts, clock)
        self._name = ""
        self._is_away = self._is_told = False
        self._room = select.poll()
        self._room.register(pipe.fileno(), select.POLLOUT)
        self.num_losses = 0
        hub.loop.post(lambda: hub.loop.watch(pipe, self._read))

    @property
    def carrier(self) -> str:
        """How its vectors travel."""
        return "shared memory"

    @property
    def traffic(self) -> Traffic:
        """Nothing travels."""
        return Traffic(encoding=SHARED, pulls=SHARED)

    def send(
        self, header: ToWorker, vector: Tensor | None = None, buffers: Buffers | None = None
    ) -> None:
        """Send a message; a vector in shared memory stays where it is.

        Args:
            header: The message.
            vector: Its vector.
            buffers: The buffers with it.
        """
        if header.HasField("cancel"):
            self._share.ended(header.cancel.job)
        if vector is not None:
            self._share.put(vectors_of(header), vector, buffers, header.job.id)
        self._write(header)

    def welcome(self, header: ToWorker) -> None:
        """Send the welcome, with a segment for the worker's pushes.

        Args:
            header: The message.
        """
        self._share.offer(header.welcome)
        self._name = header.welcome.worker
        header.welcome.heartbeat_s = self._timeouts.heartbeat_s
        header.welcome.lease_s = self._timeouts.lease_s
        # One that is stopped before it has said so once, is silent too.
        self._vital.beat(0.0)
        self._write(header)

    def look(self) -> None:
        """See whether the worker was silent for too long. To be called every ``LOOK_EVERY_S``."""
        if self._vital.is_lost() and not self._is_away:
            self._set_aside(f"silent for {self._timeouts.lease_s:g} s")

    def close(self) -> None:
        """Let the worker go; of one that was taken for lost, only what it shared."""
        if self._pipe.closed:
            return
        self._share.close()
        if self._is_away:
            self._held = None
            return
        self._flush()
        self._hub.loop.unwatch(self._pipe)
        self._pipe.close()

    def _set_aside(self, why: str) -> None:
        """It is lost to the hub; its pipe stays, for it may only have slept."""
        if self._is_away or self._pipe.closed:
            return
        _LOG.warning("Headway: %s is %s, and is not waited for", self._name or "a worker", why)
        self._is_away, self._is_told = True, False
        self.num_losses += 1
        self._hub.drop(self, "lost")

    def _comes_back(self, header: ToServer) -> bool:
        """Whether one that was set aside joins again. Whatever else it says is of no use now."""
        if header.HasField("join"):
            self._is_away = False
            self._share = self._new_share()
            _LOG.warning("Headway: %s is there again", self._name)
            return True
        if not self._is_told and self._has_room():
            self._is_told = True
            self._put(refused_letter(SILENT, "this worker was silent for too long", ""))
        return False

    def _has_room(self) -> bool:
        """Whether a message can be sent without waiting for the worker to read others."""
        return bool(self._room.poll(0))

    def _write(self, header: ToWorker) -> None:
        """Write a message; a receipt waits for the job right behind it, until the hub's turn ends.

        To wake the worker costs more than all else that the hub does for a small model.
        """
        held, self._held = self._held, None
        if held is not None and header.HasField("job"):
            header.before.append(held)
        elif held is not None:
            self._put(held)
        if header.HasField("receipt") and not header.receipt.answer.num_values:
            self._held = header
            self._hub.loop.post(self._flush)
        else:
            self._put(header)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._put(held)

    def _put(self, header: ToWorker) -> None:
        # One that has gone is noticed when its pipe is read.
        with suppress(OSError, ValueError):
            if not self._has_room():
                # It reads nothing: the hub would wait with it, and all others with the hub.
                self._hub.loop.post(lambda: self._set_aside("reading nothing"))
                return
            self._pipe.send_bytes(header.SerializeToString())

    def _read(self) -> None:
        try:
            header = ToServer.FromString(self._pipe.recv_bytes(_MESSAGE_BYTES))
            if header.HasField("beat"):
                self._vital.beat(header.beat.slack_s)
            else:
                self._vital.heard()
            if (self._is_away and not self._comes_back(header)) or header.HasField("beat"):
                return
            vector, buffers = None, None
            if header.HasField("push"):
                self._share.ended(header.push.job)
                vector, buffers = self._share.take(header.push.update)
        except (EOFError, OSError):
            self._is_away = False
            self._hub.drop(self, "lost")
        except (DecodeError, ProtocolError) as error:
            self._hub.refuse(self, "protocol_error", str(error))
        else:
            self._hub.take(self, Parcel(header, vector, buffers))


@final
class LocalLink:
    """The worker's end of a local link.

    Args:
        pipe: Its end of the pipe.
        spin_s: For how long to look again and again for a message before sleeping, in seconds.
    """

    def __init__(self, pipe: Connection, *, spin_s: float = 0.0) -> None:
        self._pipe = pipe
        self._spin_s = spin_s
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)
        self._share: WorkerShare | None = None
        self._heard: deque[ToWorker] = deque()
        self._sending = threading.Lock()
        self._ticker: Ticker | None = None
        self.traffic = Traffic(encoding=SHARED, pulls=SHARED)

    def send(self, parcel: Parcel) -> None:
        """Send a message; its vector is copied to where the server reads it.

        Args:
            parcel: The message.

        Raises:
            ServerLostError: The server has gone.
        """
        header = parcel.header
        if parcel.vector is not None:
            assert self._share is not None, "the server has not said where vectors go"
            self._share.put(header.push.update, parcel.vector, parcel.buffers)
        try:
            with self._sending:
                self._pipe.send_bytes(header.SerializeToString())
        except (OSError, ValueError) as error:
            raise _lost() from error

    def receive(self, timeout_s: float | None = None) -> Delivery | None:
        """The next message; ``None``: none came in time.

        Args:
            timeout_s: How long to wait, in seconds; ``None``: for ever.

        Raises:
            ServerLostError: The server has gone.
        """
        heard = self._heard
        if not heard:
            try:
                if not self._can_read(timeout_s):
                    return None
                header = ToWorker.FromString(self._pipe.recv_bytes())
            except (EOFError, OSError, ValueError) as error:
                raise _lost() from error
            heard.extend(header.before)
            heard.append(header)
        header = heard.popleft()
        if self._share is None or header.WhichOneof("kind") not in ("job", "receipt"):
            return Delivery(header)
        return Delivery(header, *self._share.take(vectors_of(header)))

    def attach(self, welcome: Welcome, layout: ParameterLayout) -> bool:
        """Map the segment that the server offers, and say from now on that this process lives.

        Args:
            welcome: What the server said, and offered.
            layout: Of the server's model.
        """
        self._share = WorkerShare(layout, welcome)
        if self._ticker is None and welcome.heartbeat_s > 0.0:
            self._ticker = Ticker(self._beat, welcome.heartbeat_s, "headway-heart")
        return True

    def room(self) -> Tensor | None:
        """Where the vector of a push will lie; ``None``: the server has not said it yet."""
        return None if self._share is None else self._share.vector

    def close(self) -> None:
        """End the connection."""
        if self._ticker is not None:
            self._ticker.close()
        self._selector.close()
        self._pipe.close()

    def _beat(self) -> None:
        # A server that has gone is noticed by who waits for it.
        with suppress(OSError, ValueError), self._sending:
            self._pipe.send_bytes(_BEAT)

    def _can_read(self, timeout_s: float | None) -> bool:
        select = self._selector.select
        if select(0.0):
            return True
        if self._spin_s and timeout_s != 0.0:
            until = time.perf_counter() + self._spin_s
            while time.perf_counter() < until:
                give_way()
                if select(0.0):
                    return True
        return timeout_s != 0.0 and bool(select(timeout_s))


def _lost() -> ServerLostError:
    return ServerLostError("the server has gone", help="its own message says why")
