"""``headway replay`` of what ``headway server`` has written, and the same in Python."""

from __future__ import annotations

import json

import pytest
import torch

import headway
from headway.cli import main
from headway.core import ParameterLayout, Server, replay
from headway.core.errors import LogError
from headway.core.scheduler import FirstCome
from headway.observe import RunFolder, weights_hash
from tests.command_kit import CONFIG
from tests.unit.training import server_kit as kit


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("sklearn")

    def write(algorithm="async_delta", options=""):
        path = tmp_path / "run.toml"
        path.write_text(CONFIG.format(algorithm=algorithm, options=options), encoding="utf-8")
        return str(path)

    return write


def _examples(number):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(60, 64, generator=generator)
    return inputs, torch.randint(10, (60,), generator=generator)


@pytest.fixture
def two_workers(monkeypatch):
    """Let two workers train at every server that is served, through its socket, and then stop it."""

    def serve(server):
        threads = kit.Threads()
        own = None if server.algorithm.payload == "gradient" else headway.optim.SGD(lr=0.1)
        for number in range(2):
            who = headway.AsyncWorker(
                server.address,
                local_batch_size=10,
                shared_memory=False,
                compression=("none", "topk")[number],
            )
            given = {"dataset": _examples(number), "epochs": 3, "optimizer": own}
            threads.go(lambda who=who, given=given: who.train(**given))
        threads.join()
        return server.stop()

    monkeypatch.setattr(headway.ParameterServer, "serve", serve)


def _replayed(folder, capsys):
    capsys.readouterr()
    code = main(["replay", str(folder), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else err


@pytest.mark.parametrize(
    ("algorithm", "options", "arguments"),
    [
        ("async_delta", "", ["--staleness-policy", "adaptive_lr"]),
        ("fedbuff", "buffer_size = 3", ["--max-staleness", "1"]),
        ("async_sgd", "momentum = 0.9", ["--set", "serving.staleness_policy=momentum_correction"]),
    ],
)
def test_a_served_run_is_replayed_to_the_bit(
    config, two_workers, tmp_path, capsys, algorithm, options, arguments
):
    run = str(tmp_path / "run")
    arguments = ["--port", "0", "--json", "--out", run, "--record", "payloads", *arguments]
    assert main(["server", config(algorithm, options), *arguments]) == 0
    served = json.loads(capsys.readouterr().out)
    assert served["updates"] == 36
    code, told = _replayed(run, capsys)
    assert code == 0, told
    assert told["bit_identical"]
    assert told["weights_hash"] == served["weights_hash"]
    assert told["version"] == served["versions"] > 0


def test_of_a_run_that_went_on_the_first_folder_is_replayed_and_the_next_refused(
    config, two_workers, tmp_path, capsys
):
    run, home = tmp_path / "run", tmp_path / "home"
    # As a server leaves it that was killed before its first checkpoint.
    home.mkdir()
    (home / "starts.json").write_text('{"starts": 2}')
    written = config()
    for _ in range(2):
        arguments = ["--port", "0", "--out", str(run), "--checkpoint-dir", str(home)]
        assert main(["server", written, *arguments, "--record", "payloads"]) == 0
    code, told = _replayed(run, capsys)
    assert (code, code or told["version"]) == (0, 36), told
    code, told = _replayed(tmp_path / "run-2", capsys)
    assert code == 1
    assert "went on from a checkpoint" in told


@pytest.mark.parametrize("durability", ["checkpoint", "log"])
@pytest.mark.parametrize("consistency", ["snapshot", "hogwild"])
def test_a_server_that_was_made_in_python_is_replayed_in_python(
    tmp_path, capsys, consistency, durability
):
    run = tmp_path / "run"
    options = {"update_rule": "async_momentum", "staleness_policy": "adaptive_lr"}
    with kit.server(
        kit.line(),
        folder=run,
        record="payloads",
        consistency=consistency,
        checkpoint_dir=tmp_path / "home",
        durability=durability,
        concurrency=3,
        **options,
    ) as server:
        threads = kit.Threads()
        for shared in (True, False):
            who = {"shared_memory": shared}
            threads.go(lambda who=who: kit.train(server, worker=who, epochs=2))
        threads.join()
        result = server.stop()
    assert result.updates == 16
    folder, model = RunFolder.open(run), kit.line()
    begin = folder.initial()
    fresh = Server(
        begin.tensors["payload"],
        headway.ParameterServer(model, **options).algorithm,
        layout=ParameterLayout.of(model),
        scheduler=FirstCome(concurrency=3),
        buffers=begin.buffers,
        record="nothing",
    )
    replay(fresh, folder.events(payloads=True))
    assert weights_hash(fresh.parameters, fresh.buffers) == result.weights_hash
    code, told = _replayed(run, capsys)
    assert code == 2
    assert "replay it in Python" in told


def test_payloads_need_a_folder_and_nothing_is_no_recording(config, tmp_path, capsys):
    written = config()
    assert main(["server", written, "--record", "payloads"]) == 2
    assert "give folder=..., on the command line --out" in capsys.readouterr().err
    arguments = ["--out", str(tmp_path / "run"), "--record", "nothing"]
    assert main(["server", written, *arguments]) == 2
    assert "events, payloads" in capsys.readouterr().err


def test_a_file_that_asks_for_payloads_gets_them_where_there_is_a_folder(
    config, two_workers, tmp_path
):
    asks = ["server", config(), "--port", "0", "--set", "run.record=payloads"]
    assert main(asks) == 0
    assert main([*asks, "--out", str(tmp_path / "run")]) == 0
    assert RunFolder.open(tmp_path / "run").has_payloads


def test_once_a_payload_could_not_be_written_it_is_told_that_nothing_can_be_replayed(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    append = RunFolder.append_events
    refused = []

    def refuse(self, events):
        if refused == [] and any(getattr(event, "payload", None) is not None for event in events):
            refused.append(events)
            raise OSError("no space left")
        append(self, events)

    monkeypatch.setattr(RunFolder, "append_events", refuse)
    with kit.server(kit.line(), folder=run, record="payloads") as server:
        kit.train(server, epochs=2, optimizer=headway.optim.SGD(lr=0.01))
        result = server.stop()
    assert any("8 updates were not kept" in warning for warning in result.warnings)
    folder = RunFolder.open(run)
    # Every event is there, once.
    assert [event.job for event in folder.events() if hasattr(event, "status")] == [*range(1, 9)]
    with pytest.raises(LogError, match="no payloads"):
        replay(
            Server(folder.initial().tensors["payload"], server.algorithm, scheduler=FirstCome()),
            folder.events(payloads=True),
        )
