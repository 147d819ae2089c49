"""Local optimizers: by name, class or partial, checked when they are chosen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from headway.task.replica import Replica

__all__ = ["OPTIMIZERS", "OptimizerChoice", "check_options", "choose", "optimizer_name"]

_ELEMENTWISE: Final = (
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

OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = {
    optimizer.__name__.lower(): optimizer for optimizer in _ELEMENTWISE
}
"""The optimizers that can be chosen by name: those that treat each element alike."""

_FUSED: Final = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_REFUSED: Final[Mapping[type[Optimizer], str]] = {
    torch.optim.LBFGS: "evaluates the loss again within a step",
    torch.optim.SparseAdam: "takes sparse gradients only",
}
_WHERE: Final = "LocalTraining(optimizer=...)"


class OptimizerChoice(NamedTuple):
    """A checked optimizer.

    Attributes:
        cls: The class.
        options: Its options, the learning rate left out.
    """

    cls: type[Optimizer]
    options: dict[str, Any]

    @property
    def is_plain_sgd(self) -> bool:
        """Whether a step is ``x <- x - learning_rate * gradient``, whatever the options say."""
        return self.cls is torch.optim.SGD and not any(self.options.values())

    @property
    def is_elementwise(self) -> bool:
        """Whether it treats each element alike, whatever tensor it stands in."""
        return self.cls in _ELEMENTWISE

    def make(self, parameters: list[Tensor], learning_rate: float) -> Optimizer:
        """Make one for flat parameters, fused where torch can.

        Args:
            parameters: Each with its gradient.
            learning_rate: Above 0.
        """
        options = dict(self.options)
        if self.cls in _FUSED and not options.keys() & {"fused", "foreach", "differentiable"}:
            options["fused"] = True
        return _build(self.cls, parameters, {"lr": learning_rate, **options})

    def step_for(self, replica: Replica, learning_rate: float) -> Callable[[], Any]:
        """Make a fresh optimizer for one job, and return what takes a step.

        Raises:
            ConfigurationError: The optimizer does not accept the model.
        """
        if self.is_plain_sgd:
            return partial(Tensor.add_, replica.parameters, replica.gradient, alpha=-learning_rate)
        if self.is_elementwise:
            return self.make([replica.flat_parameter], learning_rate).step
        _ = replica.gradient
        options = {"lr": learning_rate, **self.options}
        return _build(self.cls, list(replica.trainable), options).step


def choose(
    optimizer: str | type[Optimizer] | partial[Optimizer],
    options: Mapping[str, Any],
    *,
    where: str = _WHERE,
) -> OptimizerChoice:
    """Check an optimizer and its options.

    Args:
        optimizer: A name of :data:`OPTIMIZERS`, a class, or a partial of a class.
        options: More keyword arguments of the class.
        where: The argument that errors name.

    Raises:
        ArgumentTypeError: None of those three.
        UnknownNameError: No optimizer, or no option, of this name.
        ConfigurationError: A learning rate among the options, an option given twice, a value that
            the class refuses, or an optimizer that cannot serve here.

    Example:
        >>> choose(partial(torch.optim.SGD, momentum=0.9), {}).options
        {'momentum': 0.9}
    """
    given: dict[str, Any] = {}
    if isinstance(optimizer, partial):
        if optimizer.args:
            raise ConfigurationError(
                "the optimizer's partial may only hold keyword options",
                where=where,
                got=f"{len(optimizer.args)} positional arguments",
                help="the parameters are supplied for each job",
            )
        optimizer, given = optimizer.func, dict(optimizer.keywords)  # type: ignore[assignment]
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise UnknownNameError.of("optimizer", optimizer, OPTIMIZERS, where=where)
        optimizer = OPTIMIZERS[optimizer]
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise ArgumentTypeError(
            "that is not an optimizer",
            where=where,
            got=repr(optimizer),
            expected="a name, a torch.optim class, functools.partial of one, or headway.optim.SGD(...)",
        )
    _check(optimizer, given, options, where)
    return OptimizerChoice(optimizer, {**given, **options})


def optimizer_name(cls: type[Optimizer]) -> str:
    """The name that stands for a class in descriptions."""
    name = cls.__name__.lower()
    return name if OPTIMIZERS.get(name) is cls else f"{cls.__module__}.{cls.__qualname__}"


def _check(
    cls: type[Optimizer], given: Mapping[str, Any], options: Mapping[str, Any], where: str
) -> None:
    if cls in _REFUSED:
        raise ConfigurationError(
            f"{cls.__name__} cannot be the optimizer",
            where=where,
            got=f"{cls.__name__}, which {_REFUSED[cls]}",
            help=f"choose another, for example one of {', '.join(sorted(OPTIMIZERS))}",
        )
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise ConfigurationError(
            f"the option `{twice[0]}` is given twice",
            where=where,
            got=f"{given[twice[0]]} in the partial, {options[twice[0]]} in options",
        )
    if "learning_rate" in given or "learning_rate" in options:
        _refuse_rate({**given, **options}["learning_rate"], where)
    for rate in ("lr", "learning_rate"):
        if rate in given or rate in options:
            raise ConfigurationError(
                "the learning rate is given among the optimizer's options",
                where=where,
                got=f"{rate}={given.get(rate, options.get(rate))}",
                help="write LocalTraining(learning_rate=...), which algorithms may override",
            )
    check_options(cls, {**given, **options}, where=where)


def _refuse_rate(rate: object, where: str) -> None:
    """Refuse `learning_rate` where the rate is one of the optimizer's own options."""
    if where != _WHERE:
        raise ConfigurationError(
            "the learning rate of a torch optimizer is called `lr`",
            where=where,
            got=f"learning_rate={rate}",
            help=f"write lr={rate}",
        )


def check_options(cls: type[Optimizer], options: Mapping[str, Any], *, where: str = _WHERE) -> None:
    """Check the options of an optimizer class, by trying them out where it treats elements alike.

    Args:
        cls: The class.
        options: Its keyword arguments; without ``lr`` it is tried out with 0.1.
        where: The argument that errors name.

    Raises:
        UnknownNameError: The class has no such option.
        ConfigurationError: It refuses a value.
    """
    signature = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        known = [name for name in signature if name != "params"]
        for name in options:
            if name not in known:
                raise UnknownNameError.of(
                    f"option of {cls.__name__}", name, known, where=where, got=options[name]
                )
    for name, value in options.items():
        numbers = value if isinstance(value, tuple | list) else (value,)
        if any(isinstance(number, float) and not isfinite(number) for number in numbers):
            raise ConfigurationError(
                f"the option `{name}` must be finite", where=where, got=f"{name}={value!r}"
            )
    if cls in _ELEMENTWISE:
        try_out = type(cls.__name__, (cls,), {"add_param_group": _add_group})
        _build(try_out, [nn.Parameter(torch.zeros(1))], {"lr": 0.1, **options}, where)


def _add_group(self: Optimizer, group: dict[str, Any]) -> None:
    """What torch's own does here, which imports its compiler: 90 MB that plain SGD never needs."""
    self.param_groups.append({**self.defaults, **group})


def _build(
    cls: type[Optimizer], parameters: list[Tensor], options: Mapping[str, Any], where: str = _WHERE
) -> Optimizer:
    make: Callable[..., Optimizer] = cls
    try:
        return make(parameters, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{cls.__name__} refuses its options or the model",
            where=where,
            got=", ".join(f"{name}={value!r}" for name, value in options.items()),
            help=str(error),
        ) from error
