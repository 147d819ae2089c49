"""Between the values of the core and the messages of the wire."""

from __future__ import annotations

from typing import Any

from headway.core import Checkout, Receipt, Update
from headway.runtime import wire
from headway.runtime.parcel import Parcel

__all__ = ["job_letter", "read_update", "receipt_letter"]


def read_update(name: str, parcel: Parcel) -> Update:
    """The update that a push is; what is wrong with it, the server says.

    Args:
        name: Whose work it is, as the server knows it.
        parcel: The push.
    """
    push = parcel.header.push
    payload: Any = parcel.vector
    return Update(
        payload=payload,
        base_version=push.base_version,
        worker=name,
        sequence=push.job,
        num_examples=push.num_examples,
        num_steps=push.num_steps,
        fragment=push.fragment if push.HasField("fragment") else None,
        buffers=parcel.buffers,
        metrics=dict(push.metrics),
    )


def receipt_letter(receipt: Receipt) -> wire.ToWorker:
    """What a worker is told of its update; an answer goes beside it.

    Args:
        receipt: The server's.
    """
    told = wire.Receipt(
        job=receipt.job,
        status=receipt.status,
        reason=receipt.reason,
        staleness=receipt.staleness,
        weight=receipt.weight,
        version=receipt.version,
    )
    return wire.ToWorker(receipt=told)


def job_letter(ticket: Checkout, index: int, seed: int) -> wire.ToWorker:
    """What a worker is told of its job; the model goes beside it.

    Args:
        ticket: The server's.
        index: The number of the worker or client.
        seed: Of the job's random stream.
    """
    given = {name: value for name, value in ticket.work._asdict().items() if value is not None}
    job = wire.Job(id=ticket.job, version=ticket.version, seed=seed, client=index)
    if given:
        job.order.CopyFrom(wire.Order(**given))
    return wire.ToWorker(job=job)
