"""How each end of a network link writes and reads vectors, as they are or compressed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final, Literal, final

from headway.core.errors import ProtocolError
from headway.runtime.chunks import check_vectors, fill, inline
from headway.runtime.compression import KINDS
from headway.runtime.compression.message import DTYPES
from headway.runtime.encoded import (
    CODEC,
    DIFFERENCE,
    SHARED,
    Meeting,
    Reading,
    Traffic,
    Writing,
    as_text,
    check_encoded,
    enclose,
    read_codec,
    receive_encoded,
)
from headway.runtime.parcel import vectors_of

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Buffers
    from headway.runtime.compression import Codec
    from headway.runtime.narrow import Encoded
    from headway.runtime.rooms import Room, Sizes
    from headway.runtime.wire import Join, ToServer, ToWorker, Vectors, Welcome

__all__ = ["Offer", "ServerVectors", "WorkerVectors"]

_WORKERS: Final = 8
_BYTES: Final = 256 << 20


@final
class Offer:
    """What a server reads, and who gets models as differences. For any thread.

    A worker that gets differences takes two copies of the model. So many get them as fit into
    256 MiB, and eight of a larger model; the others get whole models.

    Args:
        sizes: Of the model.
        kinds: The kinds of codecs that are read; empty: none.
        pulls: The codec of differences, ``"exact"``, or ``None``: nobody gets them.

    Attributes:
        kinds: Those of the kinds that go with the model's dtype.
        told: What a welcome says of differences.
        name: Likewise, for people.
    """

    def __init__(
        self, sizes: Sizes, kinds: Collection[str], pulls: Codec | Literal["exact"] | None
    ) -> None:
        known = sizes.dtype in DTYPES and sizes.num_params > 0
        self.sizes = sizes
        self.kinds = tuple(kind for kind in KINDS if known and kind in kinds)
        self._codec = None if pulls is None or isinstance(pulls, str) else pulls
        self.told = as_text(self._codec) if self.kinds and pulls is not None else ""
        self.name = "exact" if self._codec is None else repr(self._codec)
        copies_bytes = 2 * sizes.num_params * sizes.dtype.itemsize
        self._left = max(_WORKERS, _BYTES // max(1, copies_bytes))
        self._lock = threading.Lock()

    def take(self) -> Writing | None:
        """What writes differences for one more worker; ``None``: this one gets none."""
        with self._lock:
            if not self.told or not self._left:
                return None
            self._left -= 1
        return Writing(self.sizes, self._codec)

    def give(self) -> None:
        """A worker that had them has gone."""
        with self._lock:
            self._left += 1


@final
class ServerVectors:
    """The server's end, for one worker.

    Args:
        offer: The server's.

    Attributes:
        traffic: What is counted.
    """

    def __init__(self, offer: Offer) -> None:
        self.traffic = Traffic()
        self._offer = offer
        self._reads_differences = False
        self._codec: Codec | None = None
        self._writing: Writing | None = None

    def joins(self, join: Join) -> None:
        """A worker wants to be let in.

        Args:
            join: What it said.
        """
        self._reads_differences = join.differences

    def welcome(self, welcome: Welcome) -> None:
        """Say what is offered.

        Args:
            welcome: Completed here.
        """
        welcome.encodings.extend(self._offer.kinds)
        if self._reads_differences:
            welcome.pulls = self._offer.told

    def shares(self) -> None:
        """Vectors lie in memory that both share: nothing is compressed."""
        self.traffic.encoding = self.traffic.pulls = SHARED

    def check(self, vectors: Vectors) -> None:
        """Refuse what cannot be an update, before there is memory for it.

        Args:
            vectors: What the worker says.

        Raises:
            ProtocolError: It does not fit, or is in no encoding that was offered.
        """
        sizes = self._offer.sizes
        if not vectors.encoding:
            check_vectors(vectors, sizes)
            return
        if vectors.encoding != CODEC:
            raise ProtocolError("a vector in an unknown encoding", got=vectors.encoding)
        if vectors.codec:
            self._codec = read_codec(vectors.codec, self._offer.kinds)
            self.traffic.encoding = repr(self._codec)
        if self._codec is None:
            raise ProtocolError("an encoded vector, and nobody has said how")
        # The codec computes with a number that a stranger has said.
        num_values = min(vectors.num_values, sizes.num_params)
        check_encoded(vectors, self._codec.max_bytes(num_values, sizes.dtype), sizes)

    def fill(
        self, room: Room, vectors: Vectors, hear: Callable[[], bytes]
    ) -> tuple[Tensor | None, Buffers | None]:
        """Receive an update.

        Args:
            room: Where to.
            vectors: What the worker said, checked.
            hear: Waits for the next message.

        Raises:
            ProtocolError: Something else came.
        """
        vector: Tensor | None
        if self._codec is None or not vectors.encoding:
            vector, buffers = fill(room, vectors, hear)
        else:
            message, buffers = receive_encoded(room, vectors, hear)
            vector = room.vector[: vectors.num_values]
            self._codec.decode_into(message, vector)
        self.traffic.up_raw_bytes += self._offer.sizes.num_bytes(
            vectors.num_values, buffers=vectors.buffers
        )
        return vector, buffers

    def put(
        self, header: ToWorker, vector: Tensor, buffers: Buffers | None, limit: int
    ) -> Iterator[memoryview]:
        """Say how a vector travels to the worker.

        Args:
            header: Completed here.
            vector: Contiguous, on the CPU.
            buffers: Likewise.
            limit: Up to how many bytes it goes within the message.

        Returns:
            What follows in chunks.
        """
        vectors = vectors_of(header)
        self.traffic.down_raw_bytes += self._offer.sizes.num_bytes(
            vector.numel(), buffers=buffers is not None
        )
        writing = self._differences(header, vector)
        if writing is None:
            return inline(vectors, vector, buffers, limit)
        vectors.encoding = DIFFERENCE
        return enclose(vectors, vector.numel(), writing.write(vector), buffers, limit)

    def close(self) -> None:
        """The worker has gone."""
        if self._writing is not None:
            self._writing = None
            self._offer.give()

    def _differences(self, header: ToWorker, vector: Tensor) -> Writing | None:
        if not header.HasField("job") or not self._reads_differences or self._codec is None:
            return None
        if self._writing is None:
            self._writing = self._offer.take()
            if self._writing is None:
                # Else it would ask again with every model.
                self._reads_differences = False
                return None
            self.traffic.pulls = f"differences, {self._offer.name}"
        return self._writing if self._writing.fits(vector) else None


@final
class WorkerVectors:
    """The worker's end.

    Attributes:
        traffic: What is counted and measured.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._sizes: Sizes | None = None
        self._codec: Codec | None = None
        self._differences: Reading | None = None
        self._meeting = Meeting()

    def said(self, header: ToServer) -> None:
        """The worker says something.

        Args:
            header: What.
        """
        self._meeting.said(header)

    def attach(self, welcome: Welcome, sizes: Sizes) -> None:
        """The server lets the worker in.

        Args:
            welcome: What it said.
            sizes: Of its model.

        Raises:
            ProtocolError: Its word cannot be read.
        """
        self._meeting.welcomed()
        self._sizes = sizes
        self._differences = Reading(sizes, welcome.pulls)

    def shares(self) -> None:
        """Vectors lie in memory that both share: nothing is compressed."""
        self.traffic.encoding = self.traffic.pulls = SHARED

    def waits(self) -> None:
        """The server lets the worker wait: the first model measures nothing."""
        self._meeting.told_to_wait()

    def put(
        self,
        vectors: Vectors,
        vector: Tensor,
        buffers: Buffers | None,
        encoded: Encoded | None,
        limit: int,
    ) -> Iterator[memoryview]:
        """Say how an update travels.

        Args:
            vectors: Completed here.
            vector: Contiguous, on the CPU.
            buffers: Likewise.
            encoded: What is sent in the vector's place; ``None``: itself.
            limit: Up to how many bytes it goes within the message.

        Returns:
            What follows in chunks.
        """
        assert self._sizes is not None, "the server has not said what its model is"
        raw_bytes = self._sizes.num_bytes(vector.numel(), buffers=buffers is not None)
        self.traffic.up_raw_bytes += raw_bytes
        if encoded is None:
            return inline(vectors, vector, buffers, limit)
        vectors.encoding = CODEC
        if encoded.codec != self._codec:
            self._codec = encoded.codec
            self.traffic.encoding = repr(encoded.codec)
            vectors.codec = as_text(encoded.codec)
        return enclose(vectors, vector.numel(), encoded.message, buffers, limit)

    def check(self, vectors: Vectors) -> None:
        """Refuse what cannot be a model, before there is memory for it.

        Args:
            vectors: What the server says.

        Raises:
            ProtocolError: It does not fit.
        """
        assert self._sizes is not None, "the server has not said what its model is"
        if not vectors.encoding:
            check_vectors(vectors, self._sizes)
        elif vectors.encoding == DIFFERENCE and self._differences is not None:
            self._differences.check(vectors)
        else:
            raise ProtocolError("a vector in an unknown encoding", got=vectors.encoding)

    def fill(
        self, room: Room, vectors: Vectors, hear: Callable[[], bytes], header_bytes: int
    ) -> tuple[Tensor | None, Buffers | None]:
        """Receive a model or an answer.

        Args:
            room: Where to.
            vectors: What the server said, checked.
            hear: Waits for the next message.
            header_bytes: Of the message that it said it in.

        Raises:
            ProtocolError: Something else came.
        """
        assert self._sizes is not None, "the server has not said what its model is"
        traffic = self.traffic
        began_s, before = time.perf_counter(), traffic.down_bytes
        vector: Tensor | None
        if vectors.encoding:
            assert self._differences is not None, "it was checked"
            message, buffers = receive_encoded(room, vectors, hear)
            vector = room.vector[: vectors.num_values]
            self._differences.read(message, vector)
            traffic.pulls = "differences"
        else:
            vector, buffers = fill(room, vectors, hear)
        traffic.down_raw_bytes += self._sizes.num_bytes(vectors.num_values, buffers=vectors.buffers)
        if not vectors.inline:
            traffic.measure(traffic.down_bytes - before, time.perf_counter() - began_s)
        elif (waited_s := self._meeting.travelled_s()) is not None:
            traffic.measure(header_bytes, waited_s)
        return vector, buffers
