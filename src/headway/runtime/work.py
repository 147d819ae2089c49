"""What a worker is told: at the door, and with each job."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from headway.core import Buffers, ParameterLayout, WorkOrder
from headway.runtime.parcel import Delivery

__all__ = ["Invitation", "Work", "work_of"]


class Work(NamedTuple):
    """A job, as a worker gets it.

    Attributes:
        job: Its id.
        version: Of the model that it starts from.
        parameters: The model or a fragment of it, flat; ``None``: go on from your own. Read only,
            and valid until the job is handed in.
        buffers: The server's buffers; likewise.
        order: How much to do.
        seed: Of the job's random stream.
        client: Whose work it is, for a worker that works for several; else its own index.
    """

    job: int
    version: int
    parameters: Tensor | None
    buffers: Buffers | None
    order: WorkOrder
    seed: int
    client: int


class Invitation(NamedTuple):
    """What the server says at the door.

    Attributes:
        worker: What this worker is called.
        layout: Of the server's model.
        model: What the model is made of; ``None``: that cannot be said.
        instructions: What to send, and how to come to it.
        shared: Whether vectors travel through memory that both share.
    """

    worker: str
    layout: ParameterLayout
    model: dict[str, Any] | None
    instructions: dict[str, Any]
    shared: bool


def work_of(delivery: Delivery) -> Work:
    """The job that a message brings.

    Args:
        delivery: A message with a job, and its vectors.
    """
    job = delivery.header.job
    order = job.order
    given = {name: getattr(order, name) for name in WorkOrder._fields if order.HasField(name)}
    return Work(
        job=job.id,
        version=job.version,
        parameters=delivery.vector,
        buffers=delivery.buffers,
        order=WorkOrder(**given),
        seed=job.seed,
        client=job.client,
    )
