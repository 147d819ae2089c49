"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headway.core.errors import LogDamagedError, RunFolderError
from headway.observe import files


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    files.write_atomically(path, "one\n")
    with files.replacing(path) as temporary:
        temporary.write_text("two\n")
        assert path.read_text() == "one\n"
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_what_breaks_off_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_atomically(path, "one\n")

    def half() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "one\n"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such permissions")
def test_the_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "ours", "")
    (tmp_path / "usual").write_text("")
    ours, usual = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("ours", "usual"))
    assert ours == usual


def test_what_the_system_refuses_names_the_file_and_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below.json"
    for attempt in (lambda: files.write_json(path, {}), lambda: files.read_json(path)):
        with pytest.raises(RunFolderError, match=r"below\.json") as caught:
            attempt()
        assert isinstance(caught.value, OSError)
        assert caught.value.where == str(path)
        assert caught.value.help


@pytest.mark.parametrize("data", [b"{", b"\xff", b"", b"[NaN]", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(data)
    with pytest.raises(LogDamagedError, match=r"result\.json is damaged"):
        files.read_json(path)


def test_json_comes_back(tmp_path: Path) -> None:
    tree = {"a": [1, float("inf"), None], "b": {"c": "é"}}
    files.write_json(tmp_path / "a.json", tree)
    assert files.read_json(tmp_path / "a.json") == tree
