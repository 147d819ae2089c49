"""A worker at a narrow link: which codec its pushes have, and what that leaves out of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, final

import torch

from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.runtime.compression import (
    KINDS,
    Codec,
    ErrorFeedback,
    Link,
    bf16,
    choose,
    int8,
    none,
    topk,
)
from headway.runtime.compression.message import DTYPES
from headway.runtime.encoded import Traffic
from headway.runtime.kinds import NAMES, check_kinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from headway.core import ParameterLayout

__all__ = ["Compression", "Encoded", "Narrow", "check_offer", "read_compression"]

Compression: TypeAlias = "Codec | list[Codec] | str | None"
"""What a user asks for."""

_WHERE: Final = "AsyncWorker(compression=...)"
_SERVER: Final = "ParameterServer(compression=...)"
_PATIENCE_S: Final = 0.25
_OF_A_JOB: Final = 0.1


class Encoded(NamedTuple):
    """An update as it is sent.

    Attributes:
        codec: What wrote it.
        message: Its bytes; the worker keeps them until it has the receipt.
    """

    codec: Codec
    message: memoryview

    def read(self, like: Tensor) -> Tensor:
        """The update that a server would read from it.

        Args:
            like: Of the same length, on any device; only looked at.
        """
        vector = torch.empty(like.numel(), dtype=like.dtype)
        self.codec.decode_into(self.message, vector)
        return vector


def read_compression(wanted: object) -> Codec | list[Codec] | str:
    """What a user asks for, checked: a codec, a list of codecs, or ``"auto"``.

    Args:
        wanted: A value of :mod:`headway.compression`, a list of such, ``"auto"``, or a name:
            ``"none"``, ``"bf16"``, ``"int8"``, or ``"topk"``, which is
            ``topk(0.06, values="int8")``. ``None``: as ``"none"``.

    Raises:
        UnknownNameError: It is another name.
        ArgumentTypeError: It is of another type.

    Example:
        >>> read_compression("topk")
        topk(0.06, values='int8', block_size=256)
    """
    if wanted is None:
        return none()
    if isinstance(wanted, str):
        usual = topk(0.06, values="int8")
        named: dict[str, Codec] = {"none": none(), "bf16": bf16(), "int8": int8(), "topk": usual}
        if wanted != "auto" and wanted not in named:
            raise UnknownNameError.of("compression", wanted, ["auto", *named], where=_WHERE)
        return named.get(wanted, wanted)
    asked: Any = list(wanted) if isinstance(wanted, list | tuple) else wanted
    # Where all are offered any codec will do: this finds what is none.
    for one in asked if isinstance(asked, list) and asked else [asked]:
        choose(one, KINDS, Link(1.0, 0))
    codecs: Codec | list[Codec] = asked
    return codecs


def check_offer(
    compression: Sequence[str], pulls: Codec | Literal["exact"] | None
) -> tuple[tuple[str, ...], Codec | Literal["exact"] | None]:
    """What a server offers, checked.

    Args:
        compression: The kinds of codecs that it reads.
        pulls: How models go to workers that compress.

    Raises:
        UnknownNameError: There is no such kind.
        ArgumentTypeError: An argument is of the wrong type.
    """
    if isinstance(compression, str):
        raise ArgumentTypeError(
            "what workers may compress with is a list",
            where=_SERVER,
            got=repr(compression),
            help=f'write ["none", "{compression}"]',
        )
    check_kinds("ParameterServer", compression=(compression, NAMES))
    for kind in compression:
        if kind not in KINDS:
            raise UnknownNameError.of("compression", str(kind), KINDS, where=_SERVER)
    if isinstance(pulls, str) and pulls != "exact":
        raise UnknownNameError.of("pulls", pulls, ["exact"], where=_SERVER)
    if pulls is not None and not isinstance(pulls, str):
        read_compression(pulls)
    return tuple(compression), pulls


@final
class Narrow:
    r"""Compresses a worker's pushes, with error feedback. It outlives connections.

    ``"auto"`` decides at the first push: with a link of ``b`` bytes per second, measured on the
    first model, the first codec whose update takes at most

    .. math:: \max(0.25\ \mathrm{s},\ \text{a tenth of the first job's time})

    to travel, as :func:`headway.compression.choose` has it. A decision stays.

    Memory: nothing while it does not compress, else two vectors.

    Args:
        wanted: From :func:`read_compression`.

    Attributes:
        codec: What was chosen; ``None``: nothing yet.
        why: In words, why that was chosen.
    """

    def __init__(self, wanted: Codec | list[Codec] | str) -> None:
        self._wanted = wanted
        self._offered: tuple[str, ...] = ()
        self._layout: ParameterLayout | None = None
        self._feedback: ErrorFeedback | None = None
        self._made: tuple[Codec | None, int, object] = (None, 0, None)
        self._first_job: float | None = None
        self._traffic = Traffic()
        self._shared = False
        self.codec: Codec | None = None
        self.why = ""

    @property
    def reads_differences(self) -> bool:
        """Whether models may come as differences."""
        return not _is_plain(self._wanted)

    @property
    def residual(self) -> Tensor | None:
        """What the server has not been sent yet; ``None``: nothing is left out. Read only."""
        return None if self._feedback is None else self._feedback.residual

    def enter(
        self,
        offered: Sequence[str],
        layout: ParameterLayout,
        payload: str,
        traffic: Traffic,
        *,
        shared: bool,
    ) -> None:
        """A server has let this worker in, perhaps again.

        Args:
            offered: The kinds that it reads.
            layout: Of its model.
            payload: What it wants to be sent: ``"gradient"``, ``"delta"`` or ``"weights"``.
            traffic: What the connection counts and measures.
            shared: Whether vectors travel through memory.

        Raises:
            ConfigurationError: What is wanted cannot be had.
        """
        self._offered, self._layout, self._traffic = tuple(offered), layout, traffic
        self._shared = shared
        stays = self.codec is not None and self.codec.kind in self._offered
        if self._feedback is not None and stays and not shared:
            # What is on its way was written so, and may be sent again.
            return
        self.codec, self._first_job = None, None
        if _is_plain(self._wanted):
            self._plain("as was asked for")
            return
        if shared:
            self._plain("shared memory")
            return
        problem = _problem(layout, payload) or ("" if offered else "the server reads none")
        if not problem:
            if self._wanted != "auto":
                codec = choose(self._wanted, offered, Link(1.0, 0))
                self.codec, self.why = codec, "as was asked for"
            return
        if self._wanted != "auto":
            raise ConfigurationError(
                "this server's updates cannot be compressed",
                where=_WHERE,
                got=problem,
                help='give compression="auto" or None',
            )
        self._plain(problem)

    def begins(self) -> None:
        """A job begins now."""
        if self.codec is None and self._first_job is None:
            self._first_job = time.perf_counter()

    def encode(self, job: int, payload: Tensor, fragment: int | None) -> Encoded | None:
        """Write an update; ``None``: it goes as it is.

        Args:
            job: Its id.
            payload: Flat; not written to.
            fragment: Which fragment it is; ``None``: the whole.
        """
        layout = self._layout
        assert layout is not None, "a worker enters before it pushes"
        if self.codec is None:
            self._decide(layout)
        assert self.codec is not None
        if not payload.numel() or (_is_plain(self.codec) and not self._owes):
            return None
        feedback = self._feedback = self._feedback_of(self.codec, layout)
        span = None if fragment is None else layout.fragment(fragment)
        vector = payload.detach().to("cpu", layout.dtype).contiguous()
        return Encoded(self.codec, feedback.encode(job, vector, span=span))

    def takes(self, codec: Codec) -> bool:
        """Whether what a codec has written can go over the connection that there is now.

        Args:
            codec: Perhaps that of a connection before.
        """
        return not self._shared and codec.kind in self._offered

    def settled(self, job: int, *, taken: bool) -> None:
        """What became of an update.

        Args:
            job: Its id.
            taken: Whether the server has applied or holds it.
        """
        if self._feedback is not None:
            self._feedback.settled(job, taken)

    def lost(self) -> None:
        """No receipt comes any more, and nothing is sent again: it goes with the next update."""
        if self._feedback is not None:
            for job in self._feedback.outstanding:
                self._feedback.settled(job, taken=False)

    @property
    def _owes(self) -> bool:
        """Whether something was left out that has not been sent."""
        return self._feedback is not None and bool(self._feedback.residual.any())

    def __repr__(self) -> str:
        chosen = "not decided" if self.codec is None else f"{self.codec!r}"
        return f"{chosen} ({self.why})" if self.why else chosen

    def _decide(self, layout: ParameterLayout) -> None:
        busy_s = 0.0 if self._first_job is None else time.perf_counter() - self._first_job
        patience_s = max(_PATIENCE_S, _OF_A_JOB * busy_s)
        bytes_per_s = self._traffic.bytes_per_s
        if not bytes_per_s:
            self._plain("the link could not be measured")
            return
        link = Link(bytes_per_s, layout.num_params, layout.dtype, patience_s)
        self.codec = choose("auto", self._offered, link)
        self.why = f"measured {bytes_per_s / 1e3:,.1f} kB/s, patience {patience_s:.2f} s"

    def _plain(self, why: str) -> None:
        self.codec, self.why = none(), why

    def _feedback_of(self, codec: Codec, layout: ParameterLayout) -> ErrorFeedback:
        if self._feedback is not None and self._made == (codec, layout.num_params, layout.dtype):
            return self._feedback
        made = ErrorFeedback(codec, layout.num_params, dtype=layout.dtype)
        if self._feedback is not None and self._made[1:] == (layout.num_params, layout.dtype):
            self.lost()
            made.load_state_dict({"residual": self._feedback.residual, "sent": []})
        self._made = (codec, layout.num_params, layout.dtype)
        return made


def _is_plain(codec: object) -> bool:
    return getattr(codec, "kind", "") == "none"


def _problem(layout: ParameterLayout, payload: str) -> str:
    if payload == "weights":
        return "its workers send whole models, which do not add up"
    return "" if layout.dtype in DTYPES else f"parameters of {layout.dtype}"
