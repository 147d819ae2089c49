from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headway.core import ParameterLayout
from headway.core.errors import HeadwayError, ProtocolError
from headway.runtime import segments as module
from headway.runtime.rooms import Sizes
from headway.runtime.segments import Mapping, Segments, SharedMemory, machine
from headway.runtime.sharing import ServerShare, WorkerShare
from headway.runtime.wire import Vectors, Welcome

LAYOUT = ParameterLayout.flat(5)
SIZE = Sizes(LAYOUT).segment_bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def segments(folder):
    made = Segments()
    yield made
    made.close()


def test_two_see_one_memory(segments):
    segment = segments.create(SIZE)
    room = Mapping(LAYOUT).open(segment.index, str(segment.path), SIZE, writable=True)
    room.vector.fill_(3.0)
    assert Sizes(LAYOUT).room_in(segment.memory).vector.tolist() == [3.0] * 5
    assert segments.holding(Sizes(LAYOUT).room_in(segment.memory).vector) is segment
    assert segments.holding(torch.zeros(5)) is None


def test_a_reader_does_not_write(segments):
    segment = segments.create(SIZE)
    room = Mapping(LAYOUT).open(segment.index, str(segment.path), SIZE)
    room.vector.fill_(3.0)
    assert not segment.memory.any()


def test_only_this_user_can_enter(segments):
    segment = segments.create(SIZE)
    assert segment.path.stat().st_mode & 0o777 == 0o600
    assert segment.path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_is_left_after_close(folder, segments):
    one, other = segments.create(SIZE), segments.create(SIZE)
    segments.remove(one)
    assert not one.path.exists()
    assert other.path.exists()
    segments.close()
    segments.close()
    assert list(folder.iterdir()) == []


def test_what_a_killed_server_left_is_removed_and_what_a_live_one_has_is_not(folder):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from headway.runtime import segments\n"
        "segments._folder = lambda: Path(sys.argv[1])\n"
        "made = segments.Segments(); made.create(64); os._exit(9)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert run.returncode == 9
    (orphan,) = folder.iterdir()
    live = Segments()
    kept = live.create(64)
    assert not orphan.exists()
    other = Segments()
    other.create(64)
    assert kept.path.exists()
    live.close()
    other.close()


@pytest.mark.parametrize("moment", ["before the lock", "while it locks", "before the lock file"])
def test_a_folder_that_another_server_removes_is_made_again(folder, monkeypatch, moment):
    made, locks = [], []
    honest_lock, honest_make = module._try_lock, module.tempfile.mkdtemp

    def try_lock(file):
        locks.append(file.name)
        if len(locks) == 1 and moment == "while it locks":
            # The other holds it now, and removes the folder next.
            return False
        if len(locks) == 1 and moment == "before the lock":
            module._remove_orphans()
        return honest_lock(file)

    def make(**options):
        path = honest_make(**options)
        made.append(Path(path))
        if moment == "before the lock file" and len(made) == 1:
            module.shutil.rmtree(path)
        return path

    monkeypatch.setattr(module, "_try_lock", try_lock)
    monkeypatch.setattr(module.tempfile, "mkdtemp", make)
    segments = Segments()
    segment = segments.create(64)
    assert len(made) == 2
    assert segment.path.parent == made[1]
    assert list(folder.iterdir()) == [made[1]]
    other = Segments()
    other.create(64)
    assert segment.path.exists()
    segments.close()
    other.close()


def test_a_file_system_without_locks_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(module, "_try_lock", lambda file: False)
    with pytest.raises(HeadwayError, match="cannot be locked"):
        Segments().create(64)
    assert list(folder.iterdir()) == []


def test_no_room_is_an_error_and_leaves_nothing(segments):
    segments.create(64)
    with pytest.raises(HeadwayError, match="no room for memory that processes share"):
        segments.create(1 << 60)
    assert len(list(segments._folder.iterdir())) == 2


def test_no_room_in_the_last_moment(segments, monkeypatch):
    def full(descriptor, num_bytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_reserve", full)
    with pytest.raises(HeadwayError, match="no room"):
        segments.create(64)


@pytest.mark.parametrize("said", [SIZE - 1, SIZE + 4096, 4])
def test_a_file_of_another_size_is_not_mapped(segments, said):
    segment = segments.create(SIZE)
    with pytest.raises(OSError, match="was said to have"):
        Mapping(LAYOUT).open(segment.index, str(segment.path), said)


def elsewhere(folder, kind, segment):
    """What is no segment, by a path of this kind."""
    inner = segment.path.parent
    paths = {
        "another file": folder / "file",
        "by a detour": inner / ".." / inner.name / "1",
        "above": inner / ".." / "file",
        "no number": inner / "lock",
        "a link": inner / "77",
        "a pipe": inner / "78",
        "a folder": inner / "79",
        "in a linked folder": folder / "headway-link" / "1",
        "in an open folder": folder / "headway-open" / "1",
        "a null": f"{inner}/1\0",
        "nothing": "",
    }
    (folder / "file").write_bytes(bytes(SIZE))
    (inner / "77").symlink_to(folder / "file")
    os.mkfifo(inner / "78")
    (inner / "79").mkdir()
    (folder / "headway-link").symlink_to(inner)
    (folder / "headway-open").mkdir(mode=0o755)
    (folder / "headway-open" / "1").write_bytes(bytes(SIZE))
    return str(paths[kind])


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        *("another file", "by a detour", "above", "no number", "a link", "a pipe", "a folder"),
        *("in a linked folder", "in an open folder", "a null", "nothing"),
    ],
)
def test_what_is_no_segment_is_not_opened(folder, segments, kind, writable):
    path = elsewhere(folder, kind, segments.create(SIZE))
    with pytest.raises(OSError, match=r"segment|others|symbolic|irectory"):
        Mapping(LAYOUT).open(5, path, SIZE, writable=writable)


def test_what_belongs_to_others_is_not_opened(segments, monkeypatch):
    segment = segments.create(SIZE)
    monkeypatch.setattr(os, "getuid", lambda: segment.path.stat().st_uid + 1)
    with pytest.raises(OSError, match="others"):
        Mapping(LAYOUT).open(segment.index, str(segment.path), SIZE)


def test_a_model_is_opened_to_be_read_only(segments, monkeypatch):
    segment = segments.create(SIZE)
    flags = []
    honest = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: flags.append(a[1]) or honest(*a, **k))
    Mapping(LAYOUT).open(segment.index, str(segment.path), SIZE)
    assert {flag & os.O_ACCMODE for flag in flags} == {os.O_RDONLY}


def test_a_machine_has_one_name():
    assert machine() == machine()
    assert len(machine()) == 32
    if Path("/dev/shm").exists():
        assert os.access("/dev/shm", os.W_OK)


def test_snapshots_lie_in_segments(segments):
    vector, buffers = SharedMemory(segments, LAYOUT).make(torch.zeros(5), None)
    assert buffers is None
    assert segments.holding(vector) is not None


def test_without_room_snapshots_lie_in_private_memory(segments, monkeypatch, caplog):
    monkeypatch.setattr(segments, "create", lambda size: full(segments, size))
    memory = SharedMemory(segments, LAYOUT)
    vectors = [memory.make(torch.zeros(5), None)[0] for _ in range(2)]
    assert [segments.holding(vector) for vector in vectors] == [None, None]
    assert "without shared memory" in caplog.text
    assert len(caplog.records) == 1
    with pytest.raises(HeadwayError, match="no room"):
        SharedMemory(segments, LAYOUT, strict=True).make(torch.zeros(5), None)


def full(segments, size):
    raise HeadwayError("there is no room for memory that processes share")


def test_a_vector_is_told_by_its_place(segments):
    welcome = Welcome()
    server = ServerShare(segments, LAYOUT)
    server.offer(welcome)
    worker = WorkerShare(LAYOUT, welcome)
    snapshot, _ = SharedMemory(segments, LAYOUT).make(torch.zeros(5), None)
    snapshot.copy_(torch.arange(5.0))
    told = Vectors()
    server.put(told, snapshot, None, job=1)
    taken, _ = worker.take(told)
    assert torch.equal(taken, snapshot)
    # A path is given once.
    again = Vectors()
    server.put(again, snapshot, None, job=2)
    assert not again.place.path
    back = Vectors()
    worker.put(back, torch.ones(3), None)
    got, _ = server.take(back)
    assert torch.equal(got, torch.ones(3))
    server.close()
    with pytest.raises(ProtocolError, match="lies where none may"):
        server.take(back)


def test_copies_are_made_apart_and_used_again(segments):
    server = ServerShare(segments, LAYOUT)
    places = []

    def put(job):
        told = Vectors()
        server.put(told, torch.full((5,), float(job)), None, job=job)
        places.append(told.place.segment)

    for job in (1, 2, 3):
        put(job)
    assert len(set(places)) == 3
    server.ended(2)
    put(4)
    assert places[3] == places[1]
    server.close()
    assert segments._by_index == {}


def test_more_than_the_model_is_no_update(segments):
    server = ServerShare(segments, LAYOUT)
    welcome = Welcome()
    server.offer(welcome)
    vectors = Vectors(num_values=6)
    vectors.place.segment = welcome.pushes.segment
    with pytest.raises(ProtocolError, match="larger than the model"):
        server.take(vectors)
