"""Codecs that write every element: as it is, as bfloat16, or as int8 with scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final, Protocol, final

import torch
from torch import Tensor

from headway.algorithms.arguments import check_count
from headway.core.errors import ConfigurationError, ProtocolError
from headway.runtime.compression.message import (
    DTYPES,
    HEADER_BYTES,
    NOT_FINITE,
    BytesLike,
    Codec,
    Header,
    blank,
    check_vector,
    open_message,
    refuse_not_finite,
    seal,
    spans,
)

__all__ = ["BFloat16", "DenseCodec", "Int8", "Uncompressed", "bf16", "int8", "none"]

_LEVELS: Final = 127
_MAX_BLOCK: Final = 1 << 15


class DenseCodec(Codec, Protocol):
    """A codec whose body can also stand within another's."""

    code: ClassVar[int]
    kind: ClassVar[str]

    @property
    def block_size(self) -> int:
        """How many elements share a scale; 0 without scales."""
        ...

    def section_bytes(self, count: int, dtype: torch.dtype) -> int:
        """How many bytes the body of so many elements has, exactly."""
        ...

    def write(self, values: Tensor, section: Tensor) -> None:
        """Write finite values into a body of uint8."""
        ...

    def read(self, section: Tensor, out: Tensor) -> None:
        """Read a body of the right length; a ``ProtocolError`` if it cannot be one."""
        ...


def _header(codec: DenseCodec, count: int, dtype: torch.dtype) -> Header:
    return Header(codec.code, DTYPES.get(dtype, 0), 0, 0, codec.block_size, count, count)


class _Alone:
    """What a dense codec does where it does not stand within another."""

    __slots__ = ()

    def max_bytes(self: DenseCodec, num_params: int, dtype: torch.dtype) -> int:
        """See :class:`~headway.compression.Codec`; exact."""
        return HEADER_BYTES + self.section_bytes(num_params, dtype)

    def encode(self: DenseCodec, vector: Tensor) -> memoryview:
        """See :class:`~headway.compression.Codec`."""
        check_vector(vector)
        header = _header(self, vector.numel(), vector.dtype)
        told = refuse_not_finite(vector, header)
        if told is not None:
            return told
        length = HEADER_BYTES + self.section_bytes(vector.numel(), vector.dtype)
        memory = blank(length, header)
        self.write(vector, memory[HEADER_BYTES:])
        return seal(memory)

    def decode_into(self: DenseCodec, message: BytesLike, out: Tensor) -> None:
        """See :class:`~headway.compression.Codec`."""
        expected = _header(self, out.numel(), out.dtype)
        header, body = open_message(message, out, self, expected)
        if header.form == NOT_FINITE:
            return
        length = self.section_bytes(out.numel(), out.dtype)
        if header.form or header.count != out.numel() or body.numel() != length:
            raise ProtocolError(
                "a compressed vector has the wrong length",
                got=f"{header.count} elements in {body.numel()} bytes",
                expected=f"{out.numel()} elements in {length} bytes",
            )
        self.read(body, out)


@final
@dataclass(frozen=True, slots=True)
class Uncompressed(_Alone):
    """Every element as it is; made by :func:`none`."""

    code: ClassVar[int] = 1
    kind: ClassVar[str] = "none"

    @property
    def block_size(self) -> int:
        """0: there are no scales."""
        return 0

    def describe(self) -> dict[str, Any]:
        """See :class:`~headway.compression.Codec`."""
        return {"kind": self.kind}

    def section_bytes(self, count: int, dtype: torch.dtype) -> int:
        """See :class:`DenseCodec`."""
        return count * dtype.itemsize

    def write(self, values: Tensor, section: Tensor) -> None:
        """See :class:`DenseCodec`."""
        section.view(values.dtype).copy_(values)

    def read(self, section: Tensor, out: Tensor) -> None:
        """See :class:`DenseCodec`."""
        out.copy_(section.view(out.dtype))

    def __repr__(self) -> str:
        return "none()"


@final
@dataclass(frozen=True, slots=True)
class BFloat16(_Alone):
    """Every element rounded to bfloat16; made by :func:`bf16`."""

    code: ClassVar[int] = 2
    kind: ClassVar[str] = "bf16"

    @property
    def block_size(self) -> int:
        """0: there are no scales."""
        return 0

    def describe(self) -> dict[str, Any]:
        """See :class:`~headway.compression.Codec`."""
        return {"kind": self.kind}

    def section_bytes(self, count: int, dtype: torch.dtype) -> int:
        """See :class:`DenseCodec`."""
        return 2 * count

    def write(self, values: Tensor, section: Tensor) -> None:
        """See :class:`DenseCodec`."""
        short = section.view(torch.bfloat16)
        if values.dtype is torch.bfloat16:
            short.copy_(values)
            return
        # The last floats below infinity would round up to it.
        limit = torch.finfo(torch.bfloat16).max
        for span in spans(values.numel(), values.element_size()):
            short[span].copy_(values[span].clamp(-limit, limit))

    def read(self, section: Tensor, out: Tensor) -> None:
        """See :class:`DenseCodec`."""
        out.copy_(section.view(torch.bfloat16))

    def __repr__(self) -> str:
        return "bf16()"


@final
@dataclass(frozen=True, slots=True)
class Int8(_Alone):
    """Every element as a multiple of its block's scale; made by :func:`int8`."""

    code: ClassVar[int] = 3
    kind: ClassVar[str] = "int8"

    block_size: int

    def describe(self) -> dict[str, Any]:
        """See :class:`~headway.compression.Codec`."""
        return {"kind": self.kind, "block_size": self.block_size}

    def section_bytes(self, count: int, dtype: torch.dtype) -> int:
        """See :class:`DenseCodec`."""
        return count + -(-count // self.block_size) * _wide(dtype).itemsize

    def write(self, values: Tensor, section: Tensor) -> None:
        """See :class:`DenseCodec`."""
        scales, levels = self._parts(section, values.numel(), values.dtype)
        limit = _max_scale(values.dtype)
        temporary = torch.empty(0, dtype=scales.dtype)
        for span, rows, width in self._pieces(values.numel(), scales.element_size()):
            block, own = values[span].view(-1, width), scales[rows]
            if temporary.numel() < block.numel():
                temporary = torch.empty(block.numel(), dtype=scales.dtype)
            scratch = temporary[: block.numel()].view(block.shape)
            scratch.copy_(block).abs_()
            torch.amax(scratch, 1, out=own)
            own.div_(_LEVELS).clamp_(max=limit)
            # A block of zeros has scale 0.
            divisor = own.masked_fill(own == 0.0, 1.0)
            scratch.copy_(block).div_(divisor.unsqueeze(1)).round_().clamp_(-_LEVELS, _LEVELS)
            levels[span].view(block.shape).copy_(scratch)

    def read(self, section: Tensor, out: Tensor) -> None:
        """See :class:`DenseCodec`."""
        scales, levels = self._parts(section, out.numel(), out.dtype)
        if not out.numel():
            return
        if not bool(((scales >= 0.0) & (scales <= _max_scale(out.dtype))).all()):
            raise ProtocolError(
                "a scale cannot be used",
                got="NaN, infinity or a negative number",
                expected=f"0 to {_max_scale(out.dtype):g}",
            )
        if int(levels.min()) < -_LEVELS:
            raise ProtocolError("an element is out of its range", got=-128, expected="-127 to 127")
        temporary = torch.empty(0, dtype=scales.dtype)
        for span, rows, width in self._pieces(out.numel(), scales.element_size()):
            target = out[span].view(-1, width)
            scale = scales[rows].unsqueeze(1)
            if out.dtype is scales.dtype:
                target.copy_(levels[span].view(target.shape)).mul_(scale)
                continue
            if temporary.numel() < target.numel():
                temporary = torch.empty(target.numel(), dtype=scales.dtype)
            scratch = temporary[: target.numel()].view(target.shape)
            target.copy_(scratch.copy_(levels[span].view(target.shape)).mul_(scale))

    def _parts(self, section: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The scales and the levels of a body."""
        wide = _wide(dtype)
        stop = -(-count // self.block_size) * wide.itemsize
        return section[:stop].view(wide), section[stop:].view(torch.int8)

    def _pieces(self, count: int, element_bytes: int) -> list[tuple[slice, slice, int]]:
        """Spans of elements and of scales, and how many elements share a scale there."""
        size = self.block_size
        whole = count // size * size
        pieces = [
            (span, slice(span.start // size, span.stop // size), size)
            for span in spans(whole, element_bytes, multiple=size)
        ]
        if whole < count:
            row = whole // size
            pieces.append((slice(whole, count), slice(row, row + 1), count - whole))
        return pieces

    def __repr__(self) -> str:
        return f"int8(block_size={self.block_size})"


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scales: float64 vectors have magnitudes that float32 has not."""
    return torch.float64 if dtype is torch.float64 else torch.float32


@cache
def _max_scale(dtype: torch.dtype) -> float:
    """The largest scale of which 127 are still finite."""
    wide = _wide(dtype)
    most = torch.tensor(torch.finfo(wide).max, dtype=wide)
    scale = most / _LEVELS
    while not bool(torch.isfinite(scale * _LEVELS)):
        scale = torch.nextafter(scale, torch.zeros_like(scale))
    return float(scale)


def none() -> Uncompressed:
    """Send vectors as they are.

    Example:
        >>> import torch
        >>> none().max_bytes(1_000_000, torch.float32)
        4000024
    """
    return Uncompressed()


def bf16() -> BFloat16:
    r"""Round every element to bfloat16: half the bytes of float32.

    .. math:: |x_i - C(x)_i| \le 2^{-8} |x_i|

    for the normal range. Rounded to nearest, ties to even; elements above the largest bfloat16
    become it.

    Example:
        >>> import torch
        >>> codec, x = bf16(), torch.tensor([1.0, 1.001])
        >>> message, y = codec.encode(x), torch.empty(2)
        >>> codec.decode_into(message, y)
        >>> y.tolist()
        [1.0, 1.0]
    """
    return BFloat16()


def int8(*, block_size: int = 256) -> Int8:
    r"""Write every element as one of 255 multiples of a scale that its block shares.

    .. math:: s_b = \max_{i \in b} |x_i| / 127, \qquad C(x)_i = s_b\, \mathrm{round}(x_i / s_b),
              \qquad |x_i - C(x)_i| \le s_b / 2

    up to the rounding of the arithmetic. Rounded to nearest and not at random: the error is half as
    large, a vector has one encoding and no random stream is needed. The bias that random rounding
    avoids is what :class:`~headway.compression.ErrorFeedback` takes back.

    A scale is float32 (float64 for float64 vectors): with 256 elements to a block a float32 vector
    takes 1.016 bytes an element.

    Args:
        block_size: How many elements share a scale, 1 to 32,768.

    Raises:
        ArgumentTypeError: It is no int.
        ConfigurationError: It is out of its range.

    Example:
        >>> import torch
        >>> codec, x = int8(block_size=2), torch.tensor([1.27, 0.014, 0.0, 0.0])
        >>> message, y = codec.encode(x), torch.empty(4)
        >>> codec.decode_into(message, y)
        >>> y
        tensor([1.2700, 0.0100, 0.0000, 0.0000])

    Source:
        Dettmers 2015, arXiv:1511.04561 (8-bit updates); block-wise scales as in arXiv:2110.02861.
        The levels here are evenly spaced.
    """
    size = check_count("block_size", block_size)
    if size > _MAX_BLOCK:
        raise ConfigurationError(
            "`block_size` is out of its range", got=size, expected=f"1 to {_MAX_BLOCK}"
        )
    return Int8(size)
