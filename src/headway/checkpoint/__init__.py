"""Durable state: one store, used by everything that must survive its process.

What belongs here: writing a plain tree of state so that it is whole or not there, recognising a
damaged one, and reading it back without executing anything. What does not: what the state means;
servers and simulations make their own trees.
"""

from __future__ import annotations

from headway.checkpoint.calls import Call
from headway.checkpoint.journal import Journal, LogCutWarning
from headway.checkpoint.recovery import LoggedServer, recover, save_checkpoint
from headway.checkpoint.store import Checkpoint, CheckpointDamagedWarning, CheckpointStore

__all__ = [
    "Call",
    "Checkpoint",
    "CheckpointDamagedWarning",
    "CheckpointStore",
    "Journal",
    "LogCutWarning",
    "LoggedServer",
    "recover",
    "save_checkpoint",
]
