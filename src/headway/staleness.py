"""The public name of :mod:`headway.algorithms.staleness`, what a late update is worth: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.algorithms import staleness

if TYPE_CHECKING:
    from headway.algorithms.staleness import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = staleness
