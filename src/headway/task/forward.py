"""The forward and backward pass of many models of one architecture at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from headway.core import ParameterLayout
from headway.task.compiled import CompiledGradients
from headway.task.dense import Dense
from headway.task.masks import MaskedDropout, masked
from headway.task.metrics import Loss, mean_squared_error
from headway.task.overlap import moved

__all__ = ["Forward", "Gradients"]

_IGNORED = -100
"""The target class that torch's cross entropy leaves out of its mean."""


class Gradients(NamedTuple):
    """What a step came to.

    Attributes:
        of_parameters: For each parameter that is trained, ``[lanes, *shape]``.
        losses: Mean over each lane's batch, ``[lanes]``.
    """

    of_parameters: list[Tensor]
    losses: Tensor


@final
class Forward:
    """A module whose parameters come from the rows of a matrix.

    Args:
        module: It is taken over: put into training mode, its dropout layers replaced.
        layout: Of the module.
        loss: ``(outputs, targets) -> mean loss of the batch``.
        compiled: Whether to compile the gradients, as far as that can be done.

    Attributes:
        compiled: The compiled gradients; ``None``: none were asked for.
        layers: The dropout layers, in the order of their calls; known after :meth:`probe`.
        shapes: Of the parameters that are trained.
        frozen: The spans of a row that must not change.
        dense: The model as a chain of linear layers; ``None``: it is something else.
        obstacle: Why this model cannot be trained in groups; ``None``: it can, as far as is known.
        has_convolutions: Whether there are any in it.
        activation_bytes: What autograd keeps of an example, at most; known after :meth:`probe`.
    """

    def __init__(
        self, module: nn.Module, layout: ParameterLayout, loss: Loss, *, compiled: bool = False
    ) -> None:
        self.layers: list[tuple[str, MaskedDropout]] = masked(module)
        self._module = module.train()
        self._loss = loss
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self._names = frozenset(trained)
        self._all = list(layout.parameters)
        self._trained = [entry for entry in layout.parameters if entry.name in trained]
        self.frozen = [
            slice(entry.offset, entry.stop)
            for entry in layout.parameters
            if entry.name not in trained
        ]
        self.shapes = [entry.shape for entry in self._trained]
        self.obstacle = _obstacle(module, layout)
        self.has_convolutions = any(isinstance(m, _ConvNd) for m in module.modules())
        self.activation_bytes = 0
        self.dense = Dense.of(module, loss)
        # Until `begin` has looked.
        self._may_ignore, self._is_dense = True, False
        self._rows = vmap(self._call)
        self._pairs = vmap(self._call_with_loss)
        self.compiled = CompiledGradients(self._call, loss) if compiled else None
        if self.compiled is not None and self.layers:
            self.compiled.refuse("not compiled: the model has dropout")

    @property
    def spans(self) -> list[tuple[str, int, int, tuple[int, ...]]]:
        """Name, first and last element in a row, and shape, of all parameters."""
        return [(e.name, e.offset, e.stop, tuple(e.shape)) for e in self._all]

    def begin(self, inputs: Tensor, targets: Tensor) -> bool:
        """Look once at all examples of a group whose gradients are wanted next.

        Args:
            inputs: ``[examples, *]``.
            targets: ``[examples, *]``.

        Returns:
            Whether :attr:`dense` can be used.
        """
        self._may_ignore = _may_ignore(targets)
        self._is_dense = (
            self.dense is not None and not self._may_ignore and self.dense.accepts(inputs, targets)
        )
        return self._is_dense

    def views(self, rows: Tensor) -> list[Tensor]:
        """The trained parameters of a matrix of models, ``[lanes, *shape]`` each."""
        lanes = len(rows)
        return [rows[:, e.offset : e.stop].view(lanes, *e.shape) for e in self._trained]

    def gradients(
        self,
        models: Tensor,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        masks: Mapping[str, Tensor],
        counts: Tensor,
    ) -> Gradients:
        """Each lane's gradient of its own batch's mean loss.

        Args:
            models: ``[lanes, num_params]``.
            inputs: ``[lanes, batch, *]``; of those that :meth:`begin` has seen.
            targets: ``[lanes, batch, *]``.
            weights: ``[lanes, batch]``, 1 over the size of the real batch, 0 where it is filled up.
            masks: Of the dropout layers.
            counts: ``[lanes]``, how many of a batch are real; on the CPU, so that it can be looked
                at without waiting for the device.
        """
        found = self._compiled(models, inputs, targets, weights)
        if found is not None:
            return found
        if self._is_dense and self.dense is not None:
            by_name, losses = self.dense.gradients(
                self._named(models), inputs, targets, weights, masks
            )
            return Gradients([by_name[entry.name] for entry in self._trained], losses)
        return self._eager(models, inputs, targets, weights, masks, counts)

    def _named(self, models: Tensor) -> dict[str, Tensor]:
        lanes = len(models)
        return {e.name: models[:, e.offset : e.stop].view(lanes, *e.shape) for e in self._all}

    def _compiled(
        self, models: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
    ) -> Gradients | None:
        if self.compiled is None or self.compiled.obstacle is not None or self._may_ignore:
            return None
        lanes = len(models)
        trained: dict[str, Tensor] = {}
        fixed: dict[str, Tensor] = {}
        for entry in self._all:
            kind = trained if entry.name in self._names else fixed
            kind[entry.name] = models[:, entry.offset : entry.stop].view(lanes, *entry.shape)
        found = self.compiled(trained, fixed, inputs, targets, weights)
        return None if found is None else Gradients(*found)

    def _eager(
        self,
        models: Tensor,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        masks: Mapping[str, Tensor],
        counts: Tensor,
    ) -> Gradients:
        leaves, named = self._leaves(models)
        named.update(masks)
        with torch.enable_grad():
            losses = self._losses(named, inputs, targets, weights, counts)
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                losses.sum(), leaves, allow_unused=True
            )
        dense = [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, found, strict=True)
        ]
        return Gradients(dense, losses.detach())

    def probe(self, models: Tensor, inputs: Tensor, targets: Tensor) -> None:
        """Try a group of two out; what does not work becomes the :attr:`obstacle`.

        Args:
            models: ``[2, num_params]``.
            inputs: ``[2, batch, *]``.
            targets: ``[2, batch, *]``.
        """
        if self.obstacle is not None:
            return
        order: list[MaskedDropout] = []
        hooks = [
            layer.register_forward_hook(lambda layer, args, out: order.append(layer))
            for _, layer in self.layers
        ]
        weights = torch.full(inputs.shape[:2], 1.0 / inputs.shape[1], dtype=models.dtype)
        self.begin(inputs.flatten(0, 1), targets.flatten(0, 1))
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        kept = _Kept(models)
        try:
            counts = torch.full((len(inputs),), inputs.shape[1])
            with torch.autograd.graph.saved_tensors_hooks(kept.put, lambda value: value):
                self._eager(models, inputs, targets, weights.to(models.device), {}, counts)
            self.activation_bytes = kept.num_bytes // targets.shape[:2].numel()
        except Exception as error:  # noqa: BLE001 (whatever it is, one by one will do or say it)
            self.obstacle = f"it does not run in groups: {str(error).strip().splitlines()[0]}"
            return
        finally:
            for hook in hooks:
                hook.remove()
        for name, buffer in self._module.named_buffers():
            # One that is not saved is not in the layout; jobs of a group would share it.
            if not torch.equal(buffer, buffers[name]):
                self.obstacle = f"a forward pass changes the buffer `{name}`"
                return
        if sorted(map(id, order)) != sorted(id(layer) for _, layer in self.layers):
            self.obstacle = "a dropout layer is not called exactly once in a forward pass"
            return
        self.layers.sort(key=lambda named: order.index(named[1]))

    def _leaves(self, models: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        lanes = len(models)
        named, leaves = {}, []
        for entry in self._all:
            view = models[:, entry.offset : entry.stop].view(lanes, *entry.shape).detach()
            named[entry.name] = view
            if entry.name in self._names:
                leaves.append(view.requires_grad_())
        return leaves, named

    def _losses(
        self,
        named: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        counts: Tensor,
    ) -> Tensor:
        kind = self._loss
        if kind is F.cross_entropy and not self._may_ignore:
            outputs = self._rows(named, inputs)
            found = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="none")
            return _weighted(found, weights)
        if kind is mean_squared_error:
            outputs = self._rows(named, inputs)
            if outputs.shape != targets.shape:
                mean_squared_error(outputs[0], targets[0])
            found = F.mse_loss(outputs, targets, reduction="none").flatten(0, 1)
            return _weighted(found, weights)
        return self._exact(named, inputs, targets, counts)

    def _exact(
        self, named: dict[str, Tensor], inputs: Tensor, targets: Tensor, counts: Tensor
    ) -> Tensor:
        """With a loss of which only its mean is known: batches of one size at a time."""
        dtype = next(iter(named.values())).dtype
        losses = torch.zeros(len(counts), dtype=dtype, device=inputs.device)
        for count in counts.unique().tolist():
            lanes = moved((counts == count).nonzero().flatten(), inputs.device)
            part = {name: value[lanes] for name, value in named.items()}
            for name, _ in self.layers:
                if name in part:
                    part[name] = part[name][:, :count]
            found = self._pairs(part, inputs[lanes, :count], targets[lanes, :count])
            losses = losses.index_put((lanes,), found)
        return losses

    def _call(self, named: dict[str, Tensor], inputs: Tensor) -> Any:
        return functional_call(self._module, named, (inputs,))

    def _call_with_loss(self, named: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(self._call(named, inputs), targets)


class _Kept:
    """Counts what autograd keeps for the backward pass, but for the models themselves."""

    def __init__(self, models: Tensor) -> None:
        self._seen = {models.untyped_storage().data_ptr()}
        self.num_bytes = 0

    def put(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.num_bytes += storage.nbytes()
        return value


def _weighted(found: Tensor, weights: Tensor) -> Tensor:
    lanes, size = weights.shape
    if found.dim() > 1:
        found = found.flatten(1).mean(dim=1)
    return (found.view(lanes, size) * weights).sum(dim=1)


def _may_ignore(targets: Tensor) -> bool:
    if targets.is_floating_point():
        return False
    return bool((targets == _IGNORED).any())


def _obstacle(module: nn.Module, layout: ParameterLayout) -> str | None:
    if layout.floating_buffers or layout.integer_buffers:
        return "the model has buffers that training changes (BatchNorm's statistics)"
    for child in module.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd) and not isinstance(child, nn.Dropout):
            return f"{type(child).__name__} draws its masks by channel"
        if isinstance(child, nn.modules.rnn.RNNBase):
            return f"{type(child).__name__} cannot be vectorised by torch"
    return None
