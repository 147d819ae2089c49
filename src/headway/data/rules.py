"""The arithmetic of the partitioners: the owner of each example, in numpy.

A rule gets the labels ``[N]``, the natural ids ``[N]`` or None, and a generator, and returns the
owners ``[N]`` with the number of clients. It writes to nothing that comes in. As every example has
one owner, none can be lost or given twice. What the rules mean is told in
:mod:`headway.data.partitioners`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import ConfigurationError, DataError

__all__ = [
    "Ids",
    "Integers",
    "Owners",
    "Rule",
    "dirichlet",
    "iid",
    "natural",
    "quantity_skew",
    "shards",
]

Integers: TypeAlias = NDArray[np.int64]
Owners: TypeAlias = NDArray[np.int64]
Ids: TypeAlias = NDArray[np.int64] | None
Rule: TypeAlias = Callable[[Integers, Ids, np.random.Generator], tuple[Owners, int]]

# How often a random division is drawn again before the smallest clients are topped up.
_DRAWS = 20


def iid(
    labels: Integers, ids: Ids, rng: np.random.Generator, *, num_clients: int
) -> tuple[Owners, int]:
    """A random owner for each example, the sizes equal up to one."""
    return rng.permutation(_runs(len(labels), num_clients)), num_clients


def dirichlet(
    labels: Integers,
    ids: Ids,
    rng: np.random.Generator,
    *,
    num_clients: int,
    alpha: float,
    min_examples: int,
) -> tuple[Owners, int]:
    """Each class divided in Dirichlet proportions of its own."""
    _, per_class = np.unique(labels, return_counts=True)
    counts = _draw_counts(per_class, rng, num_clients, alpha, min_examples)
    # Sorting a permutation by class gives each class in random order.
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    owners = np.empty(len(labels), dtype=np.int64)
    owners[order] = np.repeat(np.tile(np.arange(num_clients), len(counts)), counts.ravel())
    return _top_up(owners, rng, num_clients, min_examples), num_clients


def shards(
    labels: Integers,
    ids: Ids,
    rng: np.random.Generator,
    *,
    num_clients: int,
    shards_per_client: int,
) -> tuple[Owners, int]:
    """Runs of the examples sorted by class, dealt at random."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    num_shards = num_clients * shards_per_client
    dealt_to = rng.permutation(num_shards) // shards_per_client
    owners = np.empty(len(labels), dtype=np.int64)
    owners[order] = dealt_to[np.arange(len(labels)) * num_shards // len(labels)]
    return owners, num_clients


def quantity_skew(
    labels: Integers,
    ids: Ids,
    rng: np.random.Generator,
    *,
    num_clients: int,
    alpha: float,
    min_examples: int,
) -> tuple[Owners, int]:
    """A random owner for each example, the sizes in Dirichlet proportions."""
    counts = _draw_counts(np.array([len(labels)]), rng, num_clients, alpha, min_examples)
    owners = rng.permutation(np.repeat(np.arange(num_clients), counts[0]))
    return _top_up(owners, rng, num_clients, min_examples), num_clients


def natural(
    labels: Integers,
    ids: Ids,
    rng: np.random.Generator,
    *,
    own: Ids,
) -> tuple[Owners, int]:
    """The rank of each example's id among the ids that occur."""
    chosen = ids if own is None else own
    if chosen is None or len(chosen) != len(labels):
        raise DataError(
            "the natural partition needs one id for each example",
            where="natural",
            got="no ids" if chosen is None else f"{len(chosen)} ids, {len(labels)} examples",
            help="put the ids into Dataset(..., natural_ids=...): they follow a split",
        )
    names, owners = np.unique(chosen, return_inverse=True)
    return owners.astype(np.int64), len(names)


def _runs(length: int, parts: int) -> Owners:
    """``length`` positions cut into ``parts`` runs, the longer ones first: 0 0 0 1 1 2 2."""
    short, longer = divmod(length, parts)
    return np.repeat(np.arange(parts), short + (np.arange(parts) < longer))


def _draw_counts(
    amounts: Integers,
    rng: np.random.Generator,
    num_clients: int,
    alpha: float,
    min_examples: int,
) -> Integers:
    """Divide each amount among the clients, ``[len(amounts), C]``; draw again while one is short."""
    if amounts.sum() < num_clients * min_examples:
        raise ConfigurationError(
            f"{num_clients} clients with {min_examples} each need more examples than there are",
            where="min_examples",
            got=f"{amounts.sum()} examples",
            expected=f"at least {num_clients * min_examples}",
            help="use fewer clients, or a smaller min_examples (0 with allow_empty=True)",
        )
    for _ in range(_DRAWS):
        shares = rng.dirichlet(np.full(num_clients, alpha), size=len(amounts))
        # One random offset a row makes the expected count the exact share, however small it is.
        ends = shares.cumsum(axis=1) * amounts[:, None] + rng.random((len(amounts), 1))
        cuts = np.floor(ends).astype(np.int64)
        # A sum of shares may be 1 only up to rounding; the last cut is the end.
        cuts = np.minimum(cuts, amounts[:, None])
        cuts[:, -1] = amounts
        counts = np.diff(cuts, axis=1, prepend=0)
        if counts.sum(axis=0).min() >= min_examples:
            break
    return counts


def _top_up(
    owners: Owners, rng: np.random.Generator, num_clients: int, min_examples: int
) -> Owners:
    """Move single examples from the largest client to the smallest until none is short."""
    sizes = np.bincount(owners, minlength=num_clients)
    while sizes.min() < min_examples:
        # The mean is min_examples or more, so the largest client is never short itself.
        largest, smallest = int(sizes.argmax()), int(sizes.argmin())
        owners[rng.choice(np.flatnonzero(owners == largest))] = smallest
        sizes[largest] -= 1
        sizes[smallest] += 1
    return owners
