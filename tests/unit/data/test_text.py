"""The standard library as text, against files that the test writes or reads itself."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import pytest
import torch

from headway.core.errors import ConfigurationError, DataError, UnknownNameError
from headway.data import Dataset, federated, natural, stdlib_text

JSON = bytes(range(48, 58)) * 3
FILES = {
    "json/__init__.py": JSON,
    "json/decoder.py": b"abcdefg",
    "json/tests/test_it.py": b"no" * 50,
    "json/notes.txt": b"no" * 50,
    "argparse.py": b"the quick brown fox",
    "bisect.py": b"abcd",
    "sitecustomize.py": b"no" * 50,
    "site-packages/json.py": b"no" * 50,
    "test/test_json.py": b"no" * 50,
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of three modules."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def texts(data: Dataset) -> list[bytes]:
    """Each window as it stands in its file."""
    whole = torch.cat([data.inputs, data.targets[:, -1:]], dim=1)
    return [bytes(row.tolist()) for row in whole]


def windows(text: bytes, size: int, stride: int) -> list[bytes]:
    return [text[i : i + size] for i in range(0, len(text) - size + 1, stride)]


@pytest.mark.parametrize("stride", [None, 1, 3, 7])
@pytest.mark.usefixtures("library")
def test_examples_are_the_windows_of_each_file(stride: int | None) -> None:
    data = stdlib_text(length=4, stride=stride, held_out=0)
    parts = [
        windows(FILES[name], 5, stride or 4)
        for name in ("argparse.py", "json/__init__.py", "json/decoder.py")
    ]
    assert texts(data) == [*parts[0], *parts[1], *parts[2]]
    assert torch.equal(data.inputs[:, 1:], data.targets[:, :-1])
    assert data.natural_ids is not None
    # bisect is number 1, and too short for an example.
    assert data.natural_ids.tolist() == [0] * len(parts[0]) + [2] * (len(parts[1]) + len(parts[2]))


@pytest.mark.usefixtures("library")
def test_the_name_holds_the_hash_of_the_text() -> None:
    used = b"".join(
        FILES[name] for name in ("argparse.py", "bisect.py", "json/__init__.py", "json/decoder.py")
    )
    digest = hashlib.sha256(used).hexdigest()
    assert stdlib_text(length=4, held_out=0).name.endswith(f"-{digest[:12]}")


@pytest.mark.usefixtures("library")
def test_modules_and_bytes_are_limited() -> None:
    largest = stdlib_text(length=4, held_out=0, num_modules=1)
    json = windows(JSON, 5, 4) + windows(b"abcdefg", 5, 4)
    assert texts(largest) == json
    cut = stdlib_text(length=4, held_out=0, bytes_per_module=33)
    # The first file of json has 30 bytes, so 3 are left for the second: too few for an example.
    assert texts(cut) == windows(FILES["argparse.py"], 5, 4) + windows(JSON, 5, 4)
    assert texts(stdlib_text(length=4, held_out=0, num_modules=1, bytes_per_module=9)) == [
        JSON[:5],
        JSON[4:9],
    ]


def test_no_file_is_in_both_parts_and_none_is_lost(library: Path) -> None:
    for index in range(40):
        library.joinpath("json", f"m{index}.py").write_bytes(f"{index:05d}".encode())
    everything = texts(stdlib_text(length=4, held_out=0))
    train = texts(stdlib_text(length=4, held_out=0.5, bytes_per_module=None))
    test = texts(stdlib_text(part="test", length=4, held_out=0.5, bytes_per_module=None))
    assert sorted(train + test) == sorted(everything)
    # Of 40 fair coins, 20 fall to one side, standard deviation 3.
    assert 8 < len([text for text in test if text.isdigit() and text < b"00040"]) < 32
    assert not {text for text in train if text < b"00040"} & set(test)


def test_an_added_file_moves_no_other_one(library: Path) -> None:
    before = set(texts(stdlib_text(part="test", length=4, held_out=0.5, bytes_per_module=None)))
    library.joinpath("abc.py").write_bytes(b"zzzzz")
    after = set(texts(stdlib_text(part="test", length=4, held_out=0.5, bytes_per_module=None)))
    assert after - {b"zzzzz"} == before


def test_the_library_that_runs_this_makes_modules_clients() -> None:
    options = {"length": 16, "num_modules": 12, "bytes_per_module": 800}
    data = stdlib_text(**options)  # type: ignore[arg-type]
    again = stdlib_text(**options)  # type: ignore[arg-type]
    assert torch.equal(data.inputs, again.inputs)
    assert data.name == again.name
    test = stdlib_text(part="test", **options)  # type: ignore[arg-type]
    clients = federated(data, natural(), test=test)
    assert clients.num_clients == 12
    assert max(clients.sizes) <= 800 // 16
    inputs, targets = clients.client(3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"part": "dev"}, UnknownNameError),
        ({"length": 0}, ConfigurationError),
        ({"stride": 0}, ConfigurationError),
        ({"num_modules": True}, ConfigurationError),
        ({"bytes_per_module": 1.5}, ConfigurationError),
        ({"held_out": 1.0}, ConfigurationError),
        ({"held_out": float("nan")}, ConfigurationError),
        ({"length": 1000}, ConfigurationError),
        ({"part": "test", "held_out": 0}, ConfigurationError),
    ],
)
@pytest.mark.usefixtures("library")
def test_what_cannot_be_is_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        stdlib_text(**options)  # type: ignore[arg-type]


def test_a_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    with pytest.raises(DataError, match="no sources"):
        stdlib_text()


@pytest.mark.parametrize("held_out", ["x", None, True, -0.1, 1, float("nan")])
def test_a_share_that_is_none_is_refused(held_out):
    with pytest.raises(ConfigurationError, match="held_out is a share") as caught:
        stdlib_text(held_out=held_out)
    assert caught.value.help


def test_a_test_part_of_nothing_names_the_share():
    with pytest.raises(ConfigurationError, match="none are held out"):
        stdlib_text(part="test", held_out=0)
