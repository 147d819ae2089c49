"""The real world: a server and workers that talk to each other, in processes and over the network.

What belongs here: the exchange between a server and its workers, the links that carry it, and what
starts worker processes. What does not: algorithms, which do not know that there is a link, and what
a user holds (:mod:`headway.training`). A worker imports no server: each side has modules of its own.
"""

from __future__ import annotations

__all__: list[str] = []
