from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from headway.core import Buffers, ParameterLayout
from headway.runtime.chunks import INLINE_BYTES, Rooms, as_chunk, check_vectors, chunk_data, inline
from headway.runtime.rooms import CHUNK_BYTES, Filler, Room, Sizes, pieces
from headway.runtime.wire import ToServer, ToWorker, Vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 3, 7, 64, 1 << 20])
def test_pieces_fill_a_room_of_any_dtype(dtype, size):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).to(dtype)
    layout = ParameterLayout.of(model)
    sizes = Sizes(layout)
    room = sizes.room()
    vector = torch.arange(layout.num_params).to(dtype)
    buffers = Buffers(torch.arange(8).to(dtype), torch.tensor([2**40 + 1]))
    filler = Filler(room, vector.numel(), buffers=True)
    assert filler.missing == sizes.num_bytes(vector.numel(), buffers=True)
    for piece in pieces(vector, buffers, size):
        filler.feed(piece)
    assert filler.missing == 0
    assert torch.equal(room.vector, vector)
    assert torch.equal(room.buffers.floating, buffers.floating)
    assert torch.equal(room.buffers.integer, buffers.integer)


def test_a_filler_takes_no_byte_too_many():
    filler = Filler(Room(torch.zeros(2), None), 1, buffers=False)
    with pytest.raises(ValueError, match="5 bytes where 4 were missing"):
        filler.feed(memoryview(b"12345"))


def test_parts_of_a_room_lie_apart_and_aligned():
    layout = ParameterLayout.of(nn.BatchNorm1d(3).double())
    sizes = Sizes(layout)
    room = sizes.room()
    starts = [t.data_ptr() for t in (room.vector, room.buffers.floating, room.buffers.integer)]
    assert [start - starts[0] for start in starts] == [0, 64, 128]
    assert sizes.segment_bytes == 192


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, CHUNK_BYTES])
@pytest.mark.parametrize("kind", [ToServer, ToWorker])
def test_a_chunk_is_what_protobuf_says_it_is(kind, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    made = as_chunk(memoryview(data))
    assert kind.FromString(made).chunk.data == data
    message = kind()
    message.chunk.data = data
    if size:
        assert message.SerializeToString() == made
    assert bytes(chunk_data(made)) == data


def test_other_messages_are_no_chunks():
    assert chunk_data(b"") is None
    assert chunk_data(ToServer.FromString(b"\x12\x00").SerializeToString()) is None


def test_what_fits_travels_inline():
    vectors = Vectors()
    assert list(inline(vectors, torch.zeros(INLINE_BYTES // 4), None)) == []
    assert len(vectors.inline) == INLINE_BYTES
    vectors = Vectors()
    rest = list(inline(vectors, torch.zeros(INLINE_BYTES // 4 + 1), None))
    assert sum(map(len, rest)) == INLINE_BYTES + 4
    assert not vectors.inline


def test_what_fits_the_model_passes():
    sizes = Sizes(ParameterLayout.flat(3))
    check_vectors(Vectors(num_values=3), sizes)
    check_vectors(Vectors(num_values=2, inline=bytes(8)), sizes)
    check_vectors(Vectors(), sizes)


def test_rooms_are_used_again_and_only_a_few_are_kept():
    rooms = Rooms(Sizes(ParameterLayout.flat(3)), keep=2)
    taken = [rooms.take() for _ in range(5)]
    assert (rooms.num_out, rooms.num_made) == (5, 5)
    for room in taken:
        rooms.give(room)
    again = [rooms.take() for _ in range(3)]
    assert (rooms.num_out, rooms.num_made) == (3, 6)
    assert sum(any(room is old for old in taken) for room in again) == 2


def test_rooms_are_for_any_thread():
    rooms = Rooms(Sizes(ParameterLayout.flat(3)), keep=2)

    def use():
        for _ in range(200):
            rooms.give(rooms.take())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rooms.num_out == 0
