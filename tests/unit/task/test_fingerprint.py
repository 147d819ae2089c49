"""The checksum of data: equal for equal data, other for other data, and bounded in what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headway.task import fingerprint
from headway.task.clients import ClientData
from headway.task.fingerprint import Fingerprinted, data_fingerprint
from tests.simulation_kit import Chase, examples, perceptron_task


def pairs(count: int = 3, size: int = 20) -> list[tuple[Tensor, Tensor]]:
    return [examples(size, seed) for seed in range(count)]


def of(given: list[tuple[Tensor, Tensor]], *held: tuple[Tensor, Tensor] | None) -> str:
    return data_fingerprint(ClientData(given), *held)


def changed(
    given: list[tuple[Tensor, Tensor]], client: int, row: int
) -> list[tuple[Tensor, Tensor]]:
    copies = [(inputs.clone(), targets.clone()) for inputs, targets in given]
    copies[client][0][row, 0] += 1.0
    return copies


def test_equal_data_have_one_fingerprint_wherever_they_lie_in_memory():
    strided = [(inputs.t().contiguous().t(), targets.clone()) for inputs, targets in pairs()]
    assert not strided[0][0].is_contiguous()
    assert of(pairs()) == of(strided)


@pytest.mark.parametrize("client", range(3))
@pytest.mark.parametrize("row", [0, 7, 19])
def test_any_row_of_small_data_counts(client, row):
    assert of(pairs()) != of(changed(pairs(), client, row))


def test_order_sizes_dtypes_and_what_the_server_holds_count():
    first, second, third = pairs()
    seen = {
        of([first, second, third]),
        of([second, first, third]),
        of([first, second]),
        of([(first[0][:-1], first[1][:-1]), second, third]),
        of([(first[0].double(), first[1]), second, third]),
        of([first, second, third], None),
        of([first, second, third], examples(5, 9)),
        of([first, second, third], None, examples(5, 9)),
    }
    assert len(seen) == 8


def test_clients_without_data_and_half_precision_have_one_too():
    none = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    half = examples(4, 0)[0].bfloat16(), torch.tensor([True, False, True, True])
    assert len(of([none, half])) == 64
    assert of([none, half]) != of([half, none])


def test_of_much_data_a_sample_is_read_that_reaches_the_first_and_the_last(monkeypatch):
    # 12 clients of 20 rows, each of 5 floats and one label of 8 bytes.
    given = pairs(12)
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 12 * 20 * 28 - 1)
    monkeypatch.setattr(fingerprint, "_CLIENTS", 4)
    before = of(given)
    assert before == of([(inputs.clone(), targets) for inputs, targets in given])
    # Clients 0, 3, 7 and 11 are read.
    assert all(before != of(changed(given, client, row)) for client in (0, 11) for row in (0, 19))
    assert before == of(changed(given, 1, 0))
    # Sizes count of all of them.
    shorter = [*given]
    shorter[1] = given[1][0][:-1], given[1][1][:-1]
    assert before != of(shorter)


def test_what_is_read_is_bounded(monkeypatch):
    read = []
    real = fingerprint._take

    def counting(sha, part, share):
        rows = min(len(part), max(1, share // fingerprint._row_bytes(part)))
        read.append(rows * fingerprint._row_bytes(part))
        real(sha, part, share)

    monkeypatch.setattr(fingerprint, "_take", counting)
    monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 4000)
    monkeypatch.setattr(fingerprint, "_CLIENTS", 4)
    of(pairs(12, size=200))
    # Inputs and targets have the share of a client each.
    assert len(read) == 8
    assert sum(read) <= 2 * 4000


def test_tasks_with_data_of_their_own_have_it_and_others_need_not():
    task = perceptron_task()
    assert isinstance(task, Fingerprinted)
    assert task.data_fingerprint() == perceptron_task().data_fingerprint()
    assert not isinstance(Chase([1.0]), Fingerprinted)
