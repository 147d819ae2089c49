"""The public name of :mod:`headway.runtime.compression`, how updates and models are written on narrow links: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.runtime import compression

if TYPE_CHECKING:
    from headway.runtime.compression import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = compression
