"""The public name of :mod:`headway.task.optim`, the optimizers as values: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.task import optim

if TYPE_CHECKING:
    from headway.task.optim import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = optim
