"""Whose job it was that failed, where many are trained at a time.

An error inside a group says nothing of the client: so the group is trained again one by one, and the
error is the one that the job has by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from torch import Tensor

from headway.simulation.lookahead import TrainMany
from headway.task import Assignment, LocalResult

__all__ = ["Accountable", "failed_client", "in_turn"]

_CLIENT: Final = "headway_client"
"""An attribute, as it goes with the error from process to process."""

Train = Callable[[Assignment], LocalResult]


def in_turn(train: Train) -> TrainMany:
    """What trains a list of jobs one after the other, and marks an error with the client.

    Args:
        train: Trains one.
    """

    def train_all(assignments: Sequence[Assignment]) -> list[LocalResult]:
        return [_trained(train, assignment) for assignment in assignments]

    return train_all


def failed_client(error: BaseException) -> int | None:
    """The client whose job raised this error; ``None``: it does not say.

    Args:
        error: From training many jobs.
    """
    client = getattr(error, _CLIENT, None)
    return client if type(client) is int else None


@final
class Accountable:
    """A trainer of groups whose errors are those of one job.

    Args:
        trainer: Of groups.
        alone: Makes what trains one job; called after the first error, not before.
    """

    def __init__(self, trainer: Any, alone: Callable[[], Train]) -> None:
        self._trainer = trainer
        self._alone = alone

    @property
    def obstacle(self) -> str | None:
        """Why these jobs cannot be done in groups; ``None``: they can."""
        return self._trainer.obstacle  # type: ignore[no-any-return]

    @property
    def is_written_out(self) -> bool:
        """Whether groups take the fast way at any size."""
        return getattr(self._trainer, "is_written_out", False)

    @property
    def has_convolutions(self) -> bool:
        """Whether the model has convolutions."""
        return getattr(self._trainer, "has_convolutions", False)

    @property
    def activation_bytes(self) -> int:
        """What a group keeps of each job's batch between its forward and backward pass."""
        return getattr(self._trainer, "activation_bytes", 0)

    @property
    def not_compiled(self) -> str | None:
        """Why nothing is compiled though it was asked for; ``None``: it is, or it was not."""
        return self._trainer.not_compiled  # type: ignore[no-any-return]

    @property
    def num_compiled(self) -> int:
        """How many shapes of groups this process has compiled so far."""
        return getattr(self._trainer, "num_compiled", 0)

    def train(
        self, assignments: Sequence[Assignment], into: Tensor | None = None
    ) -> Sequence[LocalResult]:
        """Train a group.

        Args:
            assignments: At least one; those that are needed first come first.
            into: Where payloads may be written, a row per job.

        Raises:
            Exception: That of the first job that fails by itself, else that of the group.
        """
        given = (assignments,) if into is None else (assignments, into)
        failure: Exception | None = None
        try:
            return self._trainer.train(*given)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 (it is raised below, unless a job has its own)
            failure = error
        # Outside of the handler: the error that follows is no other one, only the same told better.
        train = self._alone()
        for assignment in assignments:
            _trained(train, assignment)
        raise failure


def _trained(train: Train, assignment: Assignment) -> LocalResult:
    try:
        return train(assignment)
    except Exception as error:
        setattr(error, _CLIENT, assignment.client)
        raise
