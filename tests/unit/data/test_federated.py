from __future__ import annotations

import pytest
import torch

from headway.core.errors import ArgumentTypeError, ConfigurationError, DataError
from headway.data import (
    Dataset,
    Federated,
    Partition,
    dirichlet,
    federated,
    iid,
    mnist_5k,
    natural,
    shards,
)


def made(num_examples: int = 100, ids: torch.Tensor | None = None) -> Dataset:
    inputs = torch.arange(num_examples, dtype=torch.float32)[:, None].repeat(1, 3)
    return Dataset("made", inputs, torch.arange(num_examples) % 4, 4, natural_ids=ids)


def test_clients_hold_the_rows_of_their_partition() -> None:
    clients = federated(made(), dirichlet(6, alpha=0.5), seed=3)
    assert clients.num_clients == len(clients.sizes) == 6
    for index, rows in enumerate(clients.partition.indices):
        inputs, targets = clients.client(index)
        assert torch.equal(inputs, clients.train.inputs[rows])
        assert torch.equal(targets, clients.train.targets[rows])
        assert inputs.is_contiguous()
        assert targets.is_contiguous()
        assert len(targets) == clients.sizes[index]


def test_rows_are_gathered_once_into_one_tensor() -> None:
    clients = federated(made(), iid(4))
    first = clients.client(2)[0]
    storages = {clients.client(i)[0].untyped_storage().data_ptr() for i in range(4)}
    assert len(storages) == 1
    assert clients.client(2)[0].data_ptr() == first.data_ptr()
    assert first.untyped_storage().data_ptr() != clients.train.inputs.untyped_storage().data_ptr()


def test_the_same_seed_gives_every_partitioner_the_same_test_set() -> None:
    one, two = federated(made(), iid(4), seed=1), federated(made(), shards(5), seed=1)
    assert torch.equal(one.test.inputs, two.test.inputs)
    other = federated(made(), iid(4), seed=2)
    assert not torch.equal(one.test.inputs, other.test.inputs)


def test_a_test_set_of_its_own_leaves_all_examples_to_the_clients() -> None:
    train, test = made(100), made(20)
    clients = federated(train, iid(4), test=test)
    assert clients.train is train
    assert clients.test is test
    assert sum(clients.sizes) == 100


def test_natural_ids_follow_the_split() -> None:
    clients = federated(made(ids=torch.arange(100) // 10), natural(), test_fraction=0.3)
    assert clients.num_clients == 10
    for index in range(10):
        # Row i holds the number i, and its writer is i // 10.
        assert set((clients.client(index)[0][:, 0] // 10).tolist()) == {float(index)}


def test_heterogeneity_is_that_of_the_partition() -> None:
    clients = federated(mnist_5k(), shards(50), seed=0)
    figures = clients.heterogeneity
    assert figures == clients.partition.heterogeneity(clients.train.targets)
    assert figures.num_examples == 4000
    assert "label TV distance" in str(figures)
    assert len(str(figures).splitlines()) <= 10
    assert figures.label_tv > federated(mnist_5k(), iid(50), seed=0).heterogeneity.label_tv


def test_an_empty_client_is_refused_or_has_tensors_of_length_zero() -> None:
    with pytest.raises(DataError, match="no examples"):
        federated(made(10), iid(20))
    clients = federated(made(10), iid(20, allow_empty=True))
    inputs, targets = clients.client(19)
    assert inputs.shape == (0, 3)
    assert targets.shape == (0,)
    assert 19 in clients.partition.empty_clients


def test_parts_that_do_not_belong_together_are_refused() -> None:
    data = made()
    with pytest.raises(DataError, match="another data set"):
        Federated(data, Partition((torch.tensor([100]),)), data)
    wider = Dataset("wider", torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64), 4)
    with pytest.raises(DataError, match="same features"):
        Federated(data, Partition((torch.tensor([1]),)), wider)
    with pytest.raises(ArgumentTypeError) as caught:
        federated(data, iid)  # type: ignore[arg-type]
    assert "iid(50)" in str(caught.value)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_client_that_does_not_exist_is_refused(index: int) -> None:
    with pytest.raises(ConfigurationError, match="no such client"):
        federated(made(), iid(4)).client(index)
