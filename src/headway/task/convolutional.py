"""Forward and backward pass of a convolutional network, written out for a CPU.

What is slow in a small one is not its products. Pooling takes a third of the time as long as the
channels of a pixel are apart in memory; a first layer of one to three channels leaves the processor's
vectors empty; and a ReLU before the pooling goes over four times as many numbers as one after it. So
channels come last here, the first layer is a matrix product over patches that are cut out once for
a whole job, and pooling comes before ReLU. All of it is the same function, and autograd sees it as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headway.task.dense import ACTIVATIONS, DERIVATIVES, has_hooks

__all__ = ["Convolutional"]

_aten = torch.ops.aten
_LAST: Final = torch.channels_last
_PATCH: Final = 32
"""The largest patch, in numbers, of a first layer that is a matrix product."""
_PATCHES_BYTES: Final = 32 << 20
"""What the patches of a job may take; beyond that they are cut out batch by batch."""

_Kept = list[Any]
_Pair = tuple[int, int]


@final
class Convolutional:
    """A chain of convolutions, pooling, activations and linear layers as one differentiable function.

    Memory: the activations of a batch, and the patches of a job's examples for a first layer of few
    channels, at most 32 MiB.

    Args:
        views: What comes before the first convolution and only changes shapes.
        layers: The rest.
        parameters: Of the module, in its own order.
    """

    def __init__(
        self, views: Sequence[nn.Module], layers: Sequence[_Layer], parameters: Sequence[Tensor]
    ) -> None:
        self._views = list(views)
        self._layers = list(layers)
        self._parameters = list(parameters)

    @classmethod
    def of(cls, module: nn.Module) -> Convolutional | None:
        """Read a module; ``None`` where it is anything else than such a chain.

        Args:
            module: In training mode. Its parameters are read at each call.
        """
        leaves = _leaves(module)
        number = {id(parameter): index for index, parameter in enumerate(module.parameters())}
        if leaves is None or not all(p.requires_grad for p in module.parameters()):
            return None
        first = next((i for i, leaf in enumerate(leaves) if type(leaf) is nn.Conv2d), None)
        if first is None or any(type(leaf) not in _VIEWS for leaf in leaves[:first]):
            return None
        layers = _read(leaves[first:], number)
        # A parameter that two layers share, or that no layer has, is not for here.
        used = [] if layers is None else [index for layer in layers for index in layer.parameters]
        if layers is None or sorted(used) != list(range(len(number))):
            return None
        return cls(leaves[:first], layers, list(module.parameters()))

    def prepared(self, inputs: Tensor) -> Tensor | None:
        """What :meth:`__call__` takes any rows of, for a job's inputs; ``None``: not such inputs.

        Args:
            inputs: ``[examples, *]``; not written to.
        """
        first = self._layers[0]
        assert isinstance(first, _Convolution)
        weight = self._parameters[first.parameters[0]]
        try:
            for view in self._views:
                inputs = view(inputs)
        except RuntimeError:
            return None
        is_image = inputs.dim() == 4 and inputs.shape[1] == weight.shape[1] * first.groups
        if not is_image or inputs.dtype != weight.dtype:
            return None
        if not first.is_product:
            return inputs.contiguous(memory_format=_LAST)
        height, width = first.window.size(*inputs.shape[2:])
        held = len(inputs) * height * width * weight[0].numel() * weight.element_size()
        return inputs if held > _PATCHES_BYTES else first.patches(inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The outputs of a batch.

        Args:
            inputs: Rows of what :meth:`prepared` gave.
        """
        apply: Callable[..., Tensor] = _Chain.apply
        return apply(self._layers, inputs, *self._parameters)


class _Chain(torch.autograd.Function):
    """All layers in one piece."""

    @staticmethod
    def forward(ctx: Any, layers: list[_Layer], value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.layers, ctx.parameters, ctx.kept = layers, parameters, []
        for layer in layers:
            value = layer.forward(value, parameters, ctx.kept)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        found: list[Tensor | None] = [None] * len(ctx.parameters)
        for layer in reversed(ctx.layers):
            gradient = layer.backward(gradient, ctx.parameters, ctx.kept, found)
        return None, None, *found


class _Layer(Protocol):
    """A layer: ``backward`` takes from the end of ``kept`` what ``forward`` put there."""

    @property
    def parameters(self) -> tuple[int, ...]:
        """Which parameters of the module are its own."""
        ...

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor: ...

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor: ...


class _Window(NamedTuple):
    """What a convolution or a pooling sees of an image, by height and width."""

    kernel: _Pair
    stride: _Pair
    padding: _Pair
    dilation: _Pair

    @classmethod
    def of(cls, leaf: nn.Conv2d | nn.MaxPool2d) -> _Window:
        spans = leaf.kernel_size, leaf.stride, leaf.padding, leaf.dilation
        return cls(*map(_pair, spans))

    def size(self, height: int, width: int) -> _Pair:
        """Height and width of what comes out."""
        found = [
            (given + 2 * around - apart * (kernel - 1) - 1) // stride + 1
            for given, kernel, stride, around, apart in zip((height, width), *self, strict=True)
        ]
        return found[0], found[1]


@final
@dataclass(frozen=True, slots=True)
class _Convolution:
    parameters: tuple[int, ...]
    window: _Window
    groups: int
    is_first: bool
    is_product: bool
    """Whether it is done as a matrix product over patches."""

    def patches(self, images: Tensor) -> Tensor:
        """``[images, 1, height, width, patch]``: a form that no image has."""
        kernel, stride, padding, dilation = self.window
        cut = F.unfold(images, kernel, dilation, padding, stride)
        shape = len(images), 1, *self.window.size(*images.shape[2:]), cut.shape[1]
        return cut.transpose(1, 2).contiguous().view(shape)

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        weight, bias = self._own(parameters)
        if self.is_product:
            value = value if value.dim() == 5 else self.patches(value)
            kept.append(value)
            rows, across = value.flatten(0, 3), weight.flatten(1).t()
            out = rows @ across if bias is None else torch.addmm(bias, rows, across)
            return out.view(len(value), *value.shape[2:4], -1).permute(0, 3, 1, 2)
        weight = weight.contiguous(memory_format=_LAST)
        kept.append((value, weight))
        return torch.convolution(value, weight, bias, *self._settings)

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        weight, bias = self._own(parameters)
        saved, of_bias = kept.pop(), None
        if self.is_product:
            rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
            # The other way round it takes six times as long.
            of_weight = (saved.flatten(0, 3).t() @ rows).t().reshape(weight.shape)
            of_bias = None if bias is None else rows.sum(dim=0)
        else:
            value, weight = saved
            asked = not self.is_first, True, bias is not None
            sizes = None if bias is None else list(bias.shape)
            gradient, of_weight, of_bias = _aten.convolution_backward(
                gradient, value, weight, sizes, *self._settings, asked
            )
        found[self.parameters[0]] = of_weight.contiguous()
        if bias is not None:
            found[self.parameters[1]] = of_bias
        return gradient

    @property
    def _settings(self) -> tuple[Any, ...]:
        return *self.window[1:], False, (0, 0), self.groups

    def _own(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        own = [parameters[index] for index in self.parameters]
        return own[0], own[1] if len(own) > 1 else None


@final
@dataclass(frozen=True, slots=True)
class _Linear:
    parameters: tuple[int, ...]

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        kept.append(value)
        return F.linear(value, *(parameters[index] for index in self.parameters))

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        found[self.parameters[0]] = gradient.t() @ kept.pop()
        if len(self.parameters) > 1:
            found[self.parameters[1]] = gradient.sum(dim=0)
        return gradient @ parameters[self.parameters[0]]


@final
@dataclass(frozen=True, slots=True)
class _Pooling:
    window: _Window
    ceil: bool
    parameters: tuple[int, ...] = ()

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        pooled, places = _aten.max_pool2d_with_indices(value, *self._settings)
        kept.append((value, places))
        return cast("Tensor", pooled)

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        value, places = kept.pop()
        back = _aten.max_pool2d_with_indices_backward
        return cast("Tensor", back(gradient, value, *self._settings, places))

    @property
    def _settings(self) -> tuple[Any, ...]:
        return *self.window, self.ceil


@final
@dataclass(frozen=True, slots=True)
class _Activation:
    kind: type[nn.Module]
    is_own: bool
    """Whether nobody needs the value as it is."""
    parameters: tuple[int, ...] = ()

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        value = ACTIVATIONS[self.kind](value if self.is_own else value.clone())
        kept.append(value)
        return value

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        return DERIVATIVES[self.kind](gradient, kept.pop())


@final
@dataclass(frozen=True, slots=True)
class _Flatten:
    parameters: tuple[int, ...] = ()

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        kept.append(value.shape)
        return value.flatten(1)

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        return gradient.reshape(kept.pop()).contiguous(memory_format=_LAST)


@final
@dataclass(frozen=True, slots=True)
class _Dropout:
    """It draws as torch's own does on the CPU, where rows are flat."""

    p: float
    parameters: tuple[int, ...] = ()

    def forward(self, value: Tensor, parameters: Sequence[Tensor], kept: _Kept) -> Tensor:
        mask = torch.empty_like(value).bernoulli_(1.0 - self.p).div_(1.0 - self.p)
        kept.append(mask)
        return value * mask

    def backward(
        self, gradient: Tensor, parameters: Sequence[Tensor], kept: _Kept, found: list[Any]
    ) -> Tensor:
        return gradient * cast("Tensor", kept.pop())


_VIEWS: Final = frozenset({nn.Flatten, nn.Unflatten, nn.Identity})


def _leaves(module: nn.Module) -> list[nn.Module] | None:
    """The modules of a chain in their order; ``None``: they are more than a chain."""
    if has_hooks(module):
        return None
    if type(module) is not nn.Sequential:
        return [module]
    leaves: list[nn.Module] = []
    # Not `children`, which leaves out what comes twice.
    for child in module._modules.values():
        found = _leaves(child)
        if found is None:
            return None
        leaves += found
    return leaves


def _read(leaves: Sequence[nn.Module], number: Mapping[int, int]) -> list[_Layer] | None:
    """The layers, ReLU after the pooling that follows it."""
    ordered, layers = _pooled_first(leaves), list[_Layer]()
    is_flat, is_own = False, False
    for position, leaf in enumerate(ordered):
        if type(leaf) is nn.Identity or (type(leaf) is nn.Dropout and leaf.p == 0.0):
            continue
        layer = _layer(leaf, number, is_first=position == 0, is_own=is_own)
        needs_flat = isinstance(layer, (_Linear, _Dropout))
        needs_images = isinstance(layer, (_Convolution, _Pooling, _Flatten))
        if layer is None or (needs_flat and not is_flat) or (needs_images and is_flat):
            return None
        layers.append(layer)
        is_flat = is_flat or isinstance(layer, _Flatten)
        if not isinstance(layer, _Flatten):
            is_own = not isinstance(layer, _Activation)
    return layers


def _pooled_first(leaves: Sequence[nn.Module]) -> list[nn.Module]:
    """ReLU never falls, so that the largest of a window is the largest before it too."""
    ordered = list(leaves)
    for index in range(len(ordered) - 1):
        if type(ordered[index]) is nn.ReLU and type(ordered[index + 1]) is nn.MaxPool2d:
            ordered[index : index + 2] = ordered[index + 1], ordered[index]
    return ordered


def _layer(
    leaf: nn.Module, number: Mapping[int, int], *, is_first: bool, is_own: bool
) -> _Layer | None:
    own = tuple(number[id(parameter)] for parameter in leaf.parameters())
    kind = type(leaf)
    if kind in ACTIVATIONS:
        return _Activation(kind, is_own)
    if isinstance(leaf, nn.Conv2d) and kind is nn.Conv2d:
        if isinstance(leaf.padding, str) or leaf.padding_mode != "zeros":
            return None
        is_product = is_first and leaf.groups == 1 and leaf.weight[0].numel() <= _PATCH
        return _Convolution(own, _Window.of(leaf), leaf.groups, is_first, is_product)
    if isinstance(leaf, nn.MaxPool2d) and kind is nn.MaxPool2d and not leaf.return_indices:
        return _Pooling(_Window.of(leaf), leaf.ceil_mode)
    if kind is nn.Linear:
        return _Linear(own)
    if isinstance(leaf, nn.Flatten) and (leaf.start_dim, leaf.end_dim) == (1, -1):
        return _Flatten()
    if isinstance(leaf, nn.Dropout) and kind is nn.Dropout and 0.0 < leaf.p < 1.0:
        return _Dropout(leaf.p)
    return None


def _pair(value: Any) -> _Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
