"""Checks that an argument is of its kind, in one wording for servers, workers and runs.

Python would take ``"no"`` for true, and a file's name for a certificate until somebody connects: so
each is refused where it is given.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from os import PathLike
from typing import Final, NamedTuple, final

from headway.core.errors import ArgumentTypeError, ConfigurationError

__all__ = ["FILE", "FLAG", "NAMES", "TEXT", "Kind", "check_kinds", "value_of"]

_SHORT: Final = 80


@final
class Kind(NamedTuple):
    """What an argument may be.

    Attributes:
        types: The types that it may have.
        words: What it must be.
        example: One that could be given.
    """

    types: tuple[type, ...]
    words: str
    example: str

    def or_none(self) -> Kind:
        """That, or ``None``."""
        return self._replace(types=(*self.types, type(None)), words=f"{self.words}, or None")


FLAG: Final = Kind((bool,), "True or False", "True")
TEXT: Final = Kind((str,), "text", '"..."')
FILE: Final = Kind((str, PathLike), "a path", '"..."')
NAMES: Final = Kind((Sequence, Set), "a list of names", '["none", "int8"]')


def value_of(cls: type, options: str = "...") -> Kind:
    """The kind of a value of this package.

    Args:
        cls: Its class, which the package has at its top.
        options: What it is made with, as an example.

    Example:
        >>> from headway.runtime.timeouts import Retry
        >>> value_of(Retry, "give_up_s=60").example
        'headway.Retry(give_up_s=60)'
    """
    return Kind((cls,), f"a headway.{cls.__name__}", f"headway.{cls.__name__}({options})")


def check_kinds(where: str, **given: tuple[object, Kind]) -> None:
    """Check that each argument is of its kind.

    Args:
        where: The call that errors name.
        given: Values and their kinds, by the arguments' names.

    Raises:
        ArgumentTypeError: One is of another kind.
        ConfigurationError: A path is empty.

    Example:
        >>> check_kinds("AsyncWorker", prefetch=(True, FLAG), token=(None, TEXT.or_none()))
        >>> check_kinds("AsyncWorker", prefetch=("no", FLAG))
        Traceback (most recent call last):
        ...
        headway.core.errors.ArgumentTypeError: `prefetch` must be True or False
          in     AsyncWorker(prefetch=...)
          got    'no'
          help   write prefetch=True, for example
    """
    for name, (value, kind) in given.items():
        at = f"{where}({name}=...)"
        if not isinstance(value, kind.types):
            raise ArgumentTypeError(
                f"`{name}` must be {kind.words}",
                where=at,
                got=_shown(value, kind),
                help=f"write {name}={kind.example}, for example",
            )
        if value == "" and PathLike in kind.types:
            raise ConfigurationError(
                f"`{name}` is empty",
                where=at,
                got="''",
                expected=kind.words,
                help="leave it out, or name a place",
            )


def _shown(value: object, kind: Kind) -> str:
    if isinstance(value, type):
        itself = f"the class {value.__name__}"
        return f"{itself} itself" if issubclass(value, kind.types) else itself
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
