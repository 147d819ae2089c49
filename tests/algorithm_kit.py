"""A small driver for algorithms: a real server, workers that are just names, and a clock by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from headway import core


@dataclass
class Rig:
    """Drives a server: who checks out and who submits is said by the test."""

    algorithm: core.Algorithm
    initial: torch.Tensor
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        self.server = core.Server(self.initial, self.algorithm, **self.options)
        self.tickets = {}
        self.receipts = []
        self.now = 0.0

    @property
    def x(self):
        return self.server.parameters

    def checkout(self, *workers):
        """Give each of these workers a job; true for those who got one."""
        for worker in workers:
            if worker not in self.tickets:
                ticket = self.server.checkout(worker, self.now)
                if isinstance(ticket, core.Checkout):
                    self.tickets[worker] = ticket
        return [worker in self.tickets for worker in workers]

    def submit(self, worker, payload, **fields):
        """Hand in what this worker made of its job."""
        self.now += 1.0
        ticket = self.tickets.pop(worker)
        fields.setdefault("sequence", ticket.job)
        update = core.Update(payload, ticket.version, worker, **fields)
        receipt = self.server.submit(update, self.now)
        for effect in receipt.effects:
            if isinstance(effect, core.Cancel):
                self.tickets.pop(effect.worker, None)
        self.receipts.append(receipt)
        return receipt

    def turn(self, worker, payload, **fields):
        """Check out and submit at once: staleness 0 unless others step in between."""
        self.checkout(worker)
        return self.submit(worker, payload, **fields)

    def base(self, worker):
        """The vector that this worker was given."""
        return self.tickets[worker].parameters

    @property
    def step_state(self):
        return self.server._chain.states[-1]

    @property
    def chain_states(self):
        return self.server._chain.states[:-1]


def quadratic_payload(kind, base, rng, num_steps=3):
    """What a worker with a noisy quadratic of its own would send, from its base."""
    size = base.numel()
    curvature = torch.linspace(0.5, 1.5, size, dtype=base.dtype)
    target = torch.from_numpy(rng.standard_normal(size)).to(base.dtype)
    gradient = curvature * (base - target)
    if kind == "gradient":
        return gradient
    local = base.clone()
    for _ in range(num_steps):
        local -= 0.1 * curvature * (local - target)
    return local if kind == "weights" else local - base


def random_run(rig, steps, *, num_workers=3, seed=0, fields=None):
    """Let random workers finish: everyone who may work works. Yields what arrived, in numpy."""
    rng = np.random.default_rng(seed)
    names = [f"worker-{index}" for index in range(num_workers)]
    for number in range(steps):
        rig.checkout(*names)
        busy = sorted(rig.tickets)
        worker = busy[int(rng.integers(len(busy)))]
        base = rig.base(worker)
        payload = quadratic_payload(rig.algorithm.payload, base, rng)
        extra = {"num_examples": int(rng.integers(1, 50))} if fields is None else fields(number)
        sent = payload.double().numpy().copy()
        receipt = rig.submit(worker, payload, **extra)
        yield sent, receipt, extra


def owned_vectors(state, num_params, foreign=()):
    """Distinct storages of at least the model's size that are reachable from a state."""
    found, seen, queue = {}, set(), [state]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes() // item.element_size()
        elif isinstance(item, dict):
            queue += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            queue += item
        elif isinstance(item, torch.optim.Optimizer):
            queue += [dict(item.state), item.param_groups]
        elif hasattr(item, "__slots__") or hasattr(item, "__dict__"):
            names = [n for cls in type(item).__mro__ for n in getattr(cls, "__slots__", ())]
            names += list(getattr(item, "__dict__", ()))
            queue += [getattr(item, name, None) for name in names]
    for tensor in foreign:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(found.values()) / num_params
