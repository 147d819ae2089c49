"""What a server does about stale updates: policies by name, or parts of algorithms as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from headway.algorithms.arguments import check_count, check_number
from headway.algorithms.extending import extended
from headway.algorithms.staleness import check_weight, constant, exponential
from headway.algorithms.transforms import (
    correct_momentum,
    delay_compensation,
    drop_stale,
    is_proportional,
    scale_by_staleness,
    scale_rate,
    server_rate,
)
from headway.algorithms.transforms.momentum_correction import momentum_of
from headway.core import Algorithm, Asynchronous, Gate, StaleSynchronous, Transform
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError

__all__ = ["POLICIES", "USUAL_FACTOR", "Policy", "apply_policies", "weighs_staleness"]

Policy = str | Transform | Gate | Callable[[int], float]

POLICIES: Final = (
    "adaptive_lr",
    "delay_compensation",
    "filter",
    "momentum_correction",
    "none",
    "ssp",
)
"""The policies that have names."""

USUAL_FACTOR: Final = 0.9
"""``staleness_lr_factor`` where none is given."""

_WHERE: Final = "staleness_policy"
_STRENGTH: Final = 0.04
_UNWEIGHTED: Final = constant(1.0)
_WEIGHING: Final = type(scale_by_staleness(_UNWEIGHTED))
_COMPENSATION: Final = type(delay_compensation(_STRENGTH))


@dataclass(slots=True)
class _Plan:
    """The policies taken apart."""

    filters: list[Transform] = field(default_factory=list)
    transforms: list[Transform] = field(default_factory=list)
    weights: list[Callable[[int], float]] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    corrects_momentum: bool = False
    names: list[str] = field(default_factory=list)


def apply_policies(
    algorithm: Algorithm,
    staleness_policy: Policy | Sequence[Policy] = "none",
    *,
    staleness_lr_factor: float = USUAL_FACTOR,
    max_staleness: int | None = None,
) -> Algorithm:
    r"""Add to an algorithm what shall be done about stale updates.

    ``"adaptive_lr"``: the learning rate of the step is multiplied,
    :math:`\eta_t = \eta\, f^{\tau}`. Where a step moves the model in proportion to an update
    (deltas that are added, weights that are mixed, plain SGD), that is the update's weight, and the
    receipt shows it; under Adam, momentum and their kin it is the optimizer's rate for this step.

    ``"filter"``: updates that are more than ``max_staleness`` versions late are rejected, as
    ``"too_stale"``. They are with every other policy too where ``max_staleness`` is given, with
    ``"ssp"`` alone excepted.

    ``"momentum_correction"``: the momentum that asynchrony adds, measured by the staleness, is
    taken from the server optimizer's
    (:func:`~headway.algorithms.transforms.correct_momentum`).

    ``"ssp"``: a worker that is ``max_staleness`` jobs ahead of the slowest waits. The bound is on
    jobs and not on versions.

    ``"delay_compensation"``: gradients are corrected for what they have missed, with 0.04
    (:func:`~headway.algorithms.transforms.delay_compensation`).

    ``"none"``: nothing but what the algorithm itself does.

    Args:
        algorithm: Stays as it is.
        staleness_policy: A name; or a transform, which is put first; a gate; a function of the
            staleness, which is used as ``"adaptive_lr"`` uses the power. A list or tuple of those:
            all of them.
        staleness_lr_factor: ``f``, above 0 and at most 1.
        max_staleness: In versions, with ``"ssp"`` in jobs; at least 0.

    Returns:
        The algorithm with the policies in its settings; the same one where there are none.

    Raises:
        ArgumentTypeError: A policy is none of these.
        UnknownNameError: None has this name.
        ConfigurationError: A value is out of its range or missing, or policies contradict the
            algorithm or each other.

    Example:
        >>> from headway.algorithms import async_delta
        >>> apply_policies(async_delta(), ["adaptive_lr", "filter"], max_staleness=10).chain
        (drop_stale(10), scale_by_staleness(exponential(decay=0.9)))

    Source:
        arXiv:1511.05950 for rates by staleness, arXiv:1605.09774 for momentum, arXiv:1609.08326
        for delay compensation, Ho et al. (NIPS 2013) for SSP.
    """
    plan = _plan(_as_list(staleness_policy), staleness_lr_factor, max_staleness)
    if not plan.names:
        return algorithm
    if plan.corrects_momentum:
        _check_momentum(algorithm)
        algorithm = replace(algorithm, step=correct_momentum(algorithm.step))
    before, after = [*plan.filters, *plan.transforms], list[Transform]()
    _check_compensation(plan.transforms, algorithm)
    for weight in plan.weights:
        _add_weight(weight, algorithm, before, after)
    if plan.gates:
        algorithm = replace(algorithm, gate=_only_gate(plan.gates, algorithm))
    longer = extended(algorithm, before=before, after=after)
    shown = ", ".join(plan.names)
    return replace(longer, settings={**longer.settings, "staleness_policy": shown})


def weighs_staleness(staleness_policy: Policy | Sequence[Policy]) -> bool:
    """Whether some policy gives late updates less, in place of an algorithm's own weight.

    Args:
        staleness_policy: As for :func:`apply_policies`.

    Example:
        >>> weighs_staleness(("adaptive_lr", "filter")), weighs_staleness("filter")
        (True, False)
    """
    return any(
        policy == "adaptive_lr"
        if isinstance(policy, str)
        else not (_is_transform(policy) or _is_gate(policy))
        for policy in _as_list(staleness_policy)
    )


def _as_list(policies: Policy | Sequence[Policy]) -> list[Any]:
    return list(policies) if isinstance(policies, list | tuple) else [policies]


def _plan(policies: list[Any], factor: float, max_staleness: int | None) -> _Plan:
    plan = _Plan()
    names = [policy for policy in policies if isinstance(policy, str)]
    _check_names(names, alone=len(policies) == 1)
    check_number("staleness_lr_factor", factor, maximum=1.0, above=True)
    if factor != USUAL_FACTOR and "adaptive_lr" not in names:
        raise ConfigurationError(
            "`staleness_lr_factor` is used by the policy adaptive_lr alone",
            where=_WHERE,
            got=f"staleness_lr_factor={factor}, staleness_policy={_shown(policies)}",
            help='add "adaptive_lr" to the policies, or leave the factor out',
        )
    if max_staleness is not None:
        check_count("max_staleness", max_staleness, minimum=0)
        if "ssp" not in names or "filter" in names:
            plan.filters.append(drop_stale(max_staleness))
            plan.names.append(f"filter({max_staleness})")
    for policy in policies:
        if isinstance(policy, str):
            _plan_named(plan, policy, factor, max_staleness)
        else:
            _plan_value(plan, policy)
    return plan


def _check_names(names: list[str], *, alone: bool) -> None:
    for name in names:
        if name not in POLICIES:
            raise UnknownNameError.of("staleness policy", name, POLICIES, where=_WHERE)
        if names.count(name) > 1:
            raise ConfigurationError("a staleness policy is given twice", where=_WHERE, got=name)
    if "none" in names and not alone:
        raise ConfigurationError(
            "`none` stands among other staleness policies", where=_WHERE, help="leave it out"
        )


def _plan_named(plan: _Plan, name: str, factor: float, max_staleness: int | None) -> None:
    if name in ("filter", "ssp") and max_staleness is None:
        raise ConfigurationError(
            f"the policy {name} needs a bound",
            where=_WHERE,
            got=f'"{name}" without max_staleness',
            help="give max_staleness=10, say",
        )
    if name == "adaptive_lr":
        plan.weights.append(exponential(factor))
        plan.names.append(f"adaptive_lr({factor})")
    elif name == "ssp" and max_staleness is not None:
        plan.gates.append(StaleSynchronous(max_staleness))
        plan.names.append(f"ssp({max_staleness})")
    elif name == "delay_compensation":
        plan.transforms.append(delay_compensation(_STRENGTH))
        plan.names.append(f"delay_compensation({_STRENGTH})")
    elif name == "momentum_correction":
        plan.corrects_momentum = True
        plan.names.append(name)


def _plan_value(plan: _Plan, policy: Any) -> None:
    if _is_transform(policy):
        plan.transforms.append(policy)
    elif _is_gate(policy):
        plan.gates.append(policy)
    elif callable(policy) and not isinstance(policy, type):
        _check_function(policy)
        plan.weights.append(policy)
    else:
        raise ArgumentTypeError(
            "that is no staleness policy",
            where=_WHERE,
            got=repr(policy),
            expected=f"{', '.join(POLICIES)}, a transform, a gate or a function of the staleness",
            help="several go into a list",
        )
    plan.names.append(repr(policy))


def _check_function(policy: Callable[[int], float]) -> None:
    try:
        check_weight(policy)
    except ArgumentTypeError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(
            "that function is no staleness policy",
            where=_WHERE,
            got=str(error),
            expected="a function of the staleness that returns a weight",
            help="lambda staleness: 1 / (1 + staleness), say",
        ) from error


def _is_transform(value: object) -> bool:
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("needs", "init", "apply")
    )


def _is_gate(value: object) -> bool:
    return not isinstance(value, type) and all(
        hasattr(value, name) for name in ("init", "refusal", "started", "stop")
    )


def _check_compensation(transforms: list[Transform], algorithm: Algorithm) -> None:
    given = [part for part in transforms if isinstance(part, _COMPENSATION)]
    if not given:
        return
    if algorithm.payload != "gradient":
        raise ConfigurationError(
            "delay compensation corrects gradients, and is not defined for other updates",
            where=_WHERE,
            got=f"`{algorithm.name}`, whose workers send {_plural(algorithm.payload)}",
            help='use an update rule with gradients, such as "async_momentum" or "dc_asgd"',
        )
    own = [part for part in algorithm.chain if isinstance(part, _COMPENSATION)]
    if len(both := [*own, *given]) > 1:
        raise ConfigurationError(
            f"`{algorithm.name}` compensates for delays already"
            if own
            else "gradients would be compensated for the same delay twice",
            where=_WHERE,
            got=" and ".join(map(repr, both)),
            help="give the algorithm another strength, and leave this policy out"
            if own
            else "leave one of them out",
        )


def _check_momentum(algorithm: Algorithm) -> None:
    if momentum_of(algorithm.step) <= 0.0:
        raise ConfigurationError(
            "there is no momentum to take from what asynchrony adds",
            where=_WHERE,
            got=f"`{algorithm.name}`, with {algorithm.step!r}",
            expected="an algorithm with momentum above 0 at the server, or with betas",
            help='use update_rule="async_momentum", and server_optimizer=... for another optimizer '
            "or momentum; in a file, the algorithm async_sgd with momentum = 0.9",
        )


def _add_weight(
    weight: Callable[[int], float],
    algorithm: Algorithm,
    before: list[Transform],
    after: list[Transform],
) -> None:
    for part in algorithm.chain:
        if isinstance(part, _WEIGHING) and part.weight != _UNWEIGHTED:
            raise ConfigurationError(
                f"`{algorithm.name}` weighs updates by their staleness already",
                where=_WHERE,
                got=f"{part!r} and {weight!r}",
                help="give the algorithm another weight, and leave this policy out",
            )
    if is_proportional(algorithm.step):
        before.append(scale_by_staleness(weight))
        return
    rate = server_rate(algorithm.step)
    if rate is None:
        raise ConfigurationError(
            f"the step of `{algorithm.name}` has no learning rate that one update can have less of",
            where=_WHERE,
            got=repr(algorithm.step),
            help='use "filter", or an algorithm with a server optimizer such as SGD or Adam',
        )
    after.append(scale_rate(weight, rate))


def _only_gate(gates: list[Gate], algorithm: Algorithm) -> Gate:
    if len(gates) > 1 or not isinstance(algorithm.gate, Asynchronous):
        others = gates if len(gates) > 1 else [algorithm.gate, *gates]
        raise ConfigurationError(
            "two gates decide who may start",
            where=_WHERE,
            got=" and ".join(map(repr, others)) + f", with `{algorithm.name}`",
            help="choose one of them",
        )
    return gates[0]


def _plural(payload: str) -> str:
    return payload if payload.endswith("s") else f"{payload}s"


def _shown(policies: list[Any]) -> str:
    return ", ".join(map(repr, policies))
