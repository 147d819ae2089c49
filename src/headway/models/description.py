"""A model of stock layers as a JSON tree, and back: how a worker gets a model that it was not given.

The tree says classes and arguments and never values, which travel as a flat vector. What it cannot
say exactly is refused where it is written, on the server's side; what is odd in it is refused where
it is read, before memory is taken for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError
from headway.models.assembly import MAX_DEPTH, Assembly, odd, usable_name
from headway.models.likeness import hooked, unlikeness
from headway.models.stock import CONTAINERS, arguments_of, kind_of

__all__ = ["build", "describe"]

_FORMAT: Final = 1
_MAX_MODULES: Final = 10_000
_MAX_VALUES: Final = 10**9
_ENTRIES: Final = frozenset({"format", "dtype", "model", "frozen", "tied"})
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def describe(module: nn.Module) -> dict[str, Any]:
    """Write down what a model is made of, so that :func:`build` makes one like it.

    Layers are those of ``torch.nn.modules``, in any nesting, and the models of
    :mod:`headway.models`. Precision, frozen parameters, shared modules and tied parameters are
    kept; values, the device and the training mode are not part of a description. Before it is
    returned it is built, without memory for parameters, and compared with the module: classes,
    settings, names, shapes, dtypes, sharing.

    Args:
        module: A model on any device, which is not changed.

    Returns:
        A plain JSON tree with a format version.

    Raises:
        ArgumentTypeError: It is not a module.
        ConfigurationError: A part of it cannot be described: a class that is not torch's own, a
            hook, a parametrization, a changed ``forward``, an inner module that was exchanged. The
            error names the part.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> describe(model)["model"]["children"][0]
        ['0', {'class': 'Linear', 'arguments': {'in_features': 3, 'out_features': 2}}]
        >>> build(describe(model))
        Sequential(
          (0): Linear(in_features=3, out_features=2, bias=True)
          (1): ReLU()
        )
    """
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(
            "this is not a model",
            where="describe(module)",
            got=type(module).__name__,
            expected="a torch.nn.Module",
        )
    tree = _Describer().node(module, "", 0)
    place = hooked(module)
    if place is not None:
        raise _refused("it has hooks", place)
    description = {
        "format": _FORMAT,
        "dtype": _dtype(module),
        "model": tree,
        "frozen": [n for n, p in module.named_parameters() if not p.requires_grad],
        "tied": _tied(module),
    }
    try:
        rebuilt = _assembled(description, torch.device("meta"), _MAX_VALUES**2, _MAX_MODULES)
    except StateError as error:
        raise _refused("what was written down cannot be built", "", got=str(error)) from error
    found = unlikeness(module, rebuilt)
    if found is not None:
        raise _refused("it is not as its constructor makes it", found[0], got=found[1])
    return description


def build(
    description: object,
    *,
    max_params: int = _MAX_VALUES,
    max_modules: int = _MAX_MODULES,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Make the model of a description, which may come from an unknown sender.

    Class names are looked up in a table, arguments are numbers, short lists of them and known
    words. Everything is first made on torch's ``meta`` device and counted, and memory for
    parameters is taken only then.

    Args:
        description: What :func:`describe` returned, also after a trip through JSON.
        max_params: Numbers in all parameters and buffers at most, tied ones counted in each place,
            at least 1.
        max_modules: Modules at most, repetitions counted, at least 1.
        device: Where the model is made.

    Returns:
        A new module in training mode, with torch's usual initial values.

    Raises:
        StateError: The description is of another format, odd in any way, or over a limit.

    Example:
        >>> tree = describe(nn.Linear(3, 2))
        >>> tree["model"]["arguments"]["in_features"] = 10**12
        >>> build(tree)
        Traceback (most recent call last):
        headway.core.errors.StateError: this description of a model cannot be built: too large
          in     the model itself
          got    2000000000002
          wanted at most 1000000000 numbers
          help   give the worker the model itself, model=...
    """
    target = torch.device(device)
    _assembled(description, torch.device("meta"), max_params, max_modules)
    return _assembled(description, target, max_params, max_modules)


class _Describer:
    """Writes the tree; a module that was seen before becomes a reference."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}
        self._count = 0

    def node(self, module: nn.Module, path: str, depth: int) -> dict[str, Any]:
        if id(module) in self._seen:
            return {"same": self._seen[id(module)]}
        self._count += 1
        if depth > MAX_DEPTH or self._count > _MAX_MODULES:
            raise _refused(f"over {MAX_DEPTH} levels or {_MAX_MODULES} modules", path)
        name = type(module).__name__
        if CONTAINERS.get(name) is type(module):
            children = [
                [
                    child,
                    self.node(_child(part, child, path), f"{path}.{child}".lstrip("."), depth + 1),
                ]
                for child, part in module._modules.items()
            ]
            tree: dict[str, Any] = {"class": name, "children": children}
        else:
            tree = self._layer(module, path, depth)
        self._seen[id(module)] = path
        return tree

    def _layer(self, module: nn.Module, path: str, depth: int) -> dict[str, Any]:
        kind = kind_of(module)
        if kind is None:
            raise _refused("it is not a layer of torch.nn's own", path, got=_class_of(module))
        try:
            arguments = arguments_of(module, kind)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _refused("an argument is not recoverable", path, got=str(error)) from error
        for name, value in arguments.items():
            if isinstance(value, nn.Module):
                # Not a reference: the constructor may copy what it is given.
                inner = _Describer()
                arguments[name] = inner.node(value, f"{path}.{name}".lstrip("."), depth + 1)
        return {"class": kind.name, "arguments": arguments}


def _child(part: nn.Module | None, name: str, path: str) -> nn.Module:
    if part is None or not usable_name(name):
        raise _refused("a child is missing or has a name of unusual characters", path, got=name)
    return part


def _class_of(module: nn.Module) -> str:
    cls = type(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return f"{cls.__name__}, whose sizes are not known before a first batch"
    return f"{cls.__name__}, of the Python module {cls.__module__}"


def _refused(message: str, path: str, *, got: str | None = None) -> ConfigurationError:
    return ConfigurationError(
        f"this model cannot be described to workers: {message}",
        where=path or "the model itself",
        got=got,
        expected="stock layers of torch.nn, as their constructors make them",
        help="give each worker the model itself: AsyncWorker(..., model=...)",
    )


def _dtype(module: nn.Module) -> str:
    floating = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    tensors: list[Tensor] = [*module.parameters()]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors or floating})
    if not dtypes:
        return str(torch.get_default_dtype()).removeprefix("torch.")
    if len(dtypes) > 1 or dtypes[0] not in _DTYPES:
        raise _refused("its numbers are not of one usual dtype", "", got=", ".join(dtypes))
    return dtypes[0]


def _tied(module: nn.Module) -> list[list[str]]:
    places: dict[int, list[str]] = {}
    for prefix, part in module.named_modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{prefix}.{name}".lstrip("."))
    return [names for names in places.values() if len(names) > 1]


def _assembled(
    description: object, device: torch.device, max_params: int, max_modules: int
) -> nn.Module:
    entries = _checked(description)
    # Torch's remarks about slow paths and empty tensors were made when the model was first made.
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        module = Assembly(max_modules).module(entries["model"])
        if device.type == "meta":
            _count(module, max_params)
        module.to(_DTYPES[entries["dtype"]])
        _tie(module, entries["tied"])
        _freeze(module, entries["frozen"])
    return module


def _checked(description: object) -> Mapping[str, Any]:
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise odd("of another format", where="format", got=description, expected=str(_FORMAT))
    if description.keys() != _ENTRIES:
        expected = ", ".join(sorted(_ENTRIES))
        raise odd("other entries", where="", got=list(description), expected=expected)
    dtype = description["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise odd("unknown dtype", where="dtype", got=dtype, expected=", ".join(_DTYPES))
    return description


def _count(module: nn.Module, max_params: int) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    numbers = sum(tensor.numel() for tensor in tensors)
    if numbers > max_params:
        raise odd("too large", where="", got=numbers, expected=f"at most {max_params} numbers")


def _tie(module: nn.Module, groups: object) -> None:
    places = dict(module.named_parameters(remove_duplicate=False))
    for group in _listed(groups, "tied"):
        names = _listed(group, "tied")
        if len(names) < 2 or not all(isinstance(n, str) and n in places for n in names):
            raise odd("these parameters cannot be tied", where="tied", got=group)
        kept = places[names[0]]
        for name in names[1:]:
            owner, _, leaf = name.rpartition(".")
            if places[name].shape != kept.shape:
                raise odd("tied parameters differ in shape", where=name, got=list(kept.shape))
            setattr(module.get_submodule(owner), leaf, kept)


def _freeze(module: nn.Module, names: object) -> None:
    places = dict(module.named_parameters())
    for name in _listed(names, "frozen"):
        if not isinstance(name, str) or name not in places:
            raise odd("no such parameter", where="frozen", got=name)
        places[name].requires_grad_(False)


def _listed(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise odd("this is not a list", where=where, got=value)
    return value
