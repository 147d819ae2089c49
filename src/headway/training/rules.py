"""Which algorithm a parameter server runs: an update rule by name, and what it does about staleness."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch.optim import Optimizer

from headway.algorithms import ALGORITHMS, async_delta
from headway.algorithms.arguments import check_number, describe
from headway.algorithms.staleness import constant
from headway.algorithms.transforms import OptimizerFactory, server_step
from headway.core import Algorithm
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.task.given_optimizer import read_optimizer
from headway.training.policies import USUAL_FACTOR, Policy, apply_policies, weighs_staleness

__all__ = ["IN_FILES", "RULES", "choose_algorithm"]

_USUAL_RULE: Final = "async_sgd"
_SERVER_OPTIMIZERS: Final[dict[str, OptimizerFactory]] = {
    "async_adam": partial(torch.optim.Adam, lr=1e-3),
    "async_momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
}
_WHERE: Final = "update_rule"
_UNWEIGHTED: Final = constant(1.0)

_WITH_DATA: Final = ("zeno",)
RULES: Final = tuple(sorted({*ALGORITHMS, *_SERVER_OPTIMIZERS} - {*_WITH_DATA}))
"""The update rules that have names: those of the gallery that need no data at the server, and those
where the server owns the optimizer."""

IN_FILES: Final = {
    "async_momentum": "it is an update rule of ParameterServer(...); in a file, the same is async_sgd "
    "with learning_rate = 0.01 and momentum = 0.9",
    "async_adam": "it is an update rule of ParameterServer(...); in a file, take async_delta with "
    'server_optimizer = { name = "Adam", lr = 0.001 }, whose workers send what their own steps changed',
}
"""What a configuration has instead of the rules that are no algorithms of the gallery."""


def choose_algorithm(
    update_rule: str | Algorithm = _USUAL_RULE,
    *,
    algorithm: Algorithm | None = None,
    staleness_policy: Policy | Sequence[Policy] = "none",
    staleness_lr_factor: float = USUAL_FACTOR,
    max_staleness: int | None = None,
    server_optimizer: OptimizerFactory | Optimizer | str | None = None,
    learning_rate: float | None = None,
) -> Algorithm:
    r"""Make a parameter server's algorithm from an update rule and policies for stale updates.

    ``"async_sgd"`` is the algorithm ``async_delta``: each worker's own optimizer makes a change,
    and the server adds it. With plain SGD and one batch per exchange that is asynchronous SGD,
    :math:`x \leftarrow x - \eta\, g_i(x_{v_i})`. (The gallery's ``async_sgd``, where workers send
    gradients, can be given as a value.) With ``"async_momentum"`` and ``"async_adam"`` workers send
    gradients and the server owns the optimizer. Other names are those of the gallery, with the
    options that it has by default.

    A policy that weighs staleness (``"adaptive_lr"``, a function) takes the place of the weight
    that ``"fedasync"``, ``"fedbuff"`` and others have by default; an algorithm that is given as a
    value must not have one of its own besides.

    Args:
        update_rule: A name of :data:`RULES`, or an algorithm.
        algorithm: An algorithm, in place of ``update_rule``.
        staleness_policy: A policy or several: :func:`~headway.training.policies.apply_policies`.
        staleness_lr_factor: For ``"adaptive_lr"``, above 0 and at most 1.
        max_staleness: In versions, at least 0: later updates are rejected. With ``"ssp"`` the
            bound in jobs. ``None``: no bound.
        server_optimizer: For rules that have one: a ``torch.optim`` class, a ``functools.partial``
            of one, a value of ``headway.optim``, a name, or an instance, of which the options are
            taken. ``None``: the rule's own; ``SGD(lr=0.01, momentum=0.9)`` for ``"async_momentum"``
            and ``Adam(lr=0.001)`` for ``"async_adam"``.
        learning_rate: The server's, above 0, for rules that have one; ``None``: the optimizer's, or
            the rule's own.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        UnknownNameError: No rule or policy has this name.
        ConfigurationError: A value is out of its range, or arguments contradict each other.

    Example:
        >>> algorithm = choose_algorithm("async_adam", staleness_policy="adaptive_lr")
        >>> algorithm.step, algorithm.chain
        (server_step(Adam(lr=0.001)), (scale_rate(exponential(decay=0.9), 0.001),))

    Source:
        Downpour SGD (Dean et al., NIPS 2012) for gradients with the optimizer at the server.
    """
    rule: object = update_rule
    if algorithm is not None:
        _check_once(update_rule)
        _check_value(algorithm, "algorithm=...")
        rule = algorithm
    if isinstance(rule, str):
        replaces_weight = weighs_staleness(staleness_policy)
        chosen = _named(rule, server_optimizer, learning_rate, replaces_weight)
    else:
        _check_value(rule, "update_rule=...")
        assert isinstance(rule, Algorithm)
        _refuse_options(f"the algorithm `{rule.name}`", server_optimizer, learning_rate)
        chosen = rule
    if chosen.needs.reference_gradient:
        raise _needs_data(chosen.name)
    return apply_policies(
        chosen,
        staleness_policy,
        staleness_lr_factor=staleness_lr_factor,
        max_staleness=max_staleness,
    )


def _named(
    rule: str, optimizer: Any, learning_rate: float | None, replaces_weight: bool
) -> Algorithm:
    if rule in _WITH_DATA:
        raise _needs_data(rule)
    if rule not in RULES:
        raise UnknownNameError.of("update rule", rule, RULES, where=_WHERE)
    if rule == _USUAL_RULE:
        _refuse_options(
            f'"{rule}", whose workers own the optimizer', optimizer, learning_rate, by_worker=True
        )
        return async_delta()
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, above=True)
    if rule in _SERVER_OPTIMIZERS:
        return _with_server_optimizer(rule, _merged(rule, optimizer, learning_rate))
    return _from_gallery(rule, optimizer, learning_rate, replaces_weight)


def _with_server_optimizer(rule: str, optimizer: OptimizerFactory) -> Algorithm:
    return Algorithm(
        name=rule,
        payload="gradient",
        step=server_step(optimizer, unit_weights=True),
        settings=describe({"server_optimizer": optimizer}),
    )


def _merged(rule: str, optimizer: Any, learning_rate: float | None) -> OptimizerFactory:
    """The server optimizer with its rate, wherever that was given."""
    given: Any = _SERVER_OPTIMIZERS.get(rule) if optimizer is None else optimizer
    read = read_optimizer(given, where="server_optimizer=...")
    if learning_rate is None:
        return read.factory()
    if optimizer is not None and read.learning_rate not in (None, learning_rate):
        raise ConfigurationError(
            "the server's learning rate is given twice",
            where=_WHERE,
            got=f"learning_rate={learning_rate}, and {read.learning_rate} in server_optimizer",
            help="give it once",
        )
    return read.factory(lr=learning_rate)


def _from_gallery(
    rule: str, optimizer: Any, learning_rate: float | None, replaces_weight: bool
) -> Algorithm:
    make: Callable[..., Algorithm] = ALGORITHMS[rule]
    known = inspect.signature(make).parameters
    options: dict[str, Any] = {}
    if replaces_weight and "staleness" in known:
        options["staleness"] = _UNWEIGHTED
    if optimizer is not None and "server_optimizer" in known:
        options["server_optimizer"] = _merged(rule, optimizer, learning_rate)
        optimizer = learning_rate = None
    if learning_rate is not None and "learning_rate" in known:
        options["learning_rate"] = learning_rate
        learning_rate = None
    _refuse_options(f'"{rule}"', optimizer, learning_rate)
    return make(**options)


def _needs_data(rule: str) -> ConfigurationError:
    return ConfigurationError(
        f"`{rule}` judges updates by data of the server's own, and a parameter server has none",
        where=_WHERE,
        got=rule,
        expected=f"one of {', '.join(RULES)}, or an algorithm that needs no reference gradient",
        help="take another rule, such as basgd; or drive headway.core.Server(..., "
        "reference_gradient=f) yourself; simulate() and run() take the task's data for it",
    )


def _refuse_options(
    what: str, optimizer: object, learning_rate: object, *, by_worker: bool = False
) -> None:
    given = {"server_optimizer": optimizer, "learning_rate": learning_rate}
    for name, value in given.items():
        if value is None:
            continue
        help = "set it where the algorithm is made, or use another update rule"
        if by_worker:
            help = 'give it to the worker\'s optimizer, or use "async_momentum" or "async_adam"'
        raise ConfigurationError(
            f"`{name}` does not go with {what}", where=_WHERE, got=repr(value), help=help
        )


def _check_once(update_rule: object) -> None:
    if update_rule != _USUAL_RULE:
        raise ConfigurationError(
            "the algorithm is given twice",
            where=_WHERE,
            got=f"update_rule={_shown(update_rule)} and algorithm=...",
            help="give one of them",
        )


def _check_value(value: object, where: str) -> None:
    if isinstance(value, Algorithm):
        return
    name = getattr(value, "__name__", "")
    is_factory = bool(name) and ALGORITHMS.get(name) is value
    raise ArgumentTypeError(
        "that is no algorithm",
        where=where,
        got=f"the function {name} itself" if is_factory else repr(value),
        expected="an Algorithm, as headway.algorithms.fedbuff() returns one; update_rule= takes"
        " names too",
        help=f"call it: algorithms.{name}()" if is_factory else None,
    )


def _shown(rule: object) -> str:
    return str(rule) if isinstance(rule, Algorithm) else repr(rule)
