"""Staleness that is drawn instead of emerging from who is slow: the setting of FedAsync's paper.

It is a transform at the end of the algorithm's chain, which keeps the last models, and a view, which
sends one of them. Both belong to the server, so a run is saved, resumed and replayed like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from headway.core import Algorithm, Asynchronous, Context, Needs, Pass, Update
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.simulation.arguments import check_count
from headway.task.streams import Purpose, mix, stream_key, uniform

__all__ = ["SimulatedStaleness", "imposed"]

_WHERE: Final = "simulate(staleness=...)"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStaleness:
    r"""Staleness that is drawn for each job, uniformly, instead of emerging from the clients' speeds.

    .. math:: s \sim U\{0, \dots, \min(s_{\max}, v)\}, \qquad \text{base} = x_{v - s}

    with the server's version :math:`v`. One job is in flight at a time, so that the staleness at
    its arrival is the :math:`s` that was drawn. Virtual time then adds up one job after the other,
    and says nothing about how fast such a run would be; results and reports are labelled.

    Args:
        max_staleness: The largest that is drawn, in versions, at least 0. While there are fewer
            versions, all of them are as likely.

    Raises:
        ArgumentTypeError: It is no integer.
        ConfigurationError: It is negative.

    Memory: ``max_staleness`` models besides the present one. A model's buffers are always sent as
    they are now.

    Example:
        >>> import headway as hw
        >>> result = hw.simulate(
        ...     hw.tasks.quadratic(dim=10, num_clients=8), hw.algorithms.fedasync(),
        ...     staleness=hw.SimulatedStaleness(max_staleness=4), stop=hw.until(updates=500))
        >>> sorted(result.staleness), result.simulated_staleness
        ([0, 1, 2, 3, 4], 4)

    Source:
        The experiments of FedAsync (Xie, Koyejo, Gupta 2019, arXiv 1903.03934) sample the staleness
        uniformly. How the first updates are drawn, when there are fewer models, is our choice.
    """

    max_staleness: int

    def __post_init__(self) -> None:
        # 0 is every model's own: a run without staleness, to compare with.
        check_count("max_staleness", self.max_staleness, where="SimulatedStaleness", minimum=0)


def imposed(algorithm: Algorithm, staleness: SimulatedStaleness) -> Algorithm:
    """The algorithm, sending older models as the staleness says.

    Args:
        algorithm: Asynchronous, and it sends its present model.
        staleness: What is drawn.

    Raises:
        ArgumentTypeError: ``staleness`` is something else.
        ConfigurationError: It makes no sense for this algorithm.
    """
    if not isinstance(staleness, SimulatedStaleness):
        raise ArgumentTypeError(
            "this does not say how staleness is drawn",
            where=_WHERE,
            got=repr(staleness),
            help="write staleness=headway.SimulatedStaleness(max_staleness=16), or leave it out",
        )
    if not isinstance(algorithm.gate, Asynchronous):
        raise ConfigurationError(
            f"the staleness of `{algorithm.name}` cannot be drawn",
            where=_WHERE,
            got=f"an algorithm with the gate {algorithm.gate!r}",
            expected="an asynchronous one, whose workers never wait and are never stopped",
            help="leave staleness out: this gate decides itself how stale an update may be",
        )
    if algorithm.view is not None:
        raise ConfigurationError(
            f"the staleness of `{algorithm.name}` cannot be drawn",
            where=_WHERE,
            got="an algorithm that chooses itself what its workers are sent",
            expected="one that sends its present model",
            help="leave staleness out, or choose another algorithm",
        )
    keeping = _Keeping(staleness.max_staleness)
    view = _Older(staleness.max_staleness, len(algorithm.chain))
    return replace(algorithm, chain=(*algorithm.chain, keeping), view=view)


@dataclass(slots=True)
class _Models:
    rows: Tensor


@final
@dataclass(frozen=True, slots=True)
class _Keeping:
    """Keeps the model of each version before it is changed, the last ``size`` of them."""

    size: int

    @property
    def needs(self) -> Needs:
        return Needs(copies=self.size)

    def init(self, context: Context) -> _Models:
        parameters = context.parameters
        shape = (self.size, parameters.numel())
        return _Models(torch.empty(shape, dtype=parameters.dtype, device=parameters.device))

    def apply(self, update: Update, state: _Models, context: Context) -> Pass:
        if self.size:
            # The same again where the step before it was worth nothing and made no version.
            state.rows[context.version % self.size].copy_(context.parameters)
        return Pass(update)

    def __repr__(self) -> str:
        return f"keeping_models({self.size})"


@final
@dataclass(frozen=True, slots=True)
class _Older:
    """Sends the model of ``version - s``; its rows are in the state at ``place``."""

    max_staleness: int
    place: int

    def __call__(self, context: Context, states: tuple[Any, ...]) -> tuple[Tensor, int]:
        u = uniform(mix(stream_key(context.seed, Purpose.STALENESS), context.job))
        staleness = int(u * (min(self.max_staleness, context.version) + 1))
        version = context.version - staleness
        if staleness == 0:
            return context.parameters, version
        models: _Models = states[self.place]
        return models.rows[version % self.max_staleness], version

    def __repr__(self) -> str:
        return f"older_models({self.max_staleness})"
