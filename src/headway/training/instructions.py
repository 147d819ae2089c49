"""What a server tells its workers to send, as plain JSON, and how a worker reads it.

Client transforms travel by name and settings, never as code: a worker builds those that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from headway.algorithms.transforms import local_momentum, proximal
from headway.core.errors import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.core import Algorithm, ClientTransform, PayloadKind

__all__ = ["Instructions", "instructions_for", "read_instructions"]

_CLIENT: Final[Mapping[str, Callable[[float], ClientTransform]]] = {
    "local_momentum": local_momentum,
    "proximal": proximal,
}
_KINDS: Final = {type(make(0.0)): name for name, make in _CLIENT.items()}
_PAYLOADS: Final = ("gradient", "delta", "weights")


class Instructions(NamedTuple):
    """What a worker is to send, and how it comes to it.

    Attributes:
        algorithm: The server's, for people.
        payload: What is sent.
        client: What is done to each local gradient, and to the payload.
        keeps_model: Whether the worker's own model lives from job to job, because the server does
            not send all of it each time.
        consistent: Whether a job's model stays as it is while the job goes on.
        server_optimizer: Whether the optimizer is the server's.
    """

    algorithm: str
    payload: PayloadKind
    client: tuple[ClientTransform, ...]
    keeps_model: bool
    consistent: bool

    @property
    def server_optimizer(self) -> bool:
        """Whether the optimizer is the server's: workers send gradients."""
        return self.payload == "gradient"


def instructions_for(algorithm: Algorithm, *, consistent: bool = True) -> dict[str, Any]:
    """Say in plain JSON what workers of an algorithm do.

    Args:
        algorithm: The server's.
        consistent: Whether a job's model stays as it is.

    Raises:
        ConfigurationError: A client transform is none that workers know by name.

    Example:
        >>> from headway.algorithms import fedasync
        >>> told = instructions_for(fedasync(proximal=0.01))
        >>> told["payload"], told["client"]
        ('weights', [{'name': 'proximal', 'settings': [0.01]}])
    """
    client = []
    for transform in algorithm.client:
        kind: Any = type(transform)
        name = _KINDS.get(kind)
        if name is None:
            raise ConfigurationError(
                "workers that connect do not know this client transform",
                where=f"the algorithm `{algorithm.name}`",
                got=repr(transform),
                expected=", ".join(sorted(_CLIENT)),
                help="run it with headway.run or headway.simulate, where it need not travel",
            )
        client.append(
            {"name": name, "settings": [getattr(transform, f.name) for f in fields(kind)]}
        )
    return {
        "algorithm": str(algorithm),
        "payload": algorithm.payload,
        "client": client,
        "keeps_model": algorithm.view is not None,
        "consistent": consistent,
    }


def read_instructions(told: Mapping[str, Any]) -> Instructions:
    """Read what a server has told.

    Args:
        told: From :func:`instructions_for`, after a trip as JSON.

    Raises:
        ProtocolError: It is not that.

    Example:
        >>> from headway.algorithms import dana
        >>> read_instructions(instructions_for(dana(variant="slim"))).client
        (local_momentum(0.9),)
    """
    try:
        payload = told["payload"]
        if payload not in _PAYLOADS:
            raise ValueError(f"the payload {payload!r}")
        return Instructions(
            algorithm=str(told["algorithm"]),
            payload=cast("PayloadKind", payload),
            client=tuple(_transform(part) for part in told["client"]),
            keeps_model=bool(told["keeps_model"]),
            consistent=bool(told["consistent"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ProtocolError(
            "the server's instructions cannot be read",
            got=str(error),
            help="run the same version of Headway on both sides",
        ) from error


def _transform(part: Any) -> ClientTransform:
    name, settings = part["name"], [float(value) for value in part["settings"]]
    if name not in _CLIENT:
        raise ValueError(f"the client transform {name!r}")
    if not all(map(isfinite, settings)):
        raise ValueError(f"settings of {name}: {settings}")
    return _CLIENT[name](*settings)
