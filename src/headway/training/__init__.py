"""What a user holds to train with real workers.

What belongs here: the objects that put an algorithm, a runtime, checkpoints and observation together
behind a few arguments, and the choice of an algorithm from those arguments. What does not: rules of
their own for updates (:mod:`headway.algorithms`), and anything that moves bytes
(:mod:`headway.runtime`).

Names are loaded when they are first used: a worker, which lives here too, loads no server and no
simulator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.training.policies import POLICIES, apply_policies
    from headway.training.rules import RULES, choose_algorithm

__all__ = ["POLICIES", "RULES", "apply_policies", "choose_algorithm"]

_HOME = {
    "POLICIES": "policies",
    "RULES": "rules",
    "apply_policies": "policies",
    "choose_algorithm": "rules",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
