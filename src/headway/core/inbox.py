"""The inbox: updates that arrived while the server was busy, and the order they are taken in."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Literal

from headway.core.errors import UnknownNameError
from headway.core.update import Update

__all__ = ["Inbox", "InboxOrder"]

InboxOrder = Literal["arrival", "freshest", "priority"]


class Inbox:
    """A queue of updates with a total order.

    Args:
        order: ``"arrival"``: first in, first out. ``"freshest"``: the highest base version first,
            equal ones in arrival order. ``"priority"``: the highest ``priority(update)`` first,
            equal ones in arrival order.
        priority: For ``"priority"``; by default the update's weight.

    Example:
        >>> import torch
        >>> inbox = Inbox(order="freshest")
        >>> for version in (3, 5, 4):
        ...     inbox.put(Update(torch.zeros(1), version, "worker-0", sequence=version))
        >>> [inbox.take().base_version for _ in range(len(inbox))]
        [5, 4, 3]
    """

    def __init__(
        self,
        *,
        order: InboxOrder = "arrival",
        priority: Callable[[Update], float] | None = None,
    ) -> None:
        keys: dict[str, Callable[[Update], float]] = {
            "arrival": lambda update: 0.0,
            "freshest": lambda update: float(update.base_version),
            "priority": priority or (lambda update: update.weight),
        }
        if order not in keys:
            raise UnknownNameError.of("inbox order", order, keys)
        self.order: InboxOrder = order
        self._key = keys[order]
        self._heap: list[tuple[float, int, Update]] = []
        self._arrivals = 0

    def put(self, update: Update) -> None:
        """Add an update that has just arrived."""
        heapq.heappush(self._heap, (-self._key(update), self._arrivals, update))
        self._arrivals += 1

    def take(self) -> Update:
        """Take the next update out.

        Raises:
            IndexError: The inbox is empty.
        """
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:
        return len(self._heap)
