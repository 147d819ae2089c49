"""Strangers at a parameter server's port, while an honest worker trains there: cut off, and no harm.

Every test ends with the same questions: does the server still apply what the honest worker hands in,
has nobody else changed the model, and is nothing left behind, neither thread nor file nor memory.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import random
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest
import torch

import headway
from headway.core.errors import ExchangeError, RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.chunks import as_chunk
from headway.runtime.connect import NetworkLink, fetch_status
from headway.runtime.exchange import Exchange
from headway.runtime.network import NetworkServer
from headway.runtime.security import ServerTLS, WorkerTLS
from headway.runtime.timeouts import Timeouts
from headway.training import server as training

SIZE = 50_000
PATIENCE_S = 15.0
CUT_S = 5.0
"""How long a connection may be useless: ten times what the server was told."""
MEMORY_BYTES = 64 << 20
"""How much larger the process may be afterwards: two hundred and more times the model."""
SHORT = Timeouts(heartbeat_s=0.3, lease_s=1.5, join_s=0.5, stall_s=1.5)
PATIENT = Timeouts(heartbeat_s=0.3, lease_s=1.5, join_s=PATIENCE_S, stall_s=PATIENCE_S)
"""For strangers who come in: on a busy machine the door takes its time."""
LINUX = Path("/proc/self/fd").is_dir()


def measured():
    """Bytes, threads and files of this process."""
    gc.collect()
    if not LINUX:
        return 0, threading.active_count(), 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGESIZE"), threading.active_count(), files


def until(condition):
    """Wait until something is so."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never became so")


class House:
    """A server, and a worker that hands in nothing but zeros: what it applies changes no value."""

    def __init__(self, **options):
        model = torch.nn.Linear(SIZE, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        access = {name: options.pop(name, None) for name in ("worker_tls", "token")}
        self.access = {"security": access["worker_tls"], "token": access["token"]}
        self.server = headway.ParameterServer(
            model, port=0, shared_memory=False, drain_s=0.0, token=access["token"], **options
        )
        self.server.start()
        self.host, _, port = self.server.address.rpartition(":")
        self.port = int(port)
        self._over = threading.Event()
        self.error = None
        self.link = NetworkLink(self.server.address, **self.access)
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        self.goes_on()
        self.before = measured()

    @property
    def network(self):
        return self.server._network

    def _work(self):
        try:
            exchange = Exchange(self.link, worker="honest")
            exchange.join(PATIENCE_S)
            exchange.ask()
            while not self._over.wait(0.005):
                exchange.push(exchange.next(PATIENCE_S), torch.zeros(SIZE), num_examples=1)
            exchange.leave()
        except Exception as error:  # noqa: BLE001 (the test tells of it)
            self.error = error

    def connected(self):
        return socket.create_connection((self.host, self.port), PATIENCE_S)

    def goes_on(self):
        """The honest worker's updates are applied."""
        version = self.server.version
        until(lambda: self.error or self.server.version >= version + 3)
        assert self.error is None

    def is_unharmed(self, *, values=0.0, memory_bytes=MEMORY_BYTES):
        self.goes_on()
        assert torch.equal(self.server.model.weight, torch.full((1, SIZE), values))
        workers = {worker["name"]: worker for worker in self.server.status()["workers"]}
        assert (workers["honest"]["rejected"], workers["honest"]["lost"]) == (0, 0)
        until(lambda: len(self.network._sessions) == 1)
        assert self.network.rooms.num_out <= 1
        until(lambda: self._left_behind(memory_bytes) == [])

    def _left_behind(self, memory_bytes):
        now = measured()
        allowed = memory_bytes, 0, 0
        # A pool keeps its threads, and has at most so many as there are connections allowed.
        pool = sum(t.name.startswith("headway-network") for t in threading.enumerate())
        now = now[0], now[1] - pool, now[2]
        before = self.before[0], self.before[1] - 1, self.before[2]
        names = "bytes", "threads", "files"
        return [n for n, a, b, m in zip(names, now, before, allowed, strict=True) if a > b + m]

    def close(self):
        self._over.set()
        self.thread.join(PATIENCE_S)
        self.server.stop()
        assert self.error is None


@pytest.fixture
def house(monkeypatch):
    houses, timeouts = [], [SHORT]

    def made(*arguments, **options):
        return NetworkServer(*arguments, **{**options, "timeouts": timeouts[-1]})

    monkeypatch.setattr(training, "NetworkServer", made)

    def build(*, waits=SHORT, **options):
        timeouts.append(waits)
        houses.append(House(**options))
        return houses[-1]

    yield build
    for one in houses:
        one.close()


def is_cut_off(connection):
    """Whether the other side ends a connection; what it says before is read."""
    connection.settimeout(CUT_S)
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


# --- bytes that are no gRPC

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def frame(kind, flags, data, stream=1):
    return (
        struct.pack(">I", len(data))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + data
    )


def headers(path, content_type=b"application/grpc", *, ends=False):
    """A request's headers, without a table that compresses them."""
    block = b"\x83\x86" + bytes((0x04, len(path))) + path + b"\x01\x01x"
    block += b"\x0f\x10" + bytes((len(content_type),)) + content_type
    block += b"\x00\x02te\x08trailers"
    return frame(1, 0x05 if ends else 0x04, block)


OPEN = PREFACE + SETTINGS
WORK = OPEN + headers(b"/headway.v1.Exchange/Work")
BYTES = {
    "nothing": b"",
    "http 1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "http 1.1, a long body": b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + bytes(9999),
    "http 2, no grpc": OPEN + headers(b"/", b"text/html", ends=True),
    "http 2, another service": OPEN + headers(b"/other.Service/Do", ends=True),
    "http 2, nothing asked": OPEN,
    "half a preface": PREFACE[:9],
    "garbage": random.Random(1).randbytes(1 << 16),
    "garbage behind a preface": OPEN + random.Random(2).randbytes(1 << 16),
    "a frame of 16 MiB": OPEN + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "endless headers": OPEN
    + b"".join(frame(1 if n == 0 else 9, 0, bytes(9000)) for n in range(20)),
    "a message of 4 GiB": WORK + frame(0, 0, b"\x00\xff\xff\xff\xff" + bytes(100)),
    "a message that says it is compressed": WORK + frame(0, 0, b"\x01\x00\x00\x00\x04abcd"),
    "half a join": WORK + frame(0, 0, struct.pack(">BI", 0, 1000) + b"\x0a"),
    "a stream, and nothing on it": WORK,
    "settings, again and again": OPEN + SETTINGS * 5000,
    "streams that are reset at once": OPEN
    + b"".join(
        headers(b"/headway.v1.Exchange/Work")[:5]
        + struct.pack(">I", stream)
        + headers(b"/headway.v1.Exchange/Work")[9:]
        + frame(3, 0, bytes((0, 0, 0, 8)), stream)
        for stream in range(1, 801, 2)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_grpc_are_cut_off(house, data):
    home = house()
    with closing(home.connected()) as stranger:
        with suppress(ConnectionError):
            stranger.sendall(data)
        assert is_cut_off(stranger)
    home.is_unharmed()


def test_a_connection_that_trickles_is_cut_off(house):
    home = house()
    pause = threading.Event()
    with closing(home.connected()) as stranger, suppress(ConnectionError):
        stranger.settimeout(0.02)
        for byte in (PREFACE + SETTINGS * 1000)[:2000]:
            stranger.send(bytes((byte,)))
            with suppress(TimeoutError):
                if stranger.recv(100) == b"":
                    break
            pause.wait(0.05)
        else:
            pytest.fail("it was never cut off")
    home.is_unharmed()


def test_tls_at_a_plain_port_is_cut_off(house):
    home = house()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(home.connected()) as stranger, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(stranger)
    home.is_unharmed()


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", OPEN, WORK], ids=["silent", "http 2", "streams"])
def test_500_idle_connections_are_cut_off(house, data):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if enough < 1500:
        pytest.skip("too few files for so many connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    home = house()
    crowd = [home.connected() for _ in range(500)]
    try:
        for stranger in crowd:
            with suppress(ConnectionError):
                stranger.sendall(data)
        home.goes_on()
        assert all(is_cut_off(stranger) for stranger in crowd)
    finally:
        for stranger in crowd:
            stranger.close()
    home.is_unharmed(memory_bytes=2 * MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- tokens and certificates


def test_a_wrong_token_stays_outside(house):
    home = house(token="right")
    for token in (None, "wrong", "righ", "right2"):
        for ask in (NetworkLink, fetch_status):
            with pytest.raises(RefusedError, match="another token"):
                ask(home.server.address, token=token)
    home.is_unharmed()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority; what it has signed, valid and long expired; and what another has signed."""
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for ca in ("ca", "other"):
        run("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}")
    (folder / "index").touch()
    (folder / "config").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    dates = {
        "good": ("-days", "30"),
        "old": ("-startdate", "200101000000Z", "-enddate", "200201000000Z"),
    }
    for name, ca, valid in (
        ("good", "ca", "good"),
        ("old", "ca", "old"),
        ("alien", "other", "good"),
    ):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-config", "config", "-cert", f"{ca}.pem", "-keyfile", f"{ca}.key", "-batch")
        extra = ("-notext", "-extfile", "names", "-in", f"{name}.csr", "-out", f"{name}.pem")
        run("ca", *signed, *dates[valid], *extra)
    return folder


def shown(folder, name):
    return WorkerTLS(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


def served(folder, name="good"):
    return ServerTLS(folder / f"{name}.pem", folder / f"{name}.key", client_ca=folder / "ca.pem")


def test_certificates_that_are_wrong_or_expired_stay_outside(house, certificates):
    home = house(tls=served(certificates), worker_tls=shown(certificates, "good"))
    for security in (
        WorkerTLS(certificates / "ca.pem"),
        WorkerTLS(certificates / "other.pem"),
        shown(certificates, "alien"),
        shown(certificates, "old"),
    ):
        with pytest.raises(ServerLostError, match="certificates"):
            NetworkLink(home.server.address, security=security, connect_timeout_s=1.0)
    with pytest.raises(ServerLostError, match="uses TLS"):
        NetworkLink(home.server.address, connect_timeout_s=1.0)
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", OPEN, random.Random(3).randbytes(1 << 16)):
        with closing(home.connected()) as stranger:
            with suppress(ConnectionError):
                stranger.sendall(data)
            assert is_cut_off(stranger)
    home.is_unharmed()


@pytest.mark.parametrize("name", ["old", "alien"])
def test_a_worker_does_not_talk_to_a_server_that_it_cannot_know(certificates, name):
    server = headway.ParameterServer(
        torch.nn.Linear(2, 1), port=0, tls=served(certificates, name), shared_memory=False
    )
    with server, pytest.raises(ServerLostError, match="certificates"):
        NetworkLink(server.address, security=shown(certificates, "good"), connect_timeout_s=1.0)


# --- who was let in, and lies


class Raw:
    """A stream that says what it likes."""

    def __init__(self, home, *messages):
        self._over = threading.Event()
        self.channel = grpc.insecure_channel(home.server.address)
        self.messages = messages
        self.call = self.channel.stream_stream("/headway.v1.Exchange/Work")(self._say())

    def _say(self):
        for message in self.messages:
            yield message if isinstance(message, bytes) else message.SerializeToString()
        self._over.wait(PATIENCE_S)

    def heard(self):
        """All that comes until the server ends the stream."""
        heard = []
        with suppress(grpc.RpcError):
            heard.extend(map(wire.ToWorker.FromString, self.call))
        return heard

    def close(self):
        self._over.set()
        self.call.cancel()
        self.channel.close()


def says(**kind):
    return wire.ToServer(**kind)


def joins(**fields):
    return says(join=wire.Join(**{"protocol": wire.PROTOCOL, "worker": "mallory", **fields}))


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
    with closing(Raw(home, *messages)) as stranger:
        heard = stranger.heard()
    assert heard[-1].refused.code == code
    assert heard[-1].ByteSize() < 10_000
    home.is_unharmed()


def test_who_begins_a_vector_and_pauses_is_cut_off(house):
    home = house(waits=dataclasses.replace(PATIENT, stall_s=1.5))
    parts = joins(), pushes(SIZE), as_chunk(memoryview(b"1234"))
    with closing(Raw(home, *parts)) as stranger:
        assert [message.WhichOneof("kind") for message in stranger.heard()] == ["welcome"]
    home.is_unharmed()


def test_who_asks_and_asks_and_does_not_read_is_cut_off(house):
    home = house(waits=PATIENT)
    crowd = [says(ask=wire.Ask(look=bool(n % 2))) for n in range(5000)]
    with closing(Raw(home, joins(), *crowd)):
        until(lambda: "lost" in {w["state"] for w in home.server.status()["workers"]})
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
    with closing(Raw(home, joins(), *theirs, says(leave=wire.Leave(reason=MUCH)))) as stranger:
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
    home = house(tls=served(certificates), worker_tls=shown(certificates, "good"))
    said = recorded(home)
    with closing(home.connected()) as stranger:
        with suppress(ConnectionError):
            stranger.sendall(said)
        assert is_cut_off(stranger)
    home.is_unharmed(values=1.0)
