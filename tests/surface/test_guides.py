"""The code in the guides runs, in its order, and prints what stands there."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIED_ELSEWHERE = {"two-machines"}  # commands and no code: see test_two_machines.py
GUIDES = [
    *(
        path
        for path in sorted((ROOT / "docs" / "guides").glob("*.md"))
        if path.stem not in TRIED_ELSEWHERE
    ),
    ROOT / "docs" / "conformance.md",
    ROOT / "docs" / "threat-model.md",
]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^<!-- file: (\S+) -->\n```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_a_guide_runs(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names, printed = {"__name__": "__main__"}, ""
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    assert any(kind == "python" for kind, _ in blocks)
    for kind, text in blocks:
        if kind == "text":
            assert printed == text
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, f"{path.name}", "exec"), names)
        printed = out.getvalue()


def test_ten_lines_are_ten_lines():
    (guide,) = [path for path in GUIDES if path.stem == "write-your-own"]
    _, code = BLOCK.findall(guide.read_text(encoding="utf-8"))[0]
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10


@pytest.mark.slow
def test_the_scripts_of_a_server_and_its_workers_run_as_they_stand(tmp_path):
    pytest.importorskip("sklearn")
    guide = (ROOT / "docs" / "guides" / "parameter-server.md").read_text(encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for name, text in FILE.findall(guide):
        # Whatever else this machine does at port 5000.
        (tmp_path / name).write_text(text.replace("5000", port), encoding="utf-8")
    scripts = [["serve.py"], ["work.py", "0"], ["work.py", "1"]]
    running = [
        subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for words in scripts
    ]  # fmt: skip
    try:
        told = [run.communicate(timeout=100)[0] for run in running]
    finally:
        for run in running:
            run.kill()
    assert [run.returncode for run in running] == [0, 0, 0], told
    assert "applied" in told[0]
    for text in told[1:]:
        assert float(text.rpartition("model: ")[2].split()[0]) > 0.8, text
    assert list((tmp_path / "ckpt").glob("checkpoint-*"))
