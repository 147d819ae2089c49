"""Any labels, any options: a partitioner gives every example to exactly one client."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import ConfigurationError, DataError
from headway.data import (
    Dataset,
    Partition,
    Partitioner,
    dirichlet,
    federated,
    iid,
    natural,
    quantity_skew,
    shards,
)

SEEDS = st.integers(0, 2**64)
ALPHAS = st.floats(1e-6, 1e6)
CLIENTS = st.integers(1, 30)
LABELS = st.lists(st.integers(0, 12), min_size=1, max_size=200).map(torch.tensor)


@st.composite
def partitioners(draw: st.DrawFn, *, allow_empty: bool) -> Partitioner:
    kind = draw(st.sampled_from(["iid", "dirichlet", "shards", "quantity_skew"]))
    clients = draw(CLIENTS)
    if kind == "iid":
        return iid(clients, allow_empty=allow_empty)
    if kind == "shards":
        return shards(clients, shards_per_client=draw(st.integers(1, 5)), allow_empty=allow_empty)
    make = dirichlet if kind == "dirichlet" else quantity_skew
    least = None if allow_empty else draw(st.integers(0, 4))
    return make(clients, alpha=draw(ALPHAS), min_examples=least, allow_empty=allow_empty)


def rows_of(partition: Partition) -> list[int]:
    return sorted(torch.cat(partition.indices).tolist())


@given(labels=LABELS, partitioner=partitioners(allow_empty=True), seed=SEEDS)
def test_every_example_goes_to_exactly_one_client(
    labels: torch.Tensor, partitioner: Partitioner, seed: int
) -> None:
    partition = partitioner(labels, seed=seed)
    assert rows_of(partition) == list(range(len(labels)))
    assert partition.num_clients == dict(partitioner.options)["num_clients"]
    again = partitioner(labels, seed=seed)
    assert all(map(torch.equal, partition.indices, again.indices))


@given(labels=LABELS, partitioner=partitioners(allow_empty=False), seed=SEEDS)
def test_without_leave_no_client_is_empty(
    labels: torch.Tensor, partitioner: Partitioner, seed: int
) -> None:
    options = dict(partitioner.options)
    try:
        partition = partitioner(labels, seed=seed)
    except ConfigurationError:
        assert len(labels) < options["num_clients"] * options["min_examples"]
    except DataError:
        # Never where a least was promised, or where there is enough for all.
        assert options.get("min_examples", 0) == 0
        assert partitioner.name in {"dirichlet", "quantity_skew"} or (
            len(labels) < options["num_clients"] * options.get("shards_per_client", 1)
        )
    else:
        assert rows_of(partition) == list(range(len(labels)))
        assert min(partition.sizes) >= max(1, options.get("min_examples", 1))


@given(labels=LABELS, clients=CLIENTS, per_client=st.integers(1, 5), seed=SEEDS)
def test_equal_rules_have_equal_sizes(
    labels: torch.Tensor, clients: int, per_client: int, seed: int
) -> None:
    sizes = iid(clients, allow_empty=True)(labels, seed=seed).sizes
    assert max(sizes) - min(sizes) <= 1
    dealt = shards(clients, shards_per_client=per_client, allow_empty=True)(labels, seed=seed).sizes
    # Each of a client's shards is off by less than one.
    assert all(abs(size - len(labels) / clients) < per_client for size in dealt)


@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=60))
def test_natural_clients_hold_one_id_each(ids: list[int]) -> None:
    tensor = torch.tensor(ids, dtype=torch.int64)
    partition = natural(tensor)(torch.zeros(len(ids), dtype=torch.int64))
    assert rows_of(partition) == list(range(len(ids)))
    held = [set(tensor[rows].tolist()) for rows in partition.indices]
    assert held == [{value} for value in sorted(set(ids))]


@given(labels=LABELS, partitioner=partitioners(allow_empty=True), seed=SEEDS)
def test_figures_stay_in_their_ranges(
    labels: torch.Tensor, partitioner: Partitioner, seed: int
) -> None:
    figures = partitioner(labels, seed=seed).heterogeneity(labels)
    kinds = len(labels.unique())
    assert -1e-12 <= figures.label_tv < 1
    assert -1e-12 <= figures.label_entropy <= np.log(kinds) + 1e-9
    assert 1 <= figures.classes_per_client <= kinds
    assert -1e-12 <= figures.size_gini <= 1 - 1 / figures.num_clients + 1e-12
    assert figures.num_examples == len(labels)


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=100).map(torch.tensor),
    share=st.floats(0.01, 0.99),
    seed=SEEDS,
)
def test_split_loses_nothing_and_is_off_by_less_than_one_a_class(
    labels: torch.Tensor, share: float, seed: int
) -> None:
    size = min(max(1, round(share * len(labels))), len(labels) - 1)
    rows = torch.arange(len(labels), dtype=torch.float32)[:, None]
    train, test = Dataset("made", rows, labels, 6).split(test_size=size, seed=seed)
    assert len(test) == size
    both = torch.cat([train.inputs, test.inputs]).flatten().tolist()
    assert sorted(both) == list(range(len(labels)))
    quota = labels.bincount(minlength=6) * size / len(labels)
    assert float((test.targets.bincount(minlength=6) - quota).abs().max()) < 1


@given(labels=LABELS.filter(lambda labels: len(labels) > 4), seed=SEEDS)
def test_clients_and_test_set_share_no_row(labels: torch.Tensor, seed: int) -> None:
    rows = torch.arange(len(labels), dtype=torch.float32)[:, None]
    data = Dataset("made", rows, labels, 13)
    clients = federated(data, iid(3, allow_empty=True), seed=seed, test_fraction=0.25)
    held = torch.cat([clients.client(index)[0] for index in range(3)] + [clients.test.inputs])
    assert sorted(held.flatten().tolist()) == list(range(len(labels)))
