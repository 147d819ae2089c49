"""What only a network has: strangers, certificates, tokens, ports, and messages of any size."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack, closing

import pytest
import torch

from headway.core.errors import (
    ConfigurationError,
    HeadwayError,
    ProtocolError,
    RefusedError,
    ServerLostError,
)
from headway.runtime import wire
from headway.runtime.chunks import MESSAGE_BYTES, as_chunk
from headway.runtime.connect import NetworkLink, fetch_status
from headway.runtime.exchange import Exchange
from headway.runtime.quiet import grpc
from headway.runtime.security import ServerTLS, WorkerTLS
from headway.runtime.segments import machine
from headway.runtime.timeouts import Timeouts
from tests.certificate_kit import issue, server_tls, worker_tls
from tests.link_kit import PATIENCE_S, Rig, job
from tests.stream_kit import Stream

SIZE = 100_000


@pytest.fixture
def rig(rigs):
    return lambda size=SIZE, **network: rigs("inline", torch.zeros(size), network=network)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return issue(tmp_path_factory.mktemp("certificates"))


def connect(rig, **options):
    """A worker that has joined."""
    link = NetworkLink(rig.network.address, **options)
    rig.links.append(link)
    exchange = Exchange(link)
    exchange.join(PATIENCE_S)
    return exchange


def exchanges(exchange, size=SIZE):
    """Whether a whole exchange works."""
    exchange.ask()
    exchange.push(job(exchange), torch.ones(size), num_examples=1)
    return torch.equal(job(exchange).parameters, -torch.ones(size))


@pytest.fixture
def raw():
    with ExitStack() as made:
        yield lambda rig: made.enter_context(closing(Stream(rig.network.address)))


def push(num_values, **fields):
    update = wire.Vectors(num_values=num_values, **fields)
    return wire.ToServer(push=wire.Push(job=1, update=update))


@pytest.mark.parametrize(
    "message",
    [
        push(SIZE + 1),
        push(1 << 60),
        push(SIZE, buffers=True),
        push(0, buffers=True),
        push(2, inline=b"123"),
        push(2, inline=b"123456789"),
        push(2, place=wire.Place(segment=1)),
        wire.ToServer(chunk=wire.Chunk(data=b"1234")),
        wire.ToServer(),
        wire.ToServer(join=wire.Join(protocol=wire.PROTOCOL)),
        b"\xff\xff\xff\xff",
        b"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x7a\x05ab",
    ],
    ids=lambda m: (m if isinstance(m, bytes) else m.SerializeToString()).hex(),
)
def test_what_makes_no_sense_is_refused_before_there_is_memory_for_it(rig, raw, message):
    rig = rig()
    stream = raw(rig)
    stream.join()
    stream.say(message)
    assert stream.hear().refused.code == "protocol_error"
    assert rig.network.rooms.num_made == 0
    # It harms nobody else.
    assert exchanges(connect(rig))


@pytest.mark.parametrize(
    "after",
    [b"", as_chunk(memoryview(b"")), as_chunk(memoryview(bytes(4 * SIZE + 1))), wire.ToServer()],
    ids=["nothing", "empty", "too much", "another"],
)
def test_a_vector_that_is_not_completed_is_refused_and_its_room_given_back(rig, raw, after):
    rig = rig()
    stream = raw(rig)
    stream.join()
    stream.say(push(SIZE), after)
    assert stream.hear().refused.code == "protocol_error"
    assert rig.network.rooms.num_out == 0


def test_a_message_larger_than_agreed_ends_the_connection(rig, raw):
    rig = rig()
    stream = raw(rig)
    stream.join()
    stream.say(bytes(MESSAGE_BYTES + 1))
    with pytest.raises(grpc.RpcError) as caught:
        stream.hear()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rig.network.rooms.num_made == 0
    rig.until(lambda: not rig.hub.members.here)


def test_a_push_before_the_join_is_refused_without_memory(rig, raw):
    rig = rig()
    stream = raw(rig)
    stream.say(push(SIZE))
    assert stream.hear().refused.code == "protocol_error"
    assert rig.network.rooms.num_made == 0


def test_a_worker_that_breaks_off_in_a_vector_is_lost(rig, raw):
    rig = rig()
    stream = raw(rig)
    stream.join()
    stream.say(push(SIZE), as_chunk(memoryview(b"1234")))
    rig.until(lambda: rig.network.rooms.num_out == 1)
    stream.call.cancel()
    rig.until(lambda: rig.network.rooms.num_out == 0 and not rig.hub.members.here)


def test_idle_workers_cost_no_memory(rig):
    rig = rig()
    for _ in range(6):
        assert connect(rig).look(PATIENCE_S) is not None
    assert rig.network.rooms.num_made == 0
    exchange = connect(rig)
    assert exchanges(exchange)
    assert rig.network.rooms.num_made == 1
    rig.until(lambda: rig.network.rooms.num_out == 0)


def test_a_worker_that_cannot_map_what_is_offered_sends_chunks(rigs, monkeypatch):
    from headway.runtime import connect as module

    def elsewhere(*arguments):
        raise OSError("no such file here")

    monkeypatch.setattr(module, "WorkerShare", elsewhere)
    rig = rigs("shared", torch.zeros(SIZE))
    exchange = rig.exchange("ada", machine=machine())
    assert exchange.join(PATIENCE_S).shared is False
    assert exchanges(exchange)
    described = rig.look(lambda: rig.hub.members.by_name["ada"].describe(0.0))
    assert described["carrier"] == rig.links[0].carrier == "inline"


def test_a_server_without_room_to_share_takes_chunks(rigs, monkeypatch):
    rig = rigs("shared", torch.zeros(SIZE))

    def full(num_bytes):
        raise HeadwayError("no room")

    monkeypatch.setattr(rig.segments, "create", full)
    assert rig.exchange("ada").join(PATIENCE_S).shared is False
    monkeypatch.undo()
    assert exchanges(rig.joined("bob"))


def test_more_workers_than_there_may_be_are_refused(rig):
    rig = rig(max_workers=2)
    first = connect(rig)
    connect(rig)
    with pytest.raises(RefusedError, match="2 connections"):
        connect(rig)
    first.leave()
    rig.until(lambda: len(rig.hub.members.here) == 1 and len(rig.network._sessions) == 1)
    connect(rig)


def test_a_refusal_is_heard_where_the_connection_is_over_by_then(rig, monkeypatch):
    rig = rig(max_workers=1)
    connect(rig)
    wait = NetworkLink._wait_until_ready

    def late(link, timeout_s):
        assert link._over.wait(PATIENCE_S)
        wait(link, timeout_s)

    monkeypatch.setattr(NetworkLink, "_wait_until_ready", late)
    with pytest.raises(RefusedError, match="1 connections"):
        connect(rig)


def test_who_says_nothing_is_let_go(rig, raw):
    stream = raw(rig(timeouts=Timeouts(join_s=0.05)))
    with pytest.raises(StopIteration):
        stream.hear()


# --- where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_without_tls_it_listens_to_its_own_machine_only(host):
    with pytest.raises(ConfigurationError, match="its own machine only") as caught:
        Rig("inline", torch.zeros(1), network={"host": host})
    assert "insecure=True" in caught.value.help
    assert "ServerTLS" in caught.value.help


def test_a_token_does_not_travel_in_the_open():
    with pytest.raises(ConfigurationError, match="others can read it"):
        NetworkLink("192.0.2.1:5000", token="secret")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_token_is_none(rig, token):
    with pytest.raises(ConfigurationError, match="cannot be a token"):
        rig(token=token)


def test_insecure_means_the_network(rig):
    assert exchanges(connect(rig(host="0.0.0.0", insecure=True)))


def test_two_servers_at_one_port_are_an_error(rig):
    port = int(rig().network.address.rpartition(":")[2])
    with pytest.raises(HeadwayError, match="cannot listen there"):
        rig(port=port)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":5000", "host:port", "host:0", "a:70000"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(ConfigurationError, match="not a server's address"):
        NetworkLink(address)


def test_nobody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerLostError, match="nobody listens there") as caught:
        NetworkLink(f"127.0.0.1:{port}", connect_timeout_s=0.1)
    assert caught.value.where == f"127.0.0.1:{port}"
    assert "start the server first" in caught.value.help


def test_something_else_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServerLostError, match="does not answer"):
            NetworkLink(f"127.0.0.1:{port}", connect_timeout_s=0.2)


# --- tokens and certificates


def test_who_has_the_token_comes_in(rig):
    rig = rig(token="right")
    assert exchanges(connect(rig, token="right"))
    assert fetch_status(rig.network.address, token="right") == {"version": 0}


@pytest.mark.parametrize("token", [None, "wrong", "righ", "right2"])
def test_who_has_not_stays_outside(rig, token):
    rig = rig(token="right")
    for ask in (NetworkLink, fetch_status):
        with pytest.raises(RefusedError, match="another token") as caught:
            ask(rig.network.address, token=token)
        assert caught.value.where == rig.network.address


def test_tls(rig, certificates):
    rig = rig(security=server_tls(certificates, mutual=False), token="right")
    security = WorkerTLS(certificates / "ca.pem")
    assert exchanges(connect(rig, security=security, token="right"))
    assert fetch_status(rig.network.address, security=security, token="right") == {"version": 0}


def test_a_server_by_another_name(rig, certificates):
    rig = rig(security=server_tls(certificates, mutual=False))
    security = WorkerTLS(certificates / "ca.pem", server_name="headway")
    assert exchanges(connect(rig, security=security))
    security = WorkerTLS(certificates / "ca.pem", server_name="other")
    with pytest.raises(ServerLostError, match="do not accept each other's certificates"):
        connect(rig, security=security)


def test_mutual_tls(rig, certificates):
    rig = rig(security=server_tls(certificates))
    assert exchanges(connect(rig, security=worker_tls(certificates)))
    with pytest.raises(ServerLostError):
        connect(rig, security=WorkerTLS(certificates / "ca.pem"))


def test_tls_on_the_servers_side_only(rig, certificates):
    rig = rig(security=server_tls(certificates, mutual=False))
    with pytest.raises(ServerLostError, match="the server uses TLS, and this worker does not"):
        connect(rig, connect_timeout_s=5.0)


def test_tls_on_the_workers_side_only(rig, certificates):
    rig = rig()
    with pytest.raises(ServerLostError, match="this worker uses TLS, and the server does not"):
        connect(rig, security=WorkerTLS(certificates / "ca.pem"))


def test_a_file_that_is_missing_is_named(rig, certificates):
    with pytest.raises(ConfigurationError, match="`key` cannot be read") as caught:
        rig(security=ServerTLS(certificates / "server.pem", certificates / "none.key"))
    assert caught.value.where.endswith("none.key")


def test_a_certificate_without_its_key(certificates):
    with pytest.raises(ConfigurationError, match="belong together"):
        WorkerTLS(certificates / "ca.pem", certificate=certificates / "worker.pem")


def test_a_message_larger_than_the_server_takes_is_not_sent(rig):
    from headway.runtime.parcel import Parcel

    rig = rig()
    link = NetworkLink(rig.network.address)
    rig.links.append(link)
    with pytest.raises(ProtocolError, match="larger than the server takes"):
        link.send(Parcel(wire.ToServer(join=wire.Join(layout="x" * MESSAGE_BYTES))))


def test_a_process_that_fails_with_a_worker_connected_ends():
    script = (
        "import torch, headway\n"
        "server = headway.ParameterServer(torch.nn.Linear(2, 1), port=0).start()\n"
        "print(server.address, flush=True); input()\n"
        "raise RuntimeError('of the user')\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as process:
        link = NetworkLink(process.stdout.readline().strip())
        try:
            exchange = Exchange(link)
            exchange.join(PATIENCE_S)
            exchange.ask()
            assert exchange.next(PATIENCE_S) is not None
            _, said = process.communicate("\n", timeout=PATIENCE_S)
        finally:
            process.kill()
            link.close()
    assert process.returncode == 1
    assert "RuntimeError: of the user" in said


def fails(rig):
    """The hub ends with an error; the network stays."""

    def fail():
        raise ZeroDivisionError("of an algorithm")

    rig.hub.loop.post(fail)
    assert rig.hub.join(PATIENCE_S)


@pytest.mark.parametrize("failed", [True, False])
def test_a_server_whose_hub_has_ended_refuses(rig, failed):
    made = rig(10)
    if failed:
        fails(made)
    else:
        made.stop()
    with pytest.raises(RefusedError, match="ZeroDivisionError" if failed else "has ended"):
        made.joined()
    made.hub.error = None


def test_who_came_before_the_hub_ended_and_joins_after_it_is_refused(rig):
    made = rig(10)
    exchange = made.exchange()
    assert made.network._sessions
    fails(made)
    # It is told at the latest when it joins, and may be gone by then.
    with pytest.raises((RefusedError, ServerLostError), match=r"ZeroDivisionError|has gone"):
        exchange.join(PATIENCE_S)
    made.hub.error = None
