from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headway.core.errors import ArgumentTypeError, ConfigurationError, DataError
from headway.data import (
    PARTITIONERS,
    Partitioner,
    dirichlet,
    iid,
    natural,
    quantity_skew,
    rules,
    shards,
)

NUM_CLASSES, PER_CLASS = 10, 400
TARGETS = torch.arange(NUM_CLASSES).repeat_interleave(PER_CLASS)
ALL = [
    iid(20),
    dirichlet(20, alpha=0.1),
    dirichlet(20, alpha=5),
    shards(20),
    quantity_skew(20, alpha=0.3),
    natural(torch.arange(len(TARGETS)) % 9),
]


def counts(partitioner: Partitioner, seed: int) -> torch.Tensor:
    """Examples of each class at each client, ``[clients, classes]``."""
    indices = partitioner(TARGETS, seed=seed).indices
    return torch.stack([TARGETS[rows].bincount(minlength=NUM_CLASSES) for rows in indices])


@pytest.mark.parametrize("partitioner", ALL, ids=repr)
def test_the_seed_and_nothing_else_decides(partitioner: Partitioner) -> None:
    first = partitioner(TARGETS, seed=7)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the old global generator is what must not matter
    state, old_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = partitioner(TARGETS.clone(), seed=7)
    assert all(map(torch.equal, first.indices, again.indices))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == old_state).all()  # noqa: NPY002
    other = partitioner(TARGETS, seed=8)
    same = first.sizes == other.sizes and all(map(torch.equal, first.indices, other.indices))
    assert same == (partitioner.name == "natural")


@pytest.mark.parametrize("partitioner", ALL, ids=repr)
def test_labels_are_not_written_to_and_rows_ascend(partitioner: Partitioner) -> None:
    targets = TARGETS.clone()
    partition = partitioner(targets, seed=2)
    assert torch.equal(targets, TARGETS)
    assert all(bool((rows.diff() > 0).all()) for rows in partition.indices)
    assert partition.name == repr(partitioner)


def test_partitioners_are_values() -> None:
    assert dirichlet(5, alpha=0.3) == dirichlet(5, alpha=0.3)
    assert dirichlet(5, alpha=0.3) != dirichlet(5, alpha=0.4)
    assert iid(5) != iid(5, allow_empty=True)
    assert natural(torch.tensor([1, 2])) == natural(torch.tensor([1, 2]))
    assert natural(torch.tensor([1, 2])) != natural(torch.tensor([2, 1]))
    assert len({iid(5), iid(5), shards(5)}) == 2
    assert repr(shards(3, allow_empty=True)) == (
        "shards(num_clients=3, shards_per_client=2, allow_empty=True)"
    )


def test_names_are_those_of_the_table() -> None:
    assert {name: make.__name__ for name, make in PARTITIONERS.items()} == {
        name: name for name in PARTITIONERS
    }
    assert {partitioner.name for partitioner in ALL} == set(PARTITIONERS)


def test_iid_total_variation_is_that_of_sampling_without_replacement() -> None:
    # A client's count of a class is hypergeometric. E|X - m/K| of a normal with its variance is
    # sigma * sqrt(2 / pi), and the total variation is half the sum over classes, over m.
    clients, examples = 20, len(TARGETS)
    size = examples // clients
    p = 1 / NUM_CLASSES
    sigma = math.sqrt(size * p * (1 - p) * (examples - size) / (examples - 1))
    expected = NUM_CLASSES * sigma * math.sqrt(2 / math.pi) / (2 * size)
    found = [iid(clients)(TARGETS, seed=seed).heterogeneity(TARGETS).label_tv for seed in range(20)]
    assert np.mean(found) == pytest.approx(expected, rel=0.03)


def test_shards_total_variation_is_that_of_dealing_pure_shards() -> None:
    # 40 shards of 100, four of each class, so every shard is pure. Two shards of a client agree
    # with probability 3/39; then its distance is 1 - 1/K, otherwise 1 - 2/K.
    agree = (4 - 1) / (40 - 1)
    expected = 1 - (2 - agree) / NUM_CLASSES
    figures = [shards(20)(TARGETS, seed=seed).heterogeneity(TARGETS) for seed in range(100)]
    assert all(f.min_size == f.max_size == 200 for f in figures)
    # Standard deviation of one run about 0.006.
    assert np.mean([f.label_tv for f in figures]) == pytest.approx(expected, abs=0.002)
    assert np.mean([f.classes_per_client for f in figures]) == pytest.approx(2 - agree, abs=0.02)


def test_shards_are_dealt_in_random_order() -> None:
    # Ten clients with one pure shard each: the class of a client is a random permutation.
    partitioner = shards(10, shards_per_client=1)
    first = [int(counts(partitioner, seed)[0].argmax()) for seed in range(40)]
    assert len(set(first)) > 5


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_have_the_moments_of_the_distribution(alpha: float) -> None:
    # A share of Dir(alpha 1_C) has mean 1/C and variance (C - 1) / (C^2 (C alpha + 1)).
    clients = 8
    partitioner = dirichlet(clients, alpha=alpha, allow_empty=True)
    shares = torch.stack([counts(partitioner, seed) for seed in range(150)]).double() / PER_CLASS
    assert torch.allclose(
        shares.mean(dim=(0, 2)), torch.full((clients,), 1 / clients, dtype=torch.float64), atol=0.03
    ), "no client may be favoured"
    expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
    # Rounding adds less than 1 / PER_CLASS^2.
    assert float(shares.var()) == pytest.approx(expected, rel=0.08)


def test_dirichlet_with_a_large_alpha_gives_every_client_the_same() -> None:
    found = counts(dirichlet(20, alpha=1e9), seed=0)
    assert int((found - PER_CLASS // 20).abs().max()) <= 1


def test_dirichlet_rounding_favours_no_client() -> None:
    # Far fewer examples of a class than clients, alpha large: every client expects 1/5 of each
    # class. Plain rounding down would hand all of it to the last client.
    targets = torch.arange(10).repeat_interleave(10)
    total = torch.zeros(50)
    for seed in range(60):
        total += torch.tensor(dirichlet(50, alpha=1e6, allow_empty=True)(targets, seed=seed).sizes)
    # Mean 2 a client and run; the variance of a run's size is below 10 * 0.2 * 0.8.
    assert float((total / 60 - 2).abs().max()) < 5 * math.sqrt(1.6 / 60)


def test_dirichlet_with_a_small_alpha_gives_a_class_to_one_client() -> None:
    found = counts(dirichlet(20, alpha=1e-5, allow_empty=True), seed=0)
    assert found.max(dim=0).values.tolist() == [PER_CLASS] * NUM_CLASSES


@pytest.mark.parametrize("partitioner", ALL[:-1], ids=repr)
def test_the_examples_of_a_class_are_dealt_in_random_order(partitioner: Partitioner) -> None:
    # Neighbouring rows share a client about as often as any two rows of one class do.
    labels = torch.zeros(4000, dtype=torch.int64)
    partition = partitioner(labels, seed=0)
    owners = torch.empty(4000, dtype=torch.int64)
    for client, rows in enumerate(partition.indices):
        owners[rows] = client
    expected = float((torch.tensor(partition.sizes) / 4000).square().sum())
    found = float((owners.diff() == 0).float().mean())
    assert found == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / 4000))


def test_rounding_at_the_very_end_loses_nothing() -> None:
    class Extreme:
        """The largest offset there is, and shares that leave nothing for the last client."""

        def dirichlet(self, alpha: np.ndarray, size: int) -> np.ndarray:
            return np.array([[0.5, 0.5, 0.0]])

        def random(self, shape: tuple[int, int]) -> np.ndarray:
            return np.full(shape, np.nextafter(1.0, 0.0))

    found = rules._draw_counts(np.array([1000]), Extreme(), 3, 1.0, 0)  # type: ignore[arg-type]
    assert found.min() >= 0
    assert found.sum() == 1000


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 0.1, 1e300])
@pytest.mark.parametrize("make", [dirichlet, quantity_skew])
def test_every_client_has_the_least(make: type[Partitioner], alpha: float) -> None:
    partition = make(25, alpha=alpha, min_examples=30)(TARGETS, seed=4)  # type: ignore[call-arg]
    assert min(partition.sizes) >= 30
    assert sum(partition.sizes) == len(TARGETS)


def test_the_least_may_take_everything() -> None:
    assert dirichlet(40, alpha=0.01, min_examples=100)(TARGETS).sizes == (100,) * 40


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_quantity_shares_have_the_moments_of_the_distribution(alpha: float) -> None:
    clients = 8
    partitioner = quantity_skew(clients, alpha=alpha, allow_empty=True)
    shares = np.array([partitioner(TARGETS, seed=seed).sizes for seed in range(800)]) / len(TARGETS)
    expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert shares.mean(axis=0) == pytest.approx(np.full(clients, 1 / clients), abs=0.02)
    assert shares.var() == pytest.approx(expected, rel=0.1)


def test_quantity_skew_leaves_the_labels_alike() -> None:
    found = counts(quantity_skew(5, alpha=2), seed=1).double()
    own = found / found.sum(dim=1, keepdim=True)
    big = found.sum(dim=1) > 300
    # Five standard deviations of a share of 1/10 among 300.
    assert float((own[big] - 0.1).abs().max()) < 5 * math.sqrt(0.09 / 300)


def test_natural_uses_its_own_ids_or_those_of_the_call() -> None:
    labels, ids = torch.tensor([0, 0, 1, 1]), torch.tensor([5, -2, 5, 9])
    expected = [[1], [0, 2], [3]]
    own, passed = natural(ids)(labels), natural()(labels, natural_ids=ids)
    assert [rows.tolist() for rows in own.indices] == expected
    assert [rows.tolist() for rows in passed.indices] == expected
    ids[0] = 9
    assert [rows.tolist() for rows in natural()(labels, natural_ids=ids).indices][2] == [0, 3]


def test_natural_keeps_its_ids_when_the_caller_changes_theirs() -> None:
    ids = torch.tensor([0, 1])
    partitioner = natural(ids)
    ids[0] = 1
    assert partitioner(torch.tensor([0, 0])).num_clients == 2


def test_natural_without_ids_says_where_to_put_them() -> None:
    with pytest.raises(DataError) as caught:
        natural()(TARGETS)
    assert "natural_ids=" in str(caught.value)
    with pytest.raises(DataError, match="one id for each"):
        natural(torch.tensor([1]))(TARGETS)
    with pytest.raises(ArgumentTypeError):
        natural(torch.tensor([0.5]))


@pytest.mark.parametrize("make", [iid, shards])
def test_clients_without_examples_are_refused_by_number(make: type[Partitioner]) -> None:
    labels = torch.tensor([0, 1, 0])
    with pytest.raises(DataError) as caught:
        make(13)(labels)  # type: ignore[call-arg,arg-type]
    text = str(caught.value)
    assert "10 clients have no examples" in text
    assert "..." in text
    assert "fewer clients" in text
    assert "allow_empty=True" in text
    partition = make(13, allow_empty=True)(labels)  # type: ignore[call-arg,arg-type]
    assert len(partition.empty_clients) == 10
    assert sum(partition.sizes) == 3


def test_one_client_without_examples_is_refused_by_number() -> None:
    with pytest.raises(DataError) as caught:
        iid(3)(torch.tensor([0, 1]))
    assert "1 client has no examples" in str(caught.value)
    assert "nothing for client 2" in str(caught.value)


def test_a_skew_without_a_least_is_still_refused_when_a_client_is_empty() -> None:
    with pytest.raises(DataError, match="no examples"):
        dirichlet(20, alpha=1e-5, min_examples=0)(TARGETS)
    with pytest.raises(ConfigurationError) as caught:
        quantity_skew(20, alpha=1, min_examples=300)(TARGETS)
    assert "at least 6000" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (iid, {"num_clients": 0}),
        (iid, {"num_clients": 2.0}),
        (iid, {"num_clients": True}),
        (shards, {"num_clients": 3, "shards_per_client": 0}),
        (dirichlet, {"num_clients": 3, "alpha": 0.0}),
        (dirichlet, {"num_clients": 3, "alpha": -1.0}),
        (dirichlet, {"num_clients": 3, "alpha": float("inf")}),
        (dirichlet, {"num_clients": 3, "alpha": "mild"}),
        (dirichlet, {"num_clients": 3, "alpha": 1.0, "min_examples": -1}),
        (quantity_skew, {"num_clients": -3, "alpha": 1.0}),
        (quantity_skew, {"num_clients": 3, "alpha": float("nan")}),
    ],
)
def test_options_outside_their_range_are_refused(
    make: type[Partitioner], options: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(**options)  # type: ignore[arg-type]
    assert caught.value.where in options


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(ArgumentTypeError):
        iid(2)(torch.zeros(4))
    with pytest.raises(ArgumentTypeError):
        iid(2)([0, 1, 0, 1])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no examples to divide"):
        iid(2)(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ConfigurationError, match="seed"):
        iid(2)(torch.zeros(4, dtype=torch.int64), seed=-1)
