"""What a run counts while it goes: per client, per staleness, and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from headway.core import Buffers, Receipt, Update
from headway.core.errors import StateError
from headway.observe import ClientCount
from headway.observe.counting import RunningCount, idle_share, per_client

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Running counts. ``examples`` counts all work, ``discarded_examples`` what changed nothing.

    What was buffered is held until the model's version grows: then it was in that change. What is
    still held at the end, or was in a flush that was worth nothing, is ``unapplied`` and discarded.
    """

    updates: int = 0
    examples: int = 0
    discarded_examples: int = 0
    unapplied: int = 0
    held: int = 0
    held_examples: int = 0
    version: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    peak_in_flight: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    recent_staleness: float = 0.0
    clients: dict[int, RunningCount] = field(default_factory=dict)

    def dispatch(self, client: int) -> int:
        """A job is given to this client: its dispatch number."""
        count = self.clients.get(client)
        if count is None:
            count = self.clients[client] = RunningCount()
        count.dispatched += 1
        return count.dispatched - 1

    def send(self, parameters: Tensor, buffers: Buffers | None) -> None:
        """A model, or a part of it, goes to a client."""
        self.bytes_down += parameters.nbytes
        if buffers is not None:
            self.bytes_down += _num_bytes(buffers)

    def arrive(
        self, client: int, update: Update, receipt: Receipt, examples: int, busy_s: float
    ) -> None:
        """An update arrived, and this is what became of it; ``examples`` is the work in it."""
        self.updates += 1
        count = self.clients[client]
        count.busy_s += busy_s
        count.examples += examples
        self.examples += examples
        self.bytes_up += _size_of(update.payload)
        if update.buffers is not None:
            self.bytes_up += _num_bytes(update.buffers)
        if receipt.version > self.version:
            self._use(receipt.version)
        if receipt.status == "rejected":
            count.rejected += 1
            self.reasons[receipt.reason] += 1
            self.discarded_examples += examples
            if receipt.reason in ("zero_weight", "mean_not_finite"):
                self._drop()
        else:
            count.accepted += 1
            if receipt.status == "buffered":
                self.held += 1
                self.held_examples += examples
            self.staleness[receipt.staleness] += 1
            self.recent_staleness += 0.02 * (receipt.staleness - self.recent_staleness)

    def stray(self, receipt: Receipt) -> None:
        """Something arrived that belongs to no job in flight: it is none of the run's updates."""
        if receipt.status == "rejected":
            self.reasons[receipt.reason] += 1

    def cancel(self, client: int, examples: int, busy_s: float) -> None:
        """A job was cancelled; ``examples`` is the part of its work that was already done."""
        count = self.clients[client]
        count.cancelled += 1
        self._waste(count, examples, busy_s)

    def lose(self, client: int, examples: int, busy_s: float) -> None:
        """A job never came back."""
        count = self.clients[client]
        count.lost += 1
        self._waste(count, examples, busy_s)

    def leave(self, client: int, busy_s: float) -> None:
        """The run ends while a job is in flight: it is neither examples nor waste, only time."""
        self.clients[client].busy_s += busy_s

    def close(self, version: int) -> None:
        """The run has ended with this version: what is held now will never be used."""
        if version > self.version:
            self._use(version)
        self._drop()

    def state_dict(self) -> dict[str, Any]:
        """All counts, as a plain tree; those of the clients as columns."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "clients"}
        plain = {k: dict(v) if isinstance(v, Counter) else v for k, v in counts.items()}
        return {**plain, "clients": _columns(self.clients)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the tally that was saved.

        Args:
            state: From :meth:`state_dict`.

        Raises:
            StateError: It is not such a state.
        """
        try:
            for f in fields(self):
                saved, is_counter = state[f.name], isinstance(getattr(self, f.name), Counter)
                if f.name != "clients":
                    setattr(self, f.name, Counter(saved) if is_counter else saved)
            columns = [column.tolist() for column in state["clients"]]
            ids, rows = columns[0], zip(*columns[1:], strict=True)
            self.clients = {c: RunningCount(*row) for c, row in zip(ids, rows, strict=True)}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise StateError("these are not saved counts", got=repr(error)) from error

    def _use(self, version: int) -> None:
        self.version = version
        self.held = self.held_examples = 0

    def _drop(self) -> None:
        self.unapplied += self.held
        self.discarded_examples += self.held_examples
        self.held = self.held_examples = 0

    def _waste(self, count: RunningCount, examples: int, busy_s: float) -> None:
        count.busy_s += busy_s
        count.examples += examples
        self.examples += examples
        self.discarded_examples += examples

    def idle_share(self, virtual_time_s: float) -> float:
        """The share of the time in which a place in flight stood empty, of the most ever used."""
        return idle_share(self.clients, self.peak_in_flight, virtual_time_s)

    def per_client(self) -> dict[int, ClientCount]:
        """The counts of every client that ever trained."""
        return per_client(self.clients)


def _columns(clients: Mapping[int, RunningCount]) -> list[Tensor]:
    """The clients' numbers and each of their counts: a million of them are a few tensors."""
    columns = [torch.tensor(list(clients), dtype=torch.int64)]
    for f in fields(RunningCount):
        dtype = torch.float64 if f.name.endswith("_s") else torch.int64
        values = list(map(attrgetter(f.name), clients.values()))
        columns.append(torch.tensor(values, dtype=dtype))
    return columns


def _size_of(payload: Tensor) -> int:
    try:
        return payload.nbytes
    except (AttributeError, RuntimeError):
        # A careless client sent a list, or a sparse tensor: rejected, and of unknown size.
        return 0


def _num_bytes(buffers: Buffers | None) -> int:
    return 0 if buffers is None else buffers.floating.nbytes + buffers.integer.nbytes
