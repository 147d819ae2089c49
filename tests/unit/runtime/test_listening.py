"""Why a server cannot listen somewhere is said in words, and what to do about it."""

from __future__ import annotations

import socket

import pytest
import torch

import headway
from headway.core.errors import HeadwayError
from headway.runtime.listening import listen


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
