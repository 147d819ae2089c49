"""The population as a value: what it returns, what it refuses, how it describes itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import tracemalloc

import pytest

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.simulation import population as hp
from headway.simulation.clients import Population, client_index, client_name

MAKERS = [
    hp.constant(7, time_s=2.0, unit="step"),
    hp.from_times([1.0, 2.0, 4.0]),
    hp.uniform(7, low_s=1.0, high_s=2.0),
    hp.uniform(7, low_s=1.0, high_s=2.0, per="job"),
    hp.lognormal(7, median_s=2.0, sigma=0.8),
    hp.lognormal(7, median_s=2.0, sigma=0.8, per="job", unit="step"),
    hp.halfnormal(7, scale_s=2.0, minimum_s=0.1),
    hp.exponential(7, mean_s=2.0),
    hp.exponential(7, mean_s=2.0, per="client"),
]
WRAPPED = [hp.with_dropout(hp.with_slowdown(made, {1: 3.0, 2: 0.5}), 0.3) for made in MAKERS]


@pytest.mark.parametrize("clients", MAKERS + WRAPPED, ids=repr)
def test_bound_times_equal_the_methods(clients: Population) -> None:
    times = clients.job_times(11)
    for client in range(clients.num_clients):
        for dispatch in (0, 1, 5, 10**6):
            expected = clients.duration_s(client, dispatch, 11, num_steps=3)
            assert times.duration_s(client, dispatch, 3) == expected > 0.0
            assert times.drops(client, dispatch) is clients.drops(client, dispatch, 11)


@pytest.mark.parametrize("clients", MAKERS, ids=repr)
def test_drawn_per_client_or_per_job(clients: Population) -> None:
    for client in range(clients.num_clients):
        times = {clients.duration_s(client, dispatch, seed=0) for dispatch in range(20)}
        assert len(times) == (20 if clients.per == "job" else 1)


@pytest.mark.parametrize("clients", MAKERS, ids=repr)
def test_steps_count_only_when_the_time_is_that_of_a_step(clients: Population) -> None:
    one, five = (clients.duration_s(0, 0, seed=0, num_steps=n) for n in (1, 5))
    assert five == (5 * one if clients.unit == "step" else one)


def test_seeds_and_clients_differ() -> None:
    clients = hp.lognormal(100, median_s=1.0, sigma=1.0)
    assert len({clients.duration_s(c, 0, seed) for c in range(100) for seed in range(10)}) == 1000


def test_dropout_is_independent_of_the_duration() -> None:
    clients = hp.with_dropout(hp.exponential(1, mean_s=1.0), 0.5)
    jobs = range(4000)
    lost = [clients.duration_s(0, job, seed=0) for job in jobs if clients.drops(0, job, seed=0)]
    # Five standard deviations: the count is binomial, the mean is of exponentials.
    assert abs(len(lost) - 2000) < 5 * 1000**0.5
    assert abs(sum(lost) / len(lost) - 1.0) < 5 / len(lost) ** 0.5


def test_none_drop_by_default() -> None:
    clients = hp.exponential(50, mean_s=1.0)
    assert not any(clients.drops(c, d, seed=0) for c in range(50) for d in range(50))


def test_a_million_clients_cost_nothing() -> None:
    tracemalloc.start()
    clients = hp.with_slowdown(hp.lognormal(1_000_000, median_s=2.0, sigma=0.8), {999_999: 2.0})
    times = clients.job_times(0)
    assert times.duration_s(999_999, 0, 1) == clients.duration_s(999_999, 0, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_forgotten_clients_come_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.simulation.clients._REMEMBERED_CLIENTS", 3)
    clients = hp.uniform(50, low_s=1.0, high_s=2.0)
    bound = clients.job_times(0).duration_s
    for _ in range(2):
        assert [bound(c, 0, 1) for c in range(50)] == [
            clients.duration_s(c, 0, 0) for c in range(50)
        ]


@pytest.mark.parametrize("clients", MAKERS + WRAPPED, ids=repr)
def test_a_description_is_a_plain_tree_that_makes_the_population_again(clients: Population) -> None:
    tree = json.loads(json.dumps(clients.describe()))
    assert tree == clients.describe()
    slowdown = {int(client): factor for client, factor in tree.pop("slowdown", {}).items()}
    dropout = tree.pop("dropout", 0.0)
    made = hp.POPULATIONS[tree.pop("name")](**tree)
    assert hp.with_dropout(hp.with_slowdown(made, slowdown), dropout) == clients
    assert eval(repr(made), vars(hp)) == made


@pytest.mark.parametrize("clients", MAKERS + WRAPPED, ids=repr)
def test_it_is_a_value(clients: Population) -> None:
    twin = copy.deepcopy(clients)
    assert twin == clients
    assert hash(twin) == hash(clients)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clients.num_clients = 3  # type: ignore[misc]


def test_the_callers_mapping_is_not_kept() -> None:
    factors = {0: 2.0}
    clients = hp.with_slowdown(hp.constant(3), factors)
    factors[0] = 100.0
    assert clients.duration_s(0, 0, seed=0) == 2.0


@pytest.mark.parametrize("num_clients", [0, -1, 2**32 + 1])
def test_number_of_clients_out_of_range(num_clients: int) -> None:
    with pytest.raises(ConfigurationError, match="num_clients cannot be"):
        hp.constant(num_clients)


@pytest.mark.parametrize("num_clients", [3.0, "3", True, None])
def test_number_of_clients_of_the_wrong_kind(num_clients: object) -> None:
    with pytest.raises(ArgumentTypeError, match="num_clients must be a whole number"):
        hp.constant(num_clients)  # type: ignore[arg-type]


def test_unknown_choices_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        hp.exponential(3, mean_s=1.0, per="jobs")  # type: ignore[arg-type]
    assert caught.value.known == ("client", "job")
    assert caught.value.help == "did you mean `job`?"
    with pytest.raises(UnknownNameError, match="unknown unit"):
        hp.constant(3, unit="steps")  # type: ignore[arg-type]


@pytest.mark.parametrize("client", [-1, 3])
def test_no_such_client(client: int) -> None:
    clients = hp.from_times([1.0, 2.0, 3.0])
    for ask in (
        lambda: clients.duration_s(client, 0, seed=0),
        lambda: clients.drops(client, 0, seed=0),
        lambda: hp.with_slowdown(clients, {client: 2.0}),
    ):
        with pytest.raises(ConfigurationError, match="no such client") as caught:
            ask()
        assert caught.value.expected == "an int in [0, 3)"


@pytest.mark.parametrize("index", [0, 1, 17, 10**9])
def test_names_and_indices(index: int) -> None:
    assert client_index(client_name(index)) == index


@pytest.mark.parametrize(
    "name",
    [
        "client-",
        "client-01",
        "client--1",
        "client-1.0",
        "client-1_0",
        "client-²",
        "client-" + "9" * 5000,
        "client-1 ",
        "Client-1",
        "worker-1",
        "17",
    ],
    ids=lambda name: name[:12],
)
def test_a_name_that_no_client_has(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name of a simulated client"):
        client_index(name)
