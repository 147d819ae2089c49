"""What a user gives as an optimizer, read: a name, a class, a partial, options or an instance."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from headway.core.errors import ConfigurationError
from headway.task.optimizers import OptimizerChoice, check_options, choose

__all__ = ["GivenOptimizer", "read_optimizer"]

_RATE = "lr"


class GivenOptimizer(NamedTuple):
    """An optimizer and its learning rate.

    Attributes:
        choice: The class, and its options without the learning rate.
        learning_rate: As it was given; ``None`` where it was not.
    """

    choice: OptimizerChoice
    learning_rate: float | None

    @property
    def rate(self) -> float:
        """The learning rate: the given one, or else the default of the class."""
        if self.learning_rate is not None:
            return self.learning_rate
        return float(inspect.signature(self.choice.cls).parameters[_RATE].default)

    def factory(self, **options: Any) -> partial[Optimizer]:
        """As a ``functools.partial`` with the learning rate among the options.

        Args:
            options: What stands in for options of the same name.
        """
        return partial(self.choice.cls, **{_RATE: self.rate, **self.choice.options, **options})


def read_optimizer(
    optimizer: str | type[Optimizer] | partial[Optimizer] | Optimizer,
    *,
    where: str = "optimizer=...",
    model: nn.Module | None = None,
) -> GivenOptimizer:
    """Find out the class, the options and the learning rate of what a user gave.

    Of an instance the options are taken, as they stand now, and neither its state nor its
    parameters: it is left alone. Its parameter groups must have the same options.

    Args:
        optimizer: A name of :data:`headway.task.OPTIMIZERS`, a ``torch.optim`` class, a
            ``functools.partial`` of one, a value of ``headway.optim``, or an instance.
        where: The argument that errors name.
        model: If an instance holds some of this model's trainable parameters, but not all, that is
            an error: it would not be the same training. ``None``: not checked.

    Raises:
        ArgumentTypeError: It is none of these.
        UnknownNameError: No optimizer, or no option, has this name.
        ConfigurationError: A value that the class refuses, an optimizer that cannot serve here, or
            an instance whose parameter groups differ.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> given = read_optimizer(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
        >>> given.choice.options, given.learning_rate
        ({'momentum': 0.9}, 0.5)
        >>> read_optimizer("adam").learning_rate, read_optimizer("adam").rate
        (None, 0.001)
    """
    if isinstance(optimizer, Optimizer):
        if model is not None:
            _check_complete(optimizer, model, where)
        cls: Any = type(optimizer)
        options = _options_of(optimizer, where)
    else:
        cls, options = optimizer, {}
        if isinstance(optimizer, partial) and not optimizer.args:
            cls, options = optimizer.func, dict(optimizer.keywords)
    rate = options.pop(_RATE, None)
    choice = choose(cls, options, where=where)
    if rate is None:
        return GivenOptimizer(choice, None)
    number = _as_number(rate, where)
    check_options(choice.cls, {_RATE: number}, where=where)
    return GivenOptimizer(choice, number)


def _options_of(optimizer: Optimizer, where: str) -> dict[str, Any]:
    """The options that all parameter groups share, those left out that are the class's defaults."""
    first, *others = ({**group} for group in optimizer.param_groups)
    parameters = inspect.signature(type(optimizer)).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name in first if name != "params" and (takes_any or name in parameters)]
    for number, group in enumerate(others, start=1):
        for name in names:
            if not _same(group.get(name), first[name]):
                raise ConfigurationError(
                    "the optimizer's parameter groups have different options",
                    where=where,
                    got=f"{name}={first[name]} in group 0, {group.get(name)} in group {number}",
                    expected="one set of options for the whole model",
                    help="make the optimizer with one group: its options hold for the flat model",
                )
    return {
        name: first[name]
        for name in names
        if name == _RATE
        or name not in parameters
        or not _same(first[name], parameters[name].default)
    }


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other or (_plain(one) == _plain(other))
    return bool(one == other)


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, Tensor) else value


def _as_number(rate: object, where: str) -> float:
    if isinstance(rate, Tensor) and rate.numel() == 1:
        rate = float(rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 < rate < inf:
        raise ConfigurationError(
            "the optimizer's learning rate is out of range",
            where=where,
            got=f"lr={rate!r}",
            expected="a finite number above 0",
        )
    return float(rate)


def _check_complete(optimizer: Optimizer, model: nn.Module, where: str) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained: Mapping[str, nn.Parameter] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    missing = [name for name, parameter in trained.items() if id(parameter) not in held]
    if missing and len(missing) < len(trained):
        raise ConfigurationError(
            "the optimizer holds only a part of the model's trainable parameters",
            where=where,
            got=f"{len(trained) - len(missing)} of {len(trained)}; `{missing[0]}` is not among them",
            help="freeze the others with parameter.requires_grad_(False), or give them all",
        )
