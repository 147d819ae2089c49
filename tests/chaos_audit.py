"""What is left after chaos, by arithmetic: no acknowledged update is lost, and none is there twice.

The log says which updates were applied, workers wrote down which were acknowledged, and the weights
must be the sum of the first, which must hold the second.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, pstdev
from typing import Final

import torch

from headway.checkpoint import Call, CheckpointStore, Journal
from tests.chaos_kit import SERVER_FAULTS, Chaos, Note, Worker, is_applied
from tests.chaos_worker import SIZE, loss_of, step_of

__all__ = ["Account", "audit", "lost_s"]

_TAIL: Final = 0.2
_WINDOW_S: Final = 15.0


@dataclass
class Account:
    """What came of a run.

    Attributes:
        applied: Updates that changed the model, by the log.
        acknowledged: Those that a worker was told of.
        unheard: Those whose worker was killed before it was told.
        rejected: Updates that workers were told were not applied, by reason.
        repeated: Pushes of a job that had been decided, by the log.
        incarnations: How often the server was started.
        rejoined: How often workers came back to a server that they had lost.
        updates_per_s: Acknowledged updates within the time of the run.
        loss: Its mean over the last fifth of the versions, above the best.
        loss_sd: Its standard deviation over them.
        first_loss: At the beginning.
        recoveries_s: By kind of fault. Of kills, how long until an update was acknowledged that was
            applied by the next server, or was the next worker's; of a full disk, from when it had
            room; of others, from when they were over until the worker's next job was acknowledged.
    """

    applied: int = 0
    acknowledged: int = 0
    unheard: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    incarnations: int = 1
    rejoined: int = 0
    updates_per_s: float = 0.0
    loss: float = 0.0
    loss_sd: float = 0.0
    first_loss: float = 0.0
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)


class Log:
    """What the log says, gone through once: the model after each version, and who changed it.

    Args:
        chaos: After its run.

    Raises:
        AssertionError: A call of the log does not do what it must: an update that was applied twice,
            or that is not what its job makes of the version that it started from.
    """

    def __init__(self, chaos: Chaos) -> None:
        self.models = [torch.zeros(SIZE)]
        self.version_of: dict[int, int] = {}
        self.repeated = 0
        self.starts = [0]
        decided: set[int] = set()
        final = int(str(chaos.status["version"]))
        for call, step in _steps(_entries(chaos), final):
            if call.door == "began":
                self.starts.append(len(self.models) - 1)
            if call.door != "submit":
                assert step == 0, f"{call.door} has changed the model"
                continue
            job = int(call.arguments["sequence"])
            self.repeated += job in decided
            decided.add(job)
            assert step in (0, 1), f"one update made {step} versions"
            if step:
                self._apply(job, call)

    def _apply(self, job: int, call: Call) -> None:
        assert job not in self.version_of, f"job {job} was applied twice"
        payload, base = call.tensors["payload"], int(call.arguments["base_version"])
        made = step_of(self.models[base], job)
        assert torch.equal(payload, made), f"job {job} is not what version {base} makes it"
        self.models.append(self.models[-1] + payload)
        self.version_of[job] = len(self.models) - 1


def audit(chaos: Chaos) -> Account:
    """Check by arithmetic that no acknowledged update was lost or doubled.

    Each update is an exact multiple of a grid, so that the model is exactly the sum of those that
    were applied; each is computed again from the version that it started from.

    Args:
        chaos: After its run.

    Raises:
        AssertionError: One was; it says which.
    """
    log = Log(chaos)
    version_of = log.version_of
    assert log.models[-1].tolist() == chaos.weights, "the model is not the sum of its updates"
    total = sum((b - a for a, b in pairwise(log.models)), torch.zeros(SIZE))
    assert torch.equal(total, log.models[-1]), "sums are not exact"
    assert chaos.status["version"] == chaos.status["applied"] == len(version_of)
    assert chaos.status["in_flight"] == 0
    saved = CheckpointStore(chaos.home).load().tree["server"]
    assert saved["version"] == len(version_of), "the last checkpoint is of another version"
    account = Account(applied=len(version_of), repeated=log.repeated, incarnations=len(log.starts))
    pushed: set[int] = set()
    told: dict[int, tuple[str, int]] = {}
    for worker in chaos.workers:
        mine, heard = _check_worker(worker, account)
        assert not told.keys() & heard.keys(), "two workers were told of one job"
        pushed |= mine
        told |= heard
    _check_told(told, version_of)
    account.acknowledged = sum(status == "applied" for status, _ in told.values())
    assert version_of.keys() <= pushed, "an update was applied that nobody pushed"
    account.unheard = len(version_of.keys() - told.keys())
    heard_s = chaos.applied_s()
    within = [at_s for at_s in heard_s if chaos.began_s <= at_s <= chaos.ended_s]
    account.updates_per_s = len(within) / (chaos.ended_s - chaos.began_s)
    losses = [loss_of(model) for model in log.models]
    last = losses[-max(2, int(_TAIL * len(losses))) :]
    account.loss, account.loss_sd, account.first_loss = mean(last), pstdev(last), losses[0]
    account.recoveries_s = _recoveries(chaos, log.starts)
    return account


def _check_told(told: dict[int, tuple[str, int]], version_of: dict[int, int]) -> None:
    """What workers were told is what the log says."""
    for job, (status, version) in told.items():
        if status == "applied":
            assert job in version_of, f"job {job} was acknowledged, and is lost"
            assert version_of[job] == version, f"job {job} is another version than was told"
        else:
            assert job not in version_of, f"job {job} was rejected, and applied"


def _check_worker(worker: Worker, account: Account) -> tuple[set[int], dict[int, tuple[str, int]]]:
    """What a worker pushed, and what it was told: each process of it heard of all but its last."""
    pushed: set[int] = set()
    told: dict[int, tuple[str, int]] = {}
    for life in _lives(worker.look()):
        mine: list[int] = []
        for note in life:
            what = note.words[0]
            if what == "pushed":
                mine.append(int(note.words[1]))
            elif what == "told":
                job, said = int(note.words[1]), (note.words[2], int(note.words[3]))
                assert job in mine, f"{worker.name} was told of job {job}, which it never pushed"
                if job not in told and said[0] != "applied":
                    account.rejected[note.words[4]] += 1
                before = told.setdefault(job, said)
                assert before == said, f"{worker.name} was told of job {job}: {before}, then {said}"
            elif what == "outside":
                assert not mine, f"{worker.name} was put out: {note.words}"
            elif what == "left":
                account.rejoined += int(note.words[1])
        unheard = [job for job in mine if job not in told]
        ended = life[-1].words[0] == "left"
        assert len(unheard) <= (not ended), f"{worker.name} heard nothing of jobs {unheard}"
        pushed.update(mine)
    return pushed, told


def _lives(notes: list[Note]) -> Iterator[list[Note]]:
    """The notes of one process after the other."""
    starts = [index for index, note in enumerate(notes) if note.words[0] == "began"]
    for start, end in pairwise([*starts, len(notes)]):
        yield notes[start:end]


def _recoveries(chaos: Chaos, starts: list[int]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    versions = iter(starts[1:])
    for fault, at_s, over_s in sorted(chaos.struck, key=lambda one: one.at_s):
        mine = chaos.workers[fault.worker].look()
        if fault.kind == "server_kill":
            since_s, first_s = at_s, _first_above(chaos, next(versions))
        elif fault.kind == "disk_full":
            since_s, first_s = over_s, min(at_s for at_s in chaos.applied_s() if at_s > over_s)
        elif fault.kind == "kill":
            since_s = at_s
            first_s = min(n.at_s for n in mine if n.at_s > at_s and is_applied(n))
        else:
            since_s, first_s = over_s, _first_new(mine, over_s)
        found.setdefault(fault.kind, []).append(first_s - since_s)
    return found


def _first_above(chaos: Chaos, version: int) -> float:
    """When the first update was acknowledged that made a later version."""
    notes = (note for worker in chaos.workers for note in worker.look() if is_applied(note))
    return min(note.at_s for note in notes if int(note.words[3]) > version)


def _first_new(notes: list[Note], since_s: float) -> float:
    """When the first update was acknowledged that was pushed after a time."""
    pushed: set[str] = set()
    for note in notes[bisect_left(notes, since_s, key=lambda note: note.at_s) :]:
        if note.words[0] == "pushed":
            pushed.add(note.words[1])
        elif is_applied(note) and note.words[1] in pushed:
            return note.at_s
    raise AssertionError("nothing was applied any more")


_KEPT: Final = re.compile(r"(log-\d{20}\.hwlog)\.\d+")


def _entries(chaos: Chaos) -> Journal:
    """The whole log: of files of one name the newest, because those before it held nothing."""
    whole = chaos.archive / "whole"
    whole.mkdir(exist_ok=True)
    for path in sorted(chaos.archive.iterdir()):
        match = _KEPT.fullmatch(path.name)
        if match:
            to = whole / match[1]
            to.unlink(missing_ok=True)
            os.link(path, to)
    return Journal(whole)


def _steps(journal: Journal, final: int) -> Iterator[tuple[Call, int]]:
    """Each call of the log, and by how many versions it changed the model."""
    before: tuple[Call, int] | None = None
    try:
        for entry in journal.read(after=0):
            if before is not None:
                yield before[0], entry.version - before[1]
            before = entry.call, entry.version
        if before is not None:
            yield before[0], final - before[1]
    finally:
        journal.close()


def lost_s(chaos: Chaos, kind: str, usual_per_s: float) -> list[float]:
    """How long the workers would have needed for what was not done after each fault of a kind.

    Counted for 15 seconds from the fault (a full disk: from when it had room), or until the next of
    the server's: that time, without the time that what was done in it usually takes.

    Args:
        chaos: After its run.
        kind: Of :data:`SERVER_FAULTS`.
        usual_per_s: Updates that are applied in a second where nothing happens, above 0.
    """
    heard = chaos.applied_s()
    struck = [one for one in chaos.struck if one.fault.kind in SERVER_FAULTS]
    struck.sort(key=lambda one: one.at_s)
    ends = [*(one.at_s for one in struck[1:]), chaos.ended_s][: len(struck)]
    found = []
    for one, end_s in zip(struck, ends, strict=True):
        if one.fault.kind == kind:
            since_s = one.at_s if kind == "server_kill" else one.over_s
            end_s = min(end_s, since_s + _WINDOW_S)
            count = bisect_left(heard, end_s) - bisect_left(heard, since_s)
            found.append(end_s - since_s - count / usual_per_s)
    return found
