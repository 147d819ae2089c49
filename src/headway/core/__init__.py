"""The asynchronous server as a state machine.

What belongs here: layouts, updates, the seams of an algorithm, the server and its doors, events
and replay. What does not: threads, sockets, files, clocks and global random state. Time and
randomness come in as arguments.
"""

from __future__ import annotations

from headway.core import errors
from headway.core.algorithm import KEEP, Algorithm, Keep, View, Work
from headway.core.checks import FAULTS
from headway.core.context import Context
from headway.core.events import (
    CheckedOut,
    Event,
    Lost,
    Noted,
    Registered,
    Submitted,
    Ticked,
    Waited,
    from_record,
    to_record,
)
from headway.core.gate import Asynchronous, Bulk, CancelStale, Gate, StaleSynchronous, Watching
from headway.core.inbox import Inbox
from headway.core.jobs import Job
from headway.core.layout import Buffers, Entry, ParameterLayout
from headway.core.recording import Recording
from headway.core.replay import replay
from headway.core.rounds import OncePerRound
from headway.core.scheduler import (
    FirstCome,
    LeastRecentlyUsed,
    Observing,
    RandomOrder,
    RoundRobin,
    Scheduler,
)
from headway.core.server import Server
from headway.core.snapshots import Memory, SnapshotRing
from headway.core.table import WorkerTable
from headway.core.transform import (
    ClientTransform,
    Dropped,
    Held,
    Needs,
    Outcome,
    Pass,
    PayloadKind,
    ServerStep,
    Ticking,
    Transform,
)
from headway.core.update import (
    Cancel,
    Checkout,
    Contributions,
    Effect,
    Receipt,
    Reply,
    Timer,
    Update,
    Wait,
    Wake,
    WorkOrder,
)

__all__ = [
    "FAULTS",
    "KEEP",
    "Algorithm",
    "Asynchronous",
    "Buffers",
    "Bulk",
    "Cancel",
    "CancelStale",
    "CheckedOut",
    "Checkout",
    "ClientTransform",
    "Context",
    "Contributions",
    "Dropped",
    "Effect",
    "Entry",
    "Event",
    "FirstCome",
    "Gate",
    "Held",
    "Inbox",
    "Job",
    "Keep",
    "LeastRecentlyUsed",
    "Lost",
    "Memory",
    "Needs",
    "Noted",
    "Observing",
    "OncePerRound",
    "Outcome",
    "ParameterLayout",
    "Pass",
    "PayloadKind",
    "RandomOrder",
    "Receipt",
    "Recording",
    "Registered",
    "Reply",
    "RoundRobin",
    "Scheduler",
    "Server",
    "ServerStep",
    "SnapshotRing",
    "StaleSynchronous",
    "Submitted",
    "Ticked",
    "Ticking",
    "Timer",
    "Transform",
    "Update",
    "View",
    "Wait",
    "Waited",
    "Wake",
    "Watching",
    "Work",
    "WorkOrder",
    "WorkerTable",
    "errors",
    "from_record",
    "replay",
    "to_record",
]
