"""What gRPC says on stderr of its own accord, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headway

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


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [None, "INFO"])
def test_a_connection_that_is_closed_is_told_to_those_alone_who_want_to_know(wanted):
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if wanted is not None:
        environment["GRPC_VERBOSITY"] = wanted
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(wanted)), done.stderr
    assert ("Got goaway" in done.stderr) == (wanted == "INFO")
    assert wanted is not None or done.stderr == ""


def test_nothing_here_loads_it_in_another_way():
    package = Path(headway.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^ *(import grpc|from grpc)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert found == {"runtime/quiet.py"}
