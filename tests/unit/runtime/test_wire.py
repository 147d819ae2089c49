"""The bytes of the protocol. A change here is a change that older sides may misread."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from headway.core import Receipt, WorkOrder
from headway.core.update import Checkout
from headway.runtime import wire
from headway.runtime.letters import job_letter, read_update, receipt_letter
from headway.runtime.parcel import Parcel

GOLDEN = [
    (wire.ToServer(ask=wire.Ask(shared=True)), "12020801"),
    (
        wire.ToServer(join=wire.Join(protocol=1, library="0", worker="a", instance="b")),
        "0a0b0801120130" + "1a0161" + "220162",
    ),
    (
        wire.ToServer(
            push=wire.Push(
                job=3,
                base_version=2,
                num_examples=32,
                num_steps=1,
                fragment=0,
                update=wire.Vectors(num_values=1, inline=b"\x00\x00\x80\x3f"),
                again=True,
            )
        ),
        "1a16" + "0803" + "1002" + "1820" + "2001" + "2800" + "3a0808011a040000803f" + "4001",
    ),
    (
        wire.ToServer(
            push=wire.Push(
                job=1,
                update=wire.Vectors(
                    num_values=2, inline=b"ab", encoding=1, encoded_bytes=2, codec="c"
                ),
            )
        ),
        "1a11" + "0801" + "3a0d" + "0802" + "1a026162" + "2801" + "3002" + "3a0163",
    ),
    (wire.ToServer(join=wire.Join(protocol=1, differences=True)), "0a04" + "0801" + "3801"),
    (
        wire.ToWorker(welcome=wire.Welcome(encodings=["none", "x"], pulls="{}")),
        "0a0d" + "4a046e6f6e65" + "4a0178" + "52027b7d",
    ),
    (wire.ToServer(leave=wire.Leave(reason="x")), "2203" + "0a0178"),
    (wire.ToServer(beat=wire.Beat(number=300, slack_s=1.0)), "2a0c08ac0211000000000000f03f"),
    (wire.ToWorker(beat=wire.Beat(number=300)), "4203" + "08ac02"),
    (wire.ToWorker(welcome=wire.Welcome(heartbeat_s=1.0)), "0a09" + "59000000000000f03f"),
    (wire.ToServer(chunk=wire.Chunk(data=b"ab")), "7a04" + "0a026162"),
    (wire.ToWorker(wait=wire.Wait(reason="x")), "2a03" + "0a0178"),
    (wire.ToWorker(cancel=wire.Cancel(job=300)), "3203" + "08ac02"),
    (wire.ToWorker(stop=wire.Stop(reason="x", drain=True)), "3a05" + "0a0178" + "1001"),
    (wire.ToWorker(chunk=wire.Chunk(data=b"ab")), "7a04" + "0a026162"),
    (
        wire.ToWorker(
            job=wire.Job(
                id=1,
                version=2,
                model=wire.Vectors(
                    num_values=3, place=wire.Place(segment=4, path="/p", num_bytes=5)
                ),
                order=wire.Order(steps=6),
                seed=7,
                client=8,
            )
        ),
        "1a1a08011002" + "1a0c0803" + "22080804" + "12022f70" + "1805" + "22020806" + "28073008",
    ),
    (
        wire.ToWorker(
            receipt=wire.Receipt(job=1, status="applied", staleness=2, weight=1.0, version=3)
        ),
        "2218" + "0801" + "12076170706c696564" + "2002" + "29000000000000f03f" + "3003",
    ),
]


@pytest.mark.parametrize(("message", "written"), GOLDEN, ids=lambda value: str(value)[:24])
def test_the_bytes_of_a_message(message, written):
    assert message.SerializeToString(deterministic=True).hex() == written
    assert type(message).FromString(bytes.fromhex(written)) == message


def test_numbers_of_the_kinds_are_what_they_were():
    def numbers(message):
        return {field.name: field.number for field in message.DESCRIPTOR.fields}

    assert numbers(wire.ToServer) == {
        "join": 1,
        "ask": 2,
        "push": 3,
        "leave": 4,
        "beat": 5,
        "chunk": 15,
    }
    known = {
        "welcome": 1,
        "refused": 2,
        "job": 3,
        "receipt": 4,
        "wait": 5,
        "cancel": 6,
        "stop": 7,
        "beat": 8,
        "before": 14,
        "chunk": 15,
    }
    assert numbers(wire.ToWorker) == known
    assert wire.Chunk.DESCRIPTOR.fields_by_name["data"].type == FieldDescriptor.TYPE_BYTES


def test_what_is_generated_is_what_the_schema_says(tmp_path):
    from scripts.wire import PROTO, SOURCE, make

    make(tmp_path)
    for ending in ("_pb2.py", "_pb2.pyi"):
        name = PROTO.removesuffix(".proto") + ending
        assert Path(tmp_path / name).read_text() == (SOURCE / name).read_text()


def test_a_push_becomes_an_update():
    push = wire.Push(job=3, base_version=2, num_examples=32, num_steps=4, metrics={"loss": 0.5})
    update = read_update("ada", Parcel(wire.ToServer(push=push)))
    assert update.payload is None
    assert (update.worker, update.sequence, update.base_version) == ("ada", 3, 2)
    assert (update.num_examples, update.num_steps, update.fragment) == (32, 4, None)
    assert update.metrics == {"loss": 0.5}
    push.fragment = 0
    assert read_update("ada", Parcel(wire.ToServer(push=push))).fragment == 0


def test_what_an_order_does_not_say_the_worker_decides():
    letter = job_letter(Checkout(2, None, 1, WorkOrder(steps=5)), index=4, seed=6)
    job = letter.job
    assert (job.id, job.version, job.client, job.seed, job.order.steps) == (1, 2, 4, 6, 5)
    assert not job.order.HasField("epochs")
    assert not job_letter(Checkout(2, None, 1, WorkOrder()), 0, 0).job.HasField("order")


def test_a_receipt_is_told():
    told = receipt_letter(Receipt("buffered", "1 of 2", 3, 0.5, 7, 9)).receipt
    assert (told.status, told.reason, told.staleness) == ("buffered", "1 of 2", 3)
    assert (told.weight, told.version, told.job) == (0.5, 7, 9)
