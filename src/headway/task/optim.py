"""Optimizers as values: ``torch.optim``'s classes with their options, checked when written down.

Each name makes a ``functools.partial`` of torch's class, so it goes wherever such a partial goes:
a worker's ``optimizer=``, an algorithm's ``server_optimizer=``, ``LocalTraining(optimizer=)``. What
a partial does not do: it refuses unknown options and impossible values at once, and two with the
same options are equal.

What belongs here: the optimizers that treat each element alike, and so mean the same on a model's
flat vector. Those that look at shapes (Muon, Adafactor) can be given as torch's own classes.

Example:
    >>> from headway import optim
    >>> optim.SGD(lr=0.01, momentum=0.9)
    optim.SGD(lr=0.01, momentum=0.9)
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, final

import torch
from torch.optim import Optimizer

from headway.core.errors import ArgumentTypeError
from headway.task.optimizers import OPTIMIZERS, check_options

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "OptimizerOptions",
    "RAdam",
    "RMSprop",
    "Rprop",
]


@final
class OptimizerOptions(partial[Optimizer]):
    """An optimizer's class and options, to be called with parameters. Made by the names here.

    Its ``func`` is the class, and ``keywords`` are the options that were given. Equal if these are.

    Example:
        >>> import torch
        >>> from headway import optim
        >>> optim.Adam(lr=0.01)([torch.zeros(3)]).param_groups[0]["lr"]
        0.01
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OptimizerOptions):
            return NotImplemented
        return self.func is other.func and self.keywords == other.keywords

    def __hash__(self) -> int:
        return hash((self.func, frozenset(self.keywords)))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())
        return f"optim.{self.func.__name__}({options})"


@final
class _Maker:
    """Makes the options of one optimizer class; its signature is the class's without parameters."""

    def __init__(self, name: str) -> None:
        self._cls = OPTIMIZERS[name]
        self.__name__ = self._cls.__name__
        self.__doc__ = f"Options of ``torch.optim.{self.__name__}``, by name; ``lr`` is optional."

    @property
    def __signature__(self) -> inspect.Signature:
        options = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(self._cls).parameters.items()
            if name != "params"
        ]
        return inspect.Signature(options, return_annotation=OptimizerOptions)

    def __call__(self, *args: object, **options: Any) -> OptimizerOptions:
        """Check the options and keep them.

        Args:
            args: None are taken: the parameters come later.
            options: Keyword arguments of torch's class, the parameters left out.

        Raises:
            ArgumentTypeError: Something is given by position.
            UnknownNameError: The class has no such option.
            ConfigurationError: The class refuses a value.
        """
        where = f"optim.{self.__name__}(...)"
        if args:
            raise ArgumentTypeError(
                "the options of an optimizer are given by name, and the parameters later",
                where=where,
                got=f"{len(args)} by position, the first a {type(args[0]).__name__}",
                help=f"write optim.{self.__name__}(lr=0.01)",
            )
        check_options(self._cls, options, where=where)
        return OptimizerOptions(self._cls, **options)

    def __repr__(self) -> str:
        return f"optim.{self.__name__}"


def __getattr__(name: str) -> object:
    """Raise the error of a name that is none here, with what may be meant.

    Args:
        name: It.
    """
    names = {known.lower(): known for known in __all__ if known != OptimizerOptions.__name__}
    nearest = get_close_matches(name.lower(), names, n=1)
    hint = f". Did you mean: {names[nearest[0]]!r}?" if nearest else ""
    if isinstance(getattr(torch.optim, name, None), type):
        hint = f". Give torch's own class, torch.optim.{name}"
    raise AttributeError(f"module 'headway.optim' has no optimizer {name!r}{hint}", name=name)


SGD: Final = _Maker("sgd")
Adam: Final = _Maker("adam")
AdamW: Final = _Maker("adamw")
Adamax: Final = _Maker("adamax")
NAdam: Final = _Maker("nadam")
RAdam: Final = _Maker("radam")
RMSprop: Final = _Maker("rmsprop")
Rprop: Final = _Maker("rprop")
Adagrad: Final = _Maker("adagrad")
Adadelta: Final = _Maker("adadelta")
ASGD: Final = _Maker("asgd")
