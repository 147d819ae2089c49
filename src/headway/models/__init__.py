"""Small models by name, for configuration files and first experiments.

Each function returns a :class:`ModelFactory`, a value that makes a new module when it is called,
so that its initial weights follow from the run's seed. :func:`describe` and :func:`build` carry a
model of stock layers to a worker as plain JSON. Here belong architectures and nothing else: no
data, no loss, no training.
"""

from __future__ import annotations

from headway.models.catalog import MODELS
from headway.models.classifiers import cnn, mlp, softmax_regression
from headway.models.description import build, describe
from headway.models.factory import ModelFactory
from headway.models.language import transformer

__all__ = [
    "MODELS",
    "ModelFactory",
    "build",
    "cnn",
    "describe",
    "mlp",
    "softmax_regression",
    "transformer",
]
