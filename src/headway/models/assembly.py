"""Making a module from the tree of a description, which may have come from anywhere.

Nothing is imported and nothing is called but the classes of :func:`headway.models.stock.kinds`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from headway.core.errors import StateError, UnknownNameError
from headway.models.stock import CONTAINERS, MODULE_OPTIONS, WORDS, Kind, kinds

__all__ = ["MAX_DEPTH", "Assembly", "odd", "usable_name"]

MAX_DEPTH: Final = 64
"""How deep modules may be nested."""

_MAX_ITEMS: Final = 256
_MAX_NAME: Final = 200
_MAX_INT: Final = 2**63
# A layer of a recurrent network, and the inner modules of any stock layer, are fewer than this.
_PARTS_OF_A_LAYER: Final = 16
# Constructor arguments that say how often something is made.
_REPEATS: Final = ("num_layers", "layers")
_NOT_FINITE: Final = ("-inf", "inf", "nan")
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = 200
# What constructors of torch.nn raise for arguments that they cannot use.
_REFUSALS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)


def odd(message: str, *, where: str, got: object = None, expected: str | None = None) -> StateError:
    """The error for a description that cannot be used.

    Args:
        message: What is wrong, in one line.
        where: The name of the sub-module; empty for the model itself.
        got: What was found there, shortened for the message.
        expected: What would have been accepted.
    """
    return StateError(
        f"this description of a model cannot be built: {message}",
        where=where or "the model itself",
        got=None if got is None else _SHORT.repr(got),
        expected=expected,
        help="give the worker the model itself, model=...",
    )


def usable_name(name: object) -> bool:
    """Whether a sub-module can have this name in a description.

    Args:
        name: Anything.
    """
    return (
        isinstance(name, str) and 0 < len(name) <= _MAX_NAME and name.isprintable()
    ) and "." not in name


class Assembly:
    """Makes modules and counts them, with a limit that is checked before each is made.

    Args:
        max_modules: How many modules there may be, repetitions included, at least 1.
    """

    def __init__(self, max_modules: int) -> None:
        self.max_modules = max_modules
        self.count = 0
        self._made: dict[str, tuple[nn.Module, int]] = {}

    def module(self, node: object, path: str = "", depth: int = 0) -> nn.Module:
        """Make the module of a node, on torch's current device.

        Args:
            node: A JSON value.
            path: The name of the sub-module that it is; empty for the model itself.
            depth: How many modules this one is in, at least 0.

        Returns:
            A new module; for a reference, the module that was made before.

        Raises:
            StateError: It is no node, it names what is not in the tables, there are too many or too
                deeply nested modules, or torch refuses the arguments.
        """
        if depth > MAX_DEPTH:
            raise odd("too deep", where=path, expected=f"at most {MAX_DEPTH} levels")
        if not isinstance(node, dict):
            raise odd("this is not a module", where=path, got=node, expected="an object")
        if "same" in node:
            return self._same(node, path)
        before = self.count
        self._reserve(1, path)
        name = node.get("class")
        if isinstance(name, str) and name in CONTAINERS:
            module = self._container(node, path, depth)
        else:
            module = self._layer(node, path, depth)
        self._made[path] = module, self.count - before
        return module

    def _same(self, node: Mapping[str, Any], path: str) -> nn.Module:
        target = node["same"]
        if len(node) > 1 or not isinstance(target, str) or target not in self._made:
            raise odd("a reference to nothing that stands before it", where=path, got=target)
        module, count = self._made[target]
        self._reserve(count, path)
        return module

    def _container(self, node: Mapping[str, Any], path: str, depth: int) -> nn.Module:
        children = _entries(node, "children", list, path)
        container = CONTAINERS[node["class"]]()
        for place, child in enumerate(children):
            if not isinstance(child, list | tuple) or len(child) != 2:
                raise odd("a child is not a pair", where=path, got=child, expected="[name, module]")
            name, inner = child
            if not usable_name(name) or name in container._modules:
                raise odd("a child's name cannot be used", where=path, got=name)
            if isinstance(container, nn.ModuleList) and name != str(place):
                raise odd("a list's child is misplaced", where=path, got=name, expected=str(place))
            module = self.module(inner, f"{path}.{name}".lstrip("."), depth + 1)
            try:
                container.add_module(name, module)
            except KeyError as error:
                raise odd("a child's name is taken", where=path, got=name) from error
        return container

    def _layer(self, node: Mapping[str, Any], path: str, depth: int) -> nn.Module:
        kind = _known(node.get("class"), path)
        given = _entries(node, "arguments", dict, path)
        arguments = {}
        for name, value in given.items():
            if name not in kind.options:
                where = f"{path or 'the model itself'}: {kind.name}"
                raise odd("an unknown argument", where=where, got=name, expected=_listed(kind))
            if isinstance(value, dict) and "class" in value and name in MODULE_OPTIONS:
                arguments[name] = self.module(value, f"{path}.{name}".lstrip("."), depth + 1)
            else:
                arguments[name] = _value(name, value, f"{path}: {kind.name}")
        self._reserve(_repetitions(arguments), path)
        try:
            return kind.make(**arguments)
        except _REFUSALS as error:
            where = f"{path or 'the model itself'}: {kind.name}"
            raise odd("torch refuses the arguments", where=where, got=str(error)) from error

    def _reserve(self, count: int, path: str) -> None:
        self.count += count
        if self.count > self.max_modules:
            raise odd("too many modules", where=path, expected=f"at most {self.max_modules}")


def _entries(node: Mapping[str, Any], key: str, kind: type, path: str) -> Any:
    entries = node.get(key, kind())
    if node.keys() - {"class", key}:
        raise odd("unknown entries", where=path, got=sorted(map(str, node.keys() - {"class", key})))
    if not isinstance(entries, kind):
        raise odd(f"{key} are of the wrong kind", where=path, got=entries)
    return entries


def _known(name: object, path: str) -> Kind:
    kind = kinds().get(name) if isinstance(name, str) else None
    if kind is None:
        known = UnknownNameError.of("layer", str(name)[:_MAX_NAME], [*kinds(), *CONTAINERS])
        raise odd("no such layer", where=path, got=name, expected=known.help)
    return kind


def _listed(kind: Kind) -> str:
    return ", ".join(kind.options) or "no arguments"


def _repetitions(arguments: Mapping[str, Any]) -> int:
    total = 0
    for name in _REPEATS:
        times = arguments.get(name, 0)
        if isinstance(times, int) and times > 0:
            inner = [value for value in arguments.values() if isinstance(value, nn.Module)]
            parts = sum(1 for module in inner for _ in module.modules())
            total += times * (parts or _PARTS_OF_A_LAYER)
    return total


def _value(name: str, value: object, where: str, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < _MAX_INT:
        return value
    if isinstance(value, str) and value in WORDS.get(name, ()):
        return value
    if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS and depth < 2:
        return tuple(_value(name, item, where, depth + 1) for item in value)
    if isinstance(value, dict) and [*value] == ["float"] and value["float"] in _NOT_FINITE:
        return math.inf if value["float"] == "inf" else float(value["float"])
    expected = ", ".join(("a number", "a short list of them", *WORDS.get(name, ())))
    raise odd(f"{name} cannot be this", where=where, got=value, expected=expected)
