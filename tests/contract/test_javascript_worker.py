"""The worker in JavaScript trains beside workers in Python, and comes to what the equations say."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import headway
from headway import algorithms, core
from headway.runtime import wire
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from headway.runtime.hub import Hub
from headway.runtime.network import NetworkServer
from headway.runtime.porter import Porter
from headway.runtime.quiet import grpc
from headway.training.instructions import instructions_for
from tests.certificate_kit import issue, server_tls
from tests.waiting_kit import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "javascript-worker"
INSTALLED = ROOT / "build" / "js-worker"
PATIENCE_S = 60.0
RATE = 0.1

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def packages():
    """Where the npm packages of the example are: installed once, and kept in build/."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    wanted = (EXAMPLE / "package.json").read_text()
    done = INSTALLED / "installed.json"
    with (INSTALLED / "lock").open("w") as lock:
        # Test processes run beside each other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != wanted:
            for name in ("package.json", ".npmrc"):
                shutil.copy(EXAMPLE / name, INSTALLED)
            _install()
            done.write_text(wanted)
    return INSTALLED / "node_modules"


def _install():
    quick = ("--fetch-retries=1", "--fetch-timeout=20000", "--loglevel=error")
    try:
        told = subprocess.run(
            ["npm", "install", "--prefix", str(INSTALLED), *quick],
            cwd=INSTALLED, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("the npm packages did not come in time")
    if told.returncode:
        pytest.skip(f"the npm packages cannot be installed: {told.stderr[-300:]}")


@pytest.fixture
def node(packages, tmp_path):
    """Starts the worker on some data; what is still running at the end is ended."""
    started = []

    def start(address, inputs, targets, *arguments, token=""):
        file = tmp_path / f"{len(started)}.json"
        file.write_text(json.dumps({"inputs": inputs.tolist(), "targets": targets.tolist()}))
        environment = {**os.environ, "NODE_PATH": str(packages), "HEADWAY_TOKEN": token}
        started.append(
            subprocess.Popen(
                ["node", str(EXAMPLE / "worker.js"), address, str(file), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    """What the worker says of its training at the end."""
    out, problems = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, problems) == (0, ""), problems
    return json.loads(out.splitlines()[-1])


def linear(features, classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(features, classes)


def trained(model, inputs, targets, *, batch, epochs):
    """What plain gradient descent makes of the same batches, in double precision."""
    model = nn.Linear(model.in_features, model.out_features).double().requires_grad_(True)
    model.load_state_dict(linear(model.in_features, model.out_features).state_dict())
    count = len(inputs) // batch * batch
    losses = []
    for at in [*range(0, count, batch)] * epochs:
        loss = F.cross_entropy(model(inputs[at : at + batch].double()), targets[at : at + batch])
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= RATE * parameter.grad
        losses.append(loss.item())
    return model, losses


def likeness(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_it_trains_one_model_with_a_worker_in_python(node):
    data = headway.data.digits()
    half = len(data) // 2
    server = headway.ParameterServer(
        linear(64, 10), port=0, staleness_policy="ssp", max_staleness=3, seed=1
    )
    with server:
        arguments = ("--name", "node", "--epochs", "6", "--rate", str(RATE))
        process = node(server.address, data.inputs[:half], data.targets[:half], *arguments)
        # From here on neither can run ahead of the other.
        until(lambda: server.status()["workers"] or process.poll() is not None)
        history = headway.AsyncWorker(server.address, name="python").train(
            dataset=(data.inputs[half:], data.targets[half:]),
            epochs=6,
            optimizer=headway.optim.SGD(lr=RATE),
        )
        told = ended(process)
        result = server.wait_for_workers(2, timeout_s=PATIENCE_S)
        workers = {worker["name"]: worker for worker in server.status()["workers"]}
        accuracy = headway.AsyncWorker(server.address).evaluate((data.inputs, data.targets))
    assert set(workers) == {"node", "python"}
    assert workers["node"]["applied"] == told["applied"] == 6 * (half // 32)
    assert workers["python"]["applied"] == history.updates
    assert result.versions == told["applied"] + history.updates
    assert all(worker["state"] == "left" and not worker["lost"] for worker in workers.values())
    first, last = told["losses"][:28], told["losses"][-28:]
    assert sum(last) < 0.5 * sum(first)
    assert accuracy > 0.85


@pytest.mark.parametrize("payload", ["delta", "gradient", "weights"])
def test_alone_it_comes_to_what_gradient_descent_does(node, payload):
    """Whatever it is that it sends."""
    algorithm = {
        "delta": algorithms.async_delta(),
        "gradient": algorithms.async_sgd(learning_rate=RATE),
        "weights": algorithms.fedasync(mixing=1.0),
    }[payload]
    assert algorithm.payload == payload
    data = headway.data.digits().subset(range(200))
    with headway.ParameterServer(linear(64, 10), port=0, algorithm=algorithm) as server:
        arguments = ("--epochs", "3", "--rate", str(RATE))
        told = ended(node(server.address, data.inputs, data.targets, *arguments))
        model = server.model
    expected, losses = trained(model, data.inputs, data.targets, batch=32, epochs=3)
    assert (told["applied"], told["rejected"]) == (18, 0)
    assert told["losses"] == pytest.approx(losses, abs=1e-4)
    assert likeness(model, expected) < 1e-5


def test_a_large_model_travels_in_chunks_by_tls_with_a_token(node, tmp_path):
    security = server_tls(issue(tmp_path), mutual=False)
    drawn = torch.Generator().manual_seed(2)
    features = 30_000
    inputs = torch.randint(0, 2, (8, features), generator=drawn)
    targets = torch.randint(0, 10, (8,), generator=drawn)
    server = headway.ParameterServer(linear(features, 10), port=0, tls=security, token="secret")
    with server:
        arguments = ("--epochs", "2", "--batch", "4", "--rate", str(RATE))
        arguments += ("--ca", str(tmp_path / "ca.pem"))
        address = f"localhost:{server.address.rpartition(':')[2]}"
        told = ended(node(address, inputs, targets, *arguments, token="secret"))
        model = server.model
        stranger = node(address, inputs, targets, *arguments, token="other")
        _, problems = stranger.communicate(timeout=PATIENCE_S)
    assert stranger.returncode == 1
    assert "UNAUTHENTICATED" in problems
    expected, _ = trained(model, inputs, targets, batch=4, epochs=2)
    assert told["applied"] == 4
    largest = max(float(values.detach().abs().max()) for values in expected.parameters())
    assert likeness(model, expected) < 1e-4 * largest


def test_a_job_id_that_no_number_of_javascript_holds_comes_back(node):
    """2**53 + 1 is the first whole number that a double has no room for."""
    model = linear(4, 2)
    layout = core.ParameterLayout.of(model)
    algorithm = algorithms.async_sgd(learning_rate=RATE)
    state = core.Server(layout.flatten(model), algorithm, layout=layout, incarnation=1 << 13)
    hub = Hub(state, Porter(layout, instructions_for(algorithm)))
    network = NetworkServer(hub, layout)
    network.start()
    hub.start()
    try:
        inputs, targets = torch.eye(4), torch.tensor([0, 1, 0, 1])
        told = ended(node(network.address, inputs, targets, "--epochs", "2", "--batch", "2"))
        assert hub.call(lambda: state.version, PATIENCE_S) == 4
    finally:
        network.stop()
        hub.stop("done", within_s=0.0)
        assert hub.join(PATIENCE_S)
    assert (told["applied"], told["rejected"]) == (4, 0)


@pytest.mark.parametrize(
    ("features", "algorithm", "problem"),
    [
        (3, algorithms.async_delta(), "trains one linear layer"),
        (4, algorithms.easgd(), "cannot do what"),
    ],
    ids=["model", "algorithm"],
)
def test_it_leaves_a_server_that_it_cannot_work_for(node, features, algorithm, problem):
    model = linear(features, 2)
    with headway.ParameterServer(model, port=0, algorithm=algorithm) as server:
        process = node(server.address, torch.eye(4), torch.tensor([0, 1, 0, 1]))
        _, problems = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert problem in problems


def test_it_says_why_it_was_refused(node):
    with headway.ParameterServer(linear(4, 2), port=0, max_workers=1) as server:
        inside = Exchange(NetworkLink(server.address))
        inside.join()
        process = node(server.address, torch.eye(4), torch.tensor([0, 1, 0, 1]))
        _, problems = process.communicate(timeout=PATIENCE_S)
        inside.leave()
    assert process.returncode == 1
    assert "refused (full)" in problems


class Stream:
    """A connection of the worker: it is told what the test says."""

    def __init__(self, requests):
        self.requests = requests
        self.told = queue.SimpleQueue()
        self.num_beats = 0

    def say(self, **kind):
        self.told.put(wire.ToWorker(**kind).SerializeToString())

    def welcome(self, heartbeat_s=0.0):
        instructions = {"algorithm": "x", "payload": "delta", "client": [], "keeps_model": False}
        welcome = wire.Welcome(
            worker="node", instructions=json.dumps(instructions), heartbeat_s=heartbeat_s, lease_s=1.0,
            layout=json.dumps(core.ParameterLayout.of(linear(4, 2)).describe()),
        )  # fmt: skip
        self.say(welcome=welcome)

    def let_in(self, **options):
        """Hear a worker join, welcome it, and hear it ask: its join."""
        join = self.hear().join
        self.welcome(**options)
        assert self.hear().HasField("ask")
        return join

    def end(self):
        self.told.put(None)

    def hear(self):
        """What the worker says next; its heartbeats are answered, and counted."""
        while True:
            said = wire.ToServer.FromString(next(self.requests))
            if not said.HasField("beat"):
                return said
            self.num_beats += 1
            self.say(beat=wire.Beat(number=said.beat.number))


@pytest.fixture
def script():
    """A server that says what a test has it say: its address, and its connections in turn."""
    streams = queue.Queue()

    def work(requests, context):
        stream = Stream(requests)
        streams.put(stream)
        return iter(stream.told.get, None)

    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"Work": grpc.stream_stream_rpc_method_handler(work)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("headway.v1.Exchange", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", lambda: streams.get(timeout=PATIENCE_S)
    server.stop(None).wait(PATIENCE_S)


POINTS, CLASSES = torch.eye(4).repeat(64, 1), torch.tensor([0, 1, 0, 1]).repeat(64)
ZEROS = bytes(4 * 10)


def given(job, steps=1):
    vectors = wire.Vectors(num_values=10, inline=ZEROS)
    return wire.Job(id=job, model=vectors, order=wire.Order(steps=steps))


def test_it_beats_while_it_computes(node, script):
    address, next_stream = script
    process = node(address, POINTS, CLASSES, "--batch", "256", "--epochs", "4000")
    stream = next_stream()
    assert stream.let_in(heartbeat_s=0.005).protocol == wire.PROTOCOL
    before = stream.num_beats
    stream.say(job=given(1, steps=4000))
    assert stream.hear().push.num_steps == 4000
    assert stream.num_beats - before >= 3
    stream.say(receipt=wire.Receipt(job=1, status="applied"))
    assert stream.hear().leave.reason == "the data are used up"
    stream.end()
    assert ended(process)["applied"] == 1


def test_it_comes_back_and_says_again_what_had_no_receipt(node, script):
    address, next_stream = script
    process = node(address, POINTS, CLASSES, "--name", "node")
    stream = next_stream()
    first = stream.let_in()
    assert not first.holds
    stream.say(job=given(5))
    before = stream.hear().push
    assert (before.job, before.again) == (5, True)
    stream.end()
    stream = next_stream()
    again = stream.hear().join
    assert (again.worker, again.instance, list(again.holds)) == ("node", first.instance, [5])
    stream.welcome()
    push = stream.hear().push
    assert (push.job, push.again, push.update) == (5, False, before.update)
    assert stream.hear().HasField("ask")
    stream.say(receipt=wire.Receipt(job=5, status="applied"))
    stream.say(stop=wire.Stop(reason="enough", drain=True))
    assert stream.hear().leave.reason == "enough"
    stream.end()
    told = ended(process)
    assert (told["reason"], told["applied"], told["reconnects"]) == ("enough", 1, 1)


def test_it_hands_in_no_cancelled_job_and_nothing_that_a_stop_does_not_want(node, script):
    address, next_stream = script
    process = node(address, POINTS, CLASSES, "--batch", "256", "--epochs", "4003")
    stream = next_stream()
    stream.let_in()
    stream.say(wait=wire.Wait(reason="not yet"))
    stream.say(job=given(1, steps=1000))
    stream.say(cancel=wire.Cancel(job=1))
    # Another job comes by itself, in two pieces with a heartbeat between them.
    late = wire.Job(id=2, model=wire.Vectors(num_values=10), order=wire.Order(steps=2))
    stream.say(job=late)
    stream.say(chunk=wire.Chunk(data=ZEROS[:9]))
    stream.say(beat=wire.Beat(number=1))
    stream.say(chunk=wire.Chunk(data=ZEROS[9:]))
    push = stream.hear().push
    assert (push.job, push.num_steps) == (2, 2)
    stream.say(receipt=wire.Receipt(job=2, status="applied"))
    stream.say(job=given(3, steps=3000))
    stream.say(stop=wire.Stop(reason="at once"))
    assert stream.hear().leave.reason == "at once"
    stream.end()
    assert ended(process)["applied"] == 1


def test_it_hands_in_what_it_is_at_where_a_stop_still_wants_it(node, script):
    address, next_stream = script
    process = node(address, POINTS, CLASSES, "--batch", "256", "--epochs", "4000")
    stream = next_stream()
    stream.let_in()
    stream.say(job=given(1, steps=1000))
    stream.say(stop=wire.Stop(reason="the end", drain=True))
    push = stream.hear().push
    assert (push.job, push.again) == (1, False)
    stream.say(receipt=wire.Receipt(job=1, status="applied"))
    assert stream.hear().leave.reason == "the end"
    stream.end()
    assert ended(process)["applied"] == 1
