"""Nothing of the model's size is allocated per update: watched, not believed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headway import algorithms, core
from tests.algorithm_kit import Rig
from tests.contract.test_algorithms import CASES

SIZE = 300_000
# Block by block, for the optimizers without a fused kernel.
BLOCK_BYTES = 512 * 1024


class Watch(TorchDispatchMode):
    """Collects the storages that appear while it is on, with the operation that made them."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs or {}))
            if isinstance(leaf, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.made.append((leaf.untyped_storage().nbytes(), str(function)))
        return result

    def largest(self):
        return max(self.made, default=(0, "nothing"))


def run(rig, rounds, num_workers, payload):
    names = [f"worker-{index}" for index in range(num_workers)]
    for number in range(rounds):
        rig.checkout(*names)
        for worker in [name for name in names if name in rig.tickets]:
            if worker in rig.tickets:
                rig.submit(worker, payload, weight=1.0 if number % 2 else 0.5)


def test_the_watch_sees_an_allocation():
    x = torch.zeros(SIZE)
    with Watch() as watch:
        x.add_(x * 2.0)
    assert watch.largest() == (4 * SIZE, "aten.mul.Tensor")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_model_is_allocated_per_update(case):
    rig = Rig(case.make(), torch.zeros(SIZE), {"record": "nothing"})
    payload = torch.full((SIZE,), 1e-3)
    # The first rounds make optimizer states and snapshots.
    run(rig, 4, case.buffer + 1, payload)
    version = rig.server.version
    with Watch() as watch:
        run(rig, 4, case.buffer + 1, payload)
    assert rig.server.version > version
    assert watch.largest()[0] <= BLOCK_BYTES, watch.largest()


OPTIMIZERS = {
    "ASGD": {},
    "Adadelta": {},
    "Adagrad": {"weight_decay": 0.1},
    "Adam": {"weight_decay": 0.1, "amsgrad": True},
    "AdamW": {},
    "Adamax": {"weight_decay": 0.1},
    "NAdam": {"weight_decay": 0.1},
    "RAdam": {"weight_decay": 0.1},
    "RMSprop": {"centered": True, "momentum": 0.9},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["gradient", "delta"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_no_optimizer_allocates_a_model_per_step(name, kind, weight):
    step = algorithms.transforms.server_step(
        partial(getattr(torch.optim, name), lr=0.01, **OPTIMIZERS[name])
    )
    context = core.Context(torch.ones(SIZE), payload=kind)
    state = step.init(context)
    payload = torch.from_numpy(np.random.default_rng(0).standard_normal(SIZE)).float()
    before = payload.clone()
    update = core.Update(payload, 0, "worker-0", 1, weight=weight)
    for _ in range(2):
        step.apply(update, state, context)
    with Watch() as watch:
        step.apply(update, state, context)
    assert watch.largest()[0] <= BLOCK_BYTES, watch.largest()
    assert torch.equal(payload, before)
