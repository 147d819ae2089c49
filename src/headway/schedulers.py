"""The public name of :mod:`headway.algorithms.schedulers`, who trains next: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.algorithms import schedulers

if TYPE_CHECKING:
    from headway.algorithms.schedulers import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = schedulers
