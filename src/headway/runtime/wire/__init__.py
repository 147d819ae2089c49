"""The messages of the protocol, made from ``headway.proto`` by ``python -m scripts.wire``."""

from __future__ import annotations

from typing import Final

from headway.runtime.wire.headway_pb2 import (
    Ask,
    Beat,
    Cancel,
    Chunk,
    Job,
    Join,
    Leave,
    Order,
    Place,
    Push,
    Receipt,
    Refused,
    StatusReply,
    StatusRequest,
    Stop,
    ToServer,
    ToWorker,
    Vectors,
    Wait,
    Welcome,
)

__all__ = [
    "PROTOCOL",
    "Ask",
    "Beat",
    "Cancel",
    "Chunk",
    "Job",
    "Join",
    "Leave",
    "Order",
    "Place",
    "Push",
    "Receipt",
    "Refused",
    "StatusReply",
    "StatusRequest",
    "Stop",
    "ToServer",
    "ToWorker",
    "Vectors",
    "Wait",
    "Welcome",
]

PROTOCOL: Final = 1
"""Raised by a change that an older side could misread."""
