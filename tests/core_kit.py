"""Bare transforms, steps and helpers for tests of the core, so that these need no algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headway import core

ALL_PAYLOADS = frozenset({"gradient", "delta", "weights"})
NO_NEEDS = core.Needs()
ONE_COPY = core.Needs(copies=1)


@dataclass(frozen=True, slots=True)
class Add:
    """``x <- x + scale * weight * payload``."""

    scale: float = 1.0
    needs: core.Needs = NO_NEEDS
    accepts: frozenset[str] = ALL_PAYLOADS
    mixing: float = 1.0

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> None:
        target = context.target(update.fragment)
        target.add_(update.payload, alpha=self.scale * update.weight)


@dataclass(slots=True)
class MeanState:
    total: Tensor
    count: int = 0
    weight: float = 0.0
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Mean:
    """Holds ``size`` updates, then passes on ``sum(weight * payload) / size``."""

    size: int
    needs: core.Needs = ONE_COPY

    def init(self, context: core.Context) -> MeanState:
        return MeanState(torch.zeros_like(context.parameters))

    def apply(self, update: core.Update, state: MeanState, context: core.Context) -> core.Outcome:
        if state.count == 0:
            state.total.zero_()
        state.total.add_(update.payload, alpha=update.weight)
        state.count += 1
        state.weight += update.weight
        state.staleness = max(state.staleness, context.staleness)
        if state.count < self.size:
            return core.Held(f"{state.count} of {self.size}")
        flush = core.Contributions(state.count, state.staleness, state.weight)
        state.total.div_(state.count)
        state.count, state.weight, state.staleness = 0, 0.0, 0
        return core.Pass(update._replace(payload=state.total, weight=1.0, contributions=flush))


@dataclass(frozen=True, slots=True)
class DropStale:
    """Drops what is ``bound`` or more versions late."""

    bound: int
    needs: core.Needs = NO_NEEDS

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> core.Outcome:
        return core.Dropped("stale") if context.staleness >= self.bound else core.Pass(update)


@dataclass(frozen=True, slots=True)
class Weigh:
    """Multiplies the weight by a function of the context."""

    factor: Callable[[core.Context], float]
    needs: core.Needs = NO_NEEDS

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> core.Outcome:
        return core.Pass(update._replace(weight=update.weight * self.factor(context)))


@dataclass(frozen=True, slots=True)
class Noise:
    """Draws from the server's random stream: the scale of the update is ``1 + U(0, 1)``."""

    needs: core.Needs = NO_NEEDS

    def init(self, context: core.Context) -> None:
        return None

    def apply(self, update: core.Update, state: None, context: core.Context) -> core.Outcome:
        draw = float(torch.rand((), generator=context.generator()))
        return core.Pass(update._replace(weight=update.weight * (1.0 + draw)))


def bare(
    *chain: core.Transform, step: Any = None, payload: core.PayloadKind = "delta", **fields: Any
) -> core.Algorithm:
    """An algorithm of bare parts."""
    return core.Algorithm(name="bare", payload=payload, chain=chain, step=step or Add(), **fields)


def take(server: core.Server, worker: str, now: float = 0.0) -> core.Checkout:
    """Check out, and insist on a job."""
    reply = server.checkout(worker, now)
    assert isinstance(reply, core.Checkout), reply
    return reply


def send(
    server: core.Server,
    worker: str,
    ticket: core.Checkout,
    payload: Any,
    now: float = 0.0,
    *,
    again: bool = False,
    **fields: Any,
) -> core.Receipt:
    """Submit the answer to a job."""
    if isinstance(payload, int | float):
        payload = torch.full_like(server.parameters, payload)
    update = core.Update(payload, ticket.version, worker, ticket.job, **fields)
    return server.submit(update, now, again=again)


def wakes(reply: Any) -> list[str]:
    """Whom a reply's effects wake."""
    return [effect.worker for effect in reply.effects if isinstance(effect, core.Wake)]


def same(one: Any, other: Any) -> bool:
    """Whether two plain trees are equal, tensors to the bit."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        alike = isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype
        return alike and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def logged(events: list[core.Event]) -> list[Any]:
    """Events as records, payloads included: what two runs of the same thing have in common."""
    records: list[Any] = []
    for event in events:
        record = core.to_record(event)
        if isinstance(event, core.Submitted):
            payload = event.payload
            record["payload"] = None if payload is None else payload.numpy().tobytes()
        records.append(record)
    return records
