"""What an exchange cannot be faster than here: a bare pipe and a bare gRPC stream, without Headway."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from headway.runtime.quiet import grpc

CHUNK_BYTES = 1 << 20
MESSAGE = b"x" * 64
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Once = Callable[[], object]


def messages(num_bytes: int) -> list[bytes]:
    """So many bytes, in messages of a MiB at most."""
    return [bytes(min(CHUNK_BYTES, num_bytes - at)) for at in range(0, num_bytes, CHUNK_BYTES)]


def answer(pipe: Connection, num_bytes: int) -> None:
    """The other end: it says where it listens, and echoes what comes through the pipe."""
    # A block of 8 MiB that is given back: malloc keeps smaller ones from then on, as in Headway.
    bytes(8 << 20)
    server = grpc.server(ThreadPoolExecutor(2), options=UNLIMITED)
    handlers = {
        name: grpc.stream_stream_rpc_method_handler(partial(reply, size))
        for name, size in (("Short", len(MESSAGE)), ("Same", num_bytes))
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    with suppress(EOFError):
        while True:
            pipe.send_bytes(pipe.recv_bytes())
    server.stop(None)


def reply(
    num_bytes: int, requests: Iterator[bytes], context: grpc.ServicerContext
) -> Iterator[bytes]:
    """So many bytes, whenever so many have come."""
    said, missing = messages(num_bytes), num_bytes
    for request in requests:
        missing -= len(request)
        if not missing:
            missing = num_bytes
            yield from said


def stream(call: Any, num_bytes: int) -> Once:
    """So many bytes to the other process, and when all are there as many back."""
    outgoing: SimpleQueue[bytes] = SimpleQueue()
    said = messages(num_bytes)
    replies = call(iter(outgoing.get, None))

    def once() -> None:
        for message in said:
            outgoing.put(message)
        missing = num_bytes
        while missing:
            missing -= len(next(replies))

    return once


@contextmanager
def floors(num_bytes: int) -> Iterator[dict[str, Once]]:
    """By name, what can be done once: all with one other process.

    Args:
        num_bytes: Of a vector.
    """
    bytes(8 << 20)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, num_bytes), daemon=True)
    process.start()
    theirs.close()
    port = ours.recv()

    def through_pipe() -> None:
        ours.send_bytes(MESSAGE)
        ours.recv_bytes()

    with ours, grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
        calls: Any = channel.stream_stream
        yield {
            "bare pipe": through_pipe,
            "bare gRPC, short message": stream(calls("/bare/Short"), len(MESSAGE)),
            "bare gRPC, same bytes": stream(calls("/bare/Same"), num_bytes),
        }
    process.join()
