"""Whether two modules are the same but for their numbers: classes, settings, shapes, sharing."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

__all__ = ["hooked", "unlikeness"]

_OWN: Final = frozenset(vars(nn.Module()))
_HOOKS: Final = tuple(
    sorted(n for n in _OWN if n.startswith(("_forward", "_backward")) and n.endswith("_hooks"))
)
# What nn.Module keeps for itself is compared by name below; the others are an RNN's second handles
# on its parameters, and how a module is executed.
_NOT_SETTINGS: Final = _OWN | {"_flat_weights", "_flat_weight_refs", "_compiled_call_impl"}


def hooked(module: nn.Module) -> str | None:
    """Find a sub-module with forward or backward hooks.

    Args:
        module: The whole model.

    Returns:
        The name of the first one (empty for the model itself), or ``None``.
    """
    for name, part in module.named_modules():
        if any(getattr(part, hooks) for hooks in _HOOKS):
            return str(name)
    return None


def unlikeness(mine: nn.Module, theirs: nn.Module) -> tuple[str, str] | None:
    """Compare two modules in all but values, device and training mode.

    Args:
        mine: The module as it is.
        theirs: The one that was built to be like it.

    Returns:
        Where the first difference is (the name of a sub-module, empty for the module itself) and
        what it is; ``None`` when there is none.
    """
    pending: list[tuple[str, Any, Any]] = [("", mine, theirs)]
    seen: set[int] = set()
    while pending:
        name, left, right = pending.pop()
        if id(left) in seen:
            continue
        seen.add(id(left))
        found = _difference(left, right)
        if found is not None:
            return name, found
        for child, part in left._modules.items():
            pending.append((f"{name}.{child}".lstrip("."), part, right._modules[child]))
    if _sharing(_modules(mine)) != _sharing(_modules(theirs)):
        return "", "one sub-module stands in several places"
    if _sharing(_parameters(mine)) != _sharing(_parameters(theirs)):
        return "", "one parameter stands in several places"
    return None


def _difference(left: nn.Module, right: nn.Module) -> str | None:
    if type(left) is not type(right):
        return f"a {type(left).__name__} where torch makes a {type(right).__name__}"
    if list(left._modules) != list(right._modules) or None in left._modules.values():
        return f"children {list(left._modules)}"
    for what, one, other in (
        ("parameters", left._parameters, right._parameters),
        ("buffers", left._buffers, right._buffers),
    ):
        if _outline(one.items()) != _outline(other.items()):
            return f"{what} {_outline(one.items())}"
    if left._non_persistent_buffers_set != right._non_persistent_buffers_set:
        return "buffers that are not saved"
    return _settings_difference(left, right)


def _settings_difference(left: nn.Module, right: nn.Module) -> str | None:
    own, built = vars(left), vars(right)
    for name in built.keys() - _NOT_SETTINGS:
        if name not in own or not _same(own[name], built[name]):
            return f"{name} = {own.get(name)!r}, where {built[name]!r} is what torch makes of it"
    for name in own.keys() - built.keys() - _NOT_SETTINGS:
        # Anything else that a user notes down on a stock layer is never read by it.
        if hasattr(type(left), name):
            return f"its own `{name}`, set on the instance"
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(a, b) for a, b in pairs)
    if isinstance(one, numbers.Number | str | torch.dtype):
        both_nan = one != one and other != other
        return both_nan or (not isinstance(other, Tensor) and bool(one == other))
    return one is other


def _outline(named: Iterable[tuple[str, Tensor | None]]) -> list[Any]:
    return [
        (name, tensor if tensor is None else (tuple(tensor.shape), tensor.dtype, _trained(tensor)))
        for name, tensor in named
    ]


def _trained(tensor: Tensor) -> bool:
    return tensor.requires_grad


def _modules(module: nn.Module) -> Iterable[tuple[str, Any]]:
    yield from module.named_modules(remove_duplicate=False)


def _parameters(module: nn.Module) -> Iterable[tuple[str, Any]]:
    return module.named_parameters(remove_duplicate=False)


def _sharing(named: Iterable[tuple[str, Any]]) -> list[list[str]]:
    places: dict[int, list[str]] = {}
    for name, thing in named:
        places.setdefault(id(thing), []).append(name)
    return [names for names in places.values() if len(names) > 1]
