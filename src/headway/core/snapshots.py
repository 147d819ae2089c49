"""The snapshot ring: the vectors that jobs in flight started from, each kept once.

A slot lives while a job that was given it is in flight; the newest one is kept for the next
checkout. So at most (jobs in flight + 1) slots are live, and slots are reused, not freed.
"""

from __future__ import annotations

from typing import Final, Protocol, final

import torch
from torch import Tensor

from headway.core.layout import Buffers

__all__ = ["ORDINARY", "Memory", "Slot", "SnapshotRing"]


class Memory(Protocol):
    """Where the server's parameters and snapshots lie.

    Attributes:
        consistent: Whether a job is given a copy that stays as it is. Otherwise it is given the
            server's own vector, which changes under its eyes.
    """

    consistent: bool

    def make(self, parameters: Tensor, buffers: Buffers | None) -> tuple[Tensor, Buffers | None]:
        """Make room for one model: tensors of the same sizes, whose values do not matter.

        Args:
            parameters: A pattern for the flat vector.
            buffers: A pattern for the buffers, where the model has any.
        """
        ...


@final
class _Ordinary:
    """Memory of this process."""

    consistent = True

    def make(self, parameters: Tensor, buffers: Buffers | None) -> tuple[Tensor, Buffers | None]:
        return torch.empty_like(parameters), _empty_like(buffers)


ORDINARY: Final[Memory] = _Ordinary()


class Slot:
    """One vector, the version it shows, and how many jobs in flight were given it.

    ``shown`` is the part of the vector that is in use: all of it, unless a view sends less.
    """

    __slots__ = ("buffers", "shared", "shown", "users", "vector", "version")

    def __init__(self, vector: Tensor, buffers: Buffers | None) -> None:
        self.vector = self.shown = vector
        self.buffers = buffers
        self.version = -1
        self.users = 0
        self.shared = False


class SnapshotRing:
    """Reference-counted snapshots of the server's parameters.

    Args:
        like: A tensor with the size, dtype and device of the snapshots.
        buffers: The server's buffers, where it has any.
        memory: Where the snapshots lie.

    Example:
        >>> parameters = torch.zeros(3)
        >>> ring = SnapshotRing(parameters)
        >>> a, b = ring.current(0, parameters, None), ring.current(0, parameters, None)
        >>> a is b, ring.num_live
        (True, 1)
        >>> ring.release(a); ring.release(b)
        >>> c = ring.current(1, parameters.add_(1.0), None)
        >>> c is a, ring.num_allocated
        (True, 1)
    """

    def __init__(
        self, like: Tensor, buffers: Buffers | None = None, memory: Memory = ORDINARY
    ) -> None:
        self._memory = memory
        self._like = like
        self._like_buffers = buffers
        self._free: list[Slot] = []
        self._newest: Slot | None = None
        self.num_allocated = 0

    @property
    def num_live(self) -> int:
        """Slots that hold a snapshot: those of jobs in flight, and the newest."""
        return self.num_allocated - len(self._free)

    def current(self, version: int, parameters: Tensor, buffers: Buffers | None) -> Slot:
        """The shared snapshot of the current version, copied when it is first asked for."""
        slot = self._newest
        if slot is None or slot.version != version:
            if slot is not None:
                slot.shared = False
                if slot.users == 0:
                    self._free.append(slot)
            slot = self._newest = self._take(version, parameters, buffers)
            slot.shared = True
        slot.users += 1
        return slot

    def own(self, version: int, vector: Tensor, buffers: Buffers | None) -> Slot:
        """A snapshot for one job alone: a view that is not the parameters themselves."""
        slot = self._take(version, vector, buffers)
        slot.users = 1
        return slot

    def release(self, slot: Slot) -> None:
        """A job that was given this slot has ended."""
        slot.users -= 1
        if slot.users == 0 and not slot.shared:
            self._free.append(slot)

    def restore(self, version: int, vector: Tensor, buffers: Buffers | None, users: int) -> Slot:
        """Bring back a slot of a saved state."""
        slot = self._take(version, vector, buffers)
        slot.users = users
        return slot

    def adopt(self, slot: Slot | None) -> None:
        """Make a restored slot the newest, as it was when the state was saved."""
        self._newest = slot
        if slot is not None:
            slot.shared = True

    @property
    def newest(self) -> Slot | None:
        """The slot that the next checkout of the same version would share."""
        return self._newest

    def _take(self, version: int, vector: Tensor, buffers: Buffers | None) -> Slot:
        if self._free:
            slot = self._free.pop()
        else:
            slot = Slot(*self._room())
            self.num_allocated += 1
        slot.version = version
        slot.shown = slot.vector
        if vector.numel() != slot.vector.numel():
            slot.shown = slot.vector[: vector.numel()]
        if slot.shown.data_ptr() != vector.data_ptr():
            slot.shown.copy_(vector)
        if buffers is not None and slot.buffers is not None and slot.buffers is not buffers:
            slot.buffers.floating.copy_(buffers.floating)
            slot.buffers.integer.copy_(buffers.integer)
        return slot

    def _room(self) -> tuple[Tensor, Buffers | None]:
        if self._memory.consistent:
            return self._memory.make(self._like, self._like_buffers)
        return self._like, self._like_buffers


def _empty_like(buffers: Buffers | None) -> Buffers | None:
    if buffers is None:
        return None
    return Buffers(torch.empty_like(buffers.floating), torch.empty_like(buffers.integer))
