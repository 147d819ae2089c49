"""Fewer bytes on narrow links: codecs for updates, error feedback, and models as differences.

What belongs here: how a vector is written in fewer bytes and read from a stranger's, what a worker
keeps of what was left out, and which codec two parties choose. What does not: messages, links and
when anything is sent (the rest of :mod:`headway.runtime`). Both sides import this; it imports no
server.
"""

from __future__ import annotations

from headway.runtime.compression.dense import bf16, int8, none
from headway.runtime.compression.feedback import ErrorFeedback
from headway.runtime.compression.message import Codec
from headway.runtime.compression.negotiation import KINDS, Link, choose, from_description
from headway.runtime.compression.pulls import PullCoder, PullDecoder
from headway.runtime.compression.selection import topk
from headway.runtime.compression.simulated import CompressedPushes, compressed_pushes

__all__ = [
    "KINDS",
    "Codec",
    "CompressedPushes",
    "ErrorFeedback",
    "Link",
    "PullCoder",
    "PullDecoder",
    "bf16",
    "choose",
    "compressed_pushes",
    "from_description",
    "int8",
    "none",
    "topk",
]
