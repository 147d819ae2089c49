"""The model that a server was given: what it looks like, its values, and copies of it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from headway.core import Buffers, ParameterLayout
from headway.core.errors import ArgumentTypeError, ConfigurationError, ProtocolError
from headway.models import build, describe
from headway.task.randomness import own_randomness

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.runtime.exchange import Invitation

__all__ = ["Original", "described_module", "make_module", "needed_arguments"]

_FEW: Final = 3
# A ParameterList says by an error of its own that it is not to be called.
_NO_CALLS: Final[tuple[Any, ...]] = (nn.Module.__call__, nn.ParameterList.__call__)


def make_module(
    model: nn.Module | Callable[[], nn.Module], seed: int, *, where: str
) -> tuple[nn.Module, str]:
    """The module that a user gave or can make, and what to call it.

    Args:
        model: It, or what makes it.
        seed: Of the initial values, where it is made here.
        where: The call that errors name.

    Raises:
        ArgumentTypeError: It is neither.
        ConfigurationError: It is wrapped, has no ``forward``, or its parameters have no shapes yet, no
            numbers, or none that can be trained.
    """
    where = f"{where}(model=...)"
    made, name = _made(model, seed, where)
    _check_bare(made, where)
    _check_callable(made, where)
    _check_shapes(made, where)
    _check_numbers(made, where)
    return made, name


def _check_bare(made: nn.Module, where: str) -> None:
    advice = ""
    if isinstance(getattr(made, "_orig_mod", None), nn.Module):
        advice = "; model.compile() compiles it in place, and leaves the names as they are"
    elif not isinstance(made, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return
    raise ConfigurationError(
        "this wraps the model, and gives its parameters other names",
        where=where,
        got=f"{type(made).__name__}, with {next(iter(dict(made.named_parameters())), 'none')}",
        expected="the module itself",
        help=f"give what was wrapped{advice}",
    )


def _check_callable(made: nn.Module, where: str) -> None:
    # Not getattr: a scripted module's forward can only be had from an instance.
    cls = type(made)
    forward, call = (inspect.getattr_static(cls, name) for name in ("forward", "__call__"))
    if "forward" in vars(made) or forward is not nn.Module.forward or call not in _NO_CALLS:
        return
    name = cls.__name__
    listed = isinstance(made, nn.ModuleList)
    raise ConfigurationError(
        f"a {name} has no forward, so nothing can be computed with it",
        where=where,
        got=name,
        expected="a module that can be called with inputs",
        help="where its parts follow each other: torch.nn.Sequential(*parts)"
        if listed
        else "write a module that holds it, and says in forward(inputs) what is computed",
    )


def _check_shapes(made: nn.Module, where: str) -> None:
    # Not as what torch's annotations call them: one that has no shape yet is of another class.
    named: dict[str, object] = dict(made.named_parameters())
    lazy = [name for name, value in named.items() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise ConfigurationError(
            "the model has parameters that have no shape yet",
            where=where,
            got=", ".join(lazy[:_FEW]) + (", ..." if len(lazy) > _FEW else ""),
            expected="a model whose layers know their sizes",
            help="call it once with inputs first: model(inputs)",
        )


def _check_numbers(made: nn.Module, where: str) -> None:
    for name, value in made.named_parameters():
        if value.is_meta:
            raise ConfigurationError(
                "the model has parameters without values",
                where=where,
                got=f"{name} on the meta device",
                help='give it values: model.to_empty(device="cpu"), and initialise it',
            )
        if not value.is_floating_point():
            raise ConfigurationError(
                "parameters that are no real numbers cannot be trained here",
                where=where,
                got=f"{name} of {value.dtype}",
                expected="torch.float32, or another floating-point type",
            )


def needed_arguments(made: Callable[..., object]) -> str:
    """What a function or class cannot be called without, as text; empty: nothing, or it does not say.

    Args:
        made: It.

    Example:
        >>> needed_arguments(nn.Linear)
        'in_features, out_features'
    """
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return ""
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = (p.name for p in parameters if p.default is p.empty and p.kind not in loose)
    return ", ".join(needed)


def _made(
    model: nn.Module | Callable[[], nn.Module], seed: int, where: str
) -> tuple[nn.Module, str]:
    if isinstance(model, nn.Module):
        return model, type(model).__name__
    expected = "a torch.nn.Module, or a function without arguments that makes one"
    if not callable(model):
        raise ArgumentTypeError("that is no model", where=where, got=repr(model), expected=expected)
    name = _name_of(model)
    if needed := needed_arguments(model):
        raise ArgumentTypeError(
            "that makes no model without arguments",
            where=where,
            got=f"{name}, which needs {needed}",
            expected=expected,
            help=f"make the model: {name}(...), or write lambda: {name}(...)",
        )
    with own_randomness(seed, torch.device("cpu")):
        made: Any = model()
    if not isinstance(made, nn.Module):
        raise ArgumentTypeError(
            "that makes no model",
            where=where,
            got=f"a {type(made).__name__}",
            expected=expected,
        )
    return made, name


def _name_of(model: object) -> str:
    # A factory of the models room has a name, and a repr with all its sizes.
    for attribute in ("__qualname__", "name"):
        name = getattr(model, attribute, None)
        if isinstance(name, str):
            return name
    return repr(model)


def described_module(invitation: Invitation) -> nn.Module:
    """The model that a server describes.

    Args:
        invitation: What the server said.

    Raises:
        ConfigurationError: It cannot describe it.
        ProtocolError: What it says contradicts itself.
    """
    if invitation.model is None:
        why = str(invitation.instructions.get("no_model", ""))
        raise ConfigurationError(
            "the server cannot say what its model is made of, so this worker must be given it",
            where="AsyncWorker(model=...)",
            got=why or None,
            expected="the model that the server was given",
            help="AsyncWorker(address, model=MyModel())",
        )
    module = build(invitation.model, max_params=2 * invitation.layout.num_params + (1 << 20))
    layout = ParameterLayout.of(module).with_fragments(invitation.layout.num_fragments)
    difference = invitation.layout.difference(layout)
    if difference is not None:
        raise ProtocolError(
            "the server's description of its model does not fit its layout",
            got=difference,
            help="give this worker the model: AsyncWorker(address, model=MyModel())",
        )
    return module


@final
class Original:
    """A model as it was given, which stays as it is.

    Args:
        model: A module, or what makes one.
        seed: Of its initial values, where it is made here.

    Attributes:
        module: It.
        name: What it is called.
        layout: Of its parameters and buffers.

    Raises:
        ConfigurationError: There is nothing in it to train.
    """

    def __init__(self, model: nn.Module | Callable[[], nn.Module], seed: int) -> None:
        self.module, self.name = make_module(model, seed, where="ParameterServer")
        self.layout = ParameterLayout.of(self.module)
        if not any(value.requires_grad for value in self.module.parameters()):
            raise ConfigurationError(
                "no parameter of the model requires a gradient",
                where="ParameterServer(model=...)",
                got=self.name,
                help="leave requires_grad set on the parameters that shall be trained",
            )

    def layout_for(self, algorithm: Algorithm) -> ParameterLayout:
        """The layout, divided into as many fragments as an algorithm needs.

        Args:
            algorithm: The server's.
        """
        count = algorithm.needs.fragments
        return self.layout if count == 1 else self.layout.with_fragments(count)

    def values(self) -> tuple[ParameterLayout, Tensor, Buffers | None]:
        """The layout, and copies of the values on the CPU, where a server keeps them."""
        buffers = self.layout.flatten_buffers(self.module)
        if buffers is not None:
            buffers = Buffers(buffers.floating.cpu(), buffers.integer.cpu())
        return self.layout, self.layout.flatten(self.module).cpu(), buffers

    def described(self) -> tuple[dict[str, Any] | None, str]:
        """What the model is made of; and, where that cannot be said, why."""
        try:
            return describe(self.module), ""
        except ConfigurationError as error:
            found = "" if error.got is None else f": {error.got}"
            return None, f"{error.message} ({error.where}{found})"

    def with_values(self, parameters: Tensor, buffers: Buffers | None) -> nn.Module:
        """A copy of the module with other values.

        Args:
            parameters: Flat.
            buffers: Flat, where the model has any.
        """
        module = copy.deepcopy(self.module)
        named = dict(module.named_parameters())
        with torch.no_grad():
            for name, view in self.layout.views(parameters).items():
                named[name].copy_(view)
        if buffers is not None:
            self.layout.load_buffers(module, buffers)
        return module

    def plain_memory(self, *, consistent: bool) -> _Memory:
        """Memory of this process for a server's parameters and snapshots.

        Args:
            consistent: Whether jobs get snapshots, or the parameters themselves.
        """
        return _Memory(consistent)


class _Memory:
    """Memory of this process."""

    def __init__(self, consistent: bool) -> None:
        self.consistent = consistent

    def make(self, parameters: Tensor, buffers: Buffers | None) -> tuple[Tensor, Buffers | None]:
        return torch.empty_like(parameters), None if buffers is None else buffers.clone()
