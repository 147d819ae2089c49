"""The code in the README runs, in its order; what is large is made small."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {
    "epochs=10": "epochs=2",
    "virtual_time_s=600": "virtual_time_s=60",
    "hw.data.mnist_5k()": "hw.data.digits()",
    "hw.models.mlp(784, [64], 10)": "hw.models.mlp(64, [16], 10)",
    "virtual_time_s=240": "virtual_time_s=12",
    "wall_time_s=60": "wall_time_s=2",
}
"""What one reads there, and what is run here."""


def blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for written in SMALLER:
        assert written in text, written
    for written, run in SMALLER.items():
        text = text.replace(written, run)
    return BLOCKS.findall(text)


def start(folder: Path, name: str, text: str) -> subprocess.Popen[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, name], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_every_block_is_run_here() -> None:
    assert len(blocks()) == 5


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_the_server_and_its_worker_run(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # Whatever else this machine does at port 5000.
    serving, working = (text.replace("5000", port) for text in blocks()[:2])
    server, worker = start(tmp_path, "serve.py", serving), start(tmp_path, "work.py", working)
    try:
        told, _ = worker.communicate(timeout=100)
        server.send_signal(signal.SIGINT)
        result, _ = server.communicate(timeout=60)
    finally:
        server.kill()
        worker.kill()
    assert (server.returncode, worker.returncode) == (0, 0), (result, told)
    assert 0.0 <= float(told.split()[-1]) <= 1.0
    assert "async_sgd" in result or "async_delta" in result


@pytest.mark.slow
def test_simulations_comparisons_and_processes_run(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    together = "\n".join(blocks()[2:])
    text = "def main():\n" + textwrap.indent(together, "    ") + "    print(result)\n"
    run = start(tmp_path, "all.py", text + '\n\nif __name__ == "__main__":\n    main()\n')
    try:
        told, _ = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, told
    assert (tmp_path / "report.html").is_file()
    assert "idle" in told
    assert "fedavg" in told
    assert "worker-0" in told
