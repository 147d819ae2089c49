"""What a worker has handed in and has no receipt for."""

from __future__ import annotations

from typing import final

from torch import Tensor

from headway.runtime import wire
from headway.runtime.parcel import Parcel

__all__ = ["Pending"]


@final
class Pending:
    """Pushes without a receipt; where they are kept, they can be sent again.

    Args:
        keeps: Whether to keep their content: a copy, because a worker goes on with its memory.

    Memory: if it keeps, one model, which is used again for each push.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._parcels: dict[int, Parcel] = {}
        self._copies: dict[int, Tensor] = {}
        self._spare: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._parcels)

    @property
    def jobs(self) -> list[int]:
        """Their jobs, in the order in which they were handed in."""
        return list(self._parcels)

    def add(self, job: int, parcel: Parcel) -> None:
        """One is about to be sent.

        Args:
            job: Which.
            parcel: It. The link may write into its header.
        """
        if not self._keeps:
            self._parcels[job] = parcel
            return
        header, buffers = wire.ToServer(), parcel.buffers
        header.CopyFrom(parcel.header)
        # Whoever sends it again says anew what it asks for.
        header.push.again = False
        kept = parcel._replace(header=header, buffers=None if buffers is None else buffers.clone())
        # What is sent in its place is kept by who has made it.
        if parcel.vector is not None and parcel.encoded is None:
            self._copies[job] = self._copy(parcel.vector)
            kept = kept._replace(vector=self._copies[job])
        self._parcels[job] = kept

    def done(self, job: int) -> None:
        """It has its receipt.

        Args:
            job: Which; one that is not here changes nothing.
        """
        self._parcels.pop(job, None)
        copy = self._copies.pop(job, None)
        if copy is not None:
            self._spare = [copy]

    def again(self) -> list[Parcel]:
        """All of them, in order, to be sent again."""
        parcels = []
        for parcel in self._parcels.values():
            header = wire.ToServer()
            header.CopyFrom(parcel.header)
            parcels.append(parcel._replace(header=header))
        return parcels

    def _copy(self, vector: Tensor) -> Tensor:
        for spare in self._spare:
            if spare.shape == vector.shape and spare.dtype == vector.dtype:
                self._spare = []
                return spare.copy_(vector)
        return vector.detach().to("cpu", copy=True)
