"""Why a server cannot listen somewhere is said in words, and what to do about it."""

from __future__ import annotations

import socket

import pytest
import torch

import headway
from headway.core.errors import HeadwayError
from headway.runtime.listening import listen
from tests.certificate_kit import issue


class Deaf:
    """A server of gRPC that can bind nothing, and says as little of it as gRPC does."""

    def add_insecure_port(self, place):
        raise RuntimeError(f"Failed to bind to address {place}")

    def add_secure_port(self, place, credentials):
        return 0


def refusal(host, port=0, security=None):
    with pytest.raises(HeadwayError, match="cannot listen there") as told:
        listen(Deaf(), host, port, security)
    return told.value


def test_a_port_that_is_in_use_is_called_so_and_another_one_asked_for():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = refusal("127.0.0.1", port)
        assert (error.where, error.got) == (f"127.0.0.1:{port}", "address already in use")
        assert error.help == (
            "something else listens at this port; choose another (--port), or 0 for any free one"
        )
        with pytest.raises(HeadwayError, match="choose another"):
            headway.ParameterServer(torch.nn.Linear(2, 1), port=port).start()


def test_an_address_of_another_machine_and_a_name_of_none(monkeypatch):
    # It is for examples, and nobody's (RFC 5737).
    assert "no such address" in refusal("192.0.2.1").help
    assert "check the host" in refusal("no..name").help

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = refusal("nobody")
    assert error.got == "name or service not known"
    assert "check the host" in error.help


def test_a_certificate_that_is_none(tmp_path):
    file = tmp_path / "server.pem"
    file.write_text("not PEM", encoding="utf-8")
    error = refusal("127.0.0.1", security=headway.ServerTLS(file, file))
    assert "the certificate and its key cannot be used" in error.got
    assert "its own key" in error.help


def test_where_nothing_stands_in_the_way_any_more_another_place_is_asked_for():
    assert "port 0 (--port 0)" in refusal("127.0.0.1").help


def nothing_but_the_error(capfd, **options):
    """Why a server does not start. gRPC, which would write to stderr itself, is not asked."""
    capfd.readouterr()
    with pytest.raises(HeadwayError) as told:
        headway.ParameterServer(torch.nn.Linear(2, 1), **{"port": 0, **options}).start()
    assert capfd.readouterr() == ("", "")
    return told.value


def test_a_port_in_use_is_told_by_the_error_alone(capfd):
    with headway.ParameterServer(torch.nn.Linear(2, 1), port=0) as first:
        port = int(first.address.rpartition(":")[2])
        error = nothing_but_the_error(capfd, port=port)
        assert error.got == "address already in use"
        error = nothing_but_the_error(capfd, port=port, host="0.0.0.0", insecure=True)
        assert error.got == "address already in use"


def test_what_is_no_certificate_is_told_by_the_error_alone(capfd, tmp_path):
    issue(tmp_path)
    server, key, worker = (str(tmp_path / name) for name in ("server.pem", "server.key", "ca.pem"))
    swapped = nothing_but_the_error(capfd, tls=headway.ServerTLS(key, server))
    assert "the certificate and its key cannot be used" in swapped.got
    others = nothing_but_the_error(capfd, tls=headway.ServerTLS(worker, key))
    assert "mismatch" in others.got
    no_ca = nothing_but_the_error(capfd, tls=headway.ServerTLS(server, key, key))
    assert "`client_ca` cannot be used" in no_ca.got
    assert "who signs the workers'" in no_ca.help
    absent = nothing_but_the_error(capfd, tls=headway.ServerTLS(server, tmp_path / "none"))
    assert "check the path" in absent.help
    tls = headway.ServerTLS(server, key, worker)
    with headway.ParameterServer(torch.nn.Linear(2, 1), port=0, tls=tls):
        pass


def test_connections_that_ended_lately_are_in_nobodys_way():
    model = torch.nn.Linear(2, 1)
    with headway.ParameterServer(model, port=0) as first:
        host, _, port = first.address.rpartition(":")
        other = socket.create_connection((host, int(port)))
        assert other.recv(1)
    # The server was the first to close it, and so its end of it waits a minute.
    with other:
        while other.recv(1 << 16):
            pass
    with headway.ParameterServer(model, port=int(port)) as second:
        assert second.address == first.address


def test_a_look_at_a_port_is_not_taken_for_the_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = []
    honest = socket.socket.listen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", lambda *given: (seen.append(1), honest(*given)))
        refusal("127.0.0.1", port)
    assert not seen


def test_a_name_with_an_address_that_is_free_is_listened_at(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        free = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
        taken = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [taken, free])
        assert "any free one" in refusal("both", port).help
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [taken])
        assert refusal("both", port).got == "address already in use"
