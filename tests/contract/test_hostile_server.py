"""A server that lies about where shared memory is: its worker opens nothing but segments."""

from __future__ import annotations

import os

import pytest
import torch

from headway.core.errors import ProtocolError
from headway.runtime import session as module
from headway.runtime import sharing
from headway.runtime.segments import Segments, machine
from tests.link_kit import PATIENCE_S, job

SIZE = 64


@pytest.fixture
def precious(tmp_path):
    """A file of this user that no server has made."""
    file = tmp_path / "precious"
    file.write_bytes(b"p" * 4096)
    return file


@pytest.fixture
def theirs():
    """A segment of this user that a name leads to."""
    segments = Segments()
    yield segments.create(4096)
    segments.close()


@pytest.fixture
def rig(rigs):
    return rigs("shared", torch.zeros(SIZE))


def welcomes(monkeypatch, lie):
    """Let the server offer another file for pushes."""
    honest = module.NetworkSession.send

    def send(self, header, vector=None, buffers=None):
        if header.HasField("welcome"):
            lie(header.welcome.pushes)
        honest(self, header, vector, buffers)

    monkeypatch.setattr(module.NetworkSession, "send", send)


def places(monkeypatch, lie):
    """Let the server name another file for models."""
    honest = sharing.ServerShare.put

    def put(self, vectors, *what):
        honest(self, vectors, *what)
        lie(vectors.place)

    monkeypatch.setattr(sharing.ServerShare, "put", put)


def names(path, index=1):
    """A lie: this file is the segment."""

    def lie(place):
        place.segment, place.path = index, str(path)
        place.num_bytes = os.path.getsize(path)

    return lie


@pytest.mark.parametrize("told", [machine, str], ids=["shares", "does not share"])
def test_a_file_that_is_no_segment_is_not_written(monkeypatch, rig, precious, told):
    welcomes(monkeypatch, names(precious))
    exchange = rig.exchange("honest", machine=told())
    assert not exchange.join(PATIENCE_S).shared
    exchange.ask()
    exchange.push(job(exchange), torch.ones(SIZE), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert precious.read_bytes() == b"p" * 4096
    assert rig.look(lambda: rig.server.version) == 1


def test_who_wants_to_share_nothing_opens_nothing(monkeypatch, rig, theirs):
    welcomes(monkeypatch, names(theirs.path))
    exchange = rig.exchange("honest", machine="")
    assert not exchange.join(PATIENCE_S).shared
    exchange.ask()
    exchange.push(job(exchange), torch.ones(SIZE), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert not theirs.memory.any()


@pytest.mark.parametrize("link", [False, True], ids=["the file", "a link to it"])
def test_a_model_is_read_from_no_other_file(monkeypatch, rig, precious, theirs, link):
    path = precious
    if link:
        path = theirs.path.parent / "77"
        path.symlink_to(precious)
    exchange = rig.joined("honest")
    places(monkeypatch, names(path, 77))
    exchange.ask()
    with pytest.raises(ProtocolError, match="cannot be opened"):
        exchange.next(PATIENCE_S)
    assert precious.read_bytes() == b"p" * 4096
