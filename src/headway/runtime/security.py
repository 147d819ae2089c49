"""Who may listen, who may talk, and how a connection is protected: values, and the rules for them."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, NoReturn, final

from headway.core.errors import ConfigurationError
from headway.runtime.kinds import FILE, TEXT, check_kinds

__all__ = ["ServerTLS", "WorkerTLS", "check_server", "check_worker", "is_authorised", "metadata"]

_HEADER: Final = "authorization"
_SCHEME: Final = "Bearer "

File = str | PathLike[str]


@final
@dataclass(frozen=True, slots=True)
class ServerTLS:
    """A server's certificate; with ``client_ca``, workers must have one too (mutual TLS).

    Args:
        certificate: File with the server's certificate chain, PEM.
        key: File with its private key, PEM, without a password.
        client_ca: File with the certificates, PEM, of who signs workers' certificates; ``None``:
            workers need none.

    Raises:
        ArgumentTypeError: One is no path.

    Example:
        >>> ServerTLS(certificate="server.pem", key="server.key").client_ca is None
        True
    """

    certificate: File
    key: File
    client_ca: File | None = None

    def __post_init__(self) -> None:
        check_kinds(
            "ServerTLS",
            certificate=(self.certificate, FILE),
            key=(self.key, FILE),
            client_ca=(self.client_ca, FILE.or_none()),
        )

    def credentials(self) -> Any:
        """What gRPC needs to serve with them.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        from headway.runtime.quiet import grpc

        pair = (_read("key", self.key), _read("certificate", self.certificate))
        client_ca = None if self.client_ca is None else _read("client_ca", self.client_ca)
        return grpc.ssl_server_credentials(
            [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
        )


@final
@dataclass(frozen=True, slots=True)
class WorkerTLS:
    """How a worker knows its server; with ``certificate`` and ``key``, how the server knows it.

    Args:
        ca: File with the certificates, PEM, of who signs the server's; ``None``: the well-known
            authorities that gRPC comes with.
        certificate: File with the worker's own certificate chain, PEM, for mutual TLS.
        key: File with its private key, PEM.
        server_name: The name in the server's certificate, where that is not the host's.

    Raises:
        ArgumentTypeError: One is of the wrong kind.
        ConfigurationError: A certificate without a key, or a key without a certificate.

    Example:
        >>> WorkerTLS(ca="ca.pem", server_name="headway").server_name
        'headway'
    """

    ca: File | None = None
    certificate: File | None = None
    key: File | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        check_kinds(
            "WorkerTLS",
            ca=(self.ca, FILE.or_none()),
            certificate=(self.certificate, FILE.or_none()),
            key=(self.key, FILE.or_none()),
            server_name=(self.server_name, TEXT.or_none()),
        )
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError(
                "a worker's certificate and its key belong together",
                where="WorkerTLS",
                got="only the certificate" if self.key is None else "only the key",
                help="give both (mutual TLS), or neither",
            )

    def credentials(self) -> Any:
        """What gRPC needs to connect with them.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        from headway.runtime.quiet import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca is None else _read("ca", self.ca),
            private_key=None if self.key is None else _read("key", self.key),
            certificate_chain=None
            if self.certificate is None
            else _read("certificate", self.certificate),
        )


def check_server(host: str, tls: ServerTLS | None, token: str | None, *, insecure: bool) -> None:
    """Refuse a server that everyone could talk to, unless that was asked for.

    Args:
        host: Where it is to listen.
        tls: How its connections are protected; ``None``: they are not.
        token: What workers have to show.
        insecure: Whether it may listen to the network all the same.

    Raises:
        ConfigurationError: It may not, or the token cannot travel.
    """
    _check_token(token)
    if tls is None and not insecure and not is_loopback(host):
        raise ConfigurationError(
            "without TLS a server listens to its own machine only: whoever reaches it could read "
            f"the model{' and the token' if token else ''}, and change it",
            where="host",
            got=host,
            expected="127.0.0.1, ::1 or localhost",
            help="give ServerTLS(certificate=..., key=...) (--certificate, --key), or insecure=True "
            "(--insecure) in a network where nobody else is",
        )


def check_worker(host: str, tls: WorkerTLS | None, token: str | None, *, insecure: bool) -> None:
    """Refuse to send a token where others could read it, unless that was asked for.

    Args:
        host: Of the server.
        tls: How the connection is protected; ``None``: it is not.
        token: What the worker shows.
        insecure: Whether it may be sent all the same.

    Raises:
        ConfigurationError: It may not, or the token cannot travel.
    """
    _check_token(token)
    if token and tls is None and not insecure and not is_loopback(host):
        raise ConfigurationError(
            "a token would travel where others can read it",
            where="token",
            got=f"a plain connection to {host}",
            help="give WorkerTLS(ca=...) (--ca), or insecure=True (--insecure) in a network where "
            "nobody else is",
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, for all that its name says.

    Args:
        host: A name or an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("10.0.0.1")
        (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What a worker sends along with a call.

    Args:
        token: What it shows; ``None``: nothing.
    """
    return () if token is None else ((_HEADER, _SCHEME + token),)


def is_authorised(sent: Iterable[tuple[str, str | bytes]], token: str | None) -> bool:
    """Whether a call shows the token. Takes as long for a token that is nearly right.

    Args:
        sent: The call's metadata.
        token: What it has to show; ``None``: nothing.

    Example:
        >>> is_authorised(metadata("wrong"), "right"), is_authorised(metadata("right"), "right")
        (False, True)
    """
    if token is None:
        return True
    shown = [value for name, value in sent if name == _HEADER]
    if len(shown) != 1:
        return False
    given = shown[0].encode() if isinstance(shown[0], str) else shown[0]
    return hmac.compare_digest(given, (_SCHEME + token).encode())


def _check_token(token: str | None) -> None:
    if token is None or (token and token.isascii() and token.isprintable() and " " not in token):
        return
    raise ConfigurationError(
        "this cannot be a token",
        where="token",
        got="an empty one" if not token else "one with spaces or characters outside ASCII",
        help="draw one: python -c 'import secrets; print(secrets.token_hex(32))'",
    )


def _read(name: str, path: File) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        _unreadable(name, path, error)


def _unreadable(name: str, path: File, error: OSError) -> NoReturn:
    raise ConfigurationError(
        f"the file for `{name}` cannot be read",
        where=str(path),
        got=error.strerror or str(error),
        expected="a PEM file",
        help="check the path, and that the user of this process may read the file",
    ) from error
