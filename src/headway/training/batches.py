"""Batches of a worker's own data: from tensors, data sets and loaders, pass after pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from math import ceil
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from headway.core.errors import ArgumentTypeError, ConfigurationError, DataError
from headway.data import Dataset
from headway.task.trainer import batches as row_batches

__all__ = ["Batch", "Passes", "Stream", "read_data"]

_FEW: Final = 3
_HELP: Final = {
    "Federated": "one client's part is a pair: dataset=clients.client(0)",
    "Tensor": "give two, inputs and targets: dataset=(inputs, targets)",
    "list": "batches go into dataloader=[...]",
    "ndarray": "make tensors of them: torch.from_numpy(array)",
    "tuple": "batches go into dataloader=[...]",
}
_DATA: Final = "a headway.data.Dataset, (inputs, targets), a torch Dataset, or dataloader=..."


class Batch(NamedTuple):
    """Inputs and targets of one step.

    Attributes:
        inputs: What the model is called with.
        targets: What the loss compares its outputs with.
    """

    inputs: Any
    targets: Any

    @property
    def size(self) -> int:
        """How many examples."""
        return len(self.targets)


class Passes(NamedTuple):
    """Data that can be gone through again and again.

    Attributes:
        once: Starts a pass; a generator shuffles it.
        num_batches: In a pass; ``None``: not known before its end.
        num_examples: In a pass; ``None``: likewise.
    """

    once: Callable[[torch.Generator], Iterator[Batch]]
    num_batches: int | None
    num_examples: int | None


def read_data(
    dataset: Any = None,
    dataloader: Any = None,
    *,
    batch_size: int,
    shuffle: bool = True,
    drop_last: bool = False,
    shard: tuple[int, int] | None = None,
    where: str = "AsyncWorker.train",
    loader: str = "dataloader",
) -> Passes:
    """Find out what a user gave as data.

    Args:
        dataset: A :class:`headway.data.Dataset`; a pair of tensors; a torch ``Dataset`` of pairs.
        dataloader: What yields batches, each a pair of inputs and targets, whenever it is
            iterated over: a torch ``DataLoader``, a list.
        batch_size: For a dataset; a loader has its own.
        shuffle: Whether each pass through a dataset has a new order.
        drop_last: Whether a smaller last batch is left out.
        shard: ``(i, n)``: of a dataset every ``n``-th example, from the ``i``-th on.
        where: The call that errors name.
        loader: What it calls ``dataloader``.

    Raises:
        ArgumentTypeError: It is none of these.
        ConfigurationError: Both are given, or neither, or a shard of what has none.
        DataError: There are no examples.
    """
    if (dataset is None) == (dataloader is None):
        raise ConfigurationError(
            "give the data once, as dataset= or as dataloader=",
            where=f"{where}(dataset=..., dataloader=...)",
            got="neither" if dataset is None else "both",
            expected=_DATA,
        )
    if shard is not None:
        _check_shard(shard, where)
    if dataset is None and isinstance(dataloader, Dataset | tuple | TorchDataset):
        dataset, dataloader = dataloader, None
    if dataset is None:
        if shard is not None:
            raise ConfigurationError(
                "a loader cannot be sharded here",
                where=f"{where}(shard=...)",
                help="give dataset= instead, or a loader of this worker's part",
            )
        return _loader(dataloader, f"{where}({loader}=...)")
    if isinstance(dataset, DataLoader):
        return _loader(dataset, f"{where}(dataset=...)")
    pair = _tensors(dataset, where)
    if pair is not None:
        return _in_memory(pair, batch_size, shuffle, drop_last, shard)
    return _torch_dataset(dataset, batch_size, shuffle, drop_last, shard, where)


@final
class Stream:
    """One batch after the other, for a number of passes, with a look ahead.

    Args:
        passes: The data.
        epochs: How many passes; a fraction counts in batches.
        seed: Of the shuffles.

    Attributes:
        taken: Batches handed out so far.
    """

    def __init__(self, passes: Passes, epochs: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed & ((1 << 63) - 1))
        self.taken = 0
        self._ahead: deque[Batch] = deque()
        self._passes = passes
        self._epochs = epochs
        self._batches = self._all(generator)

    def has(self, count: int) -> bool:
        """Whether at least so many batches are left.

        Args:
            count: At least 1. So many are fetched, and kept.
        """
        while len(self._ahead) < count:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._ahead.append(batch)
        return True

    def take(self) -> Batch | None:
        """The next batch; ``None``: that was all."""
        if not self.has(1):
            return None
        self.taken += 1
        return self._ahead.popleft()

    def _all(self, generator: torch.Generator) -> Iterator[Batch]:
        whole, fraction = int(self._epochs), self._epochs - int(self._epochs)
        for number in range(whole):
            found = False
            for batch in self._passes.once(generator):
                found = True
                yield batch
            if not found:
                raise _only_once(number) if number else _empty()
        if fraction:
            total = self._passes.num_batches
            if total is None:
                raise ConfigurationError(
                    "a part of an epoch needs data of a known length",
                    where="AsyncWorker.train(epochs=...)",
                    got=self._epochs,
                    help="give a whole number of epochs",
                )
            limit = max(1, ceil(fraction * total * (1.0 - 1e-12)))
            for batch, _ in zip(self._passes.once(generator), range(limit), strict=False):
                yield batch


def _empty() -> DataError:
    return DataError("there are no batches to train on", help="give data, or a smaller batch size")


def _only_once(number: int) -> DataError:
    return DataError(
        "the data can be gone through only once",
        where="AsyncWorker.train(epochs=...)",
        got=f"nothing in pass {number + 1}",
        help="give a DataLoader or a list of batches, which begin anew, or epochs=1",
    )


def _check_shard(shard: Any, where: str) -> None:
    fits = isinstance(shard, tuple) and len(shard) == 2 and all(type(n) is int for n in shard)
    if not fits or not 0 <= shard[0] < shard[1]:
        raise ConfigurationError(
            "that is no shard",
            where=f"{where}(shard=...)",
            got=repr(shard),
            expected="(i, n) with 0 <= i < n: this worker's number, and how many there are",
        )


def _tensors(dataset: Any, where: str) -> tuple[Tensor, Tensor] | None:
    if isinstance(dataset, Dataset):
        pair: tuple[Any, ...] = (dataset.inputs, dataset.targets)
    elif isinstance(dataset, TensorDataset):
        pair = dataset.tensors
    elif isinstance(dataset, tuple | list):
        pair = tuple(dataset)
    else:
        return None
    if len(pair) != 2 or not all(isinstance(part, Tensor) and part.ndim for part in pair):
        raise ArgumentTypeError(
            "a data set is a pair of tensors",
            where=f"{where}(dataset=...)",
            got=f"{type(dataset).__name__} of {_kinds(pair)}",
            expected="inputs and targets, with one row per example",
            help=_HELP.get(type(pair[0]).__name__ if pair else ""),
        )
    inputs, targets = pair
    if len(inputs) != len(targets):
        raise DataError(
            "inputs and targets are not equally many",
            where=f"{where}(dataset=...)",
            got=f"{len(inputs)} and {len(targets)}",
        )
    return inputs, targets


def _kinds(pair: tuple[Any, ...]) -> str:
    few = ", ".join(type(part).__name__ for part in pair[:_FEW])
    return f"{len(pair)}: {few}{', ...' if len(pair) > _FEW else ''}"


def _in_memory(
    pair: tuple[Tensor, Tensor],
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    shard: tuple[int, int] | None,
) -> Passes:
    inputs, targets = pair
    if shard is not None:
        inputs, targets = inputs[shard[0] :: shard[1]], targets[shard[0] :: shard[1]]
    held = len(targets)
    if held == 0:
        raise _empty()
    per_pass = held - held % batch_size if drop_last and held >= batch_size else held
    num_batches = ceil(per_pass / batch_size)

    def once(generator: torch.Generator) -> Iterator[Batch]:
        chosen = row_batches(
            held,
            batch_size,
            num_batches,
            generator=generator if shuffle else None,
            per_pass=per_pass,
        )
        for rows in chosen:
            yield Batch(inputs.index_select(0, rows), targets.index_select(0, rows))

    return Passes(once, num_batches, per_pass)


def _torch_dataset(
    dataset: Any,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    shard: tuple[int, int] | None,
    where: str,
) -> Passes:
    streams = isinstance(dataset, IterableDataset)
    listed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, str | bytes | type | Tensor) or not (streams or listed):
        raise ArgumentTypeError(
            "that is no data set",
            where=f"{where}(dataset=...)",
            got=type(dataset).__name__,
            expected=_DATA,
            help=_HELP.get(type(dataset).__name__),
        )
    if shard is not None:
        if streams:
            raise ConfigurationError(
                "a data set that can only be iterated over cannot be sharded here",
                where=f"{where}(shard=...)",
                help="let each worker's data set yield this worker's part",
            )
        dataset = Subset(dataset, range(shard[0], len(dataset), shard[1]))
    if not streams and len(dataset) == 0:
        raise _empty()

    def once(generator: torch.Generator) -> Iterator[Batch]:
        loader = DataLoader(
            dataset,
            batch_size,
            shuffle=shuffle and not streams,
            drop_last=drop_last,
            generator=generator,
        )
        return map(_as_batch, loader, repeat(f"{where}(dataset=...)"))

    if streams:
        return Passes(once, None, None)
    held = len(dataset)
    per_pass = held - held % batch_size if drop_last else held
    if per_pass == 0:
        raise _empty()
    return Passes(once, ceil(per_pass / batch_size), per_pass)


def _loader(loader: Any, where: str) -> Passes:
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | str | bytes):
        raise ArgumentTypeError(
            "that is no loader",
            where=where,
            got=type(loader).__name__,
            expected="what yields pairs of inputs and targets: a torch DataLoader",
        )
    if isinstance(loader, Iterator):
        # It has one pass; a second epoch would find nothing, and say so.
        return Passes(lambda _: map(_as_batch, loader, repeat(where)), None, None)
    try:
        num_batches = len(loader)  # type: ignore[arg-type]
    except TypeError:
        num_batches = None
    if num_batches == 0:
        raise _empty()

    def once(generator: torch.Generator) -> Iterator[Batch]:
        return map(_as_batch, chain(loader), repeat(where))

    return Passes(once, num_batches, None)


def _as_batch(found: Any, where: str) -> Batch:
    if not isinstance(found, tuple | list) or len(found) != 2 or not hasattr(found[1], "__len__"):
        raise ArgumentTypeError(
            "a batch must be a pair of inputs and targets",
            where=where,
            got=f"{type(found).__name__} of {len(found)}"
            if hasattr(found, "__len__")
            else type(found).__name__,
            help="wrap the loader in one that yields (inputs, targets)",
        )
    return Batch(found[0], found[1])
