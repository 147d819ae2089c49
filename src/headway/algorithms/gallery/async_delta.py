"""Asynchronous deltas: the worker's own optimizer makes the change, and the server adds it."""

from __future__ import annotations

from collections.abc import Callable

from headway.algorithms.arguments import describe
from headway.algorithms.staleness import constant
from headway.algorithms.transforms import (
    ADD,
    OptimizerFactory,
    clip,
    drop_stale,
    scale_by_staleness,
    server_step,
)
from headway.core import Algorithm, Transform

__all__ = ["async_delta"]

_UNWEIGHTED = constant(1.0)


def async_delta(
    *,
    server_optimizer: OptimizerFactory = ADD,
    staleness: Callable[[int], float] = _UNWEIGHTED,
    max_staleness: int | None = None,
    max_norm: float | None = None,
) -> Algorithm:
    r"""Add what each worker's own optimizer changed, as it comes.

    .. math:: x \leftarrow x + \eta\, s(\tau)\, \Delta_i, \qquad \Delta_i = y_i - x_{v_i}

    The worker trains for as many steps as it likes with any optimizer, whose state begins anew with
    each job. With an outer optimizer, such as SGD with Nesterov momentum, ``-Δ`` stands for its
    gradient; its best rate is then about a tenth of the synchronous one.

    When to use it: workers that need Adam or another stateful optimizer locally, or that shall talk
    to the server only every so many steps. All of each delta is applied, so with M workers the
    model moves M times as far as in a mean: use a rate below 1, or ``fedbuff``.

    Workers send: deltas. Memory: none with plain SGD; else the server optimizer's state and one
    model copy; with ``max_norm`` one more.

    Args:
        server_optimizer: A ``torch.optim`` class or a ``functools.partial`` of one. The default
            adds each delta as it is.
        staleness: ``s``.
        max_staleness: Later updates are rejected, in versions; ``None``: none are.
        max_norm: Longer deltas are shortened to this; ``None``: they are not.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: An argument is out of its range.

    Example:
        >>> async_delta(max_staleness=8).settings["server_optimizer"]
        'SGD(lr=1.0)'

    Source:
        arXiv:2401.09135 (asynchronous local SGD) for the setting and the outer rate.
    """
    chain: list[Transform] = [] if max_staleness is None else [drop_stale(max_staleness)]
    if max_norm is not None:
        chain.append(clip(max_norm))
    if staleness != _UNWEIGHTED:
        chain.append(scale_by_staleness(staleness))
    return Algorithm(
        name="async_delta",
        payload="delta",
        chain=tuple(chain),
        step=server_step(server_optimizer),
        settings=describe(
            {
                "server_optimizer": server_optimizer,
                "staleness": staleness,
                "max_staleness": max_staleness,
                "max_norm": max_norm,
            }
        ),
    )
