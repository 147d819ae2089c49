"""Worker processes that train jobs for a simulation, one thread each.

They are started by spawn, never by fork: a forked process with torch's threads in it can fail. The
models and the results lie in shared memory, the rest goes through a pipe. The calling process takes
its share of each group itself: the jobs that are due first, so that it can go on with the simulation
while the others are at work.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
import torch.multiprocessing
from torch import Tensor

from headway.core import Buffers, WorkOrder
from headway.core.errors import ConfigurationError, HeadwayError
from headway.simulation.blame import Accountable, in_turn
from headway.simulation.lookahead import TrainMany
from headway.task import Assignment, LocalResult
from headway.task.sending import start

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.task import Objective

__all__ = ["Crew", "grouping", "many"]

_FIRST_ROWS = 16
_SMALL: Final = 32_768
_OWN_SHARES: Final = 0.8, 0.95
"""The calling process's share, with others' 1, for groups of models of up to so many parameters, and
for all else: it has the simulation to run besides, which counts beside a short job only."""


class _Order(NamedTuple):
    """A job for another process; its model stands in row ``row`` of the shared models."""

    row: int
    client: int
    work: tuple[Any, ...]
    seed: int
    buffers: tuple[Any, Any] | None


class _Report(NamedTuple):
    """What came of it; the payloads stand in their own matrix, in the order of the jobs."""

    num_examples: int
    num_processed: int
    num_steps: int
    metrics: dict[str, float]
    buffers: tuple[Any, Any] | None


def many(
    task: Objective,
    algorithm: Algorithm,
    device: torch.device,
    *,
    groups: bool,
    compiled: bool = False,
) -> TrainMany:
    """What trains a list of jobs in this process.

    Args:
        task: Whose jobs.
        algorithm: Which payload is due.
        device: Where.
        groups: As the rows of one matrix, or one by one.
        compiled: Groups with compiled code, where the task can.
    """
    if groups:
        return grouping(task, algorithm, device, compiled=compiled).train
    return in_turn(task.trainer(algorithm, device).train)


def grouping(
    task: Objective, algorithm: Algorithm, device: torch.device, *, compiled: bool = False
) -> Accountable:
    """The task's trainer of groups, whose errors are those of one job.

    Args:
        task: Whose jobs; one with ``group_trainer``.
        algorithm: Which payload is due.
        device: Where.
        compiled: With compiled code. Only then is it asked of the task, which may not know of it.
    """
    options = {"compiled": True} if compiled else {}
    trainer = task.group_trainer(algorithm, device, **options)  # type: ignore[attr-defined]
    return Accountable(trainer, lambda: task.trainer(algorithm, device).train)


@final
class Crew:
    """The calling process and others, each of which trains its share of a group.

    Args:
        task: It must be possible to send it to another process.
        algorithm: Likewise.
        num_processes: With the calling one, at least 2.
        groups: Whether each trains its share as the rows of one matrix, or one by one.
        own: What trains the calling process's share; made here if it is left out.
        compiled: Groups with compiled code.

    Raises:
        ConfigurationError: The task or the algorithm cannot be sent to another process.
    """

    def __init__(
        self,
        task: Objective,
        algorithm: Algorithm,
        num_processes: int,
        *,
        groups: bool,
        own: TrainMany | None = None,
        compiled: bool = False,
    ) -> None:
        cpu = torch.device("cpu")
        self._own = own or many(task, algorithm, cpu, groups=groups, compiled=compiled)
        start = task.start(0, cpu).parameters
        self._empty = start.new_empty(0)
        self._num_params = start.numel()
        self._own_share = _OWN_SHARES[not groups or self._num_params > _SMALL]
        self._hands: list[_Hand] = []
        self._open: tuple[_Results, list[range]] | None = None
        try:
            for index in range(1, num_processes):
                self._hands.append(_Hand(task, algorithm, groups, compiled, index))
            # They start side by side.
            for hand in self._hands:
                hand.wait()
        except BaseException:
            self.close()
            raise

    def __call__(self, assignments: Sequence[Assignment]) -> Sequence[LocalResult]:
        """Train a group: the results in the order of the assignments.

        Those of the other processes are waited for when they are asked for, or when the next group
        comes; an error there is raised then.

        Args:
            assignments: At least one; those that are needed first come first.
        """
        self._collect()
        shares = _shares(len(assignments), len(self._hands), self._own_share)
        results = _Results(len(assignments), self._collect)
        for hand, share in zip(self._hands, shares[1:], strict=True):
            hand.send([assignments[index] for index in share], self._num_params, self._empty)
        self._open = results, shares
        try:
            own = self._own([assignments[index] for index in shares[0]])
        except BaseException:
            # Their answers must not be taken for those of the next group.
            self.close()
            raise
        results.put(shares[0], own)
        return results

    def _collect(self) -> None:
        """Wait for what the others were given last."""
        if self._open is None:
            return
        (results, shares), self._open = self._open, None
        failure: BaseException | None = None
        for hand, share in zip(self._hands, shares[1:], strict=True):
            try:
                results.put(share, hand.receive())
            except Exception as error:  # noqa: BLE001 (the others' answers are to be read first)
                failure = failure or error
        if failure is not None:
            raise failure

    @property
    def not_compiled(self) -> str | None:
        """Why another process did not compile though it was asked to; ``None``: it did."""
        return next((hand.not_compiled for hand in self._hands if hand.not_compiled), None)

    def close(self) -> None:
        """End the other processes."""
        self._open = None
        while self._hands:
            self._hands.pop().close()


def _shares(count: int, num_hands: int, own: float) -> list[range]:
    """Which jobs each process does, the calling one first."""
    first = min(count, max(1, round(count * own / (own + num_hands))))
    bounds = [first + (count - first) * hand // num_hands for hand in range(num_hands + 1)]
    return [range(first), *(range(low, high) for low, high in pairwise(bounds))]


class _Results(Sequence[LocalResult]):
    """Results of a group, some of which are still to come."""

    def __init__(self, count: int, collect: Callable[[], None]) -> None:
        self._found: list[LocalResult | None] = [None] * count
        self._collect = collect

    def put(self, share: range, results: Sequence[LocalResult]) -> None:
        for index, result in zip(share, results, strict=True):
            self._found[index] = result

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        if self._found[index] is None:
            self._collect()
        result = self._found[index]
        assert result is not None, "an error has ended this group"
        return result


class _Hand:
    """One other process, seen from here."""

    def __init__(
        self, task: Objective, algorithm: Algorithm, groups: bool, compiled: bool, index: int
    ) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work,
            args=(theirs, task, algorithm, groups, compiled),
            daemon=True,
            name=f"trainer-{index}",
        )
        try:
            start(self._process, where="Execution(processes=...)")
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self._models: Tensor | None = None
        self._payloads: Tensor | None = None
        self._count = 0
        self.not_compiled: str | None = None

    def wait(self) -> None:
        """Until it has started."""
        try:
            self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(timeout=5.0)
            raise ConfigurationError(
                "a process that trains clients could not be started",
                where="Execution(processes=...)",
                got=f"{self._process.name}, exit code {self._process.exitcode}; it says why above",
                help='a script that uses processes starts its work under `if __name__ == "__main__":`',
            ) from error

    def send(self, assignments: list[Assignment], num_params: int, like: Tensor) -> None:
        self._count = len(assignments)
        if not assignments:
            return
        # Jobs that were dispatched together start from one and the same tensor.
        distinct = {id(assignment.parameters): assignment.parameters for assignment in assignments}
        row_of = {key: row for row, key in enumerate(distinct)}
        models, self._models = _room(self._models, len(distinct), num_params, like)
        payloads, self._payloads = _room(self._payloads, self._count, num_params, like)
        for row, parameters in zip(self._models, distinct.values(), strict=False):
            row.copy_(parameters)
        orders = [
            _Order(row_of[id(a.parameters)], a.client, tuple(a.work), a.seed, _packed(a.buffers))
            for a in assignments
        ]
        try:
            self._pipe.send((models, payloads, orders))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def receive(self) -> list[LocalResult]:
        if not self._count:
            return []
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if isinstance(answer, BaseException):
            raise answer
        reports, self.not_compiled = answer
        assert self._payloads is not None
        # One copy for the group: the rows are written again with the next one.
        payloads = self._payloads[: self._count].clone()
        return [_result(*pair) for pair in zip(payloads, reports, strict=True)]

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _died(self) -> HeadwayError:
        self._process.join(timeout=5.0)
        return HeadwayError(
            "a process that trains clients has died",
            got=f"{self._process.name}, exit code {self._process.exitcode}",
            help="was it killed, or was there too little memory? Try fewer processes",
        )


def _work(
    pipe: Connection, task: Objective, algorithm: Algorithm, groups: bool, compiled: bool
) -> None:
    """What the other process does until the pipe is closed."""
    # Ctrl-C goes to everybody in the terminal; the calling process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    pipe.send("ready")
    models: Tensor | None = None
    payloads: Tensor | None = None
    train: _Train | None = None
    with suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            fresh_models, fresh_payloads, orders = pipe.recv()
            models = models if fresh_models is None else fresh_models
            payloads = payloads if fresh_payloads is None else fresh_payloads
            assert models is not None
            assert payloads is not None
            try:
                if train is None:
                    train = _Train(task, algorithm, groups, compiled)
                pipe.send((_do(orders, models, payloads, train), train.not_compiled))
            except Exception as error:  # noqa: BLE001 (it is raised on the other side)
                error.add_note(traceback.format_exc())
                pipe.send(error)


class _Train:
    """What trains in the other process, with its payloads in shared memory where it can."""

    def __init__(self, task: Objective, algorithm: Algorithm, groups: bool, compiled: bool) -> None:
        cpu = torch.device("cpu")
        self._trainer = grouping(task, algorithm, cpu, compiled=compiled) if groups else None
        self._alone = None if groups else many(task, algorithm, cpu, groups=False)

    @property
    def not_compiled(self) -> str | None:
        return None if self._trainer is None else self._trainer.not_compiled

    def __call__(self, assignments: list[Assignment], into: Tensor) -> Sequence[LocalResult]:
        if self._trainer is not None:
            return self._trainer.train(assignments, into)
        assert self._alone is not None
        return self._alone(assignments)


def _room(
    held: Tensor | None, rows: int, num_params: int, like: Tensor
) -> tuple[Tensor | None, Tensor]:
    """A shared matrix of so many rows: what the other process has to be told, and what there is."""
    if held is not None and len(held) >= rows:
        return None, held
    fresh = like.new_empty(max(_FIRST_ROWS, rows), num_params).share_memory_()
    return fresh, fresh


def _do(orders: list[_Order], models: Tensor, payloads: Tensor, train: _Train) -> list[_Report]:
    given = models.unbind()
    results = train(
        [
            Assignment(o.client, given[o.row], _unpacked(o.buffers), WorkOrder(*o.work), o.seed)
            for o in orders
        ],
        payloads[: len(orders)],
    )
    reports = []
    for row, result in zip(payloads, results, strict=False):
        if result.payload.data_ptr() != row.data_ptr():
            row.copy_(result.payload)
        reports.append(_Report(*result[1:5], _packed(result.buffers)))
    return reports


def _result(payload: Tensor, report: _Report) -> LocalResult:
    examples, processed, steps, metrics, buffers = report
    return LocalResult(payload, examples, processed, steps, metrics, _unpacked(buffers))


def _packed(buffers: Buffers | None) -> tuple[Any, Any] | None:
    return None if buffers is None else (buffers.floating.numpy(), buffers.integer.numpy())


def _unpacked(packed: tuple[Any, Any] | None) -> Buffers | None:
    return None if packed is None else Buffers(*map(torch.from_numpy, packed))
