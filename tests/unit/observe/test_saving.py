"""Results and comparisons on disk: all of them comes back, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import fields
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from headway.core import Noted, ParameterLayout, Waited
from headway.core.errors import LogDamagedError, RunFolderError
from headway.observe import ClientCount, Comparison, Result, weights_hash
from tests.unit.observe.kit import run, same, submission, with_payload


class Small(nn.Module):
    """Parameters, floating-point and integer buffers, a scalar, and a shared parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.shared = self.first.weight
        self.register_buffer("mask", torch.tensor([True, False]))


def with_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Result:
    module = Small().to(dtype)
    layout = ParameterLayout.of(module)
    parameters, buffers = layout.flatten(module), layout.flatten_buffers(module)
    return run(
        0.5,
        nan,
        0.9,
        parameters=parameters,
        layout=layout,
        buffers=buffers,
        weights_hash=weights_hash(parameters, buffers),
        log_hash="ab" * 32,
        clients={3: ClientCount(4, 3, 1, 0, 0, 96, 12.5), 11: ClientCount()},
        events=[submission(1), Waited(2.0, "client-1", "full"), Noted(3.0, "stopped", {"x": nan})],
        warnings=["one", "two"],
        label="K=5",
        interrupted=True,
        **changes,
    )


def assert_equal(left: Result, right: Result) -> None:
    for field in fields(Result):
        mine, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name in ("parameters", "buffers"):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                # A tensor of parameters, or a tuple of buffers.
                for a, b in zip(mine, theirs, strict=True):
                    assert torch.equal(a, b)
                    assert a.dtype is b.dtype
        elif field.name in ("history", "events"):
            assert list(map(type, mine)) == list(map(type, theirs))
            assert same(mine, theirs)
        elif field.name != "folder":
            assert same(mine, theirs) or mine == theirs, field.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_result_comes_back_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    result = with_model(dtype)
    folder = result.save(tmp_path / "deep" / "run")
    loaded = Result.load(folder)
    assert_equal(loaded, result)
    assert loaded.folder == folder
    loaded.folder = None
    assert str(loaded) == str(result)
    target = Small().to(dtype)
    loaded.load_into(target)
    assert torch.equal(ParameterLayout.of(target).flatten(target), result.parameters)


def test_the_model_can_be_read_without_headway(tmp_path: Path) -> None:
    result = with_model()
    module = Small()
    result.load_into(module)
    folder = result.save(tmp_path)
    named = load_file(folder / "checkpoints" / "final.safetensors")
    state = module.state_dict()
    # The shared parameter stands there once, under the name that the layout knows it by.
    assert set(named) == set(state) - {"first.weight"}
    for name, tensor in named.items():
        assert torch.equal(tensor, state[name].to(tensor.dtype))


def test_a_result_without_model_layout_or_events(tmp_path: Path) -> None:
    bare = run(0.5)
    assert_equal(Result.load(bare.save(tmp_path / "a")), bare)
    flat = run(0.5, parameters=torch.arange(3.0))
    loaded = Result.load(flat.save(tmp_path / "b"))
    assert loaded.parameters is not None
    assert loaded.parameters.tolist() == [0.0, 1.0, 2.0]
    assert loaded.layout == ParameterLayout.flat(3)


def test_events_may_be_left_out(tmp_path: Path) -> None:
    folder = with_model().save(tmp_path)
    assert Result.load(folder, events=False).events == []


def test_nothing_of_another_run_stays_behind(tmp_path: Path) -> None:
    with_model().save(tmp_path)
    (tmp_path / "payloads.bin").write_bytes(b"of the other run")
    (tmp_path / "notes.txt").write_text("mine")
    bare = run(0.7, seed=5)
    bare.save(tmp_path)
    assert_equal(Result.load(tmp_path), bare)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"result.json", "metrics.jsonl", "notes.txt"}


def test_saving_a_loaded_result_where_it_lies_keeps_its_files(tmp_path: Path) -> None:
    with_model().save(tmp_path)
    (tmp_path / "payloads.bin").write_bytes(b"its own")
    loaded = Result.load(tmp_path, events=False)
    loaded.label = "renamed"
    loaded.save(tmp_path)
    again = Result.load(tmp_path)
    assert (again.label, len(again.events)) == ("renamed", 3)
    assert (tmp_path / "payloads.bin").read_bytes() == b"its own"


def test_payloads_stay_in_memory(tmp_path: Path) -> None:
    folder = run(0.5, events=[with_payload(1)]).save(tmp_path)
    (event,) = Result.load(folder).events
    assert getattr(event, "payload", 0) is None


def test_a_model_of_another_run_is_refused(tmp_path: Path) -> None:
    first, second = with_model().save(tmp_path / "a"), with_model().save(tmp_path / "b")
    weights = Path("checkpoints", "final.safetensors")
    (second / weights).write_bytes((first / weights).read_bytes())
    with pytest.raises(RunFolderError, match="not the one of this result"):
        Result.load(second)


def test_no_result_here(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        Result.load(tmp_path / "absent")
    with pytest.raises(RunFolderError, match="no comparison"):
        Comparison.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(format=2),
        lambda tree: tree.pop("format"),
        lambda tree: tree.pop("updates"),
        lambda tree: tree["history"][0].pop("metrics"),
        lambda tree: tree["history"][0].update(updates="many"),
        lambda tree: tree.update(staleness={"x": 1}),
        lambda tree: tree.update(staleness=[1]),
        lambda tree: tree.update(clients={"1": {"nonsense": 1}}),
        lambda tree: tree.update(history=7),
    ],
)
def test_a_result_of_another_shape_is_refused(tmp_path: Path, change: Any) -> None:
    folder = run(0.5).save(tmp_path)
    tree = json.loads((folder / "result.json").read_text())
    change(tree)
    (folder / "result.json").write_text(json.dumps(tree))
    with pytest.raises(RunFolderError, match=r"result\.json is not one") as caught:
        Result.load(folder)
    assert caught.value.where == str(folder / "result.json")


@pytest.mark.parametrize("data", ["{", "[]", "7", "null"])
def test_a_damaged_result_is_named(tmp_path: Path, data: str) -> None:
    folder = run(0.5).save(tmp_path)
    (folder / "result.json").write_text(data)
    with pytest.raises((RunFolderError, LogDamagedError), match=r"result\.json"):
        Result.load(folder)


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_damaged_model_is_named(tmp_path: Path, cut: int) -> None:
    folder = with_model().save(tmp_path)
    path = folder / "checkpoints" / "final.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunFolderError, match=r"final\.safetensors is not a model"):
        Result.load(folder)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for saved in (run(0.5), Comparison(results=[run(0.5)])):
        with pytest.raises(RunFolderError, match="cannot write"):
            saved.save(tmp_path / "file" / "below")


def test_a_comparison_comes_back(tmp_path: Path) -> None:
    results = [run(0.5, 0.9, label=label, seed=seed) for label in "ab" for seed in range(2)]
    comparison = Comparison(results=results, target=("accuracy", 0.8), direction="max")
    folder = comparison.save(tmp_path / "both")
    names = {path.name for path in folder.iterdir()}
    assert names == {"comparison.json", "a-seed0", "a-seed1", "b-seed0", "b-seed1"}
    loaded = Comparison.load(folder)
    assert (loaded.target, loaded.direction) == (comparison.target, comparison.direction)
    assert str(loaded) == str(comparison)
    for mine, theirs in zip(loaded.results, results, strict=True):
        assert_equal(mine, theirs)
    assert Comparison.load(Comparison(results=results).save(tmp_path / "no target")).target is None


def test_labels_that_are_no_folder_names_get_folders_of_their_own(tmp_path: Path) -> None:
    labels = ["../../etc", "K/5", "K 5", "k-5", "...", "", "ä", "x" * 300]
    results = [run(0.5, label=label or "fedbuff", seed=0) for label in labels]
    folder = Comparison(results=results).save(tmp_path / "runs")
    assert [r.label for r in Comparison.load(folder).results] == [r.label for r in results]
    below = [path for path in folder.iterdir() if path.is_dir()]
    assert len({path.name.lower() for path in below}) == len(labels)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_runs_that_lie_below_already_stay_where_they_are(tmp_path: Path) -> None:
    result = run(0.5)
    result.folder = result.save(tmp_path / "nested" / "K=5")
    before = (result.folder / "result.json").stat()
    comparison = Comparison(results=[result, run(0.6, seed=1)])
    comparison.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "nested",
        "fedbuff-seed1",
        "comparison.json",
    }
    after = (result.folder / "result.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert str(Comparison.load(tmp_path)) == str(comparison)


@pytest.mark.parametrize(
    "results",
    [["../outside"], ["/etc"], [7], "names", None],
    ids=["up", "root", "int", "str", "none"],
)
def test_a_comparison_names_only_folders_below_it(tmp_path: Path, results: Any) -> None:
    folder = Comparison(results=[run(0.5)]).save(tmp_path / "runs")
    tree = json.loads((folder / "comparison.json").read_text())
    (folder / "comparison.json").write_text(json.dumps({**tree, "results": results}))
    with pytest.raises(RunFolderError):
        Comparison.load(folder)
