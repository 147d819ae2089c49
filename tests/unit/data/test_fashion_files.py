"""The real files, where the Debian package is installed or HEADWAY_FASHION_MNIST names a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headway.data import fashion, fashion_mnist

FOLDER = Path(os.environ.get("HEADWAY_FASHION_MNIST") or fashion._DEBIAN)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="Fashion-MNIST is not on this machine")
def test_the_real_files_verify() -> None:
    train = fashion_mnist(folder=FOLDER)
    test = fashion_mnist(folder=FOLDER, part="test")
    assert train.targets.bincount().tolist() == [6000] * 10
    assert test.targets.bincount().tolist() == [1000] * 10
    # Mean and standard deviation of the training pixels, as published with many models.
    assert float(train.inputs.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(train.inputs.std()) == pytest.approx(0.3530, abs=5e-5)
