"""Tasks that need no data set: an optimisation problem with a known optimum, and no task at all.

Here belongs what fulfils :class:`headway.task.Objective` without a module or examples. Here does
not belong what trains a ``torch.nn.Module``: that is :class:`headway.task.Task`.
"""

from __future__ import annotations

from headway.tasks.null import NullTask, null
from headway.tasks.quadratic import QuadraticTask, quadratic

__all__ = ["NullTask", "QuadraticTask", "null", "quadratic"]
