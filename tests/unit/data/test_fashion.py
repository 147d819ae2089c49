from __future__ import annotations

import gzip
import hashlib
import io
import struct
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from headway.core.errors import ConfigurationError, DataError, UnknownNameError
from headway.data import fashion, fashion_mnist

ROWS = {"train": 6, "t10k": 4}


def contents() -> dict[str, bytes]:
    """Four small files in the place of the real ones."""
    made = {}
    for part, rows in ROWS.items():
        made[f"{part}-images-idx3-ubyte"] = (
            struct.pack(">IIII", 0x803, rows, 28, 28) + bytes(range(rows)) * 784
        )
        made[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, rows) + bytes(range(rows))
    return made


@pytest.fixture(autouse=True)
def small_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums of the small files, no Debian package, and a network that must not be used."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents().items()}
    assert sums.keys() == fashion._SHA256.keys()

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(fashion, "_SHA256", sums)
    monkeypatch.setattr(fashion, "_DEBIAN", tmp_path / "no-debian-package")
    monkeypatch.setattr(fashion, "urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def serve(monkeypatch: pytest.MonkeyPatch, answer: object = None) -> list[str]:
    """A network that serves the small files, or always ``answer``; the list of what was asked."""
    asked: list[str] = []

    def urlopen(url: str, *, timeout: float) -> io.BytesIO:
        assert url.startswith("https://")
        assert timeout > 0
        asked.append(url.rpartition("/")[2])
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bytes):
            return io.BytesIO(answer)
        return io.BytesIO(gzip.compress(contents()[asked[-1].removesuffix(".gz")]))

    monkeypatch.setattr(fashion, "urlopen", urlopen)
    return asked


@pytest.mark.parametrize("packed", [True, False])
def test_reads_a_folder(packed: bool, tmp_path: Path) -> None:
    for name, content in contents().items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    train = fashion_mnist(folder=tmp_path)
    test = fashion_mnist(folder=str(tmp_path), part="test")
    assert train.targets.tolist() == list(range(6))
    assert test.targets.tolist() == list(range(4))
    assert train.inputs.shape == (6, 784)
    assert float(train.inputs.max()) == pytest.approx(5 / 255)
    assert test.as_images().inputs.shape == (4, 1, 28, 28)


def test_absent_files_name_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fashion_mnist()
    text = str(caught.value)
    for way in ("apt install dataset-fashion-mnist", "folder=", "download=True"):
        assert way in text
    assert str(tmp_path / "xdg" / "headway" / "fashion-mnist") in text


def test_a_given_folder_is_the_only_one_that_is_searched(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, content in contents().items():
        (cache / name).write_bytes(content)
    with pytest.raises(DataError, match="not here"):
        fashion_mnist(folder=tmp_path / "other", cache_dir=cache)
    assert len(fashion_mnist(cache_dir=cache)) == 6


def test_a_file_with_another_content_is_refused(tmp_path: Path) -> None:
    for name, content in contents().items():
        (tmp_path / name).write_bytes(content[:-1] + b"\7")
    with pytest.raises(DataError, match="damaged") as caught:
        fashion_mnist(folder=tmp_path)
    assert "train-images" in str(caught.value)


def test_downloads_once_and_only_what_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch)
    cache = tmp_path / "deep" / "cache"
    first = fashion_mnist(download=True, cache_dir=cache)
    assert sorted(asked) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert sorted(path.name for path in cache.iterdir()) == sorted(asked)
    again = fashion_mnist(download=True, cache_dir=cache)
    assert len(asked) == 2
    assert torch.equal(first.inputs, again.inputs)
    assert len(fashion_mnist(cache_dir=cache)) == 6


@pytest.mark.parametrize(
    "answer",
    [
        URLError("no route"),
        TimeoutError("slow"),
        IncompleteRead(b"part"),
        b"<html>sign in</html>",
        gzip.compress(b"something else"),
        gzip.compress(bytes(1000))[:-9],
    ],
    ids=["unreachable", "timeout", "cut", "web page", "other content", "truncated"],
)
def test_a_failed_download_leaves_nothing_behind(
    answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, answer)
    with pytest.raises(DataError) as caught:
        fashion_mnist(download=True, cache_dir=tmp_path / "cache")
    assert caught.value.where is not None
    assert caught.value.where.startswith("https://")
    assert caught.value.help
    assert not list(tmp_path.rglob("*ubyte*"))


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be downloaded"):
        fashion_mnist(download=True, cache_dir=tmp_path / "file")


def test_choices_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tain"):
        fashion_mnist(part="tain")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="either"):
        fashion_mnist(folder=tmp_path, download=True)


@pytest.mark.parametrize(
    ("platform", "configured", "expected"),
    [
        ("linux", None, "home/.cache"),
        ("darwin", None, "home/Library/Caches"),
        ("win32", None, "home/AppData/Local"),
        ("linux", "chosen", "chosen"),
        ("darwin", "chosen", "chosen"),
    ],
)
def test_the_default_cache_follows_the_platform(
    platform: str, configured: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion.sys, "platform", platform)
    monkeypatch.setattr(fashion.Path, "home", lambda: Path("home"))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", configured or "")
    assert fashion._default_cache() == Path(expected) / "headway" / "fashion-mnist"
