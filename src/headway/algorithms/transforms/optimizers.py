"""How a ``torch.optim`` optimizer is run on one flat tensor without changing what it means.

Three ways, from the fastest: ``flat``, the whole vector as one parameter in a fused kernel;
``blocks``, the vector cut into blocks, for element-wise rules without such a kernel, whose
temporaries are then of a block's size and stay in the cache; ``shapes``, the layout's own tensors,
for rules that look at them (Muon, Adafactor) and for every class that is not known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from headway.core import ParameterLayout
from headway.core.errors import ArgumentTypeError, ConfigurationError

__all__ = ["ADD", "OptimizerFactory", "Rule", "Span"]

OptimizerFactory = Callable[..., Optimizer]

ADD: Final[OptimizerFactory] = partial(torch.optim.SGD, lr=1.0)
"""Plain SGD with learning rate 1: a delta is added as it is."""

Span = tuple[slice, tuple[int, ...]]

_HELP = "use for example functools.partial(torch.optim.SGD, lr=1.0)"
_ELEMENTWISE = (
    torch.optim.ASGD,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)
# With one of these the user chose an implementation; then it is not ours to choose.
_CHOICES = ("capturable", "differentiable", "foreach", "fused")
_BLOCK_BYTES = {"cpu": 512 * 1024}
# Elsewhere a kernel launch costs more than a cache miss.
_OTHER_BLOCK_BYTES = 64 * 1024 * 1024
_PROBE_SHAPE = (8, 8)


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """An optimizer's class and options, checked.

    Args:
        factory: The class.
        options: Its keyword arguments.
    """

    factory: type[Optimizer]
    options: dict[str, Any]

    @classmethod
    def of(cls, optimizer: object) -> Rule:
        """Take a class, or a ``functools.partial`` of one, apart.

        Raises:
            ArgumentTypeError: It is neither.
            ConfigurationError: It has unknown or positional arguments, or cannot work here.
        """
        factory = optimizer.func if isinstance(optimizer, partial) else optimizer
        if not (isinstance(factory, type) and issubclass(factory, Optimizer)):
            raise ArgumentTypeError(
                "a server optimizer must be a torch.optim class, or a functools.partial of one",
                got=type(optimizer).__name__ if isinstance(optimizer, Optimizer) else optimizer,
                help=_HELP,
            )
        if isinstance(optimizer, partial) and optimizer.args:
            raise ConfigurationError(
                "give the options of a server optimizer by name",
                got=", ".join(map(repr, optimizer.args)),
                help=_HELP,
            )
        options = dict(optimizer.keywords) if isinstance(optimizer, partial) else {}
        rule = cls(factory, options)
        rule._refuse()
        return rule

    @property
    def rate(self) -> float | None:
        """The learning rate where this is plain SGD, which needs no optimizer; else ``None``."""
        if self.factory is not torch.optim.SGD:
            return None
        if any(self.options.get(name) for name in ("momentum", "weight_decay", "nesterov")):
            return None
        rate = self.options.get("lr", 1e-3)
        # A tensor may be changed from outside while the run goes on.
        return None if isinstance(rate, Tensor) else rate

    @property
    def is_elementwise(self) -> bool:
        """Whether it means the same on one flat vector."""
        return self.factory in _ELEMENTWISE

    @property
    def only_reads(self) -> bool:
        """Whether the gradient is left as it is, so that a payload can be it without a copy."""
        # torch's foreach code adds Nesterov's term into the gradient itself.
        return self.is_elementwise and not self.options.get("foreach")

    @property
    def ascends(self) -> bool:
        """Whether the user asked to maximise."""
        return bool(self.options.get("maximize", False))

    def copies(self) -> int:
        """How many vectors of the model's size the state holds, found by trying it out."""
        probe = torch.zeros(_PROBE_SHAPE)
        try:
            optimizer = self.factory([probe], **self.options)
            probe.grad = torch.full_like(probe, 0.01)
            optimizer.step()
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the server optimizer {self} does not work",
                got=str(error),
                help="check its options in the documentation of torch.optim",
            ) from error
        return sum(
            isinstance(value, Tensor) and value.numel() == probe.numel()
            for value in optimizer.state[probe].values()
        )

    def spans(self, flat: Tensor, layout: ParameterLayout, fragment: int | None) -> list[Span]:
        """Where the optimizer's parameters lie in a flat vector, and their shapes.

        Args:
            flat: The part of the parameters that is optimized.
            layout: Of all parameters.
            fragment: Which part ``flat`` is; ``None`` for the whole.
        """
        if self._is_fused(flat):
            return [(slice(0, flat.numel()), (flat.numel(),))]
        if self.is_elementwise:
            return list(_blocks(flat))
        return list(_shapes(layout, fragment))

    def make(self, parameters: list[Tensor], *, ascend: bool) -> Optimizer:
        """Make the optimizer.

        Args:
            parameters: Views of the flat parameters.
            ascend: Follow the gradient up. Only for element-wise rules.
        """
        options = dict(self.options)
        if self.is_elementwise:
            options["maximize"] = ascend
            if self._is_fused(parameters[0]):
                options["fused"] = True
            elif not any(options.get(name) for name in _CHOICES):
                options["foreach"] = False
        return self.factory(parameters, **options)

    def _is_fused(self, flat: Tensor) -> bool:
        if not self.is_elementwise or "fused" not in _parameters_of(self.factory):
            return False
        if any(self.options.get(name) is not None for name in _CHOICES):
            return bool(self.options.get("fused"))
        only_cpu = self.factory is torch.optim.Adagrad
        return flat.device.type in (("cpu",) if only_cpu else ("cpu", "cuda"))

    def _refuse(self) -> None:
        reason = None
        if issubclass(self.factory, torch.optim.LBFGS) or _needs_closure(self.factory):
            reason = "it evaluates the loss again and again, and a server has only updates"
        elif issubclass(self.factory, torch.optim.SparseAdam):
            reason = "it needs sparse gradients, and updates are dense"
        if reason is not None:
            raise ConfigurationError(
                f"{self.factory.__name__} cannot be a server optimizer: {reason}",
                got=self.factory.__name__,
                help="use SGD with momentum, Adam, or any other optimizer with dense gradients",
            )
        known = _parameters_of(self.factory)
        unknown = [name for name in self.options if known and name not in known]
        if unknown:
            raise ConfigurationError(
                f"{self.factory.__name__} has no option `{unknown[0]}`", known=sorted(known)
            )

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.factory.__name__}({options})"


def _parameters_of(factory: type[Optimizer]) -> set[str]:
    """The names of a class's options; empty if it takes any."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set()
    return set(list(parameters)[1:])


def _needs_closure(factory: type[Optimizer]) -> bool:
    closure = inspect.signature(factory.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _blocks(flat: Tensor) -> Iterator[Span]:
    limit = _BLOCK_BYTES.get(flat.device.type, _OTHER_BLOCK_BYTES)
    length = limit // flat.element_size()
    for start in range(0, flat.numel(), length):
        stop = min(start + length, flat.numel())
        yield slice(start, stop), (stop - start,)


def _shapes(layout: ParameterLayout, fragment: int | None) -> Iterator[Span]:
    span = slice(0, layout.num_params) if fragment is None else layout.fragment(fragment)
    for entry in layout.parameters:
        if entry.stop <= span.start or entry.offset >= span.stop:
            continue
        if entry.offset < span.start or entry.stop > span.stop:
            raise ConfigurationError(
                "a fragment cuts through a parameter whose shape the server optimizer needs",
                got=entry.name,
                help="divide the model with layout.with_fragments(n)",
            )
        yield slice(entry.offset - span.start, entry.stop - span.start), entry.shape
