"""How a worker reaches a server: the connection, and what is asked without one that lasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from headway.core.errors import ProtocolError, RefusedError, ServerLostError
from headway.runtime import wire
from headway.runtime.finding import Place, find, why
from headway.runtime.quiet import grpc
from headway.runtime.security import WorkerTLS, check_worker, metadata

__all__ = ["code_of", "dial", "fetch_status"]

_STATUS: Final = "/headway.v1.Exchange/Status"
_WELCOME_BYTES: Final = 16 << 20
"""A welcome describes the model, and a large model's description is long."""
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", _WELCOME_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # The server goes and comes back elsewhere: no connection of another link is used again.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def fetch_status(
    address: str,
    *,
    security: WorkerTLS | None = None,
    token: str | None = None,
    insecure: bool = False,
    timeout_s: float = 10.0,
) -> dict[str, Any]:
    """Ask a server how it is.

    Args:
        address: ``"host:port"``.
        security: How to know the server; ``None``: the connection is not protected.
        token: What the server wants to be shown; ``None``: nothing.
        insecure: Whether the token may travel without protection.
        timeout_s: How long to wait for the answer, in seconds; not for a server that does not listen.

    Raises:
        ConfigurationError: The address is none, or the token would travel in the open.
        RefusedError: The server wants another token.
        ServerLostError: There is no such server; the error says what was found instead.
        ProtocolError: Its answer cannot be read.
    """
    place = Place.of(address)
    check_worker(place.host, security, token, insecure=insecure)
    # Who asks how it is wants to know at once that it is not there.
    channel = dial(place, security, timeout_s, once=True)
    ask: Callable[..., bytes] = channel.unary_unary(_STATUS)
    try:
        request = wire.StatusRequest().SerializeToString()
        reply = ask(request, timeout=timeout_s, metadata=metadata(token))
        return dict(json.loads(wire.StatusReply.FromString(reply).status))
    except grpc.RpcError as error:
        code, details = code_of(error), str(getattr(error, "details", str)() or "")
        if code == "UNAUTHENTICATED":
            raise RefusedError(
                "the server wants another token",
                where=str(place),
                got="none" if token is None else "another one",
                help="give token=... (--token-file), the same that the server was started with",
            ) from None
        message, help = why(place, code, details, security)
        raise ServerLostError(message, where=str(place), got=details or None, help=help) from error
    except (DecodeError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError("the server's status cannot be read", got=str(error)) from error
    finally:
        channel.close()


def dial(place: Place, security: WorkerTLS | None, timeout_s: float, *, once: bool = False) -> Any:
    """A channel to a server that listens.

    Args:
        place: Where.
        security: How to know the server; ``None``: the connection is not protected.
        timeout_s: How long to wait for one that does not listen yet, in seconds.
        once: Whether one that does not listen yet is lost at once.

    Raises:
        ServerLostError: There is no such server; the error says what was found instead.
    """
    options: list[tuple[str, Any]] = list(_OPTIONS)
    credentials: Any = None if security is None else security.credentials()
    find(place, timeout_s, once=once)
    if security is None:
        return grpc.insecure_channel(str(place), options=options)
    if security.server_name is not None:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    return grpc.secure_channel(str(place), credentials, options=options)


def code_of(error: grpc.RpcError) -> str:
    """What gRPC calls an error; empty: nothing.

    Args:
        error: It.
    """
    code = getattr(error, "code", lambda: None)()
    return "" if code is None else str(code.name)
