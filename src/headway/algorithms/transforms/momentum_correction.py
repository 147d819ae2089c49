"""Momentum that makes room for the one that asynchrony adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch.optim import Optimizer

from headway.algorithms.arguments import check_count
from headway.algorithms.transforms.optimizers import Rule
from headway.algorithms.transforms.stepping import server_step
from headway.core import Context, Needs, ServerStep, Update
from headway.core.errors import ConfigurationError

if TYPE_CHECKING:
    from headway.core import PayloadKind

__all__ = ["correct_momentum", "momentum_of", "uncorrected"]

# torch leaves the momentum buffer alone where the momentum is 0, and an old gradient would stay in
# it until the momentum is above 0 again. With this nothing of it is left in any dtype.
_ALMOST_NONE: Final = 1e-20
_STEP: Final = type(server_step(torch.optim.Adam))


@dataclass(slots=True)
class _Measured:
    """The optimizers, and the mean staleness so far."""

    optimizers: Any
    mean_staleness: float = 0.0
    count: int = 0

    @property
    def implicit_momentum(self) -> float:
        return self.mean_staleness / (1.0 + self.mean_staleness)


@final
@dataclass(frozen=True, slots=True)
class _CorrectMomentum:
    step: Any
    momentum: float
    memory: int

    @property
    def needs(self) -> Needs:
        needs: Needs = self.step.needs
        return needs

    @property
    def accepts(self) -> frozenset[PayloadKind]:
        accepts: frozenset[PayloadKind] = self.step.accepts
        return accepts

    @property
    def mixing(self) -> float:
        mixing: float = self.step.mixing
        return mixing

    def init(self, context: Context) -> _Measured:
        return _Measured(self.step.init(context))

    def apply(self, update: Update, state: _Measured, context: Context) -> None:
        flush = update.contributions
        staleness = context.staleness if flush is None else flush.max_staleness
        state.count = min(state.count + 1, self.memory)
        state.mean_staleness += (staleness - state.mean_staleness) / state.count
        optimizer = state.optimizers.of(update.fragment).optimizer
        _set_momentum(optimizer, max(0.0, self.momentum - state.implicit_momentum))
        self.step.apply(update, state.optimizers, context)
        # A saved state shall hold what the user asked for.
        _set_momentum(optimizer, self.momentum)

    def __repr__(self) -> str:
        return f"correct_momentum({self.step!r}, memory={self.memory})"


def correct_momentum(step: ServerStep, *, memory: int = 100) -> _CorrectMomentum:
    r"""Take from a server optimizer's momentum what asynchrony adds by itself.

    .. math::
        \beta_t = \max(0,\; \beta^* - \hat\mu_t), \qquad
        \hat\mu_t = \frac{\bar\tau_t}{1 + \bar\tau_t}, \qquad
        \bar\tau_t = \bar\tau_{t-1} + \frac{\tau_t - \bar\tau_{t-1}}{\min(t, m)}

    ``β*`` is the momentum that the step was made with: ``momentum``, or the first of ``betas`` for
    Adam and its kin, whose bias correction takes the present one. The total momentum is then about
    ``β*``, as long as that is more than what asynchrony adds; beyond, a smaller number of workers
    is the only help. Of a flush the largest staleness counts.

    With ``M`` workers whose turns are random the staleness is geometric with the mean ``M - 1``,
    and ``μ`` is ``1 - 1/M``. Where turns are not random (equal speeds, round robin) asynchrony
    does not act as momentum, and this is only a cautious momentum.

    Memory: as the step's.

    Args:
        step: Made with :func:`~headway.algorithms.transforms.server_step`, of an optimizer that
            has momentum.
        memory: ``m``, over how many updates the staleness is averaged, at least 1; the mean fades
            beyond.

    Raises:
        ArgumentTypeError: ``memory`` is no int.
        ConfigurationError: It is below 1; or there is no momentum to take from.

    Example:
        >>> from functools import partial
        >>> correct_momentum(server_step(partial(torch.optim.SGD, lr=0.1, momentum=0.9)))
        correct_momentum(server_step(SGD(lr=0.1, momentum=0.9)), memory=100)

    Source:
        arXiv:1605.09774 (Mitliagkas et al., "Asynchrony begets Momentum") for ``1 - 1/M``.
        Measuring it by the staleness is ours (the paper tunes the momentum; arXiv:1706.03471
        measures it by the model's moves); so is stopping at 0 where the paper goes below.
    """
    check_count("memory", memory)
    momentum = momentum_of(step)
    if momentum <= 0.0:
        raise ConfigurationError(
            "there is no momentum to take from what asynchrony adds",
            got=repr(step),
            expected="a server optimizer with momentum above 0, or with betas",
            help="use for example functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)",
        )
    return _CorrectMomentum(step, momentum, memory)


def uncorrected(step: ServerStep) -> ServerStep:
    """The step within, where its momentum is corrected; else the step itself.

    Args:
        step: What ends a chain.
    """
    within: ServerStep = step.step if isinstance(step, _CorrectMomentum) else step
    return within


def momentum_of(step: ServerStep) -> float:
    """The momentum of a server optimizer, or the first of its betas; 0 where it has none.

    Args:
        step: What ends a chain.

    Raises:
        ConfigurationError: The optimizer does not work with its options.

    Example:
        >>> momentum_of(server_step(torch.optim.Adam))
        0.9
    """
    rule = getattr(step, "rule", None)
    if not isinstance(step, _STEP) or not isinstance(rule, Rule):
        return 0.0
    try:
        group = rule.factory([torch.zeros(2, 2)], **rule.options).param_groups[0]
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the server optimizer {rule} does not work",
            got=str(error),
            help="check its options in the documentation of torch.optim",
        ) from error
    return float(group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0])


def _set_momentum(optimizer: Optimizer, momentum: float) -> None:
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = max(momentum, _ALMOST_NONE)
        else:
            group["betas"] = (momentum, *group["betas"][1:])
