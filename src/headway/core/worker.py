"""What the server knows of a worker, and of all of them as columns: there may be a million."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor

from headway.core.errors import StateError
from headway.core.update import Receipt

__all__ = [
    "AWAY",
    "REFUSED",
    "WAITING",
    "WOKEN",
    "Worker",
    "dump_workers",
    "load_workers",
    "without",
]

AWAY, WAITING, REFUSED, WOKEN = "away", "waiting", "refused", "woken"
_PLACES: Final = (AWAY, WAITING, REFUSED, WOKEN)
_STATUSES: Final = ("applied", "buffered", "rejected")
_RECEIPTS_KEPT: Final = 4


@dataclass(slots=True)
class Worker:
    """What the server knows of a worker. ``place``: whether it waits, and how.

    ``undelivered``: jobs that the server ended itself, and whose updates have not come. Jobs and
    receipts are short tuples and not lists: there may be a million workers.
    """

    index: int
    name: str
    place: str = AWAY
    lost: bool = False
    version: int = 0
    jobs: tuple[int, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    undelivered: tuple[int, ...] = ()

    def remember(self, receipt: Receipt) -> None:
        """Keep a receipt, so that the same job submitted again gets it again.

        Only the newest keeps its answer: a rule may reuse the memory of the one before it.
        """
        if receipt.effects:
            # They are carried out once: what is kept for a retry holds none.
            kept: Any = (*receipt[:-1], ())
            receipt = tuple.__new__(Receipt, kept)
        if receipt.answer is not None:
            self.receipts = tuple([older._replace(answer=None) for older in self.receipts])
        before = self.receipts
        self.receipts = (*(before if len(before) < _RECEIPTS_KEPT else before[1:]), receipt)

    def expect(self, job: int) -> None:
        """This job ended without its update, which may still be on its way."""
        self.undelivered = (*self.undelivered[1 - _RECEIPTS_KEPT :], job)

    def deliver(self, receipt: Receipt, version: int) -> Receipt:
        """The update of such a job is here: its receipt is given for the first time, as of now."""
        base = receipt.version - receipt.staleness
        given = receipt._replace(staleness=version - base, version=version)
        self.receipts = tuple([given if old is receipt else old for old in self.receipts])
        self.undelivered = without(self.undelivered, receipt.job)
        return given


def without(jobs: tuple[int, ...], job: int) -> tuple[int, ...]:
    """Jobs without one of them."""
    return () if len(jobs) == 1 else tuple([other for other in jobs if other != job])


def dump_workers(workers: Iterable[Worker]) -> dict[str, Any]:
    """Workers as a plain tree of columns: their names are kept elsewhere.

    Receipts are kept without their effects, which were carried out when they were first given.
    """
    everyone = list(workers)
    receipts = [receipt for worker in everyone for receipt in worker.receipts]
    reasons = list(dict.fromkeys(receipt.reason for receipt in receipts))
    number = {reason: place for place, reason in enumerate(reasons)}
    return {
        "index": _whole(worker.index for worker in everyone),
        "place": _whole(_PLACES.index(worker.place) for worker in everyone),
        "lost": _whole(int(worker.lost) for worker in everyone),
        "version": _whole(worker.version for worker in everyone),
        "num_jobs": _whole(len(worker.jobs) for worker in everyone),
        "jobs": _whole(chain.from_iterable(worker.jobs for worker in everyone)),
        "num_undelivered": _whole(len(worker.undelivered) for worker in everyone),
        "undelivered": _whole(chain.from_iterable(worker.undelivered for worker in everyone)),
        "num_receipts": _whole(len(worker.receipts) for worker in everyone),
        "reasons": reasons,
        "receipts": {
            "status": _whole(_STATUSES.index(receipt.status) for receipt in receipts),
            "reason": _whole(number[receipt.reason] for receipt in receipts),
            "staleness": _whole(receipt.staleness for receipt in receipts),
            "weight": torch.tensor([receipt.weight for receipt in receipts], dtype=torch.float64),
            "version": _whole(receipt.version for receipt in receipts),
            "job": _whole(receipt.job for receipt in receipts),
        },
        "answers": [
            [place, receipt.answer.clone()]
            for place, receipt in enumerate(receipts)
            if receipt.answer is not None
        ],
    }


def load_workers(state: dict[str, Any], names: Sequence[str]) -> list[Worker]:
    """Bring workers back.

    Args:
        state: From :func:`dump_workers`.
        names: Of all workers, by index.

    Raises:
        StateError: These are not such workers.
    """
    receipts = _load_receipts(state)
    parts = (
        _rows(state["num_jobs"], state["jobs"].tolist()),
        _rows(state["num_receipts"], receipts),
        _rows(state["num_undelivered"], state["undelivered"].tolist()),
    )
    columns = (state[name].tolist() for name in ("index", "place", "lost", "version"))
    loaded = []
    for index, place, lost, version, *held in zip(*columns, *parts, strict=True):
        if not (0 <= index < len(names) and 0 <= place < len(_PLACES)):
            raise StateError("a saved worker is not one", got=f"worker {index}, place {place}")
        loaded.append(Worker(index, names[index], _PLACES[place], bool(lost), version, *held))
    return loaded


def _load_receipts(state: dict[str, Any]) -> list[Receipt]:
    saved, reasons, answers = state["receipts"], state["reasons"], dict(state["answers"])
    names = ("status", "reason", "staleness", "weight", "version", "job")
    columns = [saved[name].tolist() for name in names]
    receipts = []
    for place, (status, reason, *rest) in enumerate(zip(*columns, strict=True)):
        answer = answers.get(place)
        given = None if answer is None else answer.clone()
        values: Any = (_STATUSES[status], reasons[reason], *rest, given, ())
        receipts.append(tuple.__new__(Receipt, values))
    return receipts


def _rows(counts: Tensor, values: list[Any]) -> list[tuple[Any, ...]]:
    """Divide a column that holds several values for each worker."""
    rows, stop = [], 0
    for count in counts.tolist():
        start, stop = stop, stop + count
        rows.append(tuple(values[start:stop]))
    if stop != len(values) or (counts < 0).any():
        raise StateError("a saved column has another length", got=len(values), expected=str(stop))
    return rows


def _whole(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
