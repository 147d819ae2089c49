"""The codec that writes only the largest elements, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, ClassVar, Final, final

import numpy as np
import torch
from torch import Tensor

from headway.algorithms.arguments import check_choice, check_number
from headway.core.errors import ProtocolError
from headway.runtime.compression.dense import BFloat16, Int8, Uncompressed, bf16, int8, none
from headway.runtime.compression.indices import (
    choose_form,
    max_index_bytes,
    read_indices,
    write_indices,
)
from headway.runtime.compression.message import (
    DTYPES,
    HEADER_BYTES,
    NOT_FINITE,
    BytesLike,
    Header,
    blank,
    check_vector,
    open_message,
    refuse_not_finite,
    seal,
    spans,
)

__all__ = ["TopK", "topk"]

_SAMPLES: Final = 1 << 15
_VALUES: Final = ("none", "bf16", "int8")


@final
@dataclass(frozen=True, slots=True)
class TopK:
    """The largest elements alone; made by :func:`topk`."""

    code: ClassVar[int] = 4
    kind: ClassVar[str] = "topk"

    fraction: float
    values: Uncompressed | BFloat16 | Int8

    def describe(self) -> dict[str, Any]:
        """See :class:`~headway.compression.Codec`."""
        told = {"kind": self.kind, "fraction": self.fraction, "values": self.values.kind}
        return {**self.values.describe(), **told}

    def num_kept(self, num_params: int) -> int:
        """How many elements are sent at most; zeros never are.

        Args:
            num_params: The vector's length.
        """
        return min(num_params, ceil(self.fraction * num_params))

    def max_bytes(self, num_params: int, dtype: torch.dtype) -> int:
        """See :class:`~headway.compression.Codec`; a bound, as the indices' length varies."""
        count = self.num_kept(num_params)
        return (
            HEADER_BYTES
            + self.values.section_bytes(count, dtype)
            + max_index_bytes(count, num_params)
        )

    def encode(self, vector: Tensor) -> memoryview:
        """See :class:`~headway.compression.Codec`."""
        check_vector(vector)
        header = self._header(vector)
        told = refuse_not_finite(vector, header)
        if told is not None:
            return told
        num_params = vector.numel()
        indices = _largest(vector, self.num_kept(num_params))
        form, index_bytes = choose_form(indices.numpy(), num_params)
        split = HEADER_BYTES + self.values.section_bytes(len(indices), vector.dtype)
        header = header._replace(form=form, count=len(indices))
        memory = blank(split + index_bytes, header)
        self.values.write(vector[indices], memory[HEADER_BYTES:split])
        write_indices(form, indices.numpy(), num_params, memory[split:].numpy())
        return seal(memory)

    def decode_into(self, message: BytesLike, out: Tensor) -> None:
        """See :class:`~headway.compression.Codec`."""
        header, body = open_message(message, out, self, self._header(out))
        if header.form == NOT_FINITE:
            return
        if header.count > self.num_kept(out.numel()):
            raise ProtocolError(
                "a selection is larger than was agreed upon",
                got=header.count,
                expected=f"at most {self.num_kept(out.numel())}",
            )
        split = self.values.section_bytes(header.count, out.dtype)
        if body.numel() < split:
            raise ProtocolError(
                "a selection is too short", got=f"{body.numel()} bytes", expected=f"{split} or more"
            )
        values = torch.empty(header.count, dtype=out.dtype)
        self.values.read(body[:split], values)
        out.zero_()
        position = 0
        section = body[split:].numpy()
        for piece in read_indices(header.form, section, header.count, out.numel()):
            stop = position + len(piece)
            out.index_copy_(0, torch.from_numpy(piece), values[position:stop])
            position = stop

    def _header(self, vector: Tensor) -> Header:
        return Header(
            kind=self.code,
            dtype=DTYPES.get(vector.dtype, 0),
            values=self.values.code,
            form=0,
            block_size=self.values.block_size,
            count=0,
            num_params=vector.numel(),
        )

    def __repr__(self) -> str:
        if isinstance(self.values, Int8):
            size = self.values.block_size
            return f"topk({self.fraction:g}, values='int8', block_size={size})"
        return f"topk({self.fraction:g}, values={self.values.kind!r})"


def topk(fraction: float, *, values: str = "none", block_size: int = 256) -> TopK:
    r"""Send only the largest elements by magnitude; between equal ones the first.

    .. math:: C(x)_i = x_i \text{ for the } k = \lceil f n \rceil \text{ largest } |x_i|,
              \text{ else } 0, \qquad \|x - C(x)\|^2 \le (1 - k/n) \|x\|^2

    (with ``values="none"``). Zeros are not sent, so that there may be fewer. The indices are
    written as gaps of variable length or as a bitmap, whichever is shorter. Without
    :class:`~headway.compression.ErrorFeedback` what is left out is lost, and training need not
    converge.

    Memory: about ``k`` elements and indices, and blocks of 512 KiB.

    Args:
        fraction: ``f``, above 0 and at most 1.
        values: How what is kept is written: ``"none"`` as it is, ``"bf16"``, or ``"int8"``.
        block_size: For int8, how many of the kept elements share a scale.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.

    Example:
        >>> import torch
        >>> codec, x = topk(0.5), torch.tensor([0.1, -2.0, 3.0, 0.2])
        >>> message, y = codec.encode(x), torch.empty(4)
        >>> codec.decode_into(message, y)
        >>> y.tolist()
        [0.0, -2.0, 3.0, 0.0]

    Source:
        Stich et al. 2018, arXiv:1809.07599; Alistarh et al. 2018, arXiv:1809.10505. The index
        coding and quantised values are ours.
    """
    fraction = check_number("fraction", fraction, maximum=1.0, above=True)
    check_choice("values", values, _VALUES)
    block = int8(block_size=block_size)
    kept: dict[str, Uncompressed | BFloat16 | Int8] = {
        "none": none(),
        "bf16": bf16(),
        "int8": block,
    }
    return TopK(fraction, kept[values])


def _largest(vector: Tensor, count: int) -> Tensor:
    """Where the largest elements are, zeros left out: increasing."""
    rank = _rank(count, vector.numel())
    while True:
        floor, certain = _floor(vector, rank)
        found = _at_least(vector, floor)
        if certain or len(found) >= count:
            break
        rank *= 4
    if len(found) <= count:
        return found
    sizes = vector[found].abs()
    smallest = float(torch.topk(sizes, count, sorted=False).values.min())
    above = sizes > smallest
    # Ties: the first ones, so that the choice does not depend on the algorithm of `topk`.
    equal = torch.nonzero(sizes == smallest).squeeze(1)[: count - int(above.sum())]
    above[equal] = True
    return found[above]


def _rank(count: int, num_params: int) -> int:
    """How far down a sorted sample to look so that enough elements almost surely lie above."""
    mean = count * min(1.0, _SAMPLES / max(1, num_params))
    return ceil(mean + 4.0 * sqrt(mean)) + 4


def _floor(vector: Tensor, rank: int) -> tuple[float, bool]:
    """A lower bound of the elements to look at; whether it surely leaves enough."""
    stride = max(1, vector.numel() // _SAMPLES)
    sample = vector[::stride].abs()
    if rank >= len(sample):
        return 0.0, True
    return float(torch.topk(sample, rank, sorted=False).values.min()), False


def _at_least(vector: Tensor, floor: float) -> Tensor:
    found = []
    temporary = torch.empty(0, dtype=vector.dtype)
    for span in spans(vector.numel(), vector.element_size()):
        block = vector[span]
        if temporary.numel() < block.numel():
            temporary = torch.empty_like(block)
        sizes = torch.abs(block, out=temporary[: block.numel()])
        flags = (sizes >= floor) if floor > 0.0 else (sizes > 0.0)
        found.append(np.flatnonzero(flags.numpy()) + span.start)
    if not found:
        return torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(found))
