"""A run folder whose disk is full: the server goes on, and what was acknowledged is saved."""

from __future__ import annotations

import errno
import logging

import pytest

import headway
from headway.core import Waited
from headway.core.errors import RunFolderError
from headway.observe import Point, RunFolder
from headway.observe.appender import Appender
from headway.training.record import Record
from tests.unit.training import server_kit as kit


@pytest.fixture
def disk(monkeypatch):
    """A disk for records that can be full."""

    class Disk:
        full = False

    write = Appender._write

    def refuse(self, *blocks):
        if Disk.full:
            raise OSError(errno.ENOSPC, "no space left")
        write(self, *blocks)

    monkeypatch.setattr(Appender, "_write", refuse)
    return Disk


def _waits(count):
    return [Waited(float(number), "w", "concurrency") for number in range(count)]


def _point(updates):
    return Point(updates, 1, 32, 800, 1.5, 0.1, {"train_loss": 0.5})


def _work(server, count):
    worker = kit.Raw(server)
    return [worker.work(metrics={"loss": 1.0}).receipt.status for _ in range(count)]


def test_a_full_folder_does_not_end_the_server_and_is_written_when_there_is_room(
    tmp_path, disk, caplog
):
    with kit.server(kit.line(), folder=tmp_path / "run") as server:
        disk.full = True
        assert _work(server, 205).count("applied") == 205
        server.status()
        assert "no space left" in server.status()["folder_error"]
        disk.full = False
        result = server.stop()
    read = headway.Result.load(tmp_path / "run")
    assert sum(type(event).__name__ == "Submitted" for event in read.events) == 205
    assert read.log_hash == result.log_hash
    assert any("no space left" in warning for warning in read.warnings)
    said = [line for line in caplog.messages if "the server goes on" in line]
    assert len(said) == 1


def test_what_waits_is_bounded_and_what_is_left_out_is_told(tmp_path, disk, monkeypatch):
    monkeypatch.setattr("headway.training.record._MOST", 5)
    now = [0.0]
    folder = RunFolder.create(tmp_path / "run")
    record = Record(folder, lambda: now[0])
    disk.full = True
    record.take(_waits(1), _point(100))
    assert record.problem is not None
    record.take(_waits(7))
    disk.full, now[0] = False, 2.0
    record.take((), _point(200))
    assert record.problem is None
    record.close()
    # The first was taken before a write failed, and the bound is of those that came after it.
    assert len(list(RunFolder.open(tmp_path / "run").events())) == 6
    assert [point.updates for point in folder.points()] == [100, 200]
    assert record.warnings[-1].startswith("2 events are not in the run folder")


def test_a_full_folder_is_asked_again_only_after_a_while(tmp_path, disk, caplog):
    now = [0.0]
    record = Record(RunFolder.create(tmp_path / "run"), lambda: now[0])
    disk.full = True
    record.take(_waits(1), _point(1))
    disk.full, now[0] = False, 0.5
    record.take(_waits(1))
    assert record.problem is not None
    now[0] = 1.0
    with caplog.at_level(logging.WARNING, "headway"):
        record.take(_waits(1))
    assert record.problem is None
    assert "can be written again" in caplog.text
    record.close()
    assert len(list(RunFolder.open(tmp_path / "run").events())) == 3


def test_the_last_checkpoint_is_written_though_the_folder_cannot_be(tmp_path, disk):
    with kit.server(
        kit.line(), folder=tmp_path / "run", checkpoint_dir=tmp_path / "kept"
    ) as server:
        disk.full = True
        _work(server, 50)
        result = server.stop()
    assert any("no space left" in warning for warning in result.warnings)
    with kit.server(kit.line(), checkpoint_dir=tmp_path / "kept") as again:
        assert again.version == 50


def test_the_last_checkpoint_is_written_though_an_error_has_ended_the_server(tmp_path):
    with kit.server(kit.line(), checkpoint_dir=tmp_path / "kept") as server:
        _work(server, 3)

        def fail(_):
            raise RuntimeError("broken")

        server._hub.settled = fail
        server._hub.loop.post(lambda: None)
        assert server._hub.join(kit.WAIT_S)
        with pytest.raises(RuntimeError, match="broken"):
            server.stop()
    with kit.server(kit.line(), checkpoint_dir=tmp_path / "kept") as again:
        assert again.version == 3


def test_a_checkpoint_that_failed_before_the_last_one_is_no_warning(tmp_path, monkeypatch):
    with kit.server(kit.line(), checkpoint_dir=tmp_path, checkpoint_frequency=1) as server:
        store = server._keeper._store
        save, failed = store.save, []

        def fail(number, tree):
            if failed:
                return save(number, tree)
            failed.append(number)
            raise OSError("the disk is full")

        monkeypatch.setattr(store, "save", fail)
        _work(server, 1)
        result = server.stop()
    assert failed == [1]
    assert result.warnings == []


# --- a folder that is in use


def test_a_server_that_goes_on_leaves_its_earlier_folder_as_it_is(tmp_path):
    places = {"folder": tmp_path / "run", "checkpoint_dir": tmp_path / "kept"}
    for updates in (2, 3):
        with kit.server(kit.line(), **places) as server:
            _work(server, updates)
    first, second = (headway.Result.load(tmp_path / name) for name in ("run", "run-2"))
    assert (first.versions, second.versions) == (2, 5)


def test_a_server_that_was_killed_leaves_a_result_with_real_times(tmp_path):
    with kit.server(kit.line(), folder=tmp_path / "run") as server:
        _work(server, 3)
        whole = server.stop()
    (tmp_path / "run" / "result.json").unlink()
    found = headway.Result.load(tmp_path / "run")
    assert found.stop_reason.startswith("unfinished")
    assert found.is_real
    # The log knows no later time.
    assert 0.0 < found.wall_time_s == found.virtual_time_s <= whole.wall_time_s
    assert "virtual" not in str(found)
    page = found.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "irtual time" not in page


def test_a_server_without_checkpoints_refuses_a_folder_that_is_in_use(tmp_path):
    with kit.server(kit.line(), folder=tmp_path / "run"):
        pass
    with pytest.raises(RunFolderError, match="not empty") as caught:
        kit.server(kit.line(), folder=tmp_path / "run").start()
    # A server has no resume=, and takes no folder that was made for it.
    assert "checkpoint_dir" in caught.value.help
    assert "resume" not in caught.value.help
    assert "overwrite" not in caught.value.help
