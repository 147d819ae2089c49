"""What a run leaves behind, and how it is looked at.

Here belong the results of runs, their comparison, the run folder with its event log, and the
reports. Here does not belong what makes them: :mod:`headway.simulation` and the real runtimes write
the same records, and whoever reads them need not know which of the two it was.
"""

from __future__ import annotations

from headway.observe.comparison import Comparison, Row, Spread
from headway.observe.environment import describe_environment
from headway.observe.eventlog import EventLog, encode_events, read_events
from headway.observe.files import LogTruncatedWarning
from headway.observe.folder import RunFolder
from headway.observe.hashing import LogHash, log_hash, weights_hash
from headway.observe.observer import Observer, RunInfo, Snapshot
from headway.observe.payloads import PayloadReader, PayloadWriter, Record
from headway.observe.points import AXES, ClientCount, Point
from headway.observe.result import Result

__all__ = [
    "AXES",
    "ClientCount",
    "Comparison",
    "EventLog",
    "LogHash",
    "LogTruncatedWarning",
    "Observer",
    "PayloadReader",
    "PayloadWriter",
    "Point",
    "Record",
    "Result",
    "Row",
    "RunFolder",
    "RunInfo",
    "Snapshot",
    "Spread",
    "describe_environment",
    "encode_events",
    "log_hash",
    "read_events",
    "weights_hash",
]
