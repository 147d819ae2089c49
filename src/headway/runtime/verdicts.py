"""What a server has decided, as a worker's values and errors."""

from __future__ import annotations

from typing import Any

from headway.core import Receipt
from headway.core.errors import ExchangeError, RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.parcel import Delivery

__all__ = ["end_of", "receipt_of", "refusal_of"]


def receipt_of(delivery: Delivery) -> Receipt:
    """What became of an update, with the answer where there is one.

    Args:
        delivery: A receipt.
    """
    told = delivery.header.receipt
    status: Any = told.status
    return Receipt(
        status=status,
        reason=told.reason,
        staleness=told.staleness,
        weight=told.weight,
        version=told.version,
        job=told.job,
        answer=delivery.vector,
    )


def refusal_of(refused: wire.Refused) -> RefusedError:
    """Why a worker is not let in.

    Args:
        refused: The server's word.
    """
    error = RefusedError(refused.message or refused.code, help=refused.help or None)
    error.add_note(f"code: {refused.code}")
    error.code = refused.code
    return error


def end_of(refused: wire.Refused) -> ExchangeError:
    """Why a worker that was in is let go: it did wrong, or the server has failed.

    Args:
        refused: The server's word.
    """
    if refused.code != "failed":
        return refusal_of(refused)
    error = ServerLostError(refused.message, help=refused.help or None)
    error.code = refused.code
    return error
