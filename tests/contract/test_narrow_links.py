"""Compressed pushes and models as differences, over the real network link."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing

import pytest
import torch

import headway
from headway import algorithms, compression
from headway.core.errors import ConfigurationError, UnknownNameError
from headway.runtime import wire
from headway.runtime.encoded import as_text
from headway.runtime.narrow import Narrow
from headway.runtime.segments import machine
from tests.link_kit import PATIENCE_S, job
from tests.proxy_kit import Proxy
from tests.stream_kit import Stream

SIZE = 20_000
CODECS = (
    compression.bf16(),
    compression.int8(),
    compression.topk(0.06, values="int8"),
    compression.topk(0.01, values="bf16"),
)


@pytest.fixture
def rig(rigs):
    def make(size=SIZE, carrier="inline", algorithm=None, dtype=torch.float64, **network):
        return rigs(carrier, torch.zeros(size, dtype=dtype), algorithm, network=network)

    return make


def narrow_worker(rig, codec, name=""):
    narrow = Narrow(codec)
    return rig.joined(name, narrow=narrow), narrow


def gradient(number, size=SIZE, dtype=torch.float64):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(size, generator=generator, dtype=dtype)


def model(rig):
    return rig.look(lambda: rig.server.parameters.clone())


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_the_model_less_the_residual_is_that_of_no_compression(rig, codec):
    one = rig()
    exchange, narrow = narrow_worker(one, codec)
    exchange.ask()
    for number in range(5):
        exchange.push(job(exchange), gradient(number), num_examples=1)
    assert exchange.settle(PATIENCE_S)
    plain = -sum(gradient(number) for number in range(5))
    torch.testing.assert_close(model(one) - narrow.residual, plain, rtol=1e-12, atol=1e-12)
    assert float(narrow.residual.abs().max()) > 0.0


def test_a_rejected_update_returns_to_the_residual(rig):
    one = rig(algorithm=algorithms.async_sgd(learning_rate=1.0))
    exchange, narrow = narrow_worker(one, compression.topk(0.1))
    exchange.ask()
    work = job(exchange)
    one.look(lambda: one.server.lose(one.hub.members.by_name["worker-0"].name, one.hub.now))
    exchange.push(work, gradient(0), num_examples=1, again=False)
    assert exchange.settle(PATIENCE_S)
    assert not model(one).any()
    torch.testing.assert_close(narrow.residual, gradient(0))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_nothing_of_an_update_is_lost_whatever_becomes_of_it(rig, codec):
    """Applied, rejected, or never heard of: ``x - e`` is that of all gradients, uncompressed."""
    one = rig()
    exchange, narrow = narrow_worker(one, codec)
    statuses = []
    for number in range(6):
        exchange.ask()
        work = job(exchange)
        if number in (1, 4):
            one.look(lambda: one.server.lose("worker-0", one.hub.now))
        if number == 2:
            # The connection breaks before it is out, and the training is given up.
            assert narrow.encode(10**6, gradient(99), None) is not None
            narrow.lost()
        exchange.push(work, gradient(number), num_examples=1, again=False)
        assert exchange.settle(PATIENCE_S)
        statuses.append(one.look(lambda: one.server.counts["rejected"]))
    assert statuses == [0, 1, 1, 1, 2, 2]
    plain = -sum(gradient(number) for number in (*range(6), 99))
    torch.testing.assert_close(model(one) - narrow.residual, plain, rtol=1e-12, atol=1e-12)


def test_an_update_without_a_receipt_returns_when_it_is_given_up(rig):
    one = rig()
    exchange, narrow = narrow_worker(one, compression.topk(0.1))
    exchange.ask()
    job(exchange)
    assert narrow.encode(77, gradient(0), None) is not None
    narrow.lost()
    torch.testing.assert_close(narrow.residual, gradient(0))


def test_models_that_come_as_differences_are_the_server_s_bit_by_bit(rig):
    one = rig()
    exchange, _ = narrow_worker(one, compression.topk(0.01))
    other = one.joined("plain")
    exchange.ask()
    other.ask()
    work = job(exchange)
    for number in range(6):
        exchange.push(work, gradient(number), num_examples=1, again=False)
        assert exchange.settle(PATIENCE_S)
        if number == 3:
            other.push(job(other), gradient(99), num_examples=1, again=False)
            assert other.settle(PATIENCE_S)
        exchange.ask()
        work = job(exchange)
        assert torch.equal(work.parameters, model(one))
    down = exchange.traffic
    assert down.pulls == "differences"
    # Seven models went: the first, the first after the first push, and after the other's whole.
    assert down.down_bytes < 4 * SIZE * 8 < down.down_raw_bytes == 7 * SIZE * 8


def test_models_may_come_as_lossy_differences_that_are_made_good(rig):
    one = rig(pulls=compression.int8())
    exchange, _ = narrow_worker(one, compression.topk(0.05))
    exchange.ask()
    work = job(exchange)
    for number in range(4):
        exchange.push(work, gradient(number), num_examples=1)
        work = job(exchange)
    errors = []
    for _ in range(3):
        errors.append(float((work.parameters - model(one)).abs().max()))
        work = exchange.look(PATIENCE_S)
        assert work is not None
    assert errors[0] < 0.05
    assert errors[2] <= errors[0] / 100 or errors[2] < 1e-9


def test_a_server_may_send_whole_models(rig):
    one = rig(pulls=None)
    exchange, _ = narrow_worker(one, compression.topk(0.01))
    exchange.ask()
    for number in range(3):
        exchange.push(job(exchange), gradient(number), num_examples=1)
    assert torch.equal(job(exchange).parameters, model(one))
    assert exchange.traffic.pulls == "whole"


def test_at_least_thirty_times_fewer_bytes_go_up(rig):
    one = rig(dtype=torch.float32)
    exchange, _ = narrow_worker(one, compression.topk(0.06, values="int8"))
    with Proxy(one.network.address):
        exchange.ask()
        for number in range(20):
            exchange.push(job(exchange), gradient(number, dtype=torch.float32), num_examples=1)
        assert exchange.settle(PATIENCE_S)
    traffic = exchange.traffic
    assert traffic.up_raw_bytes == 20 * SIZE * 4
    assert traffic.up_bytes * 30 < traffic.up_raw_bytes
    told = one.look(lambda: one.hub.members.by_name["worker-0"].describe(0.0))
    assert told["encoding"] == "topk(0.06, values='int8', block_size=256)"
    assert (told["bytes_up_raw"], told["bytes_down_raw"]) == (20 * SIZE * 4, 21 * SIZE * 4)
    assert told["bytes_up"] <= traffic.up_bytes + 1_000


def test_nothing_is_compressed_in_shared_memory(rig):
    one = rig(carrier="shared")
    narrow = Narrow(compression.topk(0.01))
    exchange = one.joined("here", narrow=narrow, machine=machine())
    exchange.ask()
    exchange.push(job(exchange), gradient(0), num_examples=1)
    job(exchange)
    assert torch.equal(model(one), -gradient(0))
    assert narrow.residual is None
    told = one.look(lambda: one.hub.members.by_name["here"].describe(0.0))
    assert told["encoding"] == told["pulls"] == "none: shared memory"


def test_what_is_not_offered_cannot_be_had(rig):
    one = rig(compression=("none", "bf16"))
    with pytest.raises(ConfigurationError, match="does not offer"):
        narrow_worker(one, compression.topk(0.01))
    _, narrow = narrow_worker(one, [compression.topk(0.01), compression.bf16()], "b")
    assert narrow.codec == compression.bf16()


TOPK = as_text(compression.topk(0.5))
HOSTILE = {
    "an unknown encoding": {"encoding": 9, "encoded_bytes": 24},
    "a difference": {"encoding": 2, "encoded_bytes": 24},
    "no codec": {"encoding": 1, "encoded_bytes": 24},
    "garbage for a codec": {"encoding": 1, "encoded_bytes": 24, "codec": "{"},
    "a deep codec": {"encoding": 1, "encoded_bytes": 24, "codec": "[" * 100_000},
    "a codec that is not offered": {
        "encoding": 1,
        "encoded_bytes": 24,
        "codec": as_text(compression.int8()),
    },
    "an absurd fraction": {
        "encoding": 1,
        "encoded_bytes": 24,
        "codec": '{"kind":"topk","fraction":1e308,"values":"none"}',
    },
    "a huge message": {"encoding": 1, "encoded_bytes": 1 << 60, "codec": TOPK},
    "too short a message": {"encoding": 1, "encoded_bytes": 3, "codec": TOPK},
    "too many values": {
        "encoding": 1,
        "num_values": 1 << 62,
        "encoded_bytes": 1 << 20,
        "codec": TOPK,
    },
    "no values": {"encoding": 1, "num_values": 0, "encoded_bytes": 24, "codec": TOPK},
    "buffers of none": {"encoding": 1, "encoded_bytes": 24, "codec": TOPK, "buffers": True},
    "another size inline": {
        "encoding": 1,
        "encoded_bytes": 25,
        "codec": TOPK,
        "inline": b"x" * 24,
    },
    "no message of the codec": {
        "encoding": 1,
        "encoded_bytes": 24,
        "codec": TOPK,
        "inline": b"x" * 24,
    },
    "shared memory": {"encoding": 1, "encoded_bytes": 24, "codec": TOPK, "place": wire.Place()},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_encoding_is_refused_and_harms_nobody(rig, case):
    one = rig(compression=("none", "bf16", "topk"))
    other, _ = narrow_worker(one, compression.bf16(), "other")
    with closing(Stream(one.network.address)) as stream:
        stream.join()
        vectors = wire.Vectors(**{"num_values": SIZE, **HOSTILE[case]})
        stream.say(wire.ToServer(push=wire.Push(job=1, update=vectors)))
        assert stream.hear().refused.code == "protocol_error"
    other.ask()
    other.push(job(other), gradient(0), num_examples=1)
    job(other)
    one.until(lambda: one.network.rooms.num_out == 0)
    # One for the honest, and one at most that was taken before the message was read.
    assert one.network.rooms.num_made <= 2


def test_names_and_values_of_a_worker():
    with pytest.raises(UnknownNameError, match="bf16"):
        headway.AsyncWorker("127.0.0.1:1", compression="b16")
    with pytest.raises(UnknownNameError):
        headway.ParameterServer(torch.nn.Linear(2, 1), compression=["gzip"])
    with pytest.raises(UnknownNameError):
        headway.ParameterServer(torch.nn.Linear(2, 1), pulls="all")


def train(server, address, codec, **options):
    worker = headway.AsyncWorker(address, compression=codec, shared_memory=False)
    inputs = torch.randn(256, 40, generator=torch.Generator().manual_seed(1))
    targets = (inputs[:, :1] > 0).long().squeeze(1)
    return worker.train(
        dataset=(inputs, targets), optimizer=headway.optim.SGD(lr=0.2), seed=0, **options
    )


def mlp():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 200), torch.nn.ReLU(), torch.nn.Linear(200, 2))


def test_a_whole_training_is_compressed_and_says_so():
    losses = {}
    for codec in (None, "topk", "auto"):
        with headway.ParameterServer(mlp(), port=0) as server:
            history = train(server, server.address, codec, epochs=10)
            told = server.status()["workers"][0]
        losses[codec] = history.final("loss")
        assert told["bytes_up_raw"] == history.traffic["bytes_up_raw"] > 0
        if codec == "topk":
            assert history.traffic["bytes_up"] * 25 < history.traffic["bytes_up_raw"]
            assert (
                history.encoding == "topk(0.06, values='int8', block_size=256) (as was asked for)"
            )
            assert told["pulls"] == "differences, exact"
            assert "compression" in str(history)
    assert losses["topk"] < 0.3
    assert losses[None] < 0.3


def test_weights_do_not_add_up():
    with headway.ParameterServer(mlp(), port=0, update_rule="fedasync") as server:
        with pytest.raises(ConfigurationError, match="cannot be compressed"):
            train(server, server.address, "topk")
        history = train(server, server.address, "auto")
    assert history.encoding.startswith("none() (its workers send whole models")


WORKER = """
import json, os, sys
os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[0]])
import torch, headway
torch.set_num_threads(1)
worker = headway.AsyncWorker(sys.argv[1], compression="auto", connect_timeout_s=30.0)
inputs = torch.randn(96, 40, generator=torch.Generator().manual_seed(1))
targets = (inputs[:, :1] > 0).long().squeeze(1)
history = worker.train(
    dataset=(inputs, targets), epochs=4, optimizer=headway.optim.SGD(lr=0.2), seed=0
)
# Not getrusage: its maximum begins with the memory of the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "rss_bytes": int(status["VmHWM"].split()[0]) * 1024,
    "modules": list(sys.modules),
    "encoding": history.encoding, "receipts": dict(history.receipts), "updates": history.updates,
}))
"""
NOT_FOR_WORKERS = (
    "headway.simulation",
    "headway.training.server",
    "headway.runtime.hub",
    "headway.runtime.network",
    "headway.runtime.session",
    "headway.dashboard",
    # The compiler, which a torch optimizer brings along: a third more memory, and seconds.
    "torch._dynamo",
    "sympy",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_device_gets_through_a_bad_link():
    server = headway.ParameterServer(mlp(), port=0, shared_memory=False)
    with server, Proxy(server.address, bits_per_s=256_000, delay_s=0.15, loss=0.05) as proxy:
        done = subprocess.run(
            [sys.executable, "-c", WORKER, proxy.address],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        versions = server.version
    told = json.loads(done.stdout)
    assert told["updates"] == 12
    assert told["receipts"]["applied"] == 12 == versions
    # Which of the two depends on how long a job takes on this machine; see test_narrow.py.
    assert told["encoding"].startswith(("topk", "int8"))
    assert told["rss_bytes"] < 350_000_000
    assert not [name for name in told["modules"] if name.startswith(NOT_FOR_WORKERS)]
