"""Plain trees: states as numbers, strings, tensors, lists and string-keyed dicts, and back.

This is what lets a server's state be written as safetensors and JSON, and never as a pickle. A
dataclass becomes a dict of its fields, and is filled again in place from one; a dict with keys
that are not strings becomes a list of pairs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import StateError

__all__ = ["copy", "dump", "load"]

_PAIRS = "__pairs__"


def dump(state: Any) -> Any:
    """Copy a state into a plain tree that shares no memory with it.

    Raises:
        StateError: There is something in it that a plain tree cannot hold.
    """
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, torch.Generator):
        return state.get_state()
    if is_dataclass(state) and not isinstance(state, type):
        return {f.name: dump(getattr(state, f.name)) for f in fields(state)}
    if hasattr(state, "state_dict"):
        return dump(state.state_dict())
    if isinstance(state, dict):
        if all(isinstance(key, str) for key in state) and _PAIRS not in state:
            return {key: dump(value) for key, value in state.items()}
        return {_PAIRS: [[key, dump(value)] for key, value in state.items()]}
    if isinstance(state, set | frozenset):
        return sorted(state)
    if isinstance(state, list | tuple | deque) and not hasattr(state, "_fields"):
        return [dump(value) for value in state]
    raise StateError(
        "a state holds something that cannot be saved",
        got=type(state).__name__,
        expected="numbers, strings, tensors, dataclasses, lists, dicts, or `state_dict`",
    )


def load(target: Any, tree: Any) -> Any:
    """Bring a plain tree back into the form of ``target``, a freshly made state.

    Tensors of the same shape, dataclasses and objects with ``load_state_dict`` are filled in
    place; everything else is made anew. The tree itself is not shared.

    Raises:
        StateError: The tree does not have the target's form.
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
        return set(tree)
    if isinstance(target, deque):
        return deque((copy(value) for value in tree), maxlen=target.maxlen)
    if isinstance(target, dict) and isinstance(tree, dict) and _PAIRS not in tree:
        return {key: load(target.get(key), value) for key, value in tree.items()}
    if isinstance(target, list | tuple) and isinstance(tree, list):
        same = len(target) == len(tree)
        values = map(load, target, tree) if same else map(copy, tree)
        return tuple(values) if isinstance(target, tuple) else list(values)
    return copy(tree)


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
    """Copy a plain tree, with its pairs made dicts again."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        if set(tree) == {_PAIRS}:
            return {key: copy(value) for key, value in tree[_PAIRS]}
        return {key: copy(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copy(value) for value in tree]
    return tree
