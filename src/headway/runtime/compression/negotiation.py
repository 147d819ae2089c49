"""Codecs in JSON, and which of them a worker and a server use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch

from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ProtocolError,
    UnknownNameError,
)
from headway.runtime.compression.dense import bf16, int8, none
from headway.runtime.compression.message import Codec
from headway.runtime.compression.selection import topk

__all__ = ["KINDS", "Link", "choose", "from_description"]

KINDS: Final = ("none", "bf16", "int8", "topk")
"""All that there is, the most exact first."""

_KEYS: Final = {
    "none": ({"kind"},),
    "bf16": ({"kind"},),
    "int8": ({"kind", "block_size"},),
    "topk": ({"kind", "fraction", "values"}, {"kind", "fraction", "values", "block_size"}),
}


class Link(NamedTuple):
    """What is known of the way to the server.

    Attributes:
        bytes_per_s: Measured, from the worker to the server, above 0.
        num_params: The model's length.
        dtype: The model's.
        patience_s: How long an update may travel, in seconds: a tenth of what a job takes, say.
    """

    bytes_per_s: float
    num_params: int
    dtype: torch.dtype = torch.float32
    patience_s: float = 1.0


def from_description(description: Mapping[str, Any]) -> Codec:
    """The codec that a description means.

    Args:
        description: From :meth:`Codec.describe`, by way of JSON; or from a stranger.

    Raises:
        ProtocolError: It is the description of none.

    Example:
        >>> from_description({"kind": "topk", "fraction": 0.01, "values": "bf16"})
        topk(0.01, values='bf16')
    """
    try:
        kind = description["kind"]
        if set(description) not in _KEYS[kind]:
            raise ValueError(f"keys {sorted(description)}")
        options = {name: value for name, value in description.items() if name != "kind"}
        makers: dict[str, Any] = {"none": none, "bf16": bf16, "int8": int8, "topk": topk}
        codec: Codec = makers[kind](**options)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(
            "this is not the description of a compression",
            got=repr(description)[:200],
            expected=f"a kind of {', '.join(KINDS)}, and its options",
        ) from error
    return codec


def choose(wanted: Codec | list[Codec] | str, offered: Iterable[str], link: Link) -> Codec:
    """Choose the codec of a worker's pushes. The same arguments always choose the same.

    Args:
        wanted: A codec; or a list, of which the first that is offered is taken; or ``"auto"``: of
            ``none()``, ``bf16()``, ``int8()``, ``topk(0.1, values="int8")`` and
            ``topk(0.01, values="int8")`` the first whose update travels within the link's patience,
            else the shortest that is offered.
        offered: The kinds that the server reads.
        link: The way there; looked at for ``"auto"`` only.

    Raises:
        ArgumentTypeError: ``wanted`` is none of these.
        ConfigurationError: What is wanted is not offered; or the link is out of its range.
        UnknownNameError: ``wanted`` is text other than ``"auto"``.

    Example:
        >>> choose("auto", KINDS, Link(32_000, num_params=100_000, patience_s=5.0))
        int8(block_size=256)
    """
    kinds = frozenset(offered)
    if isinstance(wanted, str):
        if wanted != "auto":
            raise UnknownNameError.of("compression", wanted, ["auto", *KINDS])
        return _by_link(kinds, link)
    codecs: tuple[Codec, ...] = tuple(wanted) if isinstance(wanted, list) else (wanted,)
    for codec in codecs:
        if not hasattr(codec, "kind") or not hasattr(codec, "decode_into"):
            raise ArgumentTypeError(
                "this is no compression",
                got=repr(codec),
                expected="none(), bf16(), int8(), topk(...) or 'auto'",
            )
        if codec.kind in kinds:
            return codec
    raise _not_offered(", ".join(map(repr, codecs)), kinds)


def _by_link(kinds: frozenset[str], link: Link) -> Codec:
    if not (link.bytes_per_s > 0.0 and link.patience_s > 0.0 and link.num_params >= 0):
        raise ConfigurationError(
            "this is no link",
            got=str(link),
            expected="bytes_per_s and patience_s above 0, num_params at least 0",
        )
    ladder: tuple[Codec, ...] = (
        none(),
        bf16(),
        int8(),
        topk(0.1, values="int8"),
        topk(0.01, values="int8"),
    )
    usable = [codec for codec in ladder if codec.kind in kinds]
    if not usable:
        raise _not_offered("auto", kinds)
    sizes = [codec.max_bytes(link.num_params, link.dtype) for codec in usable]
    room = link.bytes_per_s * link.patience_s
    fitting = [codec for codec, size in zip(usable, sizes, strict=True) if size <= room]
    return fitting[0] if fitting else usable[sizes.index(min(sizes))]


def _not_offered(wanted: str, kinds: frozenset[str]) -> ConfigurationError:
    return ConfigurationError(
        "the server does not offer this compression",
        where="AsyncWorker(compression=...), --compression",
        got=wanted,
        expected=", ".join(sorted(kinds)) or "nothing is offered",
        help='choose one that it offers, or "none", which every server reads',
    )
