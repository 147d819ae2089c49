"""How a simulation trains its clients: one by one, in groups, in one process or several.

The choice changes no result but for the order in which floating-point numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

import torch

from headway.core.errors import ConfigurationError, UnknownNameError
from headway.simulation.crew import Crew, grouping
from headway.simulation.executor import Executor, OneByOne
from headway.simulation.lookahead import LookAhead

if TYPE_CHECKING:
    from headway.core import Algorithm
    from headway.task import LocalTrainer, Objective

__all__ = ["Choice", "Execution", "choose"]

_MODES: Final = ("auto", "groups", "one_by_one")
_CACHE_BYTES: Final = 8 << 20
"""What a group's models and gradients may take on a CPU: more leaves the cache, and is slower."""
_MOST_PARAMS: Final = 32_768
"""On a CPU larger models are slower in groups than one by one: see docs/benchmarks.md. Not so where
the trainer has their gradients written out."""
_PARTS: Final = 8
"""Into how many groups that fit the caches a process may divide what it is given at once."""
_LARGEST: Final = 256
_MEMORY_BYTES: Final = 1 << 30
_OF_MEMORY: Final = 4
"""A group's share of an accelerator's memory is one over this."""
_COPIES: Final = 5
"""Of each model in a group: it, its start, its gradient, and up to two of a local optimizer."""
_AHEAD: Final = 32
"""Jobs per process that are trained ahead where they are trained one by one, at most."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How clients are trained in a simulation.

    Args:
        mode: ``"groups"``: jobs in flight are trained together, as the rows of one matrix;
            ``"one_by_one"``; or ``"auto"``: in groups where the model gains from it. On a CPU that
            is a fixed rule, never a timing, so that a run can be had again: models of at most
            32,768 parameters, and of any size those whose gradients are written out (linear layers,
            ReLU, tanh, sigmoid and dropout, cross entropy or squared error, plain SGD); but none
            with convolutions, whose gradients are written out for one model at a time.
        group_size: How many jobs at most in a group, at least 1; ``None``: by the same rule.
        processes: How many processes train, at least 1; others than the calling one are started for
            the run, which takes some seconds. The task must be made of functions and classes that
            a module defines at its top level, and a script starts its work under
            ``if __name__ == "__main__":``. On the CPU only.
        memory_bytes: What the models of a group may take, with gradients and local optimizers; on
            an accelerator with their activations too. Data come on top, and on the CPU
            activations. It bounds ``group_size`` too. ``None``: 1 GiB on the CPU, on an accelerator
            a quarter of its memory.
        compile: Whether groups are trained with ``torch.compile``, also in the place of gradients
            that are written out. It takes some seconds for each
            size of batch, in each process, and a C++ compiler; without one, and for dropout and
            losses of your own, groups are trained as without it, and the result says so.

    Raises:
        ConfigurationError: A value is out of its range.

    Example:
        >>> Execution(processes=2)
        Execution(mode='auto', group_size=None, processes=2, memory_bytes=None, compile=False)
    """

    mode: Literal["auto", "groups", "one_by_one"] = "auto"
    group_size: int | None = None
    processes: int = 1
    memory_bytes: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UnknownNameError.of("mode", str(self.mode), _MODES, where="Execution(mode=...)")
        for name in ("group_size", "processes", "memory_bytes"):
            value = getattr(self, name)
            if value is None and name != "processes":
                continue
            if type(value) is not int or value < 1:
                raise ConfigurationError(
                    f"{name} is out of its range",
                    where=f"Execution({name}=...)",
                    got=repr(value),
                    expected="a whole number of at least 1",
                    help=f"leave {name} out, or give such a number",
                )
        if type(self.compile) is not bool:
            raise ConfigurationError(
                "compile is yes or no",
                where="Execution(compile=...)",
                got=repr(self.compile),
                expected="True or False",
                help="write compile=True or compile=False",
            )
        if self.compile and self.mode == "one_by_one":
            raise ConfigurationError(
                "only groups are compiled",
                where="Execution(mode=..., compile=...)",
                got='mode="one_by_one", compile=True',
                help='leave compile out, or choose mode="auto" or "groups"',
            )


@dataclass(slots=True)
class Choice:
    """An executor, and what led to it.

    Attributes:
        executor: Trains the jobs.
        about: For the result: mode, group size, processes, and why.
        close: Ends what was started for the run.
        trainer: Of groups, in this process.
        crew: The other processes.
    """

    executor: Executor
    about: dict[str, Any]
    close: Callable[[], None]
    trainer: Any = None
    crew: Crew | None = None

    def describe(self) -> dict[str, Any]:
        """What was chosen, and how large the groups were."""
        executor, about = self.executor, self.about
        # It may have failed on the way, here or in another process.
        obstacle = self.trainer.not_compiled if about["compiled"] else None
        if about["compiled"] and self.crew is not None:
            obstacle = obstacle or self.crew.not_compiled
        if obstacle is not None:
            reason = f"{about['reason']}; {obstacle}"
            about = {**about, "compiled": False, "reason": reason}
        if not isinstance(executor, LookAhead) or not executor.num_groups:
            return about
        mean = executor.num_trained / executor.num_groups
        return {**about, "num_groups": executor.num_groups, "mean_group_size": mean}


def choose(
    execution: Execution,
    task: Objective,
    algorithm: Algorithm,
    one_by_one: LocalTrainer,
    *,
    num_params: int,
    device: torch.device,
) -> Choice:
    """Choose an executor by the model's size, the device and the settings alone.

    Args:
        execution: What was asked for.
        task: What is trained.
        algorithm: Which payload is due.
        one_by_one: Of the task, for jobs one by one.
        num_params: Of the model.
        device: Where clients train.

    Raises:
        ConfigurationError: Processes on another device than the CPU.
    """
    if execution.processes > 1 and device.type != "cpu":
        raise ConfigurationError(
            "several processes train on the CPU only",
            where="Execution(processes=...)",
            got=f"{execution.processes} processes, device {device}",
            help="leave processes out: groups keep a GPU busy",
        )
    trainer, reason = _groups(execution, task, algorithm, num_params, device)
    groups = trainer is not None
    size = _size(execution, num_params, device, trainer)
    about = {
        "mode": "groups" if groups else "one_by_one",
        "group_size": size if groups else 1,
        "processes": execution.processes,
        "compiled": groups and execution.compile,
        "reason": reason or f"a model of {num_params:,} parameters on the {device.type}",
    }
    if execution.processes > 1 and not _has_states(algorithm):
        crew = Crew(
            task,
            algorithm,
            execution.processes,
            groups=groups,
            own=trainer.train if groups else None,
            compiled=execution.compile,
        )
        return Choice(LookAhead(crew, size * execution.processes), about, crew.close, trainer, crew)
    if execution.processes > 1:
        about |= {"processes": 1, "reason": "a client transform of the algorithm has a state"}
    if groups:
        return Choice(LookAhead(trainer.train, size), about, _nothing, trainer)
    return Choice(OneByOne(one_by_one), about, _nothing)


def _groups(
    execution: Execution,
    task: Objective,
    algorithm: Algorithm,
    num_params: int,
    device: torch.device,
) -> tuple[Any, str | None]:
    """What trains groups, or why there are none."""
    if execution.mode == "one_by_one":
        return None, "as it was asked for"
    if getattr(task, "group_trainer", None) is None:
        return None, "the task trains one by one"
    asked = execution.mode == "groups"
    trainer = grouping(task, algorithm, device, compiled=execution.compile)
    if trainer.obstacle is not None:
        return None, trainer.obstacle
    if not asked and device.type == "cpu" and getattr(trainer, "has_convolutions", False):
        return None, f"convolutions are faster one by one on the {device.type}"
    is_large = device.type == "cpu" and num_params > _MOST_PARAMS
    if not asked and is_large and not getattr(trainer, "is_written_out", False):
        what = f"a model of {num_params:,} parameters"
        return None, f"{what} gains nothing from groups on the {device.type}"
    return trainer, None


def _size(execution: Execution, num_params: int, device: torch.device, trainer: Any) -> int:
    # Models and gradients, in float32; a factor of two for others would change little.
    each = 4 * _COPIES * num_params
    if trainer is not None and device.type != "cpu":
        each += getattr(trainer, "activation_bytes", 0)
    if trainer is None and (execution.group_size or execution.processes == 1):
        # Jobs one by one in one process are not trained ahead, and no memory is asked for.
        return execution.group_size or 1
    fitting = (execution.memory_bytes or _memory(device)) // each
    if trainer is None:
        return max(1, min(_AHEAD, fitting))
    if execution.group_size is not None:
        return max(1, min(execution.group_size, fitting))
    if device.type == "cpu":
        fitting = min(fitting, _PARTS * max(1, _CACHE_BYTES // (8 * num_params)), _LARGEST)
    return max(1, fitting)


def _memory(device: torch.device) -> int:
    """What the groups of a device may take: of all of its memory, as what is free changes."""
    if device.type == "cpu" or not torch.accelerator.is_available():
        return _MEMORY_BYTES
    try:
        _, total = torch.accelerator.get_memory_info(device)
    except (AttributeError, NotImplementedError, RuntimeError):
        # Not every torch has it, and not every device's allocator answers.
        return _MEMORY_BYTES
    return int(total) // _OF_MEMORY


def _has_states(algorithm: Algorithm) -> bool:
    return any(
        transform.init(1, torch.float32, torch.device("cpu")) is not None
        for transform in algorithm.client
    )


def _nothing() -> None:
    return
