"""What a server is made of, and how it is saved and loaded: all of it, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headway.core import tree
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.context import Context
from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError
from headway.core.gate import CancelStale, Watching
from headway.core.jobs import JobBook, as_buffers, dump_buffers
from headway.core.layout import Buffers, ParameterLayout
from headway.core.roster import Roster
from headway.core.scheduler import Scheduler
from headway.core.snapshots import ORDINARY, Memory
from headway.core.table import WorkerTable

__all__ = ["Parts"]


class Parts:
    """A server's context, roster, jobs, chain and counts, as they are at the beginning.

    The arguments are the server's.

    Raises:
        ArgumentTypeError: ``initial`` is not a flat floating-point tensor.
        ConfigurationError: ``initial`` is not finite, or does not fit the layout.
    """

    def __init__(
        self,
        initial: Tensor,
        algorithm: Algorithm,
        scheduler: Scheduler,
        *,
        layout: ParameterLayout | None,
        buffers: Buffers | None,
        seed: int,
        reference_gradient: Callable[[Tensor], Tensor] | None,
        incarnation: int,
        memory: Memory | None = None,
    ) -> None:
        _check_initial(initial, layout)
        self._memory = memory or ORDINARY
        if not self._memory.consistent and algorithm.needs.base_parameters:
            raise _no_base(algorithm)
        if algorithm.needs.fragments > 1:
            layout = _divided(layout, algorithm)
        self._reference_gradient = reference_gradient
        self.algorithm = algorithm
        self.counts: Counter[str] = Counter()
        parameters, own = self._memory.make(initial.detach().contiguous(), buffers)
        parameters.copy_(initial.detach())
        if own is not None and buffers is not None:
            own.floating.copy_(buffers.floating)
            own.integer.copy_(buffers.integer)
        self.tables = {
            name: WorkerTable(parameters.numel(), parameters.dtype, parameters.device)
            for name in algorithm.needs.tables
        }
        self.roster = Roster(algorithm.gate, scheduler, seed)
        self.context = Context(
            parameters,
            layout=layout,
            payload=algorithm.payload,
            buffers=own,
            tables=self.tables,
            reference_gradient=reference_gradient,
            seed=seed,
            is_active=self.roster.is_active,
        )
        self.jobs = JobBook(parameters, own, incarnation, self._memory)
        self.chain = Chain(algorithm, self.context)
        self._let_watch()

    def state_dict(self) -> dict[str, Any]:
        """Everything, as a plain tree that shares no memory with it."""
        context = self.context
        return {
            "algorithm": self.algorithm.fingerprint,
            "version": context.version,
            "now": context.now,
            "counts": dict(self.counts),
            "parameters": context.parameters.clone(),
            "buffers": dump_buffers(context.buffers),
            "stream": tree.dump(context.stream_state()),
            "tables": {name: tree.dump(table) for name, table in self.tables.items()},
            "roster": self.roster.state_dict(),
            **self.chain.state_dict(),
            **self.jobs.state_dict(),
        }

    def loaded(self, state: Any, *, restarted: bool) -> Parts:
        """Parts as they were saved; these here stay as they are.

        Raises:
            StateError: The state is of another algorithm or another model, or is damaged.
        """
        try:
            self._check_likeness(state)
            parts = self._another()
            parts._fill(state, restarted=restarted)
        except StateError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise StateError(
                "the saved state is damaged, or was saved by another version of Headway",
                got=repr(error),
                help="load another one; this server is as it was",
            ) from error
        return parts

    def _let_watch(self) -> None:
        gate = self.algorithm.gate
        # A wrapped gate's state is the wrapper's.
        gate = gate.gate if isinstance(gate, CancelStale) else gate
        if isinstance(gate, Watching):
            gate.watch(self.chain.states, self.roster.gate_state)

    def _check_likeness(self, state: dict[str, Any]) -> None:
        context = self.context
        got = _likeness(state.get("algorithm"), state.get("parameters"), state.get("buffers"))
        expected = _likeness(self.algorithm.fingerprint, context.parameters, context.buffers)
        if got != expected:
            raise StateError(
                "the saved server is not like this one",
                got=got,
                expected=expected,
                help="load it with the algorithm, settings and model that it was saved with",
            )

    def _another(self) -> Parts:
        context = self.context
        return Parts(
            # What is loaded replaces it; the present one need not even be finite.
            torch.zeros_like(context.parameters),
            self.algorithm,
            self.roster.scheduler,
            layout=context.layout,
            buffers=context.buffers,
            seed=context.seed,
            reference_gradient=self._reference_gradient,
            incarnation=self.jobs.incarnation,
            memory=self._memory,
        )

    def _fill(self, state: dict[str, Any], *, restarted: bool) -> None:
        context = self.context
        context.parameters.copy_(state["parameters"])
        buffers = as_buffers(state["buffers"])
        if context.buffers is not None and buffers is not None:
            context.buffers.floating.copy_(buffers.floating)
            context.buffers.integer.copy_(buffers.integer)
        context.version = _whole(state["version"])
        context.now = float(state["now"])
        stream = tree.copy(state["stream"])
        context.load_stream_state(None if stream is None else (_whole(stream[0]), stream[1]))
        self.counts = Counter({str(name): _whole(n) for name, n in state["counts"].items()})
        for name, table in self.tables.items():
            tree.load(table, state["tables"][name])
        self.chain.load_state_dict(state)
        self.roster.load_state_dict(state["roster"])
        self._let_watch()
        self.jobs.load_state_dict(state, self.roster, restarted=restarted)


def _no_base(algorithm: Algorithm) -> ConfigurationError:
    return ConfigurationError(
        f"`{algorithm.name}` needs the model that each job started from, and nobody keeps that here",
        got="memory in which jobs are given the server's own vector",
        help="give jobs copies (consistency='snapshot'), or choose another algorithm",
    )


def _divided(layout: ParameterLayout | None, algorithm: Algorithm) -> ParameterLayout:
    wanted = algorithm.needs.fragments
    if layout is None:
        raise ConfigurationError(
            f"`{algorithm.name}` divides the model into fragments, and needs its layout for that",
            got="no layout",
            help="pass layout=ParameterLayout.of(module) to the server",
        )
    tensors = len(layout.parameters)
    if layout.num_fragments == 1 and tensors < wanted:
        raise ConfigurationError(
            f"`{algorithm.name}` divides the model into more fragments than it has tensors",
            got=f"{wanted} fragments of {tensors} parameter tensors",
            expected=f"1 to {tensors} fragments",
            help=f"use num_fragments={tensors}, or fewer",
        )
    if layout.num_fragments == 1:
        return layout.with_fragments(wanted)
    if layout.num_fragments != wanted:
        raise ConfigurationError(
            f"the layout is not divided as `{algorithm.name}` needs it",
            got=f"{layout.num_fragments} fragments",
            expected=f"{wanted}, or a layout that is not divided",
        )
    return layout


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise StateError("a saved count is not one", got=repr(value), expected="an int from 0")
    return value


def _likeness(fingerprint: Any, parameters: Any, buffers: Any) -> str:
    sizes = [] if buffers is None else [buffer.numel() for buffer in buffers]
    if not isinstance(parameters, Tensor):
        return f"{fingerprint}; without parameters"
    return f"{fingerprint}; {parameters.numel()} parameters of {parameters.dtype}, buffers {sizes}"


def _check_initial(initial: Any, layout: ParameterLayout | None) -> None:
    if not isinstance(initial, Tensor) or initial.dim() != 1 or not initial.is_floating_point():
        raise ArgumentTypeError(
            "the initial parameters must be one flat floating-point tensor",
            got=f"{type(initial).__name__} {tuple(getattr(initial, 'shape', ()))}",
            help="flatten a module with ParameterLayout.of(module).flatten(module)",
        )
    fits = layout is None or (layout.num_params, layout.dtype) == (initial.numel(), initial.dtype)
    if layout is not None and not fits:
        raise ConfigurationError(
            "the initial parameters do not fit the layout",
            got=f"{initial.numel()} values of {initial.dtype}",
            expected=f"{layout.num_params} values of {layout.dtype}",
        )
    if not bool(torch.isfinite(initial).all()):
        raise ConfigurationError(
            "the initial parameters contain NaN or infinity", help="check how they were made"
        )
