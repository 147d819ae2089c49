"""Populations from tables and files, against what stands in them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    UnknownNameError,
    UsageError,
)
from headway.simulation import population as hp
from headway.simulation.availability import Windows


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def duration(clients: hp.Population, client: int, steps: int = 1) -> float:
    return clients.duration_s(client, dispatch=0, seed=0, num_steps=steps)


def test_a_table_gives_each_client_its_row() -> None:
    clients = hp.from_table([0.5, 2.0], up_bps=[1e3, 2e3], latency_s=[0.0, 1.0], unit="step")
    assert [duration(clients, client, 3) for client in (0, 1)] == [1.5, 6.0]
    assert clients.link is not None
    assert clients.link.transfer_s(1, 250, 250, seed=0) == 2.0 + 2 * 8 * 250 / 2e3
    assert hp.from_table([1.0, 2.0]) == hp.from_times([1.0, 2.0])


def test_a_table_whose_columns_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="one entry for each client"):
        hp.from_table([1.0, 2.0], down_bps=[1.0])
    with pytest.raises(ConfigurationError, match="needs a bandwidth"):
        hp.from_table([1.0, 2.0], latency_s=[1.0, 2.0])


CSV = """client, time_s, down_bps, up_bps
1, 2.0, 8e6, 1e6
0, 0.5, 4e6, 5e5
"""
WINDOWS = """client,start_s,end_s
0,10,20
1,0,5
0,2,4
"""


def test_csv_files(tmp_path: Path) -> None:
    speeds = write(tmp_path / "phones.csv", CSV)
    windows = write(tmp_path / "windows.csv", WINDOWS)
    clients = hp.from_file(
        speeds, num_clients=5, unit="step", availability=windows, period_s=24, leaving="lose"
    )
    assert [duration(clients, client, 2) for client in range(5)] == [1.0, 4.0, 1.0, 4.0, 1.0]
    assert clients.link is not None
    assert clients.link.down_bps == (4e6, 8e6, 4e6, 8e6, 4e6)
    first, second = ((2.0, 4.0), (10.0, 20.0)), ((0.0, 5.0),)
    assert clients.availability == Windows((first, second, first, second, first), 24.0, "lose")
    assert hp.from_file(str(speeds)).num_clients == 2


def test_a_json_file_says_everything_at_once(tmp_path: Path) -> None:
    content = {
        "unit": "step",
        "period_s": 24,
        "clients": [
            {"time_s": 0.5, "available": [[0, 8]]},
            {"time_s": 1, "available": []},
        ],
    }
    clients = hp.from_file(write(tmp_path / "phones.json", content))
    assert duration(clients, 1, 7) == 7.0
    assert clients.link is None
    assert clients.availability == Windows((((0.0, 8.0),), ()), 24.0)
    assert hp.from_file(tmp_path / "phones.json", unit="job").unit == "job"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("client,time_s\n0,1\n2,1\n", "client 1 is missing"),
        ("client,time_s\n0,1\n0,1\n", "a client comes twice"),
        ("client,time_s\n0,1,1\n", "as many values"),
        ("client,time_s\n0\n", "as many values"),
        ("client,time_s\n0,fast\n", "time_s is no number"),
        ("client,time_s\n0,nan\n", "time_s"),
        ("client,time_s\n-1,1\n", "no client's number"),
        ("time_s\n1\n", "no client's number"),
        ("client,down_bps\n0,1\n", "time_s is missing"),
        ("client,time_s\n", "there are no clients"),
    ],
)
def test_faults_in_csv_say_where(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        hp.from_file(write(tmp_path / "phones.csv", content))
    assert "phones.csv" in (caught.value.where or "")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "no JSON"),
        ([], "no list of clients"),
        ({"clients": [1]}, "no list of clients"),
        ({"clients": []}, "there are no clients"),
        ({"clients": [{"time_s": 1, "up_bps": 1}, {"time_s": 1}]}, "up_bps is missing"),
        ({"clients": [{"time_s": 0}]}, "time_s cannot be 0"),
        ({"clients": [{"time_s": 1, "down_bps": None}]}, "down_bps"),
        ({"clients": [{"time_s": 1, "latency_s": 1}]}, "a latency needs a bandwidth"),
        ({"clients": [{"time_s": 1}], "unit": "jobs"}, "unknown unit"),
        ({"clients": [{"time_s": 1, "available": 5}]}, "a list of windows"),
        ({"clients": [{"time_s": 1, "available": [5]}]}, "a list of windows"),
        ({"clients": [{"time_s": 1, "available": [[0, "a"]]}]}, "must be a number"),
        ({"clients": [{"time_s": 1, "available": [[2, 1]]}]}, "cannot be used"),
    ],
)
def test_faults_in_json_say_where(tmp_path: Path, content: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault) as caught:
        hp.from_file(write(tmp_path / "phones.json", content))
    assert "phones.json" in (caught.value.where or "")


def test_unknown_columns_and_keys_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="time_s"):
        hp.from_file(write(tmp_path / "a.json", {"clients": [{"times": 1}]}))
    with pytest.raises(UnknownNameError, match="period_s"):
        hp.from_file(write(tmp_path / "b.json", {"clients": [{"time_s": 1}], "period": 1}))


def test_a_unit_that_is_unknown_is_refused_where_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="step") as caught:
        hp.from_file(write(tmp_path / "phones.csv", CSV), unit="steps")  # type: ignore[arg-type]
    assert caught.value.where == "population.from_file"


def test_windows_of_another_file_are_those_of_that_file(tmp_path: Path) -> None:
    windows = write(tmp_path / "hours.csv", "client,start_s,end_s\n0,2,1\n")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        hp.from_file(write(tmp_path / "phones.csv", CSV), availability=windows)
    assert "hours.csv" in (caught.value.where or "")


def test_a_window_of_an_unknown_client(tmp_path: Path) -> None:
    windows = write(tmp_path / "windows.csv", "client,start_s,end_s\n2,0,1\n")
    with pytest.raises(ConfigurationError, match="belongs to no client"):
        hp.from_file(write(tmp_path / "phones.csv", CSV), availability=windows)


def test_times_as_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="time_s must be a number"):
        hp.from_file(write(tmp_path / "a.json", {"clients": [{"time_s": "1"}]}))


CAPACITY = {
    "10": {"computation": 50.0, "communication": 2000.0},
    "2": {"computation": 162.0, "communication": 5648.109619499134},
}
BEHAVIOUR = {
    "1": {
        "duration": 30,
        "active": [10, 50, 60],
        "inactive": [40, 60, 60],
        "finish_time": 100,
        "model": "phone",
    },
    "3": {"active": [0, 90], "inactive": [5, 300], "finish_time": 200},
}


def fedscale(
    folder: Path, behaviour: Any, *, capacity: Any = CAPACITY, batch_size: int = 1, **options: Any
) -> hp.Population:
    return hp.from_fedscale(
        write(folder / "capacity.json", capacity),
        batch_size=batch_size,
        availability=write(folder / "behaviour.json", behaviour),
        **options,
    )


def test_fedscales_traces_give_its_own_times(tmp_path: Path) -> None:
    clients = fedscale(tmp_path, BEHAVIOUR, batch_size=20, num_clients=3)
    assert clients.unit == "step"
    # FedScale: 3 * batch * steps * computation / 1000, and kbits / communication each way.
    for client, key in enumerate(["2", "10", "2"]):
        fields = CAPACITY[key]
        assert duration(clients, client, 7) == pytest.approx(
            3.0 * 20 * 7 * fields["computation"] / 1000.0, rel=1e-14
        )
        kbits = 1_000_000 / 1024.0 * 8.0
        assert clients.link is not None
        assert clients.link.transfer_s(client, 1_000_000, 1_000_000, seed=0) == pytest.approx(
            2 * kbits / fields["communication"], rel=1e-14
        )
    first, second = ((10.0, 40.0), (50.0, 60.0)), ((0.0, 5.0), (90.0, 200.0))
    assert clients.availability == Windows((first, second, first), (100.0, 200.0, 100.0))


class Trap:
    """What a pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_a_pickle_is_refused_and_never_loaded(tmp_path: Path) -> None:
    published = tmp_path / "client_device_capacity"
    published.write_bytes(pickle.dumps({1: Trap()}))
    with pytest.raises(ConfigurationError, match="no text file") as caught:
        hp.from_fedscale(published, batch_size=1)
    assert "docs/populations.md" in (caught.value.help or "")


@pytest.mark.parametrize(
    "content",
    [{}, [], {"a": CAPACITY["2"]}, {"1": {"computation": 1.0}}, {"1": 3}],
)
def test_what_is_no_capacity_trace(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConfigurationError, match="not such a trace"):
        hp.from_fedscale(write(tmp_path / "capacity.json", content), batch_size=1)


def test_windows_that_do_not_belong_together(tmp_path: Path) -> None:
    odd = {"1": {"active": [1], "inactive": [2, 3], "finish_time": 9}}
    with pytest.raises(ConfigurationError, match="do not belong together"):
        fedscale(tmp_path, odd)


def test_times_of_fedscale_that_are_no_numbers(tmp_path: Path) -> None:
    odd = {"1": {"active": [1, "x"], "inactive": [2, 3], "finish_time": 9}}
    with pytest.raises(ArgumentTypeError, match="active must be a number") as caught:
        fedscale(tmp_path, odd)
    assert "behaviour.json, client 0" in (caught.value.where or "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        hp.from_file(tmp_path / "nowhere.csv")


def test_the_files_of_the_page_say_the_same_in_both_forms(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/populations.md").read_text(encoding="utf-8")
    blocks = [block.partition("\n")[2] for block in page.split("```")[1::2]]
    # The page begins with others.
    blocks = blocks[next(k for k, block in enumerate(blocks) if block.startswith("client,")) - 1 :]
    speeds, windows, tree = blocks[1:4]
    from_csv = hp.from_file(
        write(tmp_path / "phones.csv", speeds),
        availability=write(tmp_path / "hours.csv", windows),
        period_s=86_400,
        unit="step",
    )
    assert from_csv == hp.from_file(write(tmp_path / "phones.json", tree))
    clients = fedscale(tmp_path, blocks[6], capacity=blocks[5])
    assert duration(clients, 0) == pytest.approx(3 * 0.162)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('client,time_s\n0,"1.0\n', "this is no CSV"),
        ('client,time_s\n0,"1.0"x\n', "this is no CSV"),
        ("client,time_s\n0," + "1" * 140_000 + "\n", "this is no CSV"),
        ("client,time_s,time_s\n0,1,2\n", "a column comes twice"),
        ("client;time_s\n0;1\n", "no column is called client"),
        ("0,1.0\n", "no column is called client"),
        ("", "no column is called client"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        hp.from_file(write(tmp_path / "phones.csv", content))
    assert "phones.csv, line" in (caught.value.where or "")


def test_blanks_around_commas_do_not_matter(tmp_path: Path) -> None:
    speeds = write(tmp_path / "phones.csv", "client , time_s\n1 , 2.0 \n\n0 , 0.5\n")
    assert hp.from_file(speeds) == hp.from_times([0.5, 2.0])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[" * 100_000, "too deep"),
        ('{"clients": [{"time_s": ' + "1" * 5_000 + "}]}", "thousands of digits"),
        ('{"clients": [{"time_s": ' + "1" * 400 + "}]}", "time_s cannot be 1111"),
        ('{"clients": [{"time_s": 1, "time_s": 2}]}', "a key comes twice"),
        ('{"clients": [{"time_s": 1}], "period_s": -5}', "period_s cannot be -5"),
    ],
)
def test_trees_that_cannot_be_read(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        hp.from_file(write(tmp_path / "phones.json", content))
    assert "phones.json" in (caught.value.where or "")


def test_a_table_with_another_ending_is_told_how_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ends in \.csv"):
        hp.from_file(write(tmp_path / "phones.tsv", "client\ttime_s\n0\t1\n"))


def test_a_column_that_csv_cannot_hold_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        hp.from_file(write(tmp_path / "phones.csv", "client,times\n0,1\n"))
    assert "available" not in str(caught.value)
    with pytest.raises(UnknownNameError):
        hp.from_file(write(tmp_path / "phones.csv", "client,time_s,available\n0,1,1\n"))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"period_s": -5}, "period_s cannot be -5"),
        ({"period_s": 5}, "a period needs windows"),
        ({"leaving": "bogus"}, "unknown leaving"),
        ({"availability": 5}, "availability is no path"),
    ],
)
def test_options_are_looked_at_where_there_are_no_windows_too(
    tmp_path: Path, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        hp.from_file(write(tmp_path / "phones.csv", CSV), **options)


@pytest.mark.parametrize("content", ["", "client,start_s,end_s\n"])
def test_windows_of_nobody_are_refused(tmp_path: Path, content: str) -> None:
    windows = write(tmp_path / "hours.csv", content)
    with pytest.raises(ConfigurationError, match=r"no windows|no column"):
        hp.from_file(write(tmp_path / "phones.csv", CSV), availability=windows)


@pytest.mark.parametrize(("active", "inactive"), [(5, 3), (120, 130)])
def test_windows_of_fedscale_that_nobody_could_use(
    tmp_path: Path, active: float, inactive: float
) -> None:
    odd = {"1": {"active": [active], "inactive": [inactive], "finish_time": 100}}
    with pytest.raises(ConfigurationError, match="ends before it begins, or begins after"):
        fedscale(tmp_path, odd)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_columns_may_be_arrays(array: Any) -> None:
    columns: dict[str, Any] = {"down_bps": [1e3, 2e3], "latency_s": [0.0, 1.0]}
    arrays: dict[str, Any] = {name: array(values) for name, values in columns.items()}
    assert hp.from_table(array([0.5, 2.0]), **arrays) == hp.from_table([0.5, 2.0], **columns)
    assert hp.from_times(array([0.5, 2.0])) == hp.from_times([0.5, 2.0])
    one = hp.with_link(hp.constant(2), down_bps=array(8.0), up_bps=array([1.0, 2.0]))
    assert one.link == hp.with_link(hp.constant(2), down_bps=8.0, up_bps=[1.0, 2.0]).link
    with pytest.raises(ConfigurationError, match="down_bps"):
        hp.from_table([0.5, 2.0], down_bps=array([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: hp.from_table(5.0),  # type: ignore[arg-type]
        lambda: hp.from_times(5),  # type: ignore[arg-type]
        lambda: hp.from_times(np.array(5.0)),
        lambda: hp.with_link(5, down_bps=1.0, up_bps=1.0),  # type: ignore[arg-type]
        lambda: hp.with_timeout(None, 1.0),  # type: ignore[arg-type]
        lambda: hp.from_file(None),  # type: ignore[arg-type]
        lambda: hp.from_fedscale(None, batch_size=1),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_another_kind_are_refused_in_words(call: Any) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        call()
    assert (caught.value.where or "").startswith("population.")
    assert caught.value.help
