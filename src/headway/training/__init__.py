"""What a user holds to train with real workers.

What belongs here: the objects that put an algorithm, a runtime, checkpoints and observation together
behind a few arguments, and the choice of an algorithm from those arguments. What does not: rules of
their own for updates (:mod:`headway.algorithms`), and anything that moves bytes
(:mod:`headway.runtime`).
"""

from __future__ import annotations

from headway.training.policies import POLICIES, apply_policies
from headway.training.rules import RULES, choose_algorithm
from headway.training.run import run

__all__ = ["POLICIES", "RULES", "apply_policies", "choose_algorithm", "run"]
