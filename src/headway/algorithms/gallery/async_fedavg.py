"""Asynchronous FedAvg: each client counts by its examples and its staleness, at once."""

from __future__ import annotations

from typing import Literal

from headway.algorithms.arguments import check_choice, describe
from headway.algorithms.staleness import exponential
from headway.algorithms.transforms import (
    ADD,
    drop_stale,
    mix,
    saturate,
    scale_by_examples,
    scale_by_staleness,
    server_step,
)
from headway.core import Algorithm

__all__ = ["async_fedavg"]


def async_fedavg(
    *,
    decay: float = 0.9,
    damping: float = 500.0,
    max_staleness: int = 20,
    form: Literal["weights", "delta"] = "weights",
) -> Algorithm:
    r"""Mix each client in by a share that grows with its examples and falls with its staleness.

    .. math::
        w = d^{\tau} n_i, \qquad \alpha = \frac{w}{w + c}

    .. math::
        \text{weights: } x \leftarrow (1 - \alpha)\, x + \alpha\, y_i
        \qquad
        \text{delta: } x \leftarrow x + \alpha\, \Delta_i

    Two rules go by this name, so the form is named. With ``"weights"`` a late client also pulls
    the model back towards the version that it started from; with ``"delta"`` it only adds what it
    learned. They are the same at staleness 0. ``n_i`` is how many examples the client holds, however
    often it went through them. The receipt's weight is the share ``α``.

    When to use it: clients with very different amounts of data. ``damping`` acts as the weight of
    the model itself, in examples: small values follow each client, large ones average over many.

    Clients send: weights, or deltas, as the form says. Memory: none.

    Args:
        decay: ``d`` per version, above 0 and at most 1.
        damping: ``c`` in examples, at least 0; a few times what a client has. With 0 every client
            replaces the model.
        max_staleness: Later updates are rejected, in versions, at least 0.
        form: ``"weights"`` or ``"delta"``.

    Raises:
        ConfigurationError: An argument is out of its range.

    Example:
        >>> print(async_fedavg(decay=0.9, damping=500.0))
        async_fedavg(decay=0.9, damping=500.0, max_staleness=20, form=weights)

    Source:
        Of no single paper. The mixing is FedAsync's (arXiv:1903.03934), the weighing by examples
        FedAvg's (arXiv:1602.05629).
    """
    check_choice("form", form, ("delta", "weights"))
    return Algorithm(
        name="async_fedavg",
        payload=form,
        chain=(
            drop_stale(max_staleness),
            scale_by_staleness(exponential(decay)),
            scale_by_examples(),
            saturate(damping),
        ),
        step=mix(1.0) if form == "weights" else server_step(ADD),
        settings=describe(
            {"decay": decay, "damping": damping, "max_staleness": max_staleness, "form": form}
        ),
    )
