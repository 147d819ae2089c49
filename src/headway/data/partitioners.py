"""Rules that divide a data set among clients, on labels and row numbers alone.

Each function returns a :class:`Partitioner`, a value that is called with the labels::

    partition = dirichlet(50, alpha=0.3)(targets, seed=0)

The arithmetic is in :mod:`headway.data.rules`, where each rule names one owner for each example,
so that no example can be lost or given twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data import rules
from headway.data.checks import check_positive, check_tensor, check_whole_number
from headway.data.dataset import random_stream
from headway.data.partition import Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Partitioner", "dirichlet", "iid", "natural", "quantity_skew", "shards"]


@dataclass(frozen=True, slots=True, repr=False)
class Partitioner:
    """A rule that divides examples among clients; a value, made by the functions of this module.

    Two partitioners with the same name and options are equal and give the same partition.

    Args:
        name: The rule, as in :data:`~headway.data.PARTITIONERS`.
        options: The options it was made with.
        rule: Names the owner of each example: ``(labels, natural_ids, generator) -> (owners,
            num_clients)``, owners int64 ``[N]`` in ``[0, num_clients)``.
        allow_empty: Whether clients without any example are let through.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    rule: rules.Rule = field(compare=False)
    allow_empty: bool = False

    def __repr__(self) -> str:
        options = dict(self.options) | ({"allow_empty": True} if self.allow_empty else {})
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"

    def __call__(
        self, targets: Tensor, *, seed: int = 0, natural_ids: Tensor | None = None
    ) -> Partition:
        """Divide the examples that have these labels.

        Args:
            targets: int64 ``[N]``. Not written to.
            seed: Chooses among the divisions that the rule allows, at least 0. The same seed gives
                the same partition, whatever the state of any global generator.
            natural_ids: int64 ``[N]``, used by :func:`natural` and by no other rule.

        Returns:
            A partition that gives every example to exactly one client, row numbers ascending.

        Raises:
            ArgumentTypeError: Labels or ids of another kind.
            DataError: No examples; or clients that would have none, with their numbers.
            ConfigurationError: Options that cannot be met with so many examples.
        """
        labels = _as_integers("targets", targets)
        ids = None if natural_ids is None else _as_integers("natural_ids", natural_ids)
        if len(labels) == 0:
            raise DataError("there are no examples to divide", where=repr(self))
        owners, num_clients = self.rule(labels, ids, random_stream(seed, "partition"))
        sizes = np.bincount(owners, minlength=num_clients)
        if not self.allow_empty:
            self._refuse_empty(np.flatnonzero(sizes == 0), len(labels))
        # A stable sort keeps each client's row numbers ascending.
        rows = torch.from_numpy(np.argsort(owners, kind="stable"))
        return Partition(tuple(rows.split(sizes.tolist())), name=repr(self))

    def _refuse_empty(self, empty: NDArray[np.int64], num_examples: int) -> None:
        if len(empty) == 0:
            return
        shown = ", ".join(str(client) for client in empty[:8]) + (", ..." if len(empty) > 8 else "")
        one = len(empty) == 1
        raise DataError(
            f"{len(empty)} {'client has' if one else 'clients have'} no examples",
            where=f"{self!r} on {num_examples} examples",
            got=f"nothing for {'client' if one else 'clients'} {shown}",
            expected="at least one example for each client",
            help="use fewer clients or a milder skew, or pass allow_empty=True",
        )


def iid(num_clients: int, *, allow_empty: bool = False) -> Partitioner:
    """Every client draws from the same pool; sizes differ by one at most.

    The owners are a random permutation of a list in which each client stands
    ``N / num_clients`` times; where that is no whole number, the first clients have the one more.

    Args:
        num_clients: How many clients, at least 1.
        allow_empty: Whether there may be more clients than examples.

    Returns:
        The partitioner.

    Raises:
        ConfigurationError: A number of clients below 1.

    Example:
        >>> import torch
        >>> iid(4)(torch.zeros(10, dtype=torch.int64)).sizes
        (3, 3, 2, 2)
    """
    check_whole_number("num_clients", num_clients, least=1)
    return Partitioner(
        "iid",
        (("num_clients", num_clients),),
        partial(rules.iid, num_clients=num_clients),
        allow_empty,
    )


def dirichlet(
    num_clients: int, *, alpha: float, min_examples: int | None = None, allow_empty: bool = False
) -> Partitioner:
    r"""Label skew: each class is divided among the clients in Dirichlet proportions.

    .. math::
        p_k &\sim \operatorname{Dir}(\alpha \mathbf{1}_C), \qquad u_k \sim U[0, 1) \\
        n_{c,k} &= \lfloor n_k P_{k,c} + u_k \rfloor - \lfloor n_k P_{k,c-1} + u_k \rfloor,
        \qquad P_{k,c} = \textstyle\sum_{d \le c} p_{k,d}

    so that client ``c`` gets :math:`n_k p_{k,c}` examples of class ``k`` on average, wherever it
    stands in the list; rounding down alone would favour the last client.

    A small ``alpha`` gives each class to few clients; a large one comes near equal shares of every
    class. Sizes differ as well. If a client has fewer than ``min_examples``, all proportions are
    drawn again, up to 20 draws in all. If the last draw is still short, single random examples
    move from the client that is largest at that moment to the smallest one until none is; each
    move lowers the shortage by one, so this ends.

    Args:
        num_clients: How many clients, at least 1.
        alpha: Concentration, above 0. Common values are 0.1 (strong skew) to 1 (mild).
        min_examples: What each client has at least, 0 or more; by default 1, or 0 with
            ``allow_empty``.
        allow_empty: Whether clients may have no example.

    Returns:
        The partitioner. Called with fewer than ``num_clients * min_examples`` examples, it raises a
        ConfigurationError.

    Raises:
        ConfigurationError: A value outside its range.

    Example:
        >>> import torch
        >>> partition = dirichlet(3, alpha=0.5)(torch.arange(90) % 3, seed=1)
        >>> sum(partition.sizes), min(partition.sizes) >= 1
        (90, True)

    Source:
        Proportions per class: Yurochkin et al. 2019, arXiv:1905.12022, section 4, and Li et al.
        2021, arXiv:2102.02079. Hsu et al. 2019, arXiv:1909.06335, who made the name common, draw
        the class mix of each client instead and keep all sizes equal. Our deviations: the
        random offset in the rounding, the bound on the number of draws, and the top-up.
    """
    check_whole_number("num_clients", num_clients, least=1)
    check_positive("alpha", alpha)
    least = _min_examples(min_examples, allow_empty)
    rule = partial(rules.dirichlet, num_clients=num_clients, alpha=alpha, min_examples=least)
    options = (("num_clients", num_clients), ("alpha", alpha), ("min_examples", least))
    return Partitioner("dirichlet", options, rule, allow_empty)


def shards(
    num_clients: int, *, shards_per_client: int = 2, allow_empty: bool = False
) -> Partitioner:
    """Label skew: sort by class, cut into equal shards, and deal each client a few of them.

    With ``S = num_clients * shards_per_client`` shards, the example at position ``i`` of the sorted
    ``N`` lies in shard ``floor(i * S / N)``; sizes of shards differ by one at most. Examples of one
    class are in random order, and the shards are dealt at random without replacement.

    Args:
        num_clients: How many clients, at least 1.
        shards_per_client: Shards for each client, at least 1. A client sees about that many
            classes, as long as a shard is no longer than a class.
        allow_empty: Whether there may be more clients than examples.

    Returns:
        The partitioner.

    Raises:
        ConfigurationError: A value below 1.

    Example:
        >>> import torch
        >>> labels = torch.arange(10).repeat_interleave(20)
        >>> figures = shards(10, shards_per_client=1)(labels).heterogeneity(labels)
        >>> figures.classes_per_client, round(figures.label_tv, 6)
        (1.0, 0.9)

    Source:
        McMahan et al. 2016, arXiv:1602.05629, section 3 (MNIST, 200 shards of 300, 2 for each
        client). Our deviation: shards that differ by one where ``N`` is no multiple of ``S``.
    """
    check_whole_number("num_clients", num_clients, least=1)
    check_whole_number("shards_per_client", shards_per_client, least=1)
    rule = partial(rules.shards, num_clients=num_clients, shards_per_client=shards_per_client)
    options = (("num_clients", num_clients), ("shards_per_client", shards_per_client))
    return Partitioner("shards", options, rule, allow_empty)


def quantity_skew(
    num_clients: int, *, alpha: float, min_examples: int | None = None, allow_empty: bool = False
) -> Partitioner:
    r"""Size skew: clients of very different sizes that all draw from the same pool.

    .. math::
        q \sim \operatorname{Dir}(\alpha \mathbf{1}_C), \qquad n_c \approx q_c N

    with the same rounding, the same further draws and the same top-up as :func:`dirichlet`, on a
    random permutation of all examples.

    Args:
        num_clients: How many clients, at least 1.
        alpha: Concentration, above 0; the smaller, the more unequal the sizes.
        min_examples: What each client has at least, 0 or more; by default 1, or 0 with
            ``allow_empty``.
        allow_empty: Whether clients may have no example.

    Returns:
        The partitioner. Called with fewer than ``num_clients * min_examples`` examples, it raises a
        ConfigurationError.

    Raises:
        ConfigurationError: A value outside its range.

    Example:
        >>> import torch
        >>> sizes = quantity_skew(5, alpha=0.5)(torch.zeros(100, dtype=torch.int64), seed=3).sizes
        >>> sum(sizes), max(sizes) > 2 * min(sizes)
        (100, True)

    Source:
        Li et al. 2021, arXiv:2102.02079, "quantity skew". Our deviations: those of
        :func:`dirichlet`.
    """
    check_whole_number("num_clients", num_clients, least=1)
    check_positive("alpha", alpha)
    least = _min_examples(min_examples, allow_empty)
    rule = partial(rules.quantity_skew, num_clients=num_clients, alpha=alpha, min_examples=least)
    options = (("num_clients", num_clients), ("alpha", alpha), ("min_examples", least))
    return Partitioner("quantity_skew", options, rule, allow_empty)


def natural(ids: Tensor | None = None) -> Partitioner:
    """One client for each natural id: a writer, a speaker, a device. Nothing is random.

    Clients are numbered in the ascending order of the ids that occur, so none is empty.

    Args:
        ids: int64 ``[N]``, whose example each row is. Left out, the ids of the call are used:
            those that a :class:`~headway.data.Dataset` carries in ``natural_ids``, which
            :func:`~headway.data.federated` passes on and which follow a split.

    Returns:
        The partitioner. Called without any ids, or with another number of them than there are
        labels, it raises a DataError.

    Raises:
        ArgumentTypeError: Ids of another kind.

    Example:
        >>> import torch
        >>> writers = torch.tensor([7, 3, 7, 7])
        >>> [rows.tolist() for rows in natural(writers)(torch.tensor([0, 0, 1, 1])).indices]
        [[1], [0, 2, 3]]
    """
    if ids is None:
        return Partitioner("natural", (), partial(rules.natural, own=None))
    own = _as_integers("ids", ids).copy()
    # The ids themselves would make the value and its name as long as the data.
    digest = hashlib.sha256(own.astype("<i8").tobytes()).hexdigest()[:12]
    return Partitioner("natural", (("ids", digest),), partial(rules.natural, own=own))


def _as_integers(what: str, value: Tensor) -> NDArray[np.int64]:
    check_tensor(f"{what} must be integers, one for each example", value, where=what)
    array: NDArray[np.int64] = value.cpu().numpy()
    return array


def _min_examples(value: int | None, allow_empty: bool) -> int:
    least = (0 if allow_empty else 1) if value is None else value
    check_whole_number("min_examples", least, least=0)
    return least
