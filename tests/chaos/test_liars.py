"""Who was let in to a parameter server, and lies, floods it or repeats what others said: no harm."""

from __future__ import annotations

import dataclasses
import math
import socket
import threading
from contextlib import closing, suppress
from functools import partial

import pytest
import torch

from headway.core.errors import ExchangeError
from headway.runtime import wire
from headway.runtime.chunks import as_chunk
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from tests import stream_kit
from tests.certificate_kit import server_tls, worker_tls
from tests.house_kit import PATIENCE_S, PATIENT, SIZE, is_cut_off
from tests.stream_kit import Stream
from tests.waiting_kit import until

joins = partial(stream_kit.joins, worker="mallory")


def says(**kind):
    return wire.ToServer(**kind)


def pushes(num_values=0, job=1, inline=b"", **fields):
    update = wire.Vectors(num_values=num_values, inline=inline)
    return says(push=wire.Push(job=job, update=update, **fields))


MUCH = "x" * 1_000_000
LIES = {
    "another layout": ("layout", joins(layout='{"dtype": "float32"}')),
    "a layout of words that cannot be written": ("layout", joins(layout='"\\ud800"' * 10_000)),
    "a layout without end": ("layout", joins(layout="[" * 1_000_000)),
    "a library of a megabyte": ("library", joins(library=MUCH)),
    "a name of a megabyte": ("name", joins(worker=MUCH)),
    "an instance of a megabyte": ("name", joins(instance=MUCH)),
    "another protocol": ("protocol", joins(protocol=2**32 - 1)),
    "the honest worker's name": ("name_taken", joins(worker="honest", instance="other")),
    "no join": ("protocol_error", says(ask=wire.Ask())),
    "no kind": ("protocol_error", joins(), says()),
    "a kind of tomorrow": ("protocol_error", joins(), b"\xf2\x01\x04abcd"),
    "no message": ("protocol_error", joins(), b"\xff" * 1000),
    "two joins": ("protocol_error", joins(), joins()),
    "a larger vector": ("protocol_error", joins(), pushes(SIZE + 1)),
    "a vector of an exabyte": ("protocol_error", joins(), pushes(2**60)),
    "fewer bytes than said": ("protocol_error", joins(), pushes(100, inline=bytes(399))),
    "more chunks than said": (
        "protocol_error",
        *(joins(), pushes(SIZE), as_chunk(memoryview(bytes(4 * SIZE + 4)))),
    ),
    "memory that is not shared": (
        "protocol_error",
        joins(),
        says(
            push=wire.Push(update=wire.Vectors(num_values=1, place=wire.Place(path="/etc/passwd")))
        ),
    ),
    "an encoding of tomorrow": (
        "protocol_error",
        joins(),
        says(push=wire.Push(update=wire.Vectors(num_values=1, encoding=77))),
    ),
    "a compression that cannot be written": (
        "protocol_error",
        joins(),
        says(
            push=wire.Push(
                update=wire.Vectors(num_values=1, encoding=1, codec='{"kind": "\\ud800"}')
            )
        ),
    ),
    "metrics without end": (
        "protocol_error",
        joins(),
        pushes(metrics={str(n): math.nan for n in range(20_000)}),
    ),
    "a metric with a name of a megabyte": ("protocol_error", joins(), pushes(metrics={MUCH: 1.0})),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_who_lies_is_refused(house, lie):
    home = house(waits=PATIENT)
    code, *messages = lie
    with closing(Stream(home.server.address, *messages)) as stranger:
        heard = stranger.heard()
    assert heard[-1].refused.code == code
    assert heard[-1].ByteSize() < 10_000
    home.is_unharmed()


def test_who_begins_a_vector_and_pauses_is_cut_off(house):
    home = house(waits=dataclasses.replace(PATIENT, stall_s=1.5))
    parts = joins(), pushes(SIZE), as_chunk(memoryview(b"1234"))
    with closing(Stream(home.server.address, *parts)) as stranger:
        assert [message.WhichOneof("kind") for message in stranger.heard()] == ["welcome"]
    home.is_unharmed()


def test_who_asks_and_asks_and_does_not_read_is_cut_off(house):
    home = house(waits=PATIENT)
    crowd = [says(ask=wire.Ask(look=bool(n % 2))) for n in range(5000)]
    with closing(Stream(home.server.address, joins(), *crowd)):
        until(
            lambda: "lost" in {w["state"] for w in home.server.status()["workers"]},
            within_s=PATIENCE_S,
        )
        home.goes_on()
    home.is_unharmed()


def works(home, name, payload, times, metrics=None):
    """Exchanges like a worker, with this payload."""
    exchange = Exchange(NetworkLink(home.server.address, **home.access), worker=name)
    receipts = []
    exchange._receipt = receipts.append
    try:
        exchange.join(PATIENCE_S)
        exchange.ask()
        for left in reversed(range(times)):
            work = exchange.next(PATIENCE_S)
            if work is None:
                break
            exchange.push(work, payload, num_examples=1, metrics=metrics or {}, again=left > 0)
        exchange.settle(PATIENCE_S)
    except ExchangeError:
        # After a limit such a worker may be told to go.
        pass
    finally:
        exchange.leave()
    return receipts


def test_a_flood_of_nans_is_rejected(house):
    home = house(waits=PATIENT)
    payload = torch.zeros(SIZE)
    payload[SIZE // 2] = math.nan
    receipts = works(home, "mallory", payload, 40, {"loss": math.nan, "x": math.inf})
    assert {(receipt.status, receipt.reason) for receipt in receipts} == {
        ("rejected", "not_finite")
    }
    home.is_unharmed()


def test_what_others_were_given_is_not_taken(house):
    home = house(waits=PATIENT)
    hub = home.server._hub
    job = hub.call(lambda: next(iter(hub._deals.in_flight), 1))
    ones = torch.ones(SIZE).numpy().tobytes()
    theirs = [
        message
        for n in range(job, job + 50)
        for message in (pushes(SIZE, n), as_chunk(memoryview(ones)))
    ]
    with closing(
        Stream(home.server.address, joins(), *theirs, says(leave=wire.Leave(reason=MUCH)))
    ) as stranger:
        receipts = [m.receipt for m in stranger.heard() if m.HasField("receipt")]
    assert receipts
    assert {receipt.status for receipt in receipts} == {"rejected"}
    home.is_unharmed()


class Ear:
    """Stands between a worker and a server, and keeps what the worker sends."""

    def __init__(self, home):
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._home = home
        self._threads = [threading.Thread(target=self._stand)]
        self._threads[0].start()

    def _stand(self):
        with suppress(OSError):
            while True:
                worker, _ = self._listener.accept()
                server = self._home.connected()
                for source, sink, keep in ((worker, server, True), (server, worker, False)):
                    thread = threading.Thread(target=self._carry, args=(source, sink, keep))
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, source, sink, keep):
        source.settimeout(None)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if keep:
                    self.heard += data
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def recorded(home):
    """The bytes of a worker that handed in ones, once."""
    ear = Ear(home)
    try:
        exchange = Exchange(NetworkLink(ear.address, **home.access), worker="victim")
        exchange.join(PATIENCE_S)
        exchange.ask()
        exchange.push(exchange.next(PATIENCE_S), torch.ones(SIZE), num_examples=1, again=False)
        assert exchange.settle(PATIENCE_S)
        exchange.leave()
    finally:
        ear.close()
    return bytes(ear.heard)


@pytest.mark.parametrize("times", [1, 5])
def test_a_stream_that_is_replayed_is_not_applied_again(house, times):
    home = house()
    said = recorded(home)
    assert len(said) > 4 * SIZE
    for _ in range(times):
        with closing(home.connected()) as stranger:
            with suppress(ConnectionError):
                stranger.sendall(said)
            assert is_cut_off(stranger)
    home.is_unharmed(values=1.0)


def test_a_stream_that_is_replayed_through_tls_says_nothing(house, certificates):
    home = house(tls=server_tls(certificates), worker_tls=worker_tls(certificates))
    said = recorded(home)
    with closing(home.connected()) as stranger:
        with suppress(ConnectionError):
            stranger.sendall(said)
        assert is_cut_off(stranger)
    home.is_unharmed(values=1.0)
