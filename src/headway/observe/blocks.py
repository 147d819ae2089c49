"""Flat tensors as blocks of little-endian bytes, and back: what every file of records shares."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ArgumentTypeError

__all__ = ["Shape", "describe", "fit", "little_endian", "parse_shapes", "read_tensors"]

# numpy has no bfloat16: its bits travel as an integer of the same width.
_DTYPES: Final[dict[str, tuple[torch.dtype, str]]] = {
    "float64": (torch.float64, "<f8"),
    "float32": (torch.float32, "<f4"),
    "float16": (torch.float16, "<f2"),
    "bfloat16": (torch.bfloat16, "<i2"),
    "int64": (torch.int64, "<i8"),
    "uint8": (torch.uint8, "|u1"),
}
_CARRIED_AS: Final = {torch.bfloat16: torch.int16}


class Shape(NamedTuple):
    """What is said of a block: the tensor's name, its dtype's, and how many elements it has."""

    name: str
    dtype: str
    numel: int


def describe(named: Mapping[str, Tensor]) -> tuple[list[Shape], list[memoryview]]:
    r"""What to say of some tensors, and their bytes, in their own memory where they are on the CPU.

    Args:
        named: Flat tensors by their names; float64, float32, float16, bfloat16, int64 or uint8.

    Raises:
        ArgumentTypeError: A tensor is not flat, or of another dtype.

    Example:
        >>> shapes, blocks = describe({"payload": torch.tensor([1, 2], dtype=torch.uint8)})
        >>> list(shapes[0]), blocks[0].tobytes()
        (['payload', 'uint8', 2], b'\x01\x02')
    """
    blocks = [little_endian(tensor).view(np.uint8).data for tensor in named.values()]
    shapes = [Shape(name, _name_of(tensor), tensor.numel()) for name, tensor in named.items()]
    return shapes, blocks


def parse_shapes(described: Any) -> list[Shape]:
    """What :func:`describe` said, as it was read; :func:`fit` says whether it can be.

    Args:
        described: Believed in nothing.

    Raises:
        ValueError: It does not say what blocks there are.
        TypeError: Likewise.
        KeyError: Likewise.
    """
    shapes = [Shape(str(name), str(dtype), numel) for name, dtype, numel in described]
    for shape in shapes:
        _DTYPES[shape.dtype]
    return shapes


def fit(shapes: Sequence[Shape], num_bytes: int) -> bool:
    """Whether some blocks have this size together.

    Args:
        shapes: Of the blocks.
        num_bytes: How many bytes there are.
    """
    if any(type(shape.numel) is not int or shape.numel < 0 for shape in shapes):
        return False
    sizes = [np.dtype(_DTYPES[shape.dtype][1]).itemsize * shape.numel for shape in shapes]
    return sum(sizes) == num_bytes


def read_tensors(
    read_into: Callable[[memoryview], int | None], shapes: Sequence[Shape], crc: int
) -> tuple[dict[str, Tensor], int]:
    """Read tensors into memory of their own: by their names, and the checksum of all until then.

    Args:
        read_into: Fills a block from the file, and says how much came.
        shapes: Of the tensors, in order.
        crc: The checksum of what came before.

    Raises:
        EOFError: The file ends within them.
    """
    tensors = {}
    for name, dtype, numel in shapes:
        block = np.empty(numel, dtype=_DTYPES[dtype][1])
        data = block.view(np.uint8).data
        if read_into(data) != block.nbytes:
            raise EOFError
        crc = zlib.crc32(data, crc)
        tensors[name] = _tensor(block, _DTYPES[dtype][0])
    return tensors, crc


def little_endian(tensor: Tensor) -> NDArray[Any]:
    """A flat tensor's bytes as a little-endian array; shares its memory where it can.

    Args:
        tensor: Flat; float64, float32, float16, bfloat16, int64 or uint8; on any device.

    Raises:
        ArgumentTypeError: It is not flat, or of a dtype that a payload cannot have.

    Example:
        >>> little_endian(torch.tensor([1, 2])).tobytes().hex()
        '01000000000000000200000000000000'
    """
    if tensor.dim() != 1:
        raise ArgumentTypeError("this is not a flat tensor", got=f"shape {list(tensor.shape)}")
    dtype = _DTYPES[_name_of(tensor)][1]
    here = tensor.detach().cpu().contiguous()
    carrier = _CARRIED_AS.get(here.dtype)
    array: NDArray[Any] = (here if carrier is None else here.view(carrier)).numpy()
    return array.astype(dtype, copy=False)


def _tensor(block: NDArray[Any], dtype: torch.dtype) -> Tensor:
    native = torch.from_numpy(block.astype(block.dtype.newbyteorder("="), copy=False))
    return native.view(dtype) if dtype in _CARRIED_AS else native


def _name_of(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ArgumentTypeError(
            "a payload cannot have this dtype", got=name, expected=", ".join(_DTYPES)
        )
    return name
