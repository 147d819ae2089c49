"""Where a server listens, and how long it keeps connections of nobody."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from headway.core.errors import ConfigurationError, HeadwayError
from headway.runtime.chunks import MESSAGE_BYTES

if TYPE_CHECKING:
    from headway.runtime.quiet import grpc
    from headway.runtime.security import ServerTLS
    from headway.runtime.timeouts import Timeouts

__all__ = ["address_of", "check_port", "listen", "options"]

_HELP: Final = {
    errno.EADDRINUSE: "something else listens at this port; choose another "
    "(--port), or 0 for any free one",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 is all that it has",
    errno.EACCES: "this port is for the system; choose one from 1024 on (--port)",
}
_ANY: Final = "choose another host or port; port 0 (--port 0) is any free one"
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # A second server at the same port is an error, and does not get every other worker.
    ("grpc.so_reuseport", 0),
    # A worker whose machine has vanished sends no farewell.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.max_concurrent_streams", 100),
)


def address_of(host: str, port: int) -> str:
    """A place as one text.

    Args:
        host: A name or an address, without brackets.
        port: Its port.

    Example:
        >>> address_of("::1", 5000)
        '[::1]:5000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(port: int) -> int:
    """The port, if it is one.

    Args:
        port: 0 to 65535.

    Raises:
        ConfigurationError: It is none.
    """
    if 0 <= port <= 65535:
        return port
    raise ConfigurationError("this is no port", got=port, expected="0 to 65535")


def listen(server: grpc.Server, host: str, port: int, security: ServerTLS | None) -> int:
    """Have a server listen: the port that it got.

    Args:
        server: It.
        host: Where.
        port: Which; 0: any free one.
        security: Its certificate; ``None``: connections are not protected.

    Raises:
        HeadwayError: Something else listens there, or there is no such place on this machine.
        ConfigurationError: The certificate or its key cannot be read.
    """
    place = address_of(host, port)
    credentials = None if security is None else security.credentials()
    # Asked first, gRPC would write lines of its own to stderr, and say less in them.
    found = _why_not(host, port, security)
    if found is not None:
        raise _cannot(place, *found)
    try:
        if credentials is None:
            bound = server.add_insecure_port(place)
        else:
            bound = server.add_secure_port(place, credentials)
    except RuntimeError as error:
        # Somebody was quicker, or has bound the port and not listened yet.
        raise _cannot(place, *(_why_not(host, port, security) or (str(error), _ANY))) from error
    if bound:
        return int(bound)
    raise _cannot(place, *(_why_not(host, port, security) or ("", _ANY)))


def _cannot(place: str, problem: str, help: str) -> HeadwayError:
    return HeadwayError("the server cannot listen there", where=place, got=problem, help=help)


def _why_not(host: str, port: int, security: ServerTLS | None) -> tuple[str, str] | None:
    """What stands in the way, and what to do; ``None``: nothing that can be seen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        return _said(error), "check the host: this machine's own name or address, or 0.0.0.0"
    problems = [_unbound(family, address) for family, *_, address in found]
    taken = [problem for problem in problems if problem is not None]
    # Of a name with several addresses, gRPC listens at those that it can have.
    if taken and len(taken) == len(problems):
        return _said(taken[0]), _HELP.get(taken[0].errno or 0, "choose another host or port")
    return None if security is None else _fits_not(security)


def _unbound(family: int, address: Any) -> OSError | None:
    """Why an address cannot be had; ``None``: it can.

    It is not listened at: a worker that waits for this server would take that for the server.
    """
    try:
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            if os.name == "posix":
                # As gRPC has it: connections that ended lately are in nobody's way.
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.bind(address)
    except OSError as error:
        return error
    return None


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _fits_not(security: ServerTLS) -> tuple[str, str] | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Whether the two belong together is asked here, not whether the key is long enough.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        # Without a password it would ask for one at the terminal.
        context.load_cert_chain(security.certificate, security.key, password="")
    except OSError as error:
        problem = f"the certificate and its key cannot be used: {str(error).partition(' (')[0]}"
        help = "give a certificate and its own key, both PEM, the key without a password"
        return problem, help
    try:
        if security.client_ca is not None:
            context.load_verify_locations(security.client_ca)
    except OSError as error:
        problem = f"the file for `client_ca` cannot be used: {str(error).partition(' (')[0]}"
        return problem, "give a PEM file with the certificate of who signs the workers'"
    return None


def options(timeouts: Timeouts) -> tuple[tuple[str, int], ...]:
    """What gRPC is told of a server's connections.

    Args:
        timeouts: The server's.
    """
    # Who connects and asks for nothing is no worker yet.
    join_ms = max(1, int(1000.0 * timeouts.join_s))
    waits = ("grpc.server_handshake_timeout_ms", join_ms), ("grpc.max_connection_idle_ms", join_ms)
    return _OPTIONS + waits
