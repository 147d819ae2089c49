"""Which example belongs to which client, and how unlike each other the clients are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigurationError, DataError
from headway.data.checks import check_tensor

__all__ = ["Heterogeneity", "Partition"]


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    r"""How unlike each other the clients of a partition are.

    With :math:`n_c` examples at client ``c``, :math:`p_{c,k}` the share of class ``k`` among them
    and :math:`p_k` its share among all examples given out:

    .. math::
        \text{label\_tv} &= \tfrac{1}{C} \sum_c \tfrac{1}{2} \sum_k |p_{c,k} - p_k| \\
        \text{label\_entropy} &= -\tfrac{1}{C} \sum_c \sum_k p_{c,k} \ln p_{c,k} \\
        \text{size\_gini} &= \frac{\sum_{c,d} |n_c - n_d|}{2 C \sum_c n_c}

    The label figures are means over the clients that have examples, each client counting once;
    the sizes are those of all clients.

    Attributes:
        num_clients: How many clients there are, empty ones included.
        num_examples: How many examples they hold together.
        label_tv: Mean total-variation distance to the global labels, 0 (all alike) to below 1.
        label_entropy: Mean entropy of a client's labels in nats, 0 (one class) to ln(num_classes).
        classes_per_client: Mean number of different classes at a client.
        size_gini: Gini coefficient of the sizes, 0 (all equal) to ``1 - 1 / num_clients``.
        min_size: Examples at the smallest client.
        max_size: Examples at the largest client.
    """

    num_clients: int
    num_examples: int
    label_tv: float
    label_entropy: float
    classes_per_client: float
    size_gini: float
    min_size: int
    max_size: int

    def __str__(self) -> str:
        rows = [
            ("clients", f"{self.num_clients}"),
            ("examples", f"{self.num_examples}"),
            ("smallest client", f"{self.min_size}"),
            ("largest client", f"{self.max_size}"),
            ("label TV distance", f"{self.label_tv:.3f}"),
            ("label entropy (nats)", f"{self.label_entropy:.3f}"),
            ("classes per client", f"{self.classes_per_client:.1f}"),
            ("size Gini", f"{self.size_gini:.3f}"),
        ]
        return "\n".join(f"{label:<21}{value:>8}" for label, value in rows)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Partition:
    """Which example belongs to which client: row numbers only, no data.

    The partitioners of this package give every example to exactly one client. A partition made by
    hand may leave examples out, but gives none twice.

    Args:
        indices: One int64 tensor ``[n_c]`` of row numbers for each client.
        name: How it was made.

    Raises:
        ArgumentTypeError: Indices of another kind.
        ConfigurationError: No client, a negative row number, or an example given twice.

    Example:
        >>> import torch
        >>> halves = Partition((torch.tensor([0, 1]), torch.tensor([2, 3])), name="halves")
        >>> halves
        Partition(halves: 2 clients, 4 examples, 2 to 2 each)
        >>> print(halves.heterogeneity(torch.tensor([0, 0, 1, 1])))
        clients                     2
        examples                    4
        smallest client             2
        largest client              2
        label TV distance       0.500
        label entropy (nats)    0.000
        classes per client        1.0
        size Gini               0.000
    """

    indices: tuple[Tensor, ...]
    name: str = "by hand"

    def __post_init__(self) -> None:
        if not self.indices:
            raise ConfigurationError("a partition has at least one client", where="indices")
        for client, rows in enumerate(self.indices):
            check_tensor("a client's examples are row numbers", rows, where=f"indices[{client}]")
        rows, counts = torch.cat(self.indices).unique(return_counts=True)
        if rows.numel() and (int(rows[0]) < 0 or int(counts.max()) > 1):
            raise ConfigurationError(
                "a partition gives an example to one client at most",
                where=f"partition `{self.name}`",
                got=f"row {int(rows[0])}"
                if int(rows[0]) < 0
                else f"row {int(rows[counts.argmax()])} given {int(counts.max())} times",
            )

    def __repr__(self) -> str:
        sizes = self.sizes
        return (
            f"Partition({self.name}: {self.num_clients} clients, {sum(sizes)} examples, "
            f"{min(sizes)} to {max(sizes)} each)"
        )

    @property
    def num_clients(self) -> int:
        """How many clients there are, empty ones included."""
        return len(self.indices)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples each client has."""
        return tuple(len(rows) for rows in self.indices)

    @property
    def empty_clients(self) -> tuple[int, ...]:
        """The clients that have no example."""
        return tuple(client for client, size in enumerate(self.sizes) if size == 0)

    def heterogeneity(self, targets: Tensor) -> Heterogeneity:
        """Measure how unlike each other the clients are.

        Args:
            targets: The labels that were partitioned, int64 ``[N]``.

        Returns:
            The figures, which print as a short table. ``O(N log N)`` time, ``O(N)`` memory.

        Raises:
            DataError: The partition has no examples, or more of them than there are labels.
        """
        sizes = np.array(self.sizes)
        rows = torch.cat(self.indices)
        if rows.numel() == 0 or int(rows.max()) >= len(targets):
            raise DataError(
                "these labels are not the ones that were partitioned",
                where=f"partition `{self.name}`",
                got=f"{len(targets)} labels for {rows.numel()} examples",
            )
        owners = np.repeat(np.arange(len(sizes)), sizes)
        tv, entropy, classes = _label_figures(owners, targets[rows].cpu().numpy(), len(sizes))
        return Heterogeneity(
            num_clients=len(sizes),
            num_examples=int(sizes.sum()),
            label_tv=tv,
            label_entropy=entropy,
            classes_per_client=classes,
            size_gini=_gini(sizes),
            min_size=int(sizes.min()),
            max_size=int(sizes.max()),
        )


def _label_figures(
    owners: np.ndarray[tuple[int], np.dtype[np.int64]],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    num_clients: int,
) -> tuple[float, float, float]:
    """Mean total variation, entropy and number of classes over the clients that have examples."""
    # Only (client, class) pairs that occur: a dense table would not fit a natural partition of
    # very many clients.
    kinds, labels = np.unique(labels, return_inverse=True)
    share = np.bincount(labels) / len(labels)
    pairs, counts = np.unique(owners * len(kinds) + labels, return_counts=True)
    client, label = np.divmod(pairs, len(kinds))
    own = counts / np.bincount(owners, minlength=num_clients)[client]
    occupied = len(np.unique(owners))
    # Half of sum |p_ck - p_k| is the sum of the positive parts, and those need an example.
    tv = np.maximum(own - share[label], 0.0).sum() / occupied
    entropy = -(own * np.log(own)).sum() / occupied
    return float(tv), abs(float(entropy)), len(pairs) / occupied


def _gini(sizes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    ordered = np.sort(sizes)
    ranks = np.arange(1, len(ordered) + 1)
    count = len(ordered)
    return float((2 * ranks - count - 1) @ ordered / (count * ordered.sum()))
