"""The server step that is a ``torch.optim`` optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from headway.algorithms.arguments import check_number
from headway.algorithms.transforms.optimizers import OptimizerFactory, Rule
from headway.core import Context, Needs, ParameterLayout, Update
from headway.core.errors import ConfigurationError, StateError

if TYPE_CHECKING:
    from headway.core import PayloadKind

__all__ = ["server_step"]

_NOTHING = Needs()
_DIRECTIONS: frozenset[PayloadKind] = frozenset(("gradient", "delta"))


@final
@dataclass(frozen=True, slots=True)
class _PlainStep:
    """Plain SGD: one in-place addition, no optimizer and no state."""

    learning_rate: float
    mixing: float
    ascend: bool

    @property
    def needs(self) -> Needs:
        return _NOTHING

    @property
    def accepts(self) -> frozenset[PayloadKind]:
        return _DIRECTIONS

    def init(self, context: Context) -> None:
        return

    def apply(self, update: Update, state: None, context: Context) -> None:
        rate = self.learning_rate if update.learning_rate is None else update.learning_rate
        rate *= update.weight
        fragment = update.fragment
        target = context.parameters if fragment is None else context.target(fragment)
        # A delta goes up, a gradient down; `maximize` turns both around.
        up = (context.payload == "delta") != self.ascend
        target.add_(update.payload, alpha=rate if up else -rate)

    def __repr__(self) -> str:
        maximize = ", maximize=True" if self.ascend else ""
        return f"server_step(SGD(lr={self.learning_rate}{maximize}))"


@final
@dataclass(frozen=True, slots=True)
class _OptimizerStep:
    rule: Rule
    mixing: float
    unit_weights: bool

    @property
    def needs(self) -> Needs:
        return Needs(copies=self.rule.copies() + int(self._has_scratch))

    @property
    def accepts(self) -> frozenset[PayloadKind]:
        return _DIRECTIONS

    @property
    def _has_scratch(self) -> bool:
        return not (self.unit_weights and self.rule.only_reads)

    def init(self, context: Context) -> _Optimizers:
        state = _Optimizers(self.rule, context)
        if self._has_scratch:
            state.scratch = torch.empty_like(context.parameters)
        # Now, and not at the first update: what is wrong must come out before training.
        fragments = context.layout.num_fragments
        for fragment in range(fragments) if fragments > 1 else (None,):
            state.of(fragment)
        return state

    def apply(self, update: Update, state: _Optimizers, context: Context) -> None:
        payload, weight = update.payload, update.weight
        stepper = state.of(update.fragment)
        if weight == 1.0 and self.rule.only_reads and payload.is_contiguous():
            stepper.step(payload, update.learning_rate)
            stepper.release()
            return
        if state.scratch is None:
            state.scratch = torch.empty_like(context.parameters)
        gradient = state.scratch[: payload.numel()]
        torch.mul(payload, weight * stepper.sign, out=gradient)
        stepper.step(gradient, update.learning_rate)

    def __repr__(self) -> str:
        return f"server_step({self.rule})"


class _Stepper:
    """An optimizer on the whole model or on a fragment of it."""

    __slots__ = ("_bound", "_parameters", "_spans", "optimizer", "sign")

    def __init__(
        self, rule: Rule, flat: Tensor, layout: ParameterLayout, fragment: int | None, delta: bool
    ) -> None:
        self._spans = rule.spans(flat, layout, fragment)
        self._parameters = [flat[span].view(shape) for span, shape in self._spans]
        self._bound = 0
        # A delta is a gradient turned around: element-wise rules can be told so, without a copy.
        self.sign = -1.0 if delta and not rule.is_elementwise else 1.0
        try:
            self.optimizer = rule.make(self._parameters, ascend=delta != rule.ascends)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the server optimizer {rule} does not work on this model",
                got=str(error),
                help="check its options, and which shapes of parameters it takes",
            ) from error
        if any("lr" not in group for group in self.optimizer.param_groups):
            raise ConfigurationError(
                f"the server optimizer {rule} has no learning rate `lr`",
                help="give its parameter groups an `lr`, as those of torch.optim have",
            )

    def step(self, gradient: Tensor, learning_rate: float | None) -> None:
        if gradient.data_ptr() != self._bound:
            for parameter, (span, shape) in zip(self._parameters, self._spans, strict=True):
                parameter.grad = gradient[span].view(shape)
            self._bound = gradient.data_ptr()
        if learning_rate is None:
            self.optimizer.step()
            return
        groups = self.optimizer.param_groups
        usual = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        for group, rate in zip(groups, usual, strict=True):
            group["lr"] = rate

    def load(self, saved: dict[str, Any]) -> None:
        try:
            self.optimizer.load_state_dict(saved)
        except (KeyError, ValueError) as error:
            raise StateError(
                "the saved state is not one of this server optimizer",
                got=str(error),
                expected=f"a state of {type(self.optimizer).__name__} on this model",
                help="load it with the algorithm and settings that it was saved with",
            ) from error
        # Torch casts what it loads to the parameters' dtype, and would change NAdam's scalars.
        for index, values in saved["state"].items():
            state = self.optimizer.state[self._parameters[int(index)]]
            for name, value in values.items():
                if isinstance(value, Tensor) and value.dtype is not state[name].dtype:
                    state[name] = value.to(state[name].device)

    def release(self) -> None:
        """Let go of a payload that was the gradient: it is only valid during the call."""
        for parameter in self._parameters:
            parameter.grad = None
        self._bound = 0


class _Optimizers:
    """The state: an optimizer for the whole, or one per fragment."""

    __slots__ = ("_delta", "_layout", "_parameters", "_rule", "_steppers", "scratch")

    def __init__(self, rule: Rule, context: Context) -> None:
        self._rule = rule
        self._delta = context.payload == "delta"
        self._layout = context.layout
        self._parameters = context.parameters
        self._steppers: dict[int | None, _Stepper] = {}
        self.scratch: Tensor | None = None

    def of(self, fragment: int | None) -> _Stepper:
        stepper = self._steppers.get(fragment)
        if stepper is None:
            flat = self._parameters
            if fragment is not None:
                flat = flat[self._layout.fragment(fragment)]
            stepper = _Stepper(self._rule, flat, self._layout, fragment, self._delta)
            self._steppers[fragment] = stepper
        return stepper

    def state_dict(self) -> dict[str, Any]:
        # The scratch vector holds nothing between two updates.
        return {
            "whole" if fragment is None else str(fragment): stepper.optimizer.state_dict()
            for fragment, stepper in self._steppers.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steppers.clear()
        for name, saved in state.items():
            self.of(None if name == "whole" else int(name)).load(saved)


def server_step(
    optimizer: OptimizerFactory, *, mixing: float = 1.0, unit_weights: bool = False
) -> _PlainStep | _OptimizerStep:
    r"""End a chain with an optimizer, on the direction times the update's weight.

    .. math::
        x \leftarrow \mathrm{optimizer}(x, \; w\, g)
        \qquad g = -\Delta \text{ where workers send deltas}

    A gradient is subtracted and a delta is added. The weight goes into the direction before the
    optimizer sees it, once, so it reaches the momentum too; the learning rate stays what it is,
    unless a transform gave the update one of its own, which then holds for this step.

    Plain SGD is one in-place addition. Element-wise optimizers (SGD, Adam and their kin) run on the
    flat vector, fused where torch can; without a fused kernel, in blocks of 512 KiB. Muon,
    Adafactor and every class that is not torch's own get the layout's tensors. A model in
    fragments gets one optimizer per fragment.

    Memory: the optimizer's own state; and one model copy in which the weighted direction stands,
    unless it is plain SGD. Nothing of the model's size is allocated per update; optimizers that
    get the layout's tensors may allocate temporaries of a tensor's size.

    Args:
        optimizer: A ``torch.optim`` class, or a ``functools.partial`` of one with its options.
        mixing: The share of a worker's buffers (BatchNorm) that replaces the server's, 0 to 1.
        unit_weights: All updates that arrive have weight 1, as they do behind a buffer. This saves
            the model copy; another weight is still applied correctly, at the cost of that copy.

    Raises:
        ArgumentTypeError: It is no optimizer class.
        ConfigurationError: It has no such option; or it is one that needs a closure (LBFGS) or
            sparse gradients (SparseAdam). What only shows when it is tried out, such as a negative
            rate or a parameter that Muon does not take, comes out when a server is made.

    Example:
        >>> from functools import partial
        >>> server_step(partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True))
        server_step(SGD(lr=0.7, momentum=0.9, nesterov=True))

    Source:
        arXiv:2003.00295 (adaptive federated optimization) for optimizers on deltas.
    """
    rule = Rule.of(optimizer)
    share = check_number("mixing", mixing, maximum=1.0)
    if rule.rate is not None:
        return _PlainStep(check_number("lr", rule.rate), share, rule.ascends)
    return _OptimizerStep(rule, share, unit_weights)
