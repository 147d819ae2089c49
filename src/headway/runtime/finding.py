"""Where a server is, and what is there instead."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from headway.core.errors import ConfigurationError, ServerLostError

if TYPE_CHECKING:
    from headway.runtime.security import WorkerTLS

__all__ = ["Place", "find", "why", "with_port"]

_AGAIN_S: Final = 0.1
_LOOK_S: Final = 2.0


class Place(NamedTuple):
    """Where a server listens.

    Attributes:
        host: A name or an address.
        port: 1 to 65535.

    Example:
        >>> Place.of("10.0.0.1:5000"), str(Place.of("[::1]:5000"))
        (Place(host='10.0.0.1', port=5000), '[::1]:5000')
    """

    host: str
    port: int

    @classmethod
    def of(cls, address: str) -> Place:
        """Take an address apart.

        Args:
            address: ``"host:port"``, an IPv6 address in brackets.

        Raises:
            ConfigurationError: It is none.
        """
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        plain = host and "/" not in host and (":" not in host or address.startswith("["))
        if plain and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return cls(host, int(port))
        raise ConfigurationError(
            "this is not a server's address",
            where="address",
            got=address,
            expected="host:port, for example 10.0.0.1:5000 or [::1]:5000",
        )

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find(place: Place, timeout_s: float, *, once: bool = False) -> None:
    """Wait until something listens there.

    Args:
        place: Where.
        timeout_s: How long, in seconds.
        once: Whether to try only once.

    Raises:
        ServerLostError: Nothing does; it says why.
    """
    until = time.monotonic() + timeout_s
    while True:
        left_s = until - time.monotonic()
        try:
            socket.create_connection(place, max(left_s, _AGAIN_S)).close()
            return
        except socket.gaierror as error:
            problem: OSError = error
            message, help = "there is no host of this name", "check the name, or give an address"
        except TimeoutError as error:
            problem, message = error, "the host does not answer"
            help = "check the address, and that no firewall is between; the server must listen "
            help += "to the network: host='0.0.0.0' (--host 0.0.0.0)"
        except OSError as error:
            problem, message = error, "nobody listens there"
            help = "start the server first, and check the port; a server that other machines shall "
            help += "reach listens to the network: host='0.0.0.0' (--host 0.0.0.0)"
        if once or time.monotonic() + _AGAIN_S >= until:
            got = problem.strerror or str(problem) or None
            raise ServerLostError(message, where=str(place), got=got, help=help) from problem
        time.sleep(_AGAIN_S)


def why(place: Place, code: str, details: str, security: WorkerTLS | None) -> tuple[str, str]:
    """What is wrong with a server that listens, and does not take a worker in.

    Args:
        place: Where it is.
        code: What gRPC calls it.
        details: What gRPC says.
        security: What the worker knows of the server.

    Returns:
        What is wrong, and what to do.
    """
    if code == "UNIMPLEMENTED":
        return "what listens there is no Headway server", "check the port"
    speaks_tls = _speaks_tls(place)
    if security is None and speaks_tls:
        return (
            "the server uses TLS, and this worker does not",
            "give WorkerTLS(ca=...), or --ca, with the file that the server's certificate was signed "
            "with",
        )
    if security is not None and not speaks_tls:
        return (
            "this worker uses TLS, and the server does not",
            "start the server with ServerTLS(certificate=..., key=...), or --certificate and --key; or "
            "check the port",
        )
    if security is not None:
        return (
            "the server and this worker do not accept each other's certificates",
            "the server's must be for this host (or server_name=...) and be signed by `ca`; a "
            "server with client_ca (--ca) wants a worker with certificate and key",
        )
    return "what listens there is no Headway server, or it is about to end", "check the port"


def with_port(address: str, port: int) -> str:
    """An address as a user gives it, with its port.

    Args:
        address: ``"host:port"``, or ``"host"``.
        port: Where it names none.

    Raises:
        ConfigurationError: It is not text.
    """
    given: object = address
    if not isinstance(given, str) or not given:
        raise ConfigurationError(
            "a server's address is text",
            where="AsyncWorker(server_address=...)",
            got=repr(given),
            expected='"host:port", or "host"',
        )
    if "/" in address:
        raise ConfigurationError(
            "a server's address is not a URL",
            where="AsyncWorker(server_address=...)",
            got=address,
            expected='"host:port", or "host"',
            help=f'write "{address.rpartition("://")[2].partition("/")[0]}"',
        )
    head, colon, tail = address.rpartition(":")
    bare_v6 = address.count(":") > 1 and not address.startswith("[")
    if bare_v6:
        return f"[{address}]:{port}"
    if colon and (tail.isdigit() or not head):
        return address
    return address if colon and not address.endswith("]") else f"{address}:{port}"


def _speaks_tls(place: Place) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Only whether it speaks TLS is asked here: nothing is sent, and nothing believed.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(place, _LOOK_S) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False
