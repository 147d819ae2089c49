"""Transforms without memory, made from one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, ParamSpec, final

from headway.core import Context, Needs, Outcome, Update
from headway.core.errors import ArgumentTypeError

__all__ = ["Stateless", "reweighted", "stateless"]

P = ParamSpec("P")

_NOTHING = Needs()
_WEIGHT = Update._fields.index("weight")
_AFTER = _WEIGHT + 1


@final
@dataclass(frozen=True, slots=True, repr=False)
class Stateless:
    """A transform that is a function of the update and the moment, and remembers nothing.

    Args:
        function: Called with the update, the context and the options.
        options: Names and values of its options.
    """

    function: Callable[..., Outcome]
    options: tuple[tuple[str, Any], ...] = ()
    _bound: Callable[[Update, Context], Outcome] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # A wrong option shall fail here, and not at the first update.
        options = dict(self.options)
        inspect.signature(self.function).bind(None, None, **options)
        object.__setattr__(self, "_bound", partial(self.function, **options))

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return _NOTHING

    def init(self, context: Context) -> None:
        """No state."""
        return

    def apply(self, update: Update, state: None, context: Context) -> Outcome:
        """Call the function."""
        return self._bound(update, context)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.function.__name__.lstrip('_')}({shown})"


def stateless(
    function: Callable[Concatenate[Update, Context, P], Outcome],
) -> Callable[P, Stateless]:
    """Turn a function of an update, a context and options into a factory of transforms.

    Args:
        function: ``(update, context, *, options) -> Pass | Held | Dropped``. It changes nothing.

    Returns:
        A function of the options alone, given by name, which makes the transform.

    Example:
        >>> from headway.core import Dropped, Pass
        >>> @stateless
        ... def keep_finished(update, context, *, min_steps=1):
        ...     done = update.num_steps >= min_steps
        ...     return Pass(update) if done else Dropped("too_few_steps")
        >>> keep_finished(min_steps=5)
        keep_finished(min_steps=5)
    """

    def make(*args: P.args, **options: P.kwargs) -> Stateless:
        if args:
            raise ArgumentTypeError(
                f"the options of `{function.__name__}` are given by name",
                got=", ".join(map(repr, args)),
            )
        return Stateless(function, tuple(options.items()))

    make.__name__ = make.__qualname__ = function.__name__
    make.__module__ = function.__module__
    make.__doc__ = function.__doc__
    return make


def reweighted(update: Update, weight: float) -> Update:
    """The same update with another weight.

    As ``update._replace(weight=weight)``, in half the time: it runs for each update.

    Args:
        update: It is left as it is.
        weight: At least 0.

    Example:
        >>> import torch
        >>> reweighted(Update(torch.zeros(1), 0, "worker-0", 1), 0.5).weight
        0.5
    """
    values: tuple[Any, ...] = (*update[:_WEIGHT], weight, *update[_AFTER:])
    return tuple.__new__(Update, values)
