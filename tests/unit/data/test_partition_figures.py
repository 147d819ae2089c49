from __future__ import annotations

import math

import pytest
import torch

from headway.core.errors import ArgumentTypeError, ConfigurationError, DataError
from headway.data import Partition


def of(*clients: list[int]) -> Partition:
    return Partition(tuple(torch.tensor(rows, dtype=torch.int64) for rows in clients))


def test_figures_by_hand() -> None:
    targets = torch.tensor([0, 0, 0, 1, 1, 2])
    figures = of([0, 1, 3], [2], [4, 5]).heterogeneity(targets)
    # Global 1/2, 1/3, 1/6. Clients (2/3, 1/3, 0), (1, 0, 0), (0, 1/2, 1/2).
    assert figures.label_tv == pytest.approx((1 / 6 + 1 / 2 + 1 / 2) / 3)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) + math.log(2)
    assert figures.label_entropy == pytest.approx(entropy / 3)
    assert figures.classes_per_client == pytest.approx(5 / 3)
    # |3-1| + |3-2| + |1-2|, each twice, over 2 * 3 * 6.
    assert figures.size_gini == pytest.approx(8 / 36)
    assert (figures.min_size, figures.max_size) == (1, 3)
    assert (figures.num_clients, figures.num_examples) == (3, 6)


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_the_definitions_summed_plainly(seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 7, (200,), generator=stream)
    owners = torch.randint(0, 12, (200,), generator=stream)
    partition = Partition(tuple((owners == client).nonzero().flatten() for client in range(12)))
    figures = partition.heterogeneity(targets)
    whole = targets.bincount(minlength=7).double() / 200
    shares = [
        targets[rows].bincount(minlength=7).double() / len(rows) for rows in partition.indices
    ]
    assert figures.label_tv == pytest.approx(
        sum(float((own - whole).abs().sum()) / 2 for own in shares) / 12
    )
    assert figures.label_entropy == pytest.approx(
        sum(float(torch.special.entr(own).sum()) for own in shares) / 12
    )
    sizes = partition.sizes
    assert figures.size_gini == pytest.approx(
        sum(abs(a - b) for a in sizes for b in sizes) / (2 * 12 * 200)
    )


def test_clients_that_are_all_alike_have_no_heterogeneity() -> None:
    figures = of([0, 1], [2, 3]).heterogeneity(torch.tensor([0, 1, 0, 1]))
    assert figures.label_tv == 0.0
    assert figures.size_gini == 0.0
    assert figures.label_entropy == pytest.approx(math.log(2))


def test_empty_clients_count_for_sizes_only() -> None:
    partition = of([0, 1], [])
    figures = partition.heterogeneity(torch.tensor([0, 1]))
    assert partition.empty_clients == (1,)
    assert (figures.label_tv, figures.classes_per_client) == (0.0, 2.0)
    assert figures.size_gini == pytest.approx(0.5)
    assert figures.min_size == 0


def test_labels_that_are_not_those_partitioned_are_refused() -> None:
    with pytest.raises(DataError, match="not the ones"):
        of([0, 3]).heterogeneity(torch.tensor([0, 1]))
    with pytest.raises(DataError, match="not the ones"):
        of([], []).heterogeneity(torch.tensor([0, 1]))


def test_what_is_no_partition_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one client"):
        Partition(())
    with pytest.raises(ConfigurationError, match="one client at most") as caught:
        of([0, 4], [4])
    assert "row 4 given 2 times" in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        of([0, -3])
    assert "row -3" in str(caught.value)
    with pytest.raises(ArgumentTypeError) as wrong:
        Partition((torch.tensor([0]), torch.tensor([0.5])))
    assert "indices[1]" in str(wrong.value)
    with pytest.raises(ArgumentTypeError):
        Partition(([0, 1],))  # type: ignore[arg-type]
