"""The public name of :mod:`headway.core.errors`, what Headway raises: the same module, to be imported.

Here belongs nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from headway.core import errors

if TYPE_CHECKING:
    from headway.core.errors import *  # noqa: F403

# What is imported is what is found here afterwards.
sys.modules[__name__] = errors
