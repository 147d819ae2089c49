"""A compressed update whose reply was lost is sent again: the same bytes, taken once, and exact.

At any moment the model, less what it began with, and the worker's residual come to the sum of all
updates as they were before compression.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from headway import compression
from headway.core.errors import ConfigurationError, ServerLostError
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from headway.runtime.narrow import Narrow
from headway.runtime.segments import machine
from tests.unit.training import server_kit as kit
from tests.waiting_kit import until

SIZE = 64
TOPK = compression.topk(0.1)
CODECS = (TOPK, compression.int8(), compression.topk(0.2, values="int8"))


def raw(number):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(SIZE, generator=generator, dtype=torch.float64)


class Sender:
    """A worker that compresses, and keeps what it sends."""

    def __init__(self, codec, shared=False):
        self.narrow = Narrow(codec)
        self.receipts, self.messages, self.total = [], [], torch.zeros(SIZE, dtype=torch.float64)
        self.machine = machine() if shared else ""
        self.exchange = self._pushes = None
        self._number = 0

    def join(self, server):
        self.exchange = Exchange(
            self._link(server),
            worker="w",
            instance="i",
            machine=self.machine,
            receipt=self.receipts.append,
            narrow=self.narrow,
            keeps=True,
        )
        self.exchange.join(kit.WAIT_S)
        self.exchange.ask()
        return self

    def resume(self, server):
        self.exchange.resume(self._link(server), kit.WAIT_S)

    def push(self, *, reach=True, settle=True):
        """Hand in the next update, or lose the server while that is done."""
        work = self.exchange.next(kit.WAIT_S)
        update = raw(self._number)
        self._number += 1
        self.total += update
        if not reach:
            self.link.close()
        try:
            self.exchange.push(work, update, num_examples=1)
        except ServerLostError:
            assert not reach
        # The worker goes on with its memory.
        update.fill_(torch.nan)
        assert not settle or self.exchange.settle(kit.WAIT_S)

    def _link(self, server):
        self.link = NetworkLink(server.address)
        send = self.link.send

        def noted(parcel):
            if parcel.header.HasField("push"):
                encoded = parcel.encoded
                message = None if encoded is None else bytes(encoded.message)
                self.messages.append((parcel.header.push.job, message))
            send(parcel)

        self.link.send = noted
        return self.link

    def check(self, server):
        moved = kit.weights(server)
        torch.testing.assert_close(moved + self.narrow.residual, self.total, rtol=0, atol=1e-12)


@pytest.fixture
def start(tmp_path):
    servers, senders = [], []

    class House:
        def serve(self, name="home", **options):
            options = {"durability": "log", "shared_memory": False, **options}
            model = kit.line([0.0] * SIZE)
            servers.append(kit.server(model, checkpoint_dir=tmp_path / name, **options))
            return servers[-1].start()

        def crash(self):
            """Keep the files as they are now."""
            shutil.copytree(tmp_path / "home", tmp_path / "copy")

        def after_the_crash(self, **options):
            """What comes up on them."""
            return self.serve("copy", **options)

        def sender(self, codec, server, **options):
            senders.append(Sender(codec, **options).join(server))
            return senders[-1]

    yield House()
    for sender in senders:
        sender.link.close()
    for server in servers:
        server._close()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("restarted", [False, True], ids=["cut", "restarted"])
def test_a_reply_is_lost(start, codec, restarted):
    server = start.serve()
    sender = start.sender(codec, server)
    sender.push()
    sender.push(settle=False)
    until(lambda: server.version == 2)
    sender.link.close()
    if restarted:
        start.crash()
        server = start.after_the_crash()
    sender.resume(server)
    sender.push()
    first, sent, again, last = sender.messages
    assert sent == again
    assert sent[1] is not None
    assert [receipt.job for receipt in sender.receipts] == [first[0], sent[0], last[0]]
    assert {receipt.status for receipt in sender.receipts} == {"applied"}
    assert server.version == server.status()["applied"] == 3
    sender.check(server)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_an_update_never_arrives_before_the_crash(start, codec):
    sender = start.sender(codec, start.serve())
    sender.push()
    start.crash()
    sender.push(reach=False, settle=False)
    server = start.after_the_crash()
    sender.resume(server)
    sender.push()
    assert [receipt.status for receipt in sender.receipts] == ["applied"] * 3
    assert server.version == 3
    sender.check(server)


@pytest.mark.parametrize("level", ["checkpoint", "log"])
def test_what_a_server_no_longer_wants_returns(start, level):
    server = start.serve(durability=level)
    sender = start.sender(TOPK, server)
    sender.push()
    sender.push(reach=False, settle=False)
    # It was taken for lost meanwhile.
    until(lambda: server.status()["in_flight"] == 0)
    sender.resume(server)
    assert sender.exchange.settle(kit.WAIT_S)
    assert [receipt.status for receipt in sender.receipts] == ["applied", "rejected"]
    sender.check(server)
    sender.push()
    assert server.version == 2
    sender.check(server)


def test_a_server_that_reads_another_codec_gets_the_same_update_whole(start):
    sender = start.sender([TOPK, compression.bf16()], start.serve())
    sender.push()
    start.crash()
    sender.push(reach=False, settle=False)
    server = start.after_the_crash(compression=["none", "bf16"])
    sender.resume(server)
    sender.push()
    assert sender.narrow.codec == compression.bf16()
    assert sender.messages[2][1] is None
    assert server.version == 3
    sender.check(server)


def test_where_memory_is_shared_at_last_nothing_is_left_behind(start):
    sender = start.sender(TOPK, start.serve(), shared=True)
    sender.push()
    start.crash()
    sender.push(reach=False, settle=False)
    server = start.after_the_crash(shared_memory=True)
    sender.resume(server)
    sender.push()
    assert server.version == 3
    sender.check(server)
    assert not sender.narrow.residual.any()
    sender.push()
    torch.testing.assert_close(kit.weights(server), sender.total, rtol=0, atol=1e-12)


def test_a_server_that_reads_nothing_of_what_is_wanted_is_not_gone_on_with(start):
    sender = start.sender(TOPK, start.serve())
    sender.push()
    start.crash()
    server = start.after_the_crash(compression=[])
    with pytest.raises(ConfigurationError, match="cannot be compressed"):
        sender.resume(server)
