"""What a run leaves behind, and how it is looked at.

Here belong the results of runs, their comparison, the run folder with its event log, and the
reports. Here does not belong what makes them: :mod:`headway.simulation` and the real runtimes write
the same records, and whoever reads them need not know which of the two it was.
"""

from __future__ import annotations

from headway.observe.comparison import Comparison, Row, Spread
from headway.observe.observer import Observer, RunInfo, Snapshot
from headway.observe.points import AXES, ClientCount, Point
from headway.observe.result import Result

__all__ = [
    "AXES",
    "ClientCount",
    "Comparison",
    "Observer",
    "Point",
    "Result",
    "Row",
    "RunInfo",
    "Snapshot",
    "Spread",
]
