"""Models on their way to workers, as differences to what each worker has already."""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from headway.algorithms.arguments import check_count
from headway.core.errors import ArgumentTypeError, ConfigurationError, ProtocolError
from headway.runtime.compression.message import (
    DTYPES,
    Bytes,
    BytesLike,
    Codec,
    check_vector,
    lend,
    says_not_finite,
)
from headway.runtime.compression.words import add_difference, difference

__all__ = ["PullCoder", "PullDecoder"]

_LAYOUT: Final = struct.Struct("<2sBBIQQQ")
_MAGIC: Final = b"P1"
_FULL, _EXACT, _CODED = 0, 1, 2
_MAX_INCARNATION: Final = 1 << 23
_SERIAL_BITS: Final = 40


class _Header(NamedTuple):
    kind: int
    dtype: int
    unused: int
    num_params: int
    base: int
    tag: int


@dataclass(slots=True)
class _Copies:
    """What a worker has, and what it has if the last message came through."""

    held: Tensor
    sent: Tensor
    held_tag: int = 0
    sent_tag: int = 0


def _full_bytes(num_params: int, dtype: torch.dtype) -> int:
    return _LAYOUT.size + num_params * dtype.itemsize


def _check_size(num_params: int, dtype: torch.dtype) -> int:
    if dtype not in DTYPES:
        raise ArgumentTypeError(
            "models of this dtype cannot be sent as differences",
            got=dtype,
            expected="float32, float64 or bfloat16",
        )
    return check_count("num_params", num_params)


@final
class PullCoder:
    r"""The server's side: a model as its difference to what a worker has, where that is shorter.

    Without a codec nothing is lost: the difference is bit by bit, against a version that the server
    still keeps. With one, the server keeps each worker's copy ``c`` and sends

    .. math:: C(x - c), \qquad c \leftarrow c + C(x - c)

    on both sides, so that an error is made good by the next pull, and a worker whose model no
    longer changes gets as near as rounding allows. A worker then starts from ``c``, and what it
    returns is its own difference to ``c``.

    A worker says with its request which tag it has (:attr:`PullDecoder.tag`). Where that is not
    known, because it is new, too old, or from another life of the server, the whole model goes.

    Memory: at most ``max_models`` vectors, whatever number of workers come and go. With a codec a
    worker takes two of them; those not heard of for longest are forgotten first.

    Args:
        num_params: The model's length.
        dtype: The model's.
        codec: ``C``; ``None``: nothing is lost.
        max_models: How many vectors are kept at most; at least 2.
        incarnation: Of the server, 0 to 2**23 - 1; another one after each start.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.

    Example:
        >>> from headway import compression
        >>> coder, decoder = compression.PullCoder(3), compression.PullDecoder(3)
        >>> model = torch.tensor([1.0, 2.0, 3.0])
        >>> decoder.decode(coder.encode("worker-0", model, version=0, has=decoder.tag))
        tensor([1., 2., 3.])
        >>> model[1] = 2.5
        >>> decoder.decode(coder.encode("worker-0", model, version=1, has=decoder.tag))
        tensor([1.0000, 2.5000, 3.0000])
    """

    def __init__(
        self,
        num_params: int,
        *,
        dtype: torch.dtype = torch.float32,
        codec: Codec | None = None,
        max_models: int = 16,
        incarnation: int = 0,
    ) -> None:
        self._size = _check_size(num_params, dtype)
        self._dtype = dtype
        self._codec = codec
        self._max_models = check_count("max_models", max_models, minimum=2)
        if check_count("incarnation", incarnation, minimum=0) >= _MAX_INCARNATION:
            raise ConfigurationError(
                "`incarnation` is out of its range",
                got=incarnation,
                expected=f"0 to {_MAX_INCARNATION - 1}",
            )
        self._first = incarnation << _SERIAL_BITS
        self._serial = 0
        self._models: OrderedDict[int, Tensor] = OrderedDict()
        self._copies: OrderedDict[str, _Copies] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """What the kept vectors take now."""
        vectors = len(self._models) + 2 * len(self._copies)
        return vectors * self._size * self._dtype.itemsize

    def encode(self, worker: str, model: Tensor, *, version: int, has: int = 0) -> memoryview:
        """Write a model for a worker.

        Args:
            worker: Its name.
            model: Flat, contiguous, on the CPU; copied where it is to be kept.
            version: Of the model, at least 0. Without a codec two models of one version must be the
                same: where what is sent is the worker's own (a look-ahead), number it yourself.
            has: The tag that the worker reports; 0: it has nothing.

        Returns:
            The message, at most 32 bytes longer than the model.

        Raises:
            ArgumentTypeError: The model is not one of this dtype on the CPU.
            ConfigurationError: It has another length.
        """
        check_vector(model)
        if model.dtype is not self._dtype or model.numel() != self._size:
            raise ConfigurationError(
                "the model is another one",
                got=f"{model.numel()} of {model.dtype}",
                expected=f"{self._size} of {self._dtype}",
            )
        check_count("version", version, minimum=0)
        if self._codec is None:
            return self._encode_exact(model, version, has)
        return self._encode_coded(worker, model, has, self._codec)

    def forget(self, worker: str) -> None:
        """Free what is kept for a worker that has left.

        Args:
            worker: Its name; may be unknown.
        """
        self._copies.pop(worker, None)

    def _encode_exact(self, model: Tensor, version: int, has: int) -> memoryview:
        tag = self._first + version + 1
        base = self._models.get(has)
        parts = None
        if base is not None:
            self._models.move_to_end(has)
            parts = [] if has == tag else difference(model, base, model.numel() * model.itemsize)
        if tag in self._models:
            self._models.move_to_end(tag)
        else:
            self._keep(tag, model)
        if parts is None:
            return self._full(model, tag)
        return memoryview(b"".join([self._head(_EXACT, has, tag), *parts]))

    def _keep(self, tag: int, model: Tensor) -> None:
        if len(self._models) < self._max_models:
            self._models[tag] = model.clone()
            return
        _, room = self._models.popitem(last=False)
        self._models[tag] = room.copy_(model)

    def _encode_coded(self, worker: str, model: Tensor, has: int, codec: Codec) -> memoryview:
        copies = self._copies_of(worker)
        if has and has == copies.sent_tag:
            copies.held, copies.sent = copies.sent, copies.held
            copies.held_tag = copies.sent_tag
        self._serial += 1
        tag = copies.sent_tag = self._first + self._serial
        if has and has == copies.held_tag:
            sent = copies.sent
            message = codec.encode(torch.sub(model, copies.held, out=sent))
            if len(message) < model.numel() * model.itemsize and not says_not_finite(message):
                codec.decode_into(message, sent)
                sent.add_(copies.held)
                return memoryview(b"".join([self._head(_CODED, has, tag), message]))
        copies.sent.copy_(model)
        return self._full(model, tag)

    def _copies_of(self, worker: str) -> _Copies:
        copies = self._copies.pop(worker, None)
        if copies is None:
            if len(self._copies) < self._max_models // 2:
                vectors = torch.empty(2, self._size, dtype=self._dtype)
                copies = _Copies(vectors[0], vectors[1])
            else:
                _, oldest = self._copies.popitem(last=False)
                copies = _Copies(oldest.held, oldest.sent)
        self._copies[worker] = copies
        return copies

    def _head(self, kind: int, base: int, tag: int) -> bytes:
        header = _Header(kind, DTYPES[self._dtype], 0, self._size, base, tag)
        return _LAYOUT.pack(_MAGIC, *header)

    def _full(self, model: Tensor, tag: int) -> memoryview:
        memory = np.empty(_full_bytes(self._size, self._dtype), np.uint8)
        memory[: _LAYOUT.size] = np.frombuffer(self._head(_FULL, 0, tag), np.uint8)
        memory[_LAYOUT.size :] = model.view(torch.uint8).numpy()
        return memory.data


@final
class PullDecoder:
    """The worker's side of :class:`PullCoder`.

    Memory: one vector, two with a codec.

    Args:
        num_params: The model's length.
        dtype: The model's.
        codec: As the server's.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.
    """

    def __init__(
        self,
        num_params: int,
        *,
        dtype: torch.dtype = torch.float32,
        codec: Codec | None = None,
    ) -> None:
        size = _check_size(num_params, dtype)
        self._codec = codec
        self._model = torch.zeros(size, dtype=dtype)
        self._scratch = None if codec is None else torch.empty_like(self._model)
        self._tag = 0

    @property
    def tag(self) -> int:
        """What to tell the server with the next request; 0: nothing came yet, or it is lost."""
        return self._tag

    def decode(self, message: BytesLike) -> Tensor:
        """Read a model.

        Args:
            message: From :meth:`PullCoder.encode`, or anything else.

        Returns:
            The model, to be read only, and until the next call.

        Raises:
            ProtocolError: It is no message for this model, or a difference to another one. The next
                request then asks for the whole model.
        """
        before, self._tag = self._tag, 0
        try:
            array = np.frombuffer(message, np.uint8)
        except (TypeError, ValueError, BufferError) as error:
            raise ProtocolError("this is no model", got=repr(error)) from error
        header = self._header(array, before)
        body = array[_LAYOUT.size :]
        if header.kind == _FULL:
            self._model.view(torch.uint8).copy_(lend(body))
        elif header.kind == _EXACT:
            if header.tag != before:
                add_difference(body, self._model)
            elif len(body):
                raise ProtocolError("a model that has not changed has no body", got=len(body))
        elif self._codec is not None and self._scratch is not None:
            self._codec.decode_into(body.data, self._scratch)
            self._model.add_(self._scratch)
        self._tag = header.tag
        return self._model

    def _header(self, array: Bytes, before: int) -> _Header:
        limit = _full_bytes(self._model.numel(), self._model.dtype)
        if not _LAYOUT.size <= len(array) <= limit:
            raise ProtocolError(
                "a model has the wrong length",
                got=f"{len(array)} bytes",
                expected=f"{_LAYOUT.size} to {limit} bytes",
            )
        magic, *fields = _LAYOUT.unpack_from(array.data)
        header = _Header(*fields)
        allowed = (_FULL, _EXACT if self._codec is None else _CODED)
        known = header.kind in allowed and not header.unused and header.tag
        mine = (header.dtype, header.num_params) == (DTYPES[self._model.dtype], self._model.numel())
        if magic != _MAGIC or not known or not mine:
            raise ProtocolError("this is no such model as was agreed upon", got=str(header))
        base = 0 if header.kind == _FULL else before
        if header.base != base or (header.kind != _FULL and not base):
            raise ProtocolError(
                "a model comes as the difference to one that is not here",
                got=header.base,
                expected=str(before),
            )
        if header.kind == _FULL and len(array) != limit:
            raise ProtocolError("a model has the wrong length", got=len(array), expected=str(limit))
        return header
