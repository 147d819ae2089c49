"""Fashion-MNIST, from the Debian package, a folder, or (only if asked) the network."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

from headway.core.errors import ConfigurationError, DataError, UnknownNameError
from headway.data.dataset import Dataset
from headway.data.idx import parse_idx, read_content

__all__ = ["fashion_mnist"]

# Where the Debian package `dataset-fashion-mnist` puts its files.
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_ORIGIN = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_PREFIX = {"train": "train", "test": "t10k"}
# Of the decompressed content: Debian compresses the same content anew.
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# The largest of the four files has 26.4 MB.
_MAX_DOWNLOAD_BYTES = 64_000_000
_TIMEOUT_S = 60.0


def fashion_mnist(
    *,
    part: Literal["train", "test"] = "train",
    folder: str | Path | None = None,
    download: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28, 10 classes.

    Looked for in ``folder`` if one is given; otherwise where the Debian package
    ``dataset-fashion-mnist`` puts it, then in ``cache_dir``. Nothing is fetched unless
    ``download=True``, and then only what is absent. Every file is checked against a SHA-256 of its
    decompressed content, wherever it comes from. Pixels are divided by 255.

    Args:
        part: Which of the two parts.
        folder: A folder with the IDX files under their usual names, gzipped or not.
        download: Whether absent files may be fetched over https into ``cache_dir``.
        cache_dir: Where fetched files are kept. By default ``headway/fashion-mnist`` under
            ``XDG_CACHE_HOME``, or under the platform's cache folder where that is not set.

    Returns:
        Inputs float32 ``[60000 or 10000, 784]``, targets int64, 10 classes.

    Raises:
        DataError: The files are nowhere, damaged, or cannot be fetched.
        ConfigurationError: A part that does not exist, or both ``folder`` and ``download``.

    Example:
        >>> from headway.core.errors import DataError
        >>> try:
        ...     fashion_mnist(folder="no-such-folder")
        ... except DataError as error:
        ...     print(error.message)
        Fashion-MNIST is not here

    Source:
        Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """
    if part not in _PREFIX:
        raise UnknownNameError.of("part of Fashion-MNIST", part, _PREFIX)
    if folder is not None and download:
        raise ConfigurationError(
            "give either a folder to read or download=True",
            help="cache_dir chooses where fetched files are kept",
        )
    cache = Path(cache_dir) if cache_dir is not None else _default_cache()
    folders = [Path(folder)] if folder is not None else [_DEBIAN, cache]
    names = [name for name in _SHA256 if name.startswith(_PREFIX[part])]
    images, labels = (
        parse_idx(_content(name, folders, cache if download else None), where=name)
        for name in names
    )
    return Dataset(
        "fashion_mnist",
        inputs=images.flatten(1).float().div_(255),
        targets=labels.long(),
        num_classes=10,
        image_shape=(1, 28, 28),
    )


def _content(name: str, folders: list[Path], fetch_into: Path | None) -> bytes:
    for folder in folders:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return _verified(name, read_content(path), where=str(path))
    if fetch_into is None:
        raise DataError(
            "Fashion-MNIST is not here",
            where=" and ".join(str(folder) for folder in folders),
            got=f"no {name}.gz",
            help="apt install dataset-fashion-mnist, or pass folder=... with the four IDX files, "
            "or pass download=True (31 MB)",
        )
    return _fetch(name, fetch_into)


def _verified(name: str, content: bytes, *, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256[name]:
        raise DataError(
            "this is not Fashion-MNIST, or it is damaged",
            where=where,
            got=f"{len(content)} bytes with SHA-256 {found}",
            expected=f"SHA-256 {_SHA256[name]} after decompression",
            help="fetch the file again; headway.data.read_idx reads other IDX files",
        )
    return content


def _fetch(name: str, cache: Path) -> bytes:
    """Download, verify, and only then give the file its name in the cache."""
    url = f"{_ORIGIN}{name}.gz"
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as reply:
            packed: bytes = reply.read(_MAX_DOWNLOAD_BYTES)
        content = _verified(name, gzip.decompress(packed), where=url)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            part = Path(scratch, "part")
            part.write_bytes(packed)
            part.replace(cache / f"{name}.gz")
    except (OSError, EOFError, zlib.error, HTTPException) as error:
        raise DataError(
            "Fashion-MNIST could not be downloaded",
            where=url,
            got=f"{type(error).__name__}: {error}",
            help="apt install dataset-fashion-mnist, or pass folder=... with the four IDX files, "
            f"or try again (files are kept in {cache})",
        ) from error
    return content


def _default_cache() -> Path:
    home = Path.home()
    if configured := os.environ.get("XDG_CACHE_HOME"):
        base = Path(configured)
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = home / ".cache"
    return base / "headway" / "fashion-mnist"
