"""Plain trees: states as numbers, strings, tensors, lists and string-keyed dicts, and back.

This is what lets a server's state be written as safetensors and JSON, and never as a pickle. A
dataclass becomes a dict of its fields, and is filled again in place from one. What comes back has
the types that it had, so a state may hold:

* ``None``, numbers, strings and tensors;
* lists, tuples and dicts of these and of each other, the keys being strings or ints;
* as a field of a dataclass, or as the state itself, also a dataclass, a set of ints or of strings,
  a deque, a ``torch.Generator``, and whatever has ``state_dict`` and ``load_state_dict``: these are
  filled in place, and so must be there already when the state is made.

Subclasses of lists, dicts and tuples (a ``Counter``, a named tuple) are refused when they are saved,
and so is anything else. Numbers of a subclass, as numpy's ``float64`` is one, are saved as plain
ones. A tensor that is held twice comes back as two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import StateError

__all__ = ["copy", "dump", "load"]

# Dicts with one of these keys alone stand for what a plain tree has no form for.
_PAIRS = "__pairs__"
_TUPLE = "__tuple__"


def dump(state: Any) -> Any:
    """Copy a state into a plain tree that shares no memory with it.

    Raises:
        StateError: There is something in it that would not come back as it is.
    """
    if isinstance(state, torch.Generator):
        return state.get_state()
    if is_dataclass(state) and not isinstance(state, type):
        return {f.name: dump(getattr(state, f.name)) for f in fields(state)}
    if hasattr(state, "state_dict"):
        plain = state.state_dict()
        # The object takes it back itself, so that an OrderedDict need not stay one.
        return _dump_plain(dict(plain) if isinstance(plain, dict) else plain)
    if type(state) is set:
        kinds = {type(value) for value in state}
        if kinds in ({int}, {str}, set()):
            return sorted(state)
        raise _refusal("a set of " + ", ".join(sorted(kind.__name__ for kind in kinds)))
    if type(state) is deque:
        return [_dump_plain(value) for value in state]
    return _dump_plain(state)


def _dump_plain(state: Any) -> Any:
    """What needs nothing of its form to be there when it is loaded."""
    if state is None or type(state) in (bool, int, float, str):
        return state
    if isinstance(state, Tensor):
        return state.detach().clone()
    if type(state) is list:
        return [_dump_plain(value) for value in state]
    if type(state) is tuple:
        return {_TUPLE: [_dump_plain(value) for value in state]}
    if type(state) is dict:
        return _dump_dict(state)
    if isinstance(state, int | float) and not isinstance(state, Enum):
        return float(state) if isinstance(state, float) else int(state)
    raise _refusal(type(state).__name__)


def _dump_dict(state: dict[Any, Any]) -> dict[str, Any]:
    for key in state:
        if type(key) not in (str, int):
            raise _refusal(f"a dict with a key of type {type(key).__name__}")
    if all(type(key) is str for key in state) and _PAIRS not in state and _TUPLE not in state:
        return {key: _dump_plain(value) for key, value in state.items()}
    return {_PAIRS: [[key, _dump_plain(value)] for key, value in state.items()]}


def _refusal(got: str) -> StateError:
    return StateError(
        "a state holds something that cannot be saved",
        got=got,
        expected="numbers, strings, tensors; lists, tuples and dicts of these; as a field of a "
        "dataclass also a dataclass, a set, a deque, or what has `state_dict`",
    )


def load(target: Any, tree: Any) -> Any:
    """Bring a plain tree back into the form of ``target``, a freshly made state.

    Tensors of the same shape, dataclasses and objects with ``load_state_dict`` are filled in
    place; everything else is made anew. The tree itself is not shared.

    Raises:
        StateError: The tree does not have the target's form. Some of it may be loaded by then.
    """
    if isinstance(target, Tensor) and isinstance(tree, Tensor):
        if target.shape == tree.shape and target.dtype == tree.dtype:
            return target.copy_(tree)
        return tree.clone().to(target.device)
    if isinstance(target, torch.Generator):
        target.set_state(tree)
        return target
    if is_dataclass(target) and not isinstance(target, type):
        return _load_dataclass(target, tree)
    if hasattr(target, "load_state_dict"):
        target.load_state_dict(copy(tree))
        return target
    if isinstance(target, set):
        return set(_sequence(tree))
    if isinstance(target, deque):
        return deque((copy(value) for value in _sequence(tree)), maxlen=target.maxlen)
    if isinstance(target, dict) and isinstance(tree, dict) and not _is_marked(tree):
        return {key: load(target.get(key), value) for key, value in tree.items()}
    if isinstance(target, list) and isinstance(tree, list) and len(target) == len(tree):
        return list(map(load, target, tree))
    return _same_kind(target, copy(tree))


def _same_kind(target: Any, value: Any) -> Any:
    # A number or a text may have been None, and None may have been anything.
    for kind in (str, (int, float)):
        if isinstance(target, kind) and not (value is None or isinstance(value, kind)):
            raise StateError(
                "the saved state does not fit",
                got=type(value).__name__,
                expected=type(target).__name__,
            )
    return value


def _sequence(tree: Any) -> list[Any]:
    if isinstance(tree, list):
        return tree
    raise StateError("the saved state does not fit", got=type(tree).__name__, expected="a list")


def _is_marked(tree: dict[str, Any]) -> bool:
    return len(tree) == 1 and (_PAIRS in tree or _TUPLE in tree)


def _load_dataclass(target: Any, tree: Any) -> Any:
    names = [f.name for f in fields(target)]
    if not isinstance(tree, dict) or sorted(tree) != sorted(names):
        got = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise StateError(
            f"the saved state does not fit `{type(target).__name__}`",
            got=got,
            expected=", ".join(names),
            help="load it with the algorithm and settings that it was saved with",
        )
    for name in names:
        # A frozen dataclass (a nested value object) is filled through object's own setattr.
        object.__setattr__(target, name, load(getattr(target, name), tree[name]))
    return target


def copy(tree: Any) -> Any:
    """Copy a plain tree, with its pairs made dicts again, and its tuples tuples."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        if not _is_marked(tree):
            return {key: copy(value) for key, value in tree.items()}
        if _TUPLE in tree:
            return tuple([copy(value) for value in tree[_TUPLE]])
        return {key: copy(value) for key, value in tree[_PAIRS]}
    if isinstance(tree, list):
        return [copy(value) for value in tree]
    return tree
