"""Forward and backward pass of many fully connected networks at once, written out.

What autograd does for such a network is a handful of matrix products. Written out they need no
graph, no call per model, and plain SGD can add a gradient to the weights in the product itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headway.task.masks import MaskedDropout
from headway.task.metrics import Loss, mean_squared_error

__all__ = ["ACTIVATIONS", "DERIVATIVES", "Bound", "Dense", "has_hooks"]

_Backward = Callable[[Tensor, Tensor], Tensor]
_aten = torch.ops.aten
ACTIVATIONS: Final[Mapping[type[nn.Module], Callable[[Tensor], Tensor]]] = {
    nn.ReLU: torch.relu_,
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
}
"""In place."""
DERIVATIVES: Final[Mapping[type[nn.Module], _Backward]] = {
    nn.ReLU: lambda gradient, output: _aten.threshold_backward(gradient, output, 0),
    nn.Tanh: _aten.tanh_backward,
    nn.Sigmoid: _aten.sigmoid_backward,
}
"""``(gradient, output) -> gradient of the input``."""
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Linear(NamedTuple):
    """A linear layer, by the names of its parameters; ``None``: it has no bias."""

    weight: str
    bias: str | None


class Bound(NamedTuple):
    """A linear layer with the parameters of a group.

    Attributes:
        weight: ``[lanes, out, in]``.
        transposed: The same memory as ``[lanes, in, out]``.
        bias: ``[lanes, 1, out]``.
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor | None


_Use = Callable[[int, Tensor, Tensor], None]
_Layer = _Linear | type[nn.Module] | str


@final
class Dense:
    """A chain of linear layers, activations and dropout, with cross entropy or squared error.

    Args:
        layers: From :meth:`of`.
        loss: Which of the two.
        flattens: Whether it begins by making a row of each example.
    """

    def __init__(self, layers: Sequence[_Layer], loss: Loss, *, flattens: bool) -> None:
        self._layers = list(layers)
        self._loss = loss
        self._flattens = flattens
        self._linear = [layer for layer in layers if isinstance(layer, _Linear)]

    @classmethod
    def of(cls, module: nn.Module, loss: Loss) -> Dense | None:
        """Read a module; ``None`` where it is anything else than such a chain.

        Args:
            module: With its dropout layers replaced by :class:`MaskedDropout`.
            loss: Of the task.
        """
        if loss is not F.cross_entropy and loss is not mean_squared_error:
            return None
        layers = _read(module, "")
        if not layers or not isinstance(layers[0], _Linear):
            return None
        # Shared parameters are named once only, so that their chain has a name too many.
        names = [name for layer in layers if isinstance(layer, _Linear) for name in layer if name]
        if sorted(names) != sorted(name for name, _ in module.named_parameters()):
            return None
        if not all(parameter.requires_grad for parameter in module.parameters()):
            return None
        first = next(child for child in module.modules() if type(child) is not nn.Sequential)
        return cls(layers, loss, flattens=type(first) is nn.Flatten)

    def accepts(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether it can be used for such examples.

        Args:
            inputs: ``[examples, *]``, of all clients of a group.
            targets: ``[examples, *]``.
        """
        if inputs.dim() < 2 or (inputs.dim() > 2 and not self._flattens):
            return False
        if self._loss is F.cross_entropy:
            return targets.dim() == 1 and not targets.is_floating_point()
        return targets.dim() == 2

    def bind(self, named: Mapping[str, Tensor]) -> list[Bound]:
        """Look a group's parameters up once, for many steps.

        Args:
            named: ``[lanes, *shape]`` each.
        """
        return [
            Bound(
                named[layer.weight],
                named[layer.weight].transpose(1, 2),
                None if layer.bias is None else named[layer.bias].unsqueeze(1),
            )
            for layer in self._linear
        ]

    def gradients(
        self,
        named: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        masks: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by name, and the losses ``[lanes]``.

        Args:
            named: All parameters, ``[lanes, *shape]`` each.
            inputs: ``[lanes, batch, *]``.
            targets: ``[lanes, batch, *]``.
            weights: ``[lanes, batch]``, of each example in its lane's loss.
            masks: Of the dropout layers.
        """
        found: dict[str, Tensor] = {}

        def keep(index: int, gradient: Tensor, inputs: Tensor) -> None:
            layer = self._linear[index]
            found[layer.weight] = torch.bmm(gradient.transpose(1, 2), inputs)
            if layer.bias is not None:
                found[layer.bias] = gradient.sum(dim=1)

        losses = self._through(self.bind(named), inputs, targets, weights, masks, keep)
        return found, (losses * weights).sum(dim=1)

    def descend(
        self,
        bound: list[Bound],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        masks: Mapping[str, Tensor],
        rate: float,
    ) -> Tensor:
        """A step of plain SGD, in place: each example's loss before it, ``[lanes, batch]``.

        Args:
            bound: From :meth:`bind`; overwritten. Fastest where each weight is contiguous.
            inputs: ``[lanes, batch, *]``.
            targets: ``[lanes, batch, *]``.
            weights: ``[lanes, batch]``.
            masks: Of the dropout layers.
            rate: The learning rate.
        """

        def update(index: int, gradient: Tensor, inputs: Tensor) -> None:
            weight, _, bias = bound[index]
            weight.baddbmm_(gradient.transpose(1, 2), inputs, alpha=-rate)
            if bias is not None:
                bias.sub_(gradient.sum(dim=1, keepdim=True), alpha=rate)

        return self._through(bound, inputs, targets, weights, masks, update)

    def _through(
        self,
        bound: list[Bound],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        masks: Mapping[str, Tensor],
        use: _Use,
    ) -> Tensor:
        """Forward and backward; ``use`` gets each linear layer's gradient and inputs."""
        value, kept, number = inputs.flatten(2), [], 0
        for layer in self._layers:
            if isinstance(layer, _Linear):
                kept.append(value)
                value = _applied(bound[number], value)
                number += 1
            elif isinstance(layer, str):
                mask = masks[layer]
                kept.append(mask)
                value = value * mask
            else:
                value = ACTIVATIONS[layer](value if _is_own(value, kept) else value.clone())
                kept.append(value)
        losses, gradient = self._of_loss(value, targets, weights)
        for layer in reversed(self._layers):
            saved = kept.pop()
            if isinstance(layer, _Linear):
                number -= 1
                above = gradient
                if number:
                    # Before the weights change.
                    gradient = torch.bmm(above, bound[number].weight)
                use(number, above, saved)
            elif isinstance(layer, str):
                gradient = gradient * saved
            else:
                gradient = DERIVATIVES[layer](gradient, saved)
        return losses

    def _of_loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Each example's loss, and the gradient of the weighted sum with respect to the outputs."""
        wide = weights.unsqueeze(2)
        if self._loss is F.cross_entropy:
            chosen = targets.unsqueeze(2)
            # Not log_softmax: along a short last dimension it takes longer than all of these.
            outputs = outputs - outputs.amax(dim=2, keepdim=True)
            picked = outputs.gather(2, chosen)
            powers = outputs.exp_()
            total = powers.sum(dim=2, keepdim=True)
            gradient = powers.mul_(wide / total)
            losses = total.log_().sub_(picked).squeeze(2)
            return losses, gradient.scatter_add_(2, chosen, -wide)
        if outputs.shape != targets.shape:
            mean_squared_error(outputs[0], targets[0])
        apart = outputs - targets
        return apart.square().mean(dim=2), apart.mul_(wide * (2.0 / apart.shape[2]))


def _applied(layer: Bound, inputs: Tensor) -> Tensor:
    if layer.bias is None:
        return torch.bmm(inputs, layer.transposed)
    return torch.baddbmm(layer.bias, inputs, layer.transposed)


def _is_own(value: Tensor, kept: list[Tensor]) -> bool:
    """Whether nobody needs the value as it is: an activation may then overwrite it."""
    return all(value is not other for other in kept)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks on when this module is called.

    Args:
        module: Its children are not asked.
    """
    return any(getattr(module, name, None) for name in _HOOKS)


def _read(module: nn.Module, prefix: str) -> list[_Layer] | None:
    """The layers of a chain in their order; ``None``: something else is among them."""
    if has_hooks(module):
        return None
    kind = type(module)
    if kind is nn.Sequential:
        layers: list[_Layer] = []
        for name, child in module._modules.items():
            assert child is not None
            found = _read(child, f"{prefix}{name}.")
            if found is None:
                return None
            layers += found
        return layers
    if kind is nn.Linear:
        names = {name for name, _ in module.named_parameters()}
        return [_Linear(f"{prefix}weight", f"{prefix}bias" if "bias" in names else None)]
    if kind in ACTIVATIONS:
        return [kind]
    if kind is MaskedDropout:
        return [f"{prefix}mask"]
    flattens = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    if kind is nn.Identity or (kind is nn.Flatten and flattens):
        return []
    if kind is nn.Dropout and module.p == 0.0:
        return []
    return None
