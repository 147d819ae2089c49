"""Nothing of the model's size is allocated per update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headway import core
from tests import core_kit as kit
from tests.unit.core.test_ca2fl import Calibrated
from tests.unit.core.test_easgd import elastic

SIZE = 1000


class Allocations(TorchDispatchMode):
    """Notes each operation that returns new memory of the model's size."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _memory(leaf) not in known and leaf.numel() >= SIZE:
                self.found.append(str(func))
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def rounds(server: core.Server, payloads: dict[str, Tensor], count: int) -> Iterator[core.Receipt]:
    tickets = {name: kit.take(server, name) for name in payloads}
    for _ in range(count):
        for name, payload in payloads.items():
            yield kit.send(server, name, tickets[name], payload)
            tickets[name] = kit.take(server, name)


def zeros(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(SIZE, dtype=dtype)


SERVERS = {
    "plain": lambda: core.Server(zeros(), kit.bare()),
    "buffered": lambda: core.Server(zeros(), kit.bare(kit.DropStale(9), kit.Mean(2))),
    "calibrated": lambda: core.Server(zeros(), kit.bare(Calibrated(kit.Mean(2)))),
    "bulk": lambda: core.Server(zeros(), kit.bare(kit.Mean(1), gate=core.Bulk(1))),
    "nothing recorded": lambda: core.Server(zeros(), kit.bare(), record="nothing"),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_an_update_allocates_nothing(kind: str) -> None:
    server = SERVERS[kind]()
    names = "a" if kind == "bulk" else "abc"
    payloads = {name: torch.full((SIZE,), 0.5) for name in names}
    assert all(receipt.status != "rejected" for receipt in rounds(server, payloads, 3))
    for name in payloads:
        server.lose(name, 0.0)
    with Allocations() as allocations:
        receipts = list(rounds(server, payloads, 5))
    assert {receipt.status for receipt in receipts} <= {"applied", "buffered"}
    assert allocations.found == []


def test_an_answer_lives_in_a_row_of_the_table() -> None:
    server = elastic(0.5)
    payload = torch.ones(2, dtype=torch.float64)
    first = kit.send(server, "a", kit.take(server, "a"), payload)
    second = kit.send(server, "a", kit.take(server, "a"), payload)
    assert first.answer is not None
    assert second.answer is not None
    assert _memory(first.answer) == _memory(second.answer)


def test_the_check_itself_sees_an_allocation() -> None:
    with Allocations() as allocations:
        zeros().add_(1.0)
    assert allocations.found == ["aten.zeros.default"]


def test_snapshots_cost_one_copy_per_version_in_flight_and_one() -> None:
    server = core.Server(zeros(), kit.bare())
    with Allocations() as allocations:
        for name in "abcdef":
            kit.take(server, name)
    assert len(allocations.found) == 1
