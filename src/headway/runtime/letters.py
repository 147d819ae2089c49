"""Between the values of the core and the messages of the wire."""

from __future__ import annotations

from typing import Any, Final

from headway.core import Checkout, Receipt, Update
from headway.core.errors import ProtocolError
from headway.runtime import wire
from headway.runtime.parcel import Parcel

__all__ = [
    "REJECTED",
    "failed_letter",
    "job_letter",
    "read_update",
    "receipt_letter",
    "refused_letter",
    "rejected_letter",
    "stop_letter",
    "work_in",
]

REJECTED: Final = "rejected"
"""In a stop: its worker's updates are why."""
_METRICS: Final = 256
_NAME: Final = 128
_COUNT: Final = 2**53
"""What is larger is no count of anything, and its sums fit into no file."""
_EXAMPLES: Final = 2**40
_TEXT: Final = 1000
"""What a refusal quotes was written by a stranger, who may have written much."""


def read_update(name: str, parcel: Parcel) -> Update:
    """The update that a push is; what is wrong with it, the server says.

    Args:
        name: Whose work it is, as the server knows it.
        parcel: The push.

    Raises:
        ProtocolError: It reports more than a server writes down, or counts that cannot be.
    """
    push = parcel.header.push
    if len(push.metrics) > _METRICS or max(map(len, push.metrics), default=0) > _NAME:
        raise ProtocolError(
            "an update reports too many metrics, or one with too long a name",
            got=f"{len(push.metrics)} metrics",
            expected=f"at most {_METRICS}, with names of at most {_NAME} characters",
        )
    largest = max(push.num_examples, push.num_steps)
    if largest > _COUNT or push.num_processed >= _EXAMPLES:
        raise ProtocolError(
            "an update counts more examples or steps than anybody has trained on",
            got=f"{largest}, and {push.num_processed} processed",
            expected=f"at most {_COUNT}, and fewer than {_EXAMPLES} processed",
        )
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


def work_in(parcel: Parcel, receipt: Receipt) -> int:
    """How many examples were processed for a push, as far as it can be believed.

    Args:
        parcel: The push.
        receipt: What became of it.
    """
    push = parcel.header.push
    return 0 if receipt.reason == "bad_count" else push.num_processed or push.num_examples


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


def rejected_letter(job: int, reason: str) -> wire.ToWorker:
    """What a worker is told of an update that the server has not seen, or could not take.

    Args:
        job: The update's.
        reason: One word.
    """
    return wire.ToWorker(receipt=wire.Receipt(job=job, status="rejected", reason=reason))


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


def refused_letter(code: str, message: str, help: str = "") -> wire.ToWorker:
    r"""Why a worker is not let in, or is let go.

    Args:
        code: One word, for programs.
        message: In words; it may quote what the worker has said.
        help: What to do.

    Example:
        >>> refused_letter("layout", "a layer named \ud800").refused.message
        'a layer named \\ud800'
    """
    told = message if len(message) <= _TEXT else f"{message[:_TEXT]} ..."
    # JSON can spell characters that no message can carry.
    told = told.encode("utf-8", "backslashreplace").decode()
    return wire.ToWorker(refused=wire.Refused(code=code, message=told, help=help))


def stop_letter(reason: str) -> wire.ToWorker:
    """What one worker is told whose updates were rejected again and again; the others stay.

    Args:
        reason: Why, in words.
    """
    return wire.ToWorker(stop=wire.Stop(reason=reason, code=REJECTED))


def failed_letter(error: BaseException) -> wire.ToWorker:
    """What workers are told by a server that cannot go on: not to try again.

    Args:
        error: What ended it.
    """
    refused = wire.Refused(
        code="failed",
        message=f"the server has failed: {type(error).__name__}",
        help="its own messages say why",
    )
    return wire.ToWorker(refused=refused)
