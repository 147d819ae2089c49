"""Real text that is always there: the sources of Python's standard library, byte by byte."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from headway.core.errors import ConfigurationError, DataError, UnknownNameError
from headway.data.checks import check_whole_number
from headway.data.dataset import Dataset

__all__ = ["stdlib_text"]

_Bytes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_PARTS: Final = ("train", "test")
_LEFT_OUT: Final = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})


def stdlib_text(
    *,
    part: Literal["train", "test"] = "train",
    length: int = 64,
    stride: int | None = None,
    num_modules: int | None = None,
    bytes_per_module: int | None = 32768,
    held_out: float = 0.1,
) -> Dataset:
    """Sources of Python's standard library as a language model's data, one client for each module.

    An example is a window of ``length + 1`` bytes ``b`` of one file: its inputs are ``b[:-1]``, its
    targets ``b[1:]``. Its natural id is the module or package at the top level that the file
    belongs to (``json``, ``argparse``), so that ``natural()`` makes modules clients; modules
    differ in size and in style. Tests, and what is no part of the library itself, are left out.

    Whole files are held out for the test part, chosen by a checksum of their path, so training and
    test share no file and the choice is alike everywhere. Random windows of the training files
    instead, from every module alike, come from ``held_out=0`` and :meth:`Dataset.split`.

    Nothing is random: one installation of Python always gives the same examples. **Other versions
    and distributions of Python have other sources**, so figures are comparable within one of them
    only; the data set's name holds the version, and the start of the SHA-256 of the text.

    Args:
        part: The training files or those held out.
        length: Bytes in an example, at least 1.
        stride: Distance of the windows' starts in bytes, at least 1; by default ``length``, so
            that no byte is predicted twice.
        num_modules: Only as many modules as this, those with the most bytes in training files, at
            least 1; ``None``: all (about 190). The test part has the held-out files of all.
        bytes_per_module: What a module gives to the training part at most, the first files in the
            order of their paths, at least 1; to the test part it gives ``held_out`` times that.
            ``None``: everything.
        held_out: The share of files that are held out on average, in [0, 1).

    Returns:
        Inputs and targets int64 ``[N, length]``, 256 classes. By default about 60,000 training
        and 1,000 test examples, in about 0.2 s.

    Raises:
        ConfigurationError: A value outside its range, or no window is that long.
        UnknownNameError: A part that does not exist.
        DataError: This Python has no sources on disk.

    Example:
        >>> data = stdlib_text(num_modules=3, bytes_per_module=6400)
        >>> data.inputs.shape, len(set(data.natural_ids.tolist()))
        (torch.Size([297, 64]), 3)
        >>> bool((data.inputs[:, 1:] == data.targets[:, :-1]).all())
        True
    """
    _check(part, length, stride, num_modules, bytes_per_module, held_out)
    modules = _modules(held_out)
    chosen = modules
    limit = bytes_per_module
    if part == "train":
        ranked = sorted(modules, key=lambda module: (-module.train_bytes, module.name))
        kept = {module.name for module in ranked[:num_modules]}
        chosen = [module for module in modules if module.name in kept]
    elif limit is not None:
        limit = max(1, round(limit * held_out))
    digest = hashlib.sha256()
    windows: list[_Bytes] = [np.empty((0, length + 1), dtype=np.uint8)]
    owners: list[int] = []
    for module in chosen:
        before = len(windows)
        for text in _texts(module.train if part == "train" else module.test, limit):
            digest.update(text)
            if len(text) > length:
                windows.append(_windows(text, length + 1, stride or length))
        owners += [module.number] * sum(map(len, windows[before:]))
    return _dataset(np.concatenate(windows), owners, digest.hexdigest(), part)


class _Module(NamedTuple):
    """A module or package at the top level of the standard library."""

    number: int
    name: str
    train: list[Path]
    test: list[Path]

    @property
    def train_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.train)


def _dataset(
    windows: _Bytes,
    owners: Sequence[int],
    digest: str,
    part: str,
) -> Dataset:
    if not len(windows):
        raise ConfigurationError(
            f"the {part} part of the standard library's text has no example",
            where="stdlib_text(...)",
            help="lower length, or raise bytes_per_module or held_out",
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    # Inputs and targets are views of one tensor: they differ in one byte.
    symbols = torch.from_numpy(windows.astype(np.int64))
    return Dataset(
        f"stdlib_text-{version}-{digest[:12]}",
        inputs=symbols[:, :-1],
        targets=symbols[:, 1:],
        num_classes=256,
        natural_ids=torch.tensor(owners, dtype=torch.int64),
    )


def _modules(held_out: float) -> list[_Module]:
    """All modules by name, with their files in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(_files(root), key=lambda path: path.as_posix())
    if not files:
        raise DataError(
            "this Python has no sources of its standard library",
            where=str(root),
            expected="files that end in .py",
            help="use an installation that keeps the library as files, not in an archive",
        )
    found: dict[str, _Module] = {}
    for name in sorted({_top(path) for path in files}):
        found[name] = _Module(len(found), name, [], [])
    for path in files:
        module = found[_top(path)]
        # A checksum of the path: no file's part depends on which others there are.
        position = zlib.crc32(path.as_posix().encode()) / 2**32
        (module.test if position < held_out else module.train).append(root / path)
    return list(found.values())


def _files(root: Path) -> Iterator[PurePosixPath]:
    """The library's own sources below ``root``, as paths relative to it, in no order."""
    for folder, folders, names in os.walk(root):
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for name in names:
            path = relative / name
            # The list of names leaves out what a distribution or a build adds.
            if path.suffix == ".py" and _top(path) in sys.stdlib_module_names:
                yield path


def _top(path: PurePosixPath) -> str:
    return path.parts[0].removesuffix(".py")


def _texts(paths: Sequence[Path], limit: int | None) -> Iterator[bytes]:
    """The contents of the files, until there are so many bytes."""
    left = limit
    for path in paths:
        if left is not None and left <= 0:
            return
        text = path.read_bytes()[:left]
        left = None if left is None else left - len(text)
        yield text


def _windows(text: bytes, size: int, stride: int) -> _Bytes:
    symbols = np.frombuffer(text, dtype=np.uint8)
    return np.lib.stride_tricks.sliding_window_view(symbols, size)[::stride]


def _check(
    part: str,
    length: int,
    stride: int | None,
    num_modules: int | None,
    bytes_per_module: int | None,
    held_out: float,
) -> None:
    if part not in _PARTS:
        raise UnknownNameError.of("part of the standard library's text", part, _PARTS)
    check_whole_number("length", length, least=1)
    optional = {
        "stride": stride,
        "num_modules": num_modules,
        "bytes_per_module": bytes_per_module,
    }
    for name, value in optional.items():
        if value is not None:
            check_whole_number(name, value, least=1)
    given: object = held_out
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 <= held_out < 1:
        raise ConfigurationError(
            "held_out is a share in [0, 1)",
            where="stdlib_text(held_out=...)",
            got=repr(held_out),
            help="write a number such as held_out=0.1",
        )
    if part == "test" and held_out == 0:
        raise ConfigurationError(
            "the test part has no files where none are held out",
            where="stdlib_text(part=..., held_out=...)",
            got='part="test", held_out=0',
            help="raise held_out, or split the training part with Dataset.split",
        )
