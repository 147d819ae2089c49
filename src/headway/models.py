"""Small models by name, for configuration files and first experiments.

Each function returns a :class:`ModelFactory`, a value that makes a new module when it is called,
so that its initial weights follow from the run's seed. Inputs may come in any shape; they are
flattened, or folded into images, first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, final

from torch import nn

from headway.core.errors import ConfigurationError

__all__ = ["MODELS", "ModelFactory", "cnn", "mlp", "softmax_regression"]


@final
class ModelFactory:
    """Makes a module, and says which.

    Args:
        name: The function that this comes from.
        build: Makes the module.
        settings: The arguments, for descriptions.

    Example:
        >>> factory = softmax_regression(inputs=64, classes=10)
        >>> factory
        softmax_regression(inputs=64, classes=10)
        >>> sum(parameter.numel() for parameter in factory().parameters())
        650
    """

    __slots__ = ("build", "name", "settings")

    def __init__(
        self, name: str, build: Callable[[], nn.Module], settings: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.build = build
        self.settings = dict(settings)

    def __call__(self) -> nn.Module:
        """Make a new module."""
        return self.build()

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.settings.items())})"


def softmax_regression(inputs: int = 784, classes: int = 10) -> ModelFactory:
    """Make a linear classifier: convex, with ``(inputs + 1) * classes`` parameters.

    Args:
        inputs: Numbers in an example, at least 1.
        classes: At least 2.

    Raises:
        ConfigurationError: A number outside its range.
    """
    return _factory("softmax_regression", _perceptron, inputs=inputs, hidden=(), classes=classes)


def mlp(
    inputs: int = 784, hidden: int | tuple[int, ...] | list[int] = (200,), classes: int = 10
) -> ModelFactory:
    """Make a multilayer perceptron with ReLU.

    Args:
        inputs: Numbers in an example, at least 1.
        hidden: Width of each hidden layer, each at least 1; one number is one layer.
        classes: Outputs, at least 2.

    Raises:
        ConfigurationError: A number outside its range.

    Example:
        >>> mlp(784, 200, 10)
        mlp(inputs=784, hidden=(200,), classes=10)
        >>> sum(parameter.numel() for parameter in mlp(784, 200, 10)().parameters())
        159010
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    return _factory("mlp", _perceptron, inputs=inputs, hidden=widths, classes=classes)


def cnn(height: int = 28, width: int = 28, channels: int = 1, classes: int = 10) -> ModelFactory:
    """Make a small convolutional network: two convolutions with pooling, and a linear layer.

    Args:
        height: Of an image, at least 4 pixels.
        width: Of an image, at least 4 pixels.
        channels: Of an image, at least 1.
        classes: Outputs, at least 2.

    Raises:
        ConfigurationError: A number outside its range.

    Example:
        >>> import torch
        >>> cnn()()(torch.zeros(3, 784)).shape
        torch.Size([3, 10])
    """
    return _factory(
        *("cnn", _convolutional), height=height, width=width, channels=channels, classes=classes
    )


MODELS: Final[Mapping[str, Callable[..., ModelFactory]]] = {
    "cnn": cnn,
    "mlp": mlp,
    "softmax_regression": softmax_regression,
}
"""The models that a configuration file can name."""

_LEAST: Final = {"classes": 2, "height": 4, "width": 4}


def _factory(name: str, build: Callable[..., nn.Module], **sizes: Any) -> ModelFactory:
    for key, value in sizes.items():
        for size in value if isinstance(value, tuple) else (value,):
            least = _LEAST.get(key, 1)
            if isinstance(size, bool) or not isinstance(size, int) or size < least:
                raise ConfigurationError(
                    f"{key} is out of range",
                    where=f"models.{name}({key}=...)",
                    got=size,
                    expected=f"a whole number of at least {least}",
                )
    settings = {key: value for key, value in sizes.items() if value != ()}
    return ModelFactory(name, partial(build, **sizes), settings)


def _perceptron(inputs: int, hidden: tuple[int, ...], classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    width = inputs
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU()]
        width = following
    return nn.Sequential(*layers, nn.Linear(width, classes))


def _convolutional(height: int, width: int, channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Unflatten(1, (channels, height, width)),
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), classes),
    )
