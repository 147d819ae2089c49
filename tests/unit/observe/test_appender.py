"""Files that grow by whole records: whatever the disk says, no half ones."""

from __future__ import annotations

import errno
import io
import os
import resource

import pytest

from headway.core import Waited
from headway.core.errors import RunFolderError
from headway.observe import EventLog
from headway.observe.appender import Appender

RECORD = b"record %02d," % 7


@pytest.fixture(params=[0, 30, 1 << 20], ids=["none", "few", "many"])
def appender(request, tmp_path):
    with Appender(tmp_path / "file", buffer_bytes=request.param) as made:
        yield made


def test_what_is_put_is_there_after_a_flush(appender):
    for _ in range(5):
        appender.put(RECORD[:4], memoryview(RECORD)[4:])
    appender.put()
    assert appender.num_bytes == 5 * len(RECORD)
    appender.flush()
    assert appender.path.read_bytes() == 5 * RECORD
    assert appender.mark() == 5 * len(RECORD)


def test_it_goes_on_with_a_file_that_is_there(tmp_path):
    for mode, count in (("ab", 1), ("ab", 2), ("r+b", 3), ("wb", 1)):
        with Appender(tmp_path / "file", mode) as appender:
            appender.put(RECORD)
        assert (tmp_path / "file").read_bytes() == count * RECORD


def put_until_it_fails(appender):
    """How many records were taken, and the error that ended it."""
    taken = 0
    try:
        for _ in range(10):
            appender.put(RECORD)
            taken += 1
        appender.flush()
    except RunFolderError as error:
        return taken, error
    return taken, None


def test_a_full_disk_leaves_whole_records_and_heals(appender):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for three records and a half: the system writes the half.
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * len(RECORD) + 5, hard))
    try:
        taken, error = put_until_it_fails(appender)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write file" in str(error)
    assert appender.path.stat().st_size % len(RECORD) == 0
    appender.put(RECORD)
    appender.flush()
    # Nothing that was taken is missing, and nothing that was refused is there.
    assert appender.path.read_bytes() == (taken + 1) * RECORD


def test_a_record_is_not_half_held(tmp_path):
    with Appender(tmp_path / "file") as appender:
        appender.put(RECORD)
        # Its first block is held already when its second fails.
        with pytest.raises(TypeError):
            appender.put(RECORD, "no bytes")
        appender.put(RECORD)
    assert (tmp_path / "file").read_bytes() == 2 * RECORD


def test_what_cannot_even_be_cut_back_is_written_over(tmp_path, monkeypatch):
    appender = Appender(tmp_path / "file", "wb", buffer_bytes=0)
    appender.put(RECORD)
    real = appender._file

    class Failing(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[:4])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def truncate(self, size=None):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(appender, "_file", Failing(os.dup(real.fileno()), "r+b"))
    with pytest.raises(RunFolderError):
        appender.put(b"something else")
    appender._file.close()
    monkeypatch.setattr(appender, "_file", real)
    appender.put(RECORD)
    appender.close()
    assert (tmp_path / "file").read_bytes() == 2 * RECORD


def test_a_full_disk_costs_an_event_log_nothing_that_it_took(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = EventLog(tmp_path / "events.jsonl")
    log.append([Waited(1.0, "w", "first")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(RunFolderError, match="cannot write events"):
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append([Waited(2.0, "w", "second")])
    log.close()
    assert log.path.read_text().count('"event":"waited"') == 2
    assert len(log.path.read_text().splitlines()) == 2
