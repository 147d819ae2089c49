"""The run folder: usable at any moment, and refused before the run if it cannot be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from headway.core import Buffers, Event, Waited
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    LogDamagedError,
    LogError,
    RunFolderError,
)
from headway.observe import LogTruncatedWarning, RunFolder, describe_environment
from tests.unit.observe.kit import history, run, same, submission, with_payload

CONFIG = {"run": {"seed": 0, "stop": {"updates": 100}}, "algorithm": {"name": "fedbuff"}}


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def test_a_run_comes_back(tmp_path: Path) -> None:
    points = history(0.5, float("nan"), 0.9)
    logged: list[Event] = [submission(1), Waited(1.0, "client-0", "full"), submission(2)]
    folder = RunFolder.create(tmp_path / "a" / "run", CONFIG)
    folder.append_events(logged[:1])
    for point in points:
        folder.append_point(point)
    folder.append_events(logged[1:])
    result = run(0.5, 0.9)
    folder.close(result)
    assert result.folder == folder.path
    read = RunFolder.open(folder.path)
    assert read.config() == CONFIG
    found, expected = read.environment(), json.loads(json.dumps(describe_environment()))
    # Somebody may be editing the repository that the tests run in.
    assert found.pop("git", None) is None or expected["git"]
    assert found == {name: value for name, value in expected.items() if name != "git"}
    assert list(read.events()) == logged
    assert same(list(read.points()), points)
    assert (read.has_result, read.has_payloads) == (True, False)
    assert read.result().events == logged
    assert read.result(events=False).final("accuracy") == 0.9
    assert names(folder.path) == {
        "config.toml",
        "environment.json",
        "events.jsonl",
        "metrics.jsonl",
        "result.json",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_payloads_come_back_with_their_events(tmp_path: Path, dtype: torch.dtype) -> None:
    initial = torch.arange(10.0).to(dtype)
    buffers = Buffers(torch.ones(2, dtype=dtype), torch.tensor([7]))
    logged: list[Event] = [
        Waited(0.0, "client-1", "full"),
        with_payload(1),
        submission(2),
        with_payload(3, buffers=True),
        with_payload(4),
        Waited(9.0, "client-1", "full"),
    ]
    folder = RunFolder.create(tmp_path / "run")
    folder.append_initial(initial, buffers, about={"layout": {"dtype": "x"}})
    folder.append_events(logged[:2])
    folder.append_events(logged[2:])
    folder.close()
    read = RunFolder.open(tmp_path / "run")
    assert read.has_payloads
    start = read.initial()
    assert start.meta["kind"] == "initial"
    assert start.meta["layout"] == {"dtype": "x"}
    assert torch.equal(start.tensors["payload"], initial)
    assert start.buffers is not None
    assert torch.equal(start.buffers.integer, buffers.integer)
    found = list(read.events(payloads=True))
    for got, sent in zip(found, logged, strict=True):
        assert_same_event(got, sent)
    assert [getattr(event, "payload", None) for event in read.events()] == [None] * 6


def assert_same_event(got: Event, sent: Event) -> None:
    for name, value in sent._asdict().items():
        if name == "buffers" and value is not None:
            assert all(map(torch.equal, got._asdict()[name], value))
        elif isinstance(value, torch.Tensor):
            assert torch.equal(got._asdict()[name], value)
        else:
            assert got._asdict()[name] == value


def test_what_was_there_at_the_last_point_survives_a_kill(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.append_initial(torch.zeros(10))
    folder.append_events([with_payload(1), submission(2)])
    folder.append_point(history(0.5)[0])
    folder.append_events([with_payload(3)])
    # A copy has what the operating system has, which is all that a killed process leaves.
    shutil.copytree(folder.path, tmp_path / "killed")
    killed = RunFolder.open(tmp_path / "killed")
    assert [event.job for event in killed.events(payloads=True)] == [1, 2]  # type: ignore[union-attr]
    assert list(killed.points()) == history(0.5)
    assert not killed.has_result
    with pytest.raises(RunFolderError, match="no finished run"):
        killed.result()
    folder.close()
    assert len(list(RunFolder.open(folder.path).events())) == 3


def test_a_line_that_a_kill_cut_off_costs_one_warning(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        folder.append_events([submission(1), submission(2)])
        for point in history(0.5, 0.6):
            folder.append_point(point)
    for name, read in (("events.jsonl", folder.events), ("metrics.jsonl", folder.points)):
        path = folder.path / name
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.warns(LogTruncatedWarning, match=name) as caught:
            assert len(list(read())) == 1
        assert len(caught) == 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        folder.append_events([submission(1), submission(2)])
        for point in history(0.5, 0.6):
            folder.append_point(point)
    for name, read in (("events.jsonl", folder.events), ("metrics.jsonl", folder.points)):
        path = folder.path / name
        path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
        with pytest.raises(LogDamagedError, match=f"{name}, line 1") as caught:
            list(read())
        assert caught.value.help


def test_an_event_is_not_given_the_payload_of_another(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        folder.append_initial(torch.zeros(10))
        folder.append_events([with_payload(1), with_payload(2)])
    path = folder.path / "events.jsonl"
    lines = path.read_text()
    for wrong, said in (("1", "another job"), ("0", "another job"), ("true", "not the number")):
        path.write_text(lines.replace('"payload":2', f'"payload":{wrong}'))
        with pytest.raises(LogDamagedError, match=said):
            list(folder.events(payloads=True))
    for wrong in ("-1", "3", "99"):
        path.write_text(lines.replace('"payload":2', f'"payload":{wrong}'))
        with pytest.raises(LogDamagedError, match=r"payloads\.bin|line 2"):
            list(folder.events(payloads=True))


def test_an_unwritable_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "a" / "b"):
        for overwrite in (False, True):
            with pytest.raises(RunFolderError, match="cannot write") as caught:
                RunFolder.create(path, CONFIG, overwrite=overwrite)
            assert caught.value.where == str(path)
            assert caught.value.help
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_found_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headway.observe.folder.tempfile.TemporaryFile", full)
    with pytest.raises(RunFolderError, match="No space left"):
        RunFolder.create(tmp_path / "run", CONFIG)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_disk_that_fills_up_is_a_run_folder_error(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.close()
    (folder.path / "events.jsonl").unlink()
    (folder.path / "events.jsonl").symlink_to("/dev/full")
    from headway.observe import EventLog

    log = EventLog(folder.path / "events.jsonl")
    log.append([submission(1)])
    with pytest.raises(RunFolderError, match=r"events\.jsonl"):
        log.flush()
    with pytest.raises(RunFolderError, match=r"events\.jsonl"):
        log.close()


def test_a_folder_in_use_is_refused_unless_told(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", CONFIG)
    first.append_initial(torch.zeros(10))
    first.append_events([with_payload(1)])
    first.close(run(0.5, parameters=torch.zeros(3)))
    (first.path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty") as caught:
        RunFolder.create(tmp_path / "run", {"seed": 1})
    assert "overwrite=True" in str(caught.value)
    assert "resume" not in str(caught.value)
    assert first.config() == CONFIG
    RunFolder.create(tmp_path / "run", {"seed": 1}, overwrite=True).close()
    second = RunFolder.open(tmp_path / "run")
    assert second.config() == {"seed": 1}
    assert list(second.events()) == []
    assert (second.has_result, second.has_payloads) == (False, False)
    assert (first.path / "notes.txt").read_text() == "mine"
    assert not list((first.path / "checkpoints").iterdir())


def test_a_new_or_empty_folder_is_taken_and_no_trace_of_the_probe_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        RunFolder.create(tmp_path / name).close()
        assert names(tmp_path / name) == {
            "config.toml",
            "environment.json",
            "events.jsonl",
            "metrics.jsonl",
        }
        assert RunFolder.open(tmp_path / name).config() == {}


def test_a_config_that_cannot_be_written_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="TOML"):
        RunFolder.create(tmp_path / "run", {"task": object()})
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunFolderError, match="not a run folder"):
            RunFolder.open(path)


def test_a_folder_without_payloads_cannot_give_any(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="before the initial parameters"):
        folder.append_events([with_payload(1)])
    folder.close()
    read = RunFolder.open(folder.path)
    with pytest.raises(LogError, match="kept no payloads"):
        read.initial()
    with pytest.raises(LogError, match='record="payloads"'):
        list(read.events(payloads=True))


def test_what_is_read_is_not_written(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").close()
    read = RunFolder.open(tmp_path / "run")
    for attempt in (
        lambda: read.append_events([submission(1)]),
        lambda: read.append_point(history(0.5)[0]),
    ):
        with pytest.raises(RunFolderError, match="opened to be read"):
            attempt()


def test_a_damaged_config_and_environment_are_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    folder.close()
    for data in (b"a = ", b"\xff"):
        (folder.path / "config.toml").write_bytes(data)
        with pytest.raises(LogDamagedError, match=r"config\.toml is damaged"):
            folder.config()
    for text in ("{", "[]"):
        (folder.path / "environment.json").write_text(text)
        with pytest.raises(LogDamagedError, match=r"environment\.json is damaged"):
            folder.environment()
    (folder.path / "config.toml").unlink()
    with pytest.raises(RunFolderError, match=r"cannot read config\.toml"):
        folder.config()


def test_closing_twice_and_breaking_off(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")

    def break_off() -> None:
        with folder:
            folder.append_events([submission(1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    folder.close()
    assert list(folder.events()) == [submission(1)]
