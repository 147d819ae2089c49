"""The public name of :mod:`headway.simulation.population`, how long simulated clients take: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.simulation import population

if TYPE_CHECKING:
    from headway.simulation.population import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = population
