"""Strangers at a parameter server's port, while an honest worker trains there: cut off, and no harm."""

from __future__ import annotations

import random
import ssl
import struct
import threading
from contextlib import closing, suppress

import pytest
import torch

import headway
from headway.core.errors import RefusedError, ServerLostError
from headway.runtime.connect import NetworkLink, fetch_status
from headway.runtime.security import WorkerTLS
from tests.certificate_kit import server_tls, worker_tls
from tests.house_kit import MEMORY_BYTES, is_cut_off

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


def test_certificates_that_are_wrong_or_expired_stay_outside(house, certificates):
    home = house(tls=server_tls(certificates), worker_tls=worker_tls(certificates))
    for security in (
        WorkerTLS(certificates / "ca.pem"),
        WorkerTLS(certificates / "other.pem"),
        worker_tls(certificates, "alien"),
        worker_tls(certificates, "old"),
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
        torch.nn.Linear(2, 1), port=0, tls=server_tls(certificates, name), shared_memory=False
    )
    with server, pytest.raises(ServerLostError, match="certificates"):
        NetworkLink(server.address, security=worker_tls(certificates), connect_timeout_s=1.0)
