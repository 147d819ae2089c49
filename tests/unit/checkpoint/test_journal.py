"""The durable log: what it acknowledges is there, and what it cannot keep it says."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from headway import core
from headway.checkpoint import (
    Call,
    CheckpointDamagedWarning,
    Journal,
    LogCutWarning,
    save_checkpoint,
)
from headway.core.errors import CheckpointError, ReplayMismatchError
from tests.core_kit import same
from tests.log_kit import House, Town, a_town, newest_segment, without_incarnation

TICK = Call("tick", {"now": 1.0, "closing": False})


def begun(folder: Path) -> Journal:
    journal = Journal(folder)
    list(journal.read(0))
    journal.begin()
    return journal


def train(house: House, updates: int) -> None:
    for number in range(updates):
        house.act("checkout", "w0", 1.0, False)
        house.act("submit", "w0", float(number), False)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "log").glob("log-*.hwlog"))


def test_the_file_is_what_its_documentation_says(tmp_path):
    journal = begun(tmp_path)
    payload = {"payload": torch.tensor([1.0, -2.5])}
    journal.append(Call("submit", {"now": 1.0}, payload), version=7)
    journal.close()
    data = (tmp_path / f"log-{1:020d}.hwlog").read_bytes()
    magic, form, salt, first, durable, crc = struct.unpack("<8sIIQQI", data[:36])
    assert (magic, form, first, durable) == (b"\x89HWLOG\r\n", 1, 1, 0)
    assert crc == zlib.crc32(data[:32])
    head = struct.unpack("<4sIQQQI", data[36:72])
    meta = b'{"door":"submit","version":7,"with":{"now":1.0},"tensors":[["payload","float32",2]]}'
    assert head == (b"HLOG", len(meta), 1, 0, 8, zlib.crc32(data[36:68], salt))
    assert data[72:-12] == meta
    assert struct.unpack("<ff", data[-12:-4]) == (1.0, -2.5)
    assert struct.unpack("<I", data[-4:]) == (zlib.crc32(data[36:-4], salt),)


def test_one_sync_serves_all_that_were_appended_before_it(tmp_path, monkeypatch):
    journal, synced = begun(tmp_path), []
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    for number in range(1, 11):
        assert journal.append(TICK, version=0) == number
    assert (journal.sequence, journal.durable) == (10, 0)
    assert journal.sync() == journal.durable == 10
    assert journal.sync() == 10
    assert len(synced) == 1
    journal.close()


def test_others_append_while_one_syncs(tmp_path, monkeypatch):
    journal = begun(tmp_path)
    inside, go_on = threading.Event(), threading.Event()

    def slow(handle):
        inside.set()
        assert go_on.wait(30)

    monkeypatch.setattr(os, "fdatasync", slow, raising=False)
    journal.append(TICK, version=0)
    thread = threading.Thread(target=journal.sync)
    thread.start()
    assert inside.wait(30)
    assert journal.append(TICK, version=0) == 2
    go_on.set()
    thread.join()
    # What came after the sync began is not told to be there.
    assert journal.durable == 1
    assert journal.sync() == 2
    journal.close()


def test_a_log_is_read_before_it_is_written_and_by_one_process(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(CheckpointError, match="read to its end"):
        journal.begin()
    with pytest.raises(CheckpointError, match="not open"):
        journal.append(TICK, version=0)
    journal.close()
    journal = begun(tmp_path)
    with pytest.raises(CheckpointError, match="another server uses this log"):
        list(Journal(tmp_path).read(0))
    journal.close()
    begun(tmp_path).close()


def test_segments_go_when_the_checkpoint_that_covers_them_is_there():
    with a_town() as town:
        house = town.house(keep_last=2)
        starts = []
        for _ in range(4):
            train(house, 3)
            write = save_checkpoint(house.store, house.journal, house.server)
            starts.append(house.journal.sequence)
            assert house.journal.bytes_since_checkpoint > 0
            assert house.journal.calls_since_checkpoint == 6
            # It is not there yet: everything that the one before it needs still is.
            oldest = house.store.numbers()[0]
            assert segments(house.folder)[0].name <= f"log-{oldest + 1:020d}.hwlog"
            write()
            assert house.journal.bytes_since_checkpoint == 0
            assert house.journal.calls_since_checkpoint == 0
            oldest = house.store.numbers()[0]
            assert segments(house.folder)[0].name == f"log-{oldest + 1:020d}.hwlog"
        assert house.store.numbers() == tuple(starts[-2:])


def test_a_damaged_checkpoint_costs_nothing_while_the_one_before_it_is_kept():
    with a_town() as town:
        house = town.house()
        for _ in range(3):
            train(house, 2)
            house.checkpoint()
        train(house, 1)
        newest = house.store.folder / f"checkpoint-{house.store.numbers()[-1]:012d}"
        (newest / "state.json").write_text("{}")
        with pytest.warns(CheckpointDamagedWarning):
            again = town.after_a_crash(house)
        assert same(
            without_incarnation(again.server.state_dict()),
            without_incarnation(house.server.state_dict()),
        )


def test_a_checkpoint_may_be_written_while_the_log_goes_on():
    with a_town() as town:
        house = town.house()
        train(house, 2)
        write = save_checkpoint(house.store, house.journal, house.server)
        train(house, 2)
        before = town.after_a_crash(house)
        write()
        after = town.after_a_crash(house)
        states = [without_incarnation(one.server.state_dict()) for one in (before, after, house)]
        assert same(states[0], states[2])
        assert same(states[1], states[2])


class TestDamage:
    """Of what was acknowledged nothing is lost without a word."""

    def house(self, town: Any) -> House:
        house = town.house()
        for _ in range(4):
            train(house, 1)
            house.journal.sync()
        return house

    def flip(self, house: House, sequence: int) -> None:
        path = newest_segment(house.folder)
        raw = bytearray(path.read_bytes())
        raw[house.ends[sequence] - 6] ^= 1
        path.write_bytes(raw)

    def test_a_bad_record_among_good_ones_is_an_error_that_says_what_is_sound(self):
        with a_town() as town:
            house = self.house(town)
            self.flip(house, 4)
            with pytest.raises(CheckpointError, match="record 4 of the log was ack") as caught:
                town.after_a_crash(house)
            assert "checkpoint 0 and the 3 records after it are sound" in str(caught.value)
            assert "move log away" in str(caught.value)

    def test_a_description_that_was_damaged_is_not_said_to_be_written_so(self):
        with a_town() as town:
            house = self.house(town)
            path = newest_segment(house.folder)
            raw = bytearray(path.read_bytes())
            place = raw.index(b'"door"', house.ends[3])
            raw[place] ^= 1
            path.write_bytes(raw)
            with pytest.raises(CheckpointError, match="record 4 of the log was ack") as caught:
                town.after_a_crash(house)
            assert caught.value.got == "it fails the checksum"

    def test_doing_as_it_says_helps(self):
        with a_town() as town:
            house = self.house(town)
            self.flip(house, 4)
            (house.folder / "log").rename(house.folder / "away")
            assert town.after_a_crash(house).server.version == 0

    def test_what_was_never_synced_may_have_holes(self):
        with a_town() as town:
            house = self.house(town)
            train(house, 3)
            self.flip(house, 10)
            with pytest.warns(LogCutWarning, match="used up to record 9.*is not known to have"):
                again = town.after_a_crash(house)
            assert same(
                without_incarnation(again.server.state_dict()),
                without_incarnation(house.states[9]),
            )
            assert town.after_a_crash(again).server.version == again.server.version

    def test_a_missing_segment_is_an_error(self):
        with a_town() as town:
            house = self.house(town)
            two = town.after_a_crash(house)
            train(two, 1)
            three = town.after_a_crash(two)
            assert len(segments(three.folder)) == 3
            segments(three.folder)[1].unlink()
            with pytest.raises(CheckpointError, match="record 9 of the log was acknowledged"):
                town.after_a_crash(three)
            segments(three.folder)[0].unlink()
            with pytest.raises(CheckpointError, match="record 1 of the log was acknowledged"):
                town.after_a_crash(three)

    def test_a_segment_in_another_ones_place_is_an_error(self):
        with a_town() as town:
            house = self.house(town)
            two = town.after_a_crash(house)
            first, second = segments(two.folder)
            second.write_bytes(first.read_bytes())
            with pytest.raises(CheckpointError, match="damaged or missing"):
                town.after_a_crash(two)

    def test_a_log_that_ends_before_its_checkpoint_is_an_error(self):
        with a_town() as town:
            house = self.house(town)
            house.checkpoint()
            train(house, 1)
            segments(house.folder)[-1].unlink()
            with pytest.raises(CheckpointError, match="record 9 of the log was acknowledged"):
                town.after_a_crash(house)

    def test_a_log_without_a_checkpoint_is_an_error(self):
        with a_town() as town:
            house = self.house(town)
            for path in house.store.folder.iterdir():
                path.rename(house.folder / path.name)
            with pytest.raises(CheckpointError, match="no checkpoint that it begins from"):
                town.after_a_crash(house)

    def test_a_log_of_another_configuration_does_not_follow(self):
        with a_town() as town:
            house = town.house("async_sgd")
            train(house, 3)
            other = town.house("fedbuff")
            for path in segments(other.folder):
                path.unlink()
            for path in segments(house.folder):
                (other.folder / "log" / path.name).write_bytes(path.read_bytes())
            with pytest.raises(ReplayMismatchError, match="does not follow"):
                town.after_a_crash(other)

    def test_a_record_inside_a_payload_is_no_record(self):
        with a_town() as town:
            house = self.house(town)
            house.act("checkout", "w0", 1.0, False)
            # A worker sends what claims that more is on the disk than is.
            forged = struct.pack("<4sIQQQ", b"HLOG", 0, 99, 99, 0)
            forged += struct.pack("<I", zlib.crc32(forged)) + bytes(4)
            payload = torch.frombuffer(bytearray(forged), dtype=torch.uint8).view(torch.float32)
            house.submit(core.Update(payload, 0, "w0", 1), again=False)
            os.truncate(newest_segment(house.folder), house.ends[10] - 1)
            with pytest.warns(LogCutWarning):
                assert town.after_a_crash(house).journal.sequence == 10

    def test_a_huge_length_allocates_nothing(self):
        with a_town() as town:
            house = self.house(town)
            path = newest_segment(house.folder)
            raw = path.read_bytes()
            (salt,) = struct.unpack_from("<I", raw, 12)
            head = struct.pack("<4sIQQQ", b"HLOG", 2**32 - 1, 9, 8, 2**63)
            path.write_bytes(raw + head + struct.pack("<I", zlib.crc32(head, salt)) + bytes(100))
            with pytest.warns(LogCutWarning, match="the file ends within it"):
                assert town.after_a_crash(house).journal.sequence == 9


class TestFullDisk:
    """A call that there is no room for is not made, and is made when there is."""

    def heals(self, town: Any, house: House, taken: int) -> None:
        house.journal.sync()
        full = town.after_a_crash(house)
        assert full.server.version == taken
        train(house, 2)
        again = town.after_a_crash(house)
        assert same(
            without_incarnation(again.server.state_dict()),
            without_incarnation(house.server.state_dict()),
        )

    def test_a_file_that_may_not_grow_keeps_whole_records_and_heals(self):
        with a_town() as town:
            house = town.house()
            train(house, 2)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            # Room for a record and a part of one: the system writes the part.
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (newest_segment(house.folder).stat().st_size + 700, hard)
            )
            try:
                taken = 2 + self.fill_from(house, 2)
                size = newest_segment(house.folder).stat().st_size
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert size == max(house.ends.values())
            self.heals(town, house, taken)

    def fill_from(self, house: House, version: int) -> int:
        with pytest.raises(CheckpointError, match="the disk is full") as caught:
            train(house, 100)
        assert "nothing was applied and nothing is lost; free some space" in str(caught.value)
        assert house.server.version > version
        return house.server.version - version

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a file system")
    def test_a_real_full_disk(self, tmp_path):
        small = tmp_path / "small"
        small.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(small)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        town = Town(small)
        try:
            ballast = small / "ballast"
            ballast.write_bytes(bytes(90_000))
            house = town.house()
            taken = self.fill_from(house, 0)
            # A checkpoint has no room either, and what is there stays good.
            with pytest.raises(CheckpointError):
                house.checkpoint()
            ballast.unlink()
            train(house, 2)
            house.checkpoint()
            train(house, 1)
            assert house.server.version == taken + 3
            state = house.server.state_dict()
            house.close()
            again = town.keep(House(house.folder))
            assert same(without_incarnation(again.server.state_dict()), without_incarnation(state))
        finally:
            town.leave()
            subprocess.run(["umount", str(small)], check=True)

    def test_a_disk_that_fails_to_sync_acknowledges_nothing_until_there_is_a_checkpoint(
        self, monkeypatch
    ):
        with a_town() as town:
            house = town.house()
            train(house, 1)
            house.journal.sync()
            train(house, 1)

            def fails(handle):
                raise OSError(errno.EIO, "Input/output error")

            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fails, raising=False)
                with pytest.raises(CheckpointError, match="cannot be written"):
                    house.journal.sync()
            for call in (house.journal.sync, lambda: train(house, 1)):
                with pytest.raises(CheckpointError, match="the disk has failed"):
                    call()
            assert house.journal.durable == 2
            write = save_checkpoint(house.store, house.journal, house.server)
            train(house, 1)
            # What the old segment holds is not known, and the checkpoint is not there yet.
            assert house.journal.sync() == 2
            path = segments(house.folder)[0]
            raw = path.read_bytes()
            path.write_bytes(raw[: house.ends[3] - 5])
            with pytest.warns(LogCutWarning, match="used up to record 2"):
                assert town.after_a_crash(house).server.version == 1
            write()
            assert house.journal.durable == house.journal.sequence == 6
            assert town.after_a_crash(house).server.version == 3


KILLED = """
import sys, torch
from pathlib import Path
from tests.log_kit import House

house = House(Path(sys.argv[1]), "fedbuff")
while True:
    house.act("checkout", "w0", 1.0, False)
    house.act("submit", "w0", 2.0, False)
    if house.journal.bytes_since_checkpoint > 5000:
        house.checkpoint()
    house.journal.sync()
    print(house.journal.durable, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(tmp_path):
    root = Path(__file__).resolve().parents[3]
    for lines in (1, 7, 40):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "house")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            for _ in range(lines):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split(b"\n")[:-1]
        acknowledged = max([acknowledged, *map(int, rest)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LogCutWarning)
            house = House(tmp_path / "house", "fedbuff")
        assert house.journal.sequence > acknowledged
        house.close()
