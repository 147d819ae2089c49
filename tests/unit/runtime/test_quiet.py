"""What gRPC says on stderr of its own accord, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headway
from headway.runtime import quiet

PROGRAM = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
from headway.runtime.quiet import grpc

answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"there")
server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_connection_idle_ms", 50)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("here", {"Ask": answer}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
assert channel.unary_unary("/here/Ask")(b"") == b"there"
# There was a connection, so that a channel without one has seen it closed.
closed = threading.Event()
channel.subscribe(lambda state: state is grpc.ChannelConnectivity.IDLE and closed.set())
assert closed.wait(60.0)
channel.close()
server.stop(0.0).wait()
print(os.environ.get("GRPC_VERBOSITY"))
"""
WAITERS = """
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from headway.runtime.quiet import grpc

def wakings():
    told = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    numbers = [text.split("\\nvoluntary_ctxt_switches:")[1].split()[0] for text in told
               if text.startswith("Name:\\tevent_engine")]
    return sum(map(int, numbers))

answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"there")
server = grpc.server(ThreadPoolExecutor(1))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("here", {"Ask": answer}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    ask = channel.unary_unary("/here/Ask")
    ask(b"")
    before = wakings()
    for _ in range(300):
        ask(b"")
    print("woken" if wakings() - before > 150 else "asleep", os.environ.get("GRPC_EXPERIMENTS"))
server.stop(0.0).wait()
"""


def run(program, name, value):
    """A program of its own, with this in its environment; ``None``: without it."""
    environment = {other: text for other, text in os.environ.items() if other != name}
    if value is not None:
        environment[name] = value
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [None, "INFO"])
def test_a_connection_that_is_closed_is_told_to_those_alone_who_want_to_know(wanted):
    done = run(PROGRAM, "GRPC_VERBOSITY", wanted)
    assert (done.returncode, done.stdout.strip()) == (0, str(wanted)), done.stderr
    assert ("Got goaway" in done.stderr) == (wanted == "INFO")
    assert wanted is not None or done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads here")
@pytest.mark.parametrize("wanted", [None, ""])
def test_who_waits_for_the_network_is_who_waits_for_the_message(wanted):
    done = run(WAITERS, "GRPC_EXPERIMENTS", wanted)
    others = "asleep" if wanted is None else "woken"
    assert (done.stdout, done.stderr) == (f"{others} {wanted}\n", "")


@pytest.mark.parametrize(
    ("version", "is_known"), [("1.70.0", True), ("1.85.1", True), ("1.86.0", False), ("2.0", False)]
)
def test_a_version_that_may_not_know_a_name_is_not_told_it(monkeypatch, version, is_known):
    monkeypatch.setattr(quiet, "version", lambda _: version)
    assert ("GRPC_EXPERIMENTS" in quiet._settings()) == is_known
    assert quiet._settings()["GRPC_VERBOSITY"] == "ERROR"


def test_nothing_here_loads_it_in_another_way():
    package = Path(headway.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^ *(import grpc|from grpc)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert found == {"runtime/quiet.py"}
