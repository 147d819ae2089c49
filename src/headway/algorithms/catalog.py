"""All named algorithms in one table, for configuration files and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from headway.algorithms.gallery.async_delta import async_delta
from headway.algorithms.gallery.async_fedavg import async_fedavg
from headway.algorithms.gallery.async_sgd import async_sgd
from headway.algorithms.gallery.bounded_staleness_sgd import bounded_staleness_sgd
from headway.algorithms.gallery.fedasync import fedasync
from headway.algorithms.gallery.fedavg import fedavg
from headway.algorithms.gallery.fedbuff import fedbuff
from headway.algorithms.gallery.minibatch_sgd import minibatch_sgd
from headway.core import Algorithm

__all__ = ["ALGORITHMS"]

ALGORITHMS: Final[Mapping[str, Callable[..., Algorithm]]] = MappingProxyType(
    {
        "async_delta": async_delta,
        "async_fedavg": async_fedavg,
        "async_sgd": async_sgd,
        "bounded_staleness_sgd": bounded_staleness_sgd,
        "fedasync": fedasync,
        "fedavg": fedavg,
        "fedbuff": fedbuff,
        "minibatch_sgd": minibatch_sgd,
    }
)
"""Every factory by its algorithm's name. Each takes keyword-only options, all with defaults."""
