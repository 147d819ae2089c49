"""How the two sides of a link put vectors into memory that they share, and find them there."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from headway.core import Buffers, ParameterLayout
from headway.core.errors import ProtocolError
from headway.runtime.rooms import Room, Sizes
from headway.runtime.segments import Mapping, Segment, Segments
from headway.runtime.wire import Vectors, Welcome

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ServerShare", "WorkerShare"]


@final
class ServerShare:
    """What a server shares with one worker.

    Args:
        segments: The server's.
        layout: Of the model.
    """

    def __init__(self, segments: Segments, layout: ParameterLayout) -> None:
        self._segments = segments
        self._sizes = Sizes(layout)
        self._told: set[int] = set()
        self._pushes: Segment | None = None
        self._pushed: Room | None = None
        self._copies: dict[int, Segment] = {}
        self._spare: list[Segment] = []

    def offer(self, welcome: Welcome) -> None:
        """Make the segment for the worker's pushes, and name it in the welcome.

        Args:
            welcome: Completed here.

        Raises:
            HeadwayError: There is no room for it.
        """
        segment = self._pushes = self._segments.create(self._sizes.segment_bytes)
        self._pushed = self._sizes.room_in(segment.memory)
        place = welcome.pushes
        place.segment, place.path = segment.index, str(segment.path)
        place.num_bytes = len(segment.memory)

    def put(
        self, vectors: Vectors, vector: Tensor | None, buffers: Buffers | None, job: int = 0
    ) -> None:
        """Say where a vector lies; one that lies elsewhere is copied first.

        Args:
            vectors: Completed here.
            vector: What to send.
            buffers: The buffers with it.
            job: Which job's model it is; 0: of none. Two jobs' copies lie apart.

        Raises:
            HeadwayError: There is no room for the copy; nothing was said.
        """
        segment = None
        if vector is not None:
            segment = self._segments.holding(vector) or self._copy(vector, buffers, job)
        vectors.num_values = 0 if vector is None else vector.numel()
        vectors.buffers = buffers is not None
        if segment is None:
            return
        vectors.place.segment = segment.index
        if segment.index not in self._told:
            self._told.add(segment.index)
            vectors.place.path = str(segment.path)
            vectors.place.num_bytes = len(segment.memory)

    def ended(self, job: int) -> None:
        """A job's model is no longer needed. For any thread.

        Args:
            job: Its id.
        """
        segment = self._copies.pop(job, None)
        if segment is not None:
            self._spare.append(segment)

    def take(self, vectors: Vectors) -> tuple[Tensor | None, Buffers | None]:
        """What the worker has put into its segment.

        Args:
            vectors: What it said.

        Raises:
            ProtocolError: It lies elsewhere, or is larger than the model.
        """
        room, segment = self._pushed, self._pushes
        if room is None or segment is None or vectors.place.segment != segment.index:
            raise ProtocolError(
                "a vector lies where none may", got=f"segment {vectors.place.segment}"
            )
        if vectors.num_values > self._sizes.num_params:
            raise ProtocolError(
                "a vector is larger than the model",
                got=f"{vectors.num_values} values",
                expected=f"at most {self._sizes.num_params}",
            )
        return room.vector[: vectors.num_values], room.buffers if vectors.buffers else None

    def close(self) -> None:
        """Give the worker's segments back."""
        if self._pushes is not None:
            self._segments.remove(self._pushes)
        for segment in (*self._copies.values(), *self._spare):
            self._segments.remove(segment)
        self._copies, self._spare = {}, []
        self._pushes = self._pushed = None

    def _copy(self, vector: Tensor, buffers: Buffers | None, job: int) -> Segment:
        segment = self._copies.get(job)
        if segment is None:
            spare = self._spare
            segment = spare.pop() if spare else self._segments.create(self._sizes.segment_bytes)
            self._copies[job] = segment
        _fill(self._sizes.room_in(segment.memory), vector, buffers)
        return segment


@final
class WorkerShare:
    """What a worker shares with its server.

    Args:
        layout: Of the model.
        welcome: The server's, with an offer in it.

    Raises:
        OSError: The offered segment cannot be opened here.
    """

    def __init__(self, layout: ParameterLayout, welcome: Welcome) -> None:
        self._mapping = Mapping(layout)
        place = welcome.pushes
        self._index = place.segment
        self._room = self._mapping.open(place.segment, place.path, place.num_bytes, writable=True)

    @property
    def vector(self) -> Tensor:
        """Where the vector of a push lies."""
        return self._room.vector

    def put(self, vectors: Vectors, vector: Tensor, buffers: Buffers | None) -> None:
        """Copy a vector to where the server reads it.

        Args:
            vectors: Completed here.
            vector: What to send. One that lies there already is not copied.
            buffers: The buffers with it.
        """
        _fill(self._room, vector, buffers)
        vectors.num_values, vectors.buffers = vector.numel(), buffers is not None
        vectors.place.segment = self._index

    def take(self, vectors: Vectors) -> tuple[Tensor | None, Buffers | None]:
        """What the server has put somewhere.

        Args:
            vectors: What it said.

        Raises:
            OSError: The segment cannot be opened here.
        """
        if not vectors.num_values:
            return None, None
        place = vectors.place
        room = self._mapping.open(place.segment, place.path, place.num_bytes)
        return room.vector[: vectors.num_values], room.buffers if vectors.buffers else None


def _fill(room: Room, vector: Tensor, buffers: Buffers | None) -> None:
    if vector.data_ptr() != room.vector.data_ptr():
        room.vector[: vector.numel()].copy_(vector)
    if buffers is not None and room.buffers is not None:
        room.buffers.floating.copy_(buffers.floating)
        room.buffers.integer.copy_(buffers.integer)
