"""Certificates for servers and workers, right and wrong ones, made with OpenSSL's own command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from headway.runtime.security import ServerTLS, WorkerTLS

_NAMES: Final = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:headway"
# What ``openssl ca`` cannot do without; ``openssl x509`` signs nothing that has expired already.
_CONFIG: Final = """\
[ca]
default_ca = authority
[authority]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = names
unique_subject = no
[names]
commonName = supplied
"""
_VALID: Final = ("-days", "30")
_EXPIRED: Final = ("-startdate", "200101000000Z", "-enddate", "200201000000Z")


def issue(folder: Path) -> Path:
    """Fill a folder: each name there is a certificate ``.pem`` with its key ``.key``.

    The authority ``ca`` has signed ``server``, ``worker``, and ``old``, which has expired long ago;
    the authority ``other`` has signed ``alien``.
    """

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text(_NAMES)
    (folder / "config").write_text(_CONFIG)
    (folder / "index").touch()
    for ca in ("ca", "other"):
        run("req", "-x509", *_asked(ca), "-out", f"{ca}.pem")
    for name, ca, dates in (
        ("server", "ca", _VALID),
        ("worker", "ca", _VALID),
        ("old", "ca", _EXPIRED),
        ("alien", "other", _VALID),
    ):
        run("req", *_asked(name), "-out", f"{name}.csr")
        signed = ("-config", "config", "-cert", f"{ca}.pem", "-keyfile", f"{ca}.key", "-batch")
        files = ("-notext", "-extfile", "names", "-in", f"{name}.csr", "-out", f"{name}.pem")
        run("ca", *signed, *dates, *files)
    return folder


def _asked(name: str) -> tuple[str, ...]:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    return (*key, "-subj", f"/CN={name}", "-keyout", f"{name}.key")


def server_tls(folder: Path, name: str = "server", *, mutual: bool = True) -> ServerTLS:
    """A server that shows this certificate; a mutual one wants to see one of the authority too."""
    ca = folder / "ca.pem" if mutual else None
    return ServerTLS(folder / f"{name}.pem", folder / f"{name}.key", client_ca=ca)


def worker_tls(folder: Path, name: str = "worker") -> WorkerTLS:
    """A worker that shows this certificate."""
    return WorkerTLS(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
