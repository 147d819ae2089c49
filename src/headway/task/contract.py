"""The contract between a task and whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from headway.core import Buffers, ParameterLayout, WorkOrder

if TYPE_CHECKING:
    from headway.core import Algorithm, Receipt

__all__ = [
    "Assignment",
    "Cancelled",
    "LocalResult",
    "LocalTrainer",
    "Objective",
    "Start",
    "Stateful",
]


class Cancelled(Exception):  # noqa: N818 (nothing went wrong)
    """A trainer has seen that nobody wants the job any more, and has stopped between two steps."""


def _never() -> bool:
    return False


def _anywhere() -> None:
    return None


class Assignment(NamedTuple):
    """One job, and all that its result may depend on.

    Attributes:
        client: Whose data, in ``[0, num_clients)``.
        parameters: What to start from, flat ``[num_params]``. Read only.
        buffers: The server's buffers, where the model has any. Read only.
        work: How much to do; what it leaves open, the task's own settings decide.
        seed: The job's own random stream, a 63-bit int: all randomness of the job comes from it.
        is_cancelled: To be asked between two steps of a long job: whether nobody wants it any
            more. A trainer that asks raises :class:`Cancelled` then; one that does not works in
            vain, and does nothing wrong. It does not wait, and changes no result.
        room: Memory for the payload, flat ``[num_params]`` on the CPU: a payload that is written there is not
            copied on its way to the server, and is overwritten by the next job. To be asked when the
            payload is computed, because it may wait; its values do not matter. ``None``: there is
            none. Only the trainer of a :class:`~headway.task.Task` is given some, because another
            one may keep what it returns.
    """

    client: int
    parameters: Tensor
    buffers: Buffers | None = None
    work: WorkOrder = WorkOrder()
    seed: int = 0
    is_cancelled: Callable[[], bool] = _never
    room: Callable[[], Tensor | None] = _anywhere


class LocalResult(NamedTuple):
    """What a job produced.

    Attributes:
        payload: Flat ``[num_params]``, of the kind that the algorithm asks for.
        num_examples: What the payload counts for in a mean. For a delta or weights, how many
            examples the client holds, however often or seldom the job went through them: the
            papers' ``n_i``. For a gradient, how many its batches hold.
        num_processed: How many examples the job went through, repeated ones counted each time:
            the work that was done.
        num_steps: How many local steps (for gradients: batches) it took.
        metrics: What the client reports, such as ``{"loss": 0.7}``.
        buffers: The model's buffers afterwards, where it has any.
    """

    payload: Tensor
    num_examples: int
    num_processed: int
    num_steps: int
    metrics: dict[str, float]
    buffers: Buffers | None = None


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        parameters: Initial parameters, flat ``[num_params]``; the caller's own.
        layout: Their names and shapes.
        buffers: Initial buffers, where the model has any.
    """

    parameters: Tensor
    layout: ParameterLayout
    buffers: Buffers | None = None


@runtime_checkable
class Stateful(Protocol):
    """What has a state that a run which goes on from a checkpoint must have again."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, as a plain tree that shares no memory."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved.

        Args:
            state: From :meth:`state_dict`.
        """
        ...


class LocalTrainer(Protocol):
    """Does the jobs of any number of clients, one after another.

    One whose clients keep something from job to job is :class:`Stateful` too, so that a simulation
    can be resumed.
    """

    def train(self, assignment: Assignment) -> LocalResult:
        """Do a job. The result depends on the assignment and on nothing else.

        The one exception is a client transform with a state (error feedback): that state lives
        with the client, and depends on the client's earlier jobs.

        Raises:
            Cancelled: ``assignment.is_cancelled()`` was true between two steps.
        """
        ...

    def num_steps(self, client: int, work: WorkOrder) -> int:
        """How many local steps the job will take, known before it is done."""
        ...

    def num_processed(self, client: int, work: WorkOrder) -> int:
        """How many examples the job will go through, known before it is done."""
        ...

    def receipt(self, client: int, receipt: Receipt) -> None:
        """Tell the client's transforms what became of its last payload."""
        ...


@runtime_checkable
class Objective(Protocol):
    """All that a runtime knows of a task."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def num_clients(self) -> int:
        """How many clients there are, empty ones included."""
        ...

    def start(self, seed: int, device: torch.device) -> Start:
        """Make the initial model; it depends on the seed alone."""
        ...

    def trainer(self, algorithm: Algorithm, device: torch.device) -> LocalTrainer:
        """Make what does this algorithm's jobs on this device."""
        ...

    def evaluate(self, parameters: Tensor, buffers: Buffers | None) -> dict[str, float]:
        """Judge a model, on the device where it lies."""
        ...

    def num_examples(self, client: int) -> int:
        """How many examples a client holds; one with none never trains."""
        ...

    def describe(self) -> dict[str, Any]:
        """Say in plain JSON what this is, for the run folder and reports."""
        ...
