"""How a client trains: amount of work, batches, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING, Any, Final, final

from torch.optim import Optimizer

from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.task.optim import OptimizerOptions
from headway.task.optimizers import OptimizerChoice, choose, optimizer_name

if TYPE_CHECKING:
    from headway.core import PayloadKind, WorkOrder

__all__ = ["LocalTraining"]

_USUAL_RATE: Final = 0.1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    r"""What a client does with the model that it is given.

    A step takes the gradient ``g`` of the batch's mean loss, and then

    .. math:: g \leftarrow g + \mu (x - x_{base}), \qquad
              g \leftarrow g \cdot \min(1, C / \|g\|_2), \qquad x \leftarrow \text{optimizer}(x, g)

    with the algorithm's client transforms between the first and the second.

    An algorithm whose payload is a gradient gets the mean gradient at the base, over the examples
    of ``steps`` batches. Where the amount is given in ``epochs``, that is one batch: further ones
    would be taken at the same point. A work order overrides ``steps``, ``epochs``,
    ``learning_rate`` and ``proximal``, each where it names it (``proximal=0`` takes the term away);
    one with ``epochs=1`` makes a gradient that of all the client's data.

    Args:
        epochs: Passes over the client's data, above 0, may be a fraction; a started step counts.
            1 when neither this nor ``steps`` is given.
        steps: Local steps instead, at least 1. They run through one shuffled pass after another.
        batch_size: Examples in a step, at least 1; the last batch of a pass may be smaller.
            ``None``: all that the client has.
        learning_rate: Of the local optimizer, above 0.
        optimizer: A name of :data:`headway.task.OPTIMIZERS`, a ``torch.optim`` class, a
            ``functools.partial`` of one, or a value of ``headway.optim``, whose ``lr`` becomes the
            ``learning_rate``. Its state is fresh in each job.
        options: Further options of the optimizer, such as ``{"momentum": 0.9}``.
        proximal: FedProx's ``mu``, at least 0: pulls towards the model that was given.
        clip_norm: ``C``, above 0: the largest L2 norm that a step's gradient may have.
        shuffle: Whether each pass is in a new random order, or all in the order of the data.
        drop_last: Whether a pass leaves out a last batch that is smaller than the others. A client
            with less than one batch still trains on all that it has.

    Raises:
        ArgumentTypeError: A value of the wrong kind.
        ConfigurationError: A value outside its range, or two that contradict each other.

    Example:
        >>> LocalTraining(epochs=5, batch_size=10, learning_rate=0.05).num_steps(52)
        30
        >>> LocalTraining(steps=8, optimizer="sgd", options={"momentum": 0.9}).num_steps(52)
        8

    Source:
        The proximal term: Li et al., "Federated Optimization in Heterogeneous Networks",
        arXiv 1812.06127, eq. 2.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = 32
    learning_rate: float = _USUAL_RATE
    optimizer: str | type[Optimizer] | partial[Optimizer] = "sgd"
    options: Mapping[str, Any] = field(default_factory=dict)
    proximal: float = 0.0
    clip_norm: float | None = None
    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)
        elif self.epochs is not None and self.steps is not None:
            raise ConfigurationError(
                "the amount of local work is given twice",
                where="LocalTraining",
                got=f"epochs={self.epochs}, steps={self.steps}",
                help="give epochs or steps, not both",
            )
        _check_number("epochs", self.epochs, above=0.0)
        _check_count("steps", self.steps)
        _check_count("batch_size", self.batch_size)
        _check_number("learning_rate", self.learning_rate, above=0.0)
        _check_number("proximal", self.proximal, least=0.0)
        _check_number("clip_norm", self.clip_norm, above=0.0)
        _check_flag("shuffle", self.shuffle)
        _check_flag("drop_last", self.drop_last)
        if not isinstance(self.options, Mapping):
            raise ArgumentTypeError(
                "options must be a mapping",
                where="LocalTraining(options=...)",
                got=repr(self.options),
                help='write them as {"momentum": 0.9}',
            )
        object.__setattr__(self, "options", dict(self.options))
        self._take_rate()
        choose(self.optimizer, self.options)

    def _take_rate(self) -> None:
        """Move the rate of a ``headway.optim`` value to ``learning_rate``, where orders find it."""
        optimizer = self.optimizer
        if not isinstance(optimizer, OptimizerOptions) or "lr" not in optimizer.keywords:
            return
        options = dict(optimizer.keywords)
        rate = float(options.pop("lr"))
        _check_number("learning_rate", rate, above=0.0)
        if self.learning_rate not in (_USUAL_RATE, rate):
            raise ConfigurationError(
                "the learning rate is given twice",
                where="LocalTraining",
                got=f"learning_rate={self.learning_rate}, optimizer={optimizer!r}",
                help="give it once",
            )
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "optimizer", OptimizerOptions(optimizer.func, **options))

    @property
    def choice(self) -> OptimizerChoice:
        """The optimizer's class and options."""
        return choose(self.optimizer, self.options)

    def per_pass(self, num_examples: int) -> int:
        """How many examples a pass goes through: all, unless a small last batch is dropped.

        Args:
            num_examples: How many the client holds, at least 1.

        Example:
            >>> LocalTraining(batch_size=10, drop_last=True).per_pass(52)
            50
        """
        size = min(self.batch_size or num_examples, num_examples)
        return num_examples - num_examples % size if self.drop_last else num_examples

    def num_steps(
        self, num_examples: int, work: WorkOrder | None = None, payload: PayloadKind = "delta"
    ) -> int:
        """How many steps (for a gradient: batches) a client takes.

        Args:
            num_examples: How many it holds, at least 1.
            work: What the algorithm orders.
            payload: What the algorithm asks for.
        """
        if work is not None and work.steps is not None:
            return work.steps
        epochs = work.epochs if work is not None else None
        if epochs is None:
            if self.steps is not None:
                return self.steps
            if payload == "gradient" or self.epochs is None:
                return 1
            epochs = self.epochs
        batches = ceil(self.per_pass(num_examples) / (self.batch_size or num_examples))
        # 0.1 * 30 is a little more than 3, and shall be 3 steps.
        return max(1, ceil(epochs * batches * (1.0 - 1e-12)))

    def describe(self) -> dict[str, Any]:
        """Say in plain JSON what this is."""
        choice = self.choice
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "optimizer": optimizer_name(choice.cls),
            "options": {name: _plain(value) for name, value in choice.options.items()},
            "proximal": self.proximal,
            "clip_norm": self.clip_norm,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }


def _check_number(name: str, value: object, *, above: float = -inf, least: float = -inf) -> None:
    if value is None and name in ("epochs", "clip_norm"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(
            f"{name} must be a number", where=f"LocalTraining({name}=...)", got=repr(value)
        )
    if not isfinite(value) or value <= above or value < least:
        bound = f"above {above:g}" if above > -inf else f"of at least {least:g}"
        raise ConfigurationError(
            f"{name} is out of range",
            where=f"LocalTraining({name}=...)",
            got=value,
            expected=f"a finite number {bound}",
        )


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"{name} must be True or False", where=f"LocalTraining({name}=...)", got=repr(value)
        )


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(
            f"{name} must be a whole number", where=f"LocalTraining({name}=...)", got=repr(value)
        )
    if value < 1:
        raise ConfigurationError(
            f"{name} is out of range",
            where=f"LocalTraining({name}=...)",
            got=value,
            expected="a whole number of at least 1",
        )


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)
