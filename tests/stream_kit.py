"""A worker's stream without our own client: it says what it likes."""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import Any

from headway.runtime import wire
from headway.runtime.quiet import grpc


class Stream:
    """A stream on a connection of its own.

    Args:
        address: Of the server.
        messages: What is said at once; see :meth:`say`.
    """

    def __init__(self, address: str, *messages: Any) -> None:
        # Others of this process talk to the same address.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.say(*messages)
        work = self.channel.stream_stream("/headway.v1.Exchange/Work", None, None)
        self.call: Any = work(iter(self._messages.get, None))

    def say(self, *messages: wire.ToServer | bytes) -> None:
        """Say messages, or bytes that need not be one."""
        for message in messages:
            self._messages.put(
                message if isinstance(message, bytes) else message.SerializeToString()
            )

    def hear(self) -> wire.ToWorker:
        """The next thing that it is told."""
        return wire.ToWorker.FromString(next(self.call))

    def heard(self) -> list[wire.ToWorker]:
        """All that it is told until the server ends the stream."""
        heard: list[wire.ToWorker] = []
        with suppress(grpc.RpcError):
            heard.extend(map(wire.ToWorker.FromString, self.call))
        return heard

    def join(self) -> None:
        """Join, and hear the welcome."""
        self.say(joins())
        assert self.hear().HasField("welcome")

    def close(self) -> None:
        """Break it off."""
        self._messages.put(None)
        self.call.cancel()
        self.channel.close()


def joins(**fields: Any) -> wire.ToServer:
    """The message of who comes in."""
    return wire.ToServer(join=wire.Join(**{"protocol": wire.PROTOCOL, **fields}))
