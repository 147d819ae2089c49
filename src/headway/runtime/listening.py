"""Where a server listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.errors import ConfigurationError, HeadwayError

if TYPE_CHECKING:
    import grpc

    from headway.runtime.security import ServerTLS

__all__ = ["address_of", "check_port", "listen"]


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
    place, problem = address_of(host, port), ""
    try:
        if security is None:
            bound = server.add_insecure_port(place)
        else:
            bound = server.add_secure_port(place, security.credentials())
    except RuntimeError as error:
        bound, problem = 0, str(error)
    if bound:
        return int(bound)
    raise HeadwayError(
        "the server cannot listen there",
        where=place,
        got=problem or None,
        help="perhaps something else listens at this port, this machine has no such address, "
        "or the certificate and its key do not belong together; port 0 is any free port",
    )
