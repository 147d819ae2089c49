"""Models by name."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from headway.core.errors import ConfigurationError
from headway.models import MODELS, cnn, mlp, softmax_regression


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("shape", [(4, 784), (4, 1, 28, 28)])
def test_each_takes_digits_flat_or_as_images(name: str, shape: tuple[int, ...]) -> None:
    factory = MODELS[name]()
    module = factory()
    assert module(torch.zeros(shape)).shape == (4, 10)
    assert factory() is not module
    assert repr(factory).startswith(f"{name}(")
    assert repr(pickle.loads(pickle.dumps(factory))) == repr(factory)


@pytest.mark.parametrize(
    ("factory", "count"),
    [
        (softmax_regression(64, 10), 64 * 10 + 10),
        (mlp(64, (32, 16), 10), 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10),
        (cnn(8, 8), 9 * 16 + 16 + 9 * 16 * 32 + 32 + 2 * 2 * 32 * 10 + 10),
    ],
)
def test_how_many_parameters(factory: Any, count: int) -> None:
    assert sum(parameter.numel() for parameter in factory().parameters()) == count


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (mlp, {"hidden": (0,)}),
        (mlp, {"hidden": (20, 2.5)}),
        (mlp, {"inputs": 0}),
        (cnn, {"height": 3}),
        (softmax_regression, {"classes": 1}),
    ],
)
def test_what_they_refuse(make: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(settings))} is out of range"):
        make(**settings)
