"""Many jobs trained together: their models are the rows of one matrix.

What a job computes depends on its assignment alone, so jobs that start from different models, hold
different amounts of data and take different numbers of steps can take each step together. The
result is that of :class:`~headway.task.trainer.Trainer`, up to the order in which floating-point
numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, final

import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.task.compiled import padded_batch, padded_lanes
from headway.task.contract import Assignment, LocalResult
from headway.task.forward import Forward, Gradients
from headway.task.masks import Masks
from headway.task.overlap import Overlap, moved
from headway.task.plan import Batching, Lane, Plan, kind, largest_batch, plan
from headway.task.rows import RowOptimizer, gathered, widened

if TYPE_CHECKING:
    from headway.core import Algorithm, ParameterLayout
    from headway.task.clients import ClientData
    from headway.task.local import LocalTraining

__all__ = ["GroupTrainer"]


_CACHE_BYTES: Final = 3 << 20
"""What the models of a group may take on a CPU: with more, each step reads them from memory."""
_PART: Final = 64
"""On an accelerator a list of jobs is divided into groups of at least so many, to overlap."""

_Step = Callable[[Gradients, int, int], None]
"""``(gradients, lanes at work, number of the step)``."""


class _Begun(NamedTuple):
    """A group whose work is queued, and may not have been done yet."""

    plan: Plan
    rate: float
    payloads: Tensor
    losses: Tensor


@dataclass(slots=True)
class _Run:
    """A group under way. Matrices are ``[lanes, num_params]``, vectors ``[lanes]``."""

    plan: Plan
    base: Tensor
    models: Tensor
    rate: float
    proximal: Tensor | None
    gradient: Tensor
    losses: Tensor
    """``[steps, lanes]``, float64."""
    alive: Tensor
    kept: dict[int, Tensor]
    careful: bool
    """Whether to look after each step whether all losses are finite."""


class _Examples(NamedTuple):
    """The examples of a group, on the device."""

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    weights: Tensor
    masks: Masks | None

    def batch(self, number: int, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and weights of a step."""
        rows = self.rows[number, :lanes]
        inputs, targets = gathered(self.inputs, rows), gathered(self.targets, rows)
        return inputs, targets, self.weights[number, :lanes]


@final
class GroupTrainer:
    """Does jobs in groups.

    Memory: for each job of a group its model, the model that it started from, its gradient, and
    what the local optimizer keeps; and its activations.

    Args:
        forward: The model and the loss.
        layout: Of the model.
        data: Who has what.
        local: How to train.
        algorithm: Which payload is due, and the client chain.
        device: Where the groups are trained.
    """

    def __init__(
        self,
        forward: Forward,
        layout: ParameterLayout,
        data: ClientData,
        *,
        local: LocalTraining,
        algorithm: Algorithm,
        device: torch.device,
    ) -> None:
        self._forward = forward
        self._layout = layout
        self._data = data
        self._local = local
        self._optimizer = local.choice
        self._payload = algorithm.payload
        self._client = algorithm.client
        self._device = device
        self._generator = torch.Generator()
        size = (layout.num_params, layout.dtype, device)
        self._states = tuple(transform.init(*size) for transform in algorithm.client)
        self._frozen = forward.frozen
        self._cache_bytes = _CACHE_BYTES
        self._overlap = Overlap(device)

    @property
    def obstacle(self) -> str | None:
        """Why these jobs cannot be done in groups; ``None``: they can."""
        if any(state is not None for state in self._states):
            return "a client transform of the algorithm has a state"
        if self._payload != "gradient" and not self._optimizer.is_elementwise:
            return f"the local optimizer {self._optimizer.cls.__name__} looks at shapes"
        return self._forward.obstacle

    @property
    def is_written_out(self) -> bool:
        """Whether jobs take the fast way: plain SGD of a chain of linear layers."""
        return self._forward.dense is not None and self._is_plain([self._local.proximal])

    @property
    def has_convolutions(self) -> bool:
        """Whether the model has convolutions, of which groups are slow on a CPU."""
        return self._forward.has_convolutions

    @property
    def activation_bytes(self) -> int:
        """What a group keeps of each job's batch between its forward and backward pass.

        For whole batches of the clients' data: of one example.
        """
        return self._forward.activation_bytes * (self._local.batch_size or 1)

    @property
    def not_compiled(self) -> str | None:
        """Why nothing is compiled though it was asked for; ``None``: it is, or it was not."""
        compiled = self._forward.compiled
        return None if compiled is None else compiled.obstacle

    @property
    def num_compiled(self) -> int:
        """How many shapes of groups were compiled so far."""
        compiled = self._forward.compiled
        return 0 if compiled is None else compiled.num_shapes

    def train(
        self, assignments: Sequence[Assignment], into: Tensor | None = None
    ) -> list[LocalResult]:
        """Do jobs together: their results, in their order.

        Jobs with another learning rate make a group of their own. A CPU's caches want groups that
        are not too large; an accelerator has several groups under way, and is waited for where a
        result is read, never between two steps.

        Args:
            assignments: At least one.
            into: Where payloads may be written, a row per job; they need not all be.

        Raises:
            DataError: A client has no examples.
        """
        lanes = [self._lane(position, a) for position, a in enumerate(assignments)]
        groups: dict[float, list[Lane]] = {}
        for lane in lanes:
            ordered = lane.assignment.work.learning_rate
            rate = self._local.learning_rate if ordered is None else ordered
            groups.setdefault(rate, []).append(lane)
        results: list[LocalResult | None] = [None] * len(lanes)
        chunks = (
            (some, rate) for rate, members in groups.items() for some in self._chunks(members)
        )
        for begun in self._overlap.through(chunks, lambda chunk: self._begin(*chunk, into)):
            for lane, result in self._end(begun):
                results[lane.position] = result
        return [result for result in results if result is not None]

    def _chunks(self, lanes: list[Lane]) -> Iterator[list[Lane]]:
        if self._device.type == "cpu":
            most = max(1, self._cache_bytes // (4 * self._layout.num_params))
            number = -(-len(lanes) // most)
        else:
            number = max(1, min(self._overlap.under_way, len(lanes) // _PART))
        # Those that are alike go together, in parts of about one size.
        ordered = sorted(lanes, key=kind)
        for part in range(number):
            yield ordered[part * len(lanes) // number : (part + 1) * len(lanes) // number]

    def _lane(self, position: int, assignment: Assignment) -> Lane:
        inputs, targets = self._data.client(assignment.client)
        held = len(inputs)
        if held == 0:
            raise DataError(
                f"client {assignment.client} has no examples to train on",
                where="Task(train=...)",
                help="leave such clients out: task.num_examples(client) is 0 for them",
            )
        steps = self._local.num_steps(held, assignment.work, self._payload)
        return Lane(position, assignment, inputs, targets, steps)

    def _begin(self, lanes: list[Lane], rate: float, into: Tensor | None) -> _Begun:
        """Queue all steps of a group, without waiting for any of them."""
        batches = self._plan(lanes)
        examples = self._examples(batches)
        with torch.no_grad():
            is_dense = self._forward.begin(batches.inputs, batches.targets)
            if is_dense and not self._compiles and self._is_plain(self._proximal(batches)):
                found = self._descend_dense(batches, examples, rate, into)
            else:
                found = self._go(batches, examples, rate, careful=False)
        return _Begun(batches, rate, *found)

    def _end(self, begun: _Begun) -> list[tuple[Lane, LocalResult]]:
        """Read what became of a group."""
        batches, rate, payloads, losses = begun
        losses = losses.to("cpu", torch.float64)
        with torch.no_grad():
            if not bool(torch.isfinite(losses).all()):
                # Few runs come to this, so that all others need not look after each step.
                examples = self._examples(batches)
                # Another group may have begun since.
                self._forward.begin(batches.inputs, batches.targets)
                payloads, losses = self._go(batches, examples, rate, careful=True)
            return self._results(batches, payloads, losses.cpu())

    @property
    def _compiles(self) -> bool:
        compiled = self._forward.compiled
        return compiled is not None and compiled.obstacle is None

    def _plan(self, lanes: list[Lane]) -> Plan:
        local = self._local
        batching = Batching(local.batch_size, local.shuffle, local.drop_last)
        if not self._compiles:
            return plan(lanes, batching, self._generator)
        size = padded_batch(largest_batch(lanes, batching), local.batch_size)
        wide = padded_lanes(len(lanes))
        return plan(lanes, batching, self._generator, min_lanes=wide, batch_size=size)

    def _examples(self, batches: Plan) -> _Examples:
        device, dtype = self._device, self._layout.dtype
        masks = None
        if self._forward.layers:
            seeds = [lane.assignment.seed for lane in batches.lanes]
            masks = Masks(self._forward.layers, seeds, dtype, device)
        return _Examples(
            moved(batches.inputs, device),
            moved(batches.targets, device),
            moved(batches.rows, device),
            moved(batches.weights(dtype), device),
            masks,
        )

    def _proximal(self, batches: Plan) -> list[float]:
        asked = [lane.assignment.work.proximal for lane in batches.lanes]
        return [self._local.proximal if value is None else value for value in asked]

    def _descend_dense(
        self, batches: Plan, examples: _Examples, rate: float, into: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Plain SGD of a chain of linear layers: each parameter of all lanes in one piece."""
        dense = self._forward.dense
        assert dense is not None
        base, lanes = self._base(batches), len(batches.lanes)
        named = {
            name: base.new_empty(lanes, stop - first).copy_(base[:, first:stop])
            for name, first, stop, _ in self._forward.spans
        }
        shaped = {
            name: named[name].view(lanes, *shape) for name, _, _, shape in self._forward.spans
        }
        losses = torch.zeros_like(examples.weights)
        bound, working = dense.bind(shaped), lanes
        for number, active in enumerate(batches.active):
            if active != working:
                working = active
                bound = dense.bind({name: value[:active] for name, value in shaped.items()})
            batch = examples.batch(number, active)
            masks = self._masks(batches, examples, number, active)
            losses[number, :active] = dense.descend(bound, *batch, masks, rate)
        payloads = _home(batches, into, base)
        for name, first, stop, _ in self._forward.spans:
            part = payloads[:, first:stop]
            if self._payload == "weights":
                part.copy_(named[name])
            else:
                torch.sub(named[name], base[:, first:stop], out=part)
        return payloads, (losses * examples.weights).sum(dim=2)

    def _masks(
        self, batches: Plan, examples: _Examples, number: int, lanes: int
    ) -> dict[str, Tensor]:
        if examples.masks is None:
            return {}
        counts = batches.counts[number, :lanes].tolist()
        return examples.masks.draw(counts, batches.rows.shape[2])

    def _base(self, batches: Plan) -> Tensor:
        """The models that lanes start from; one row where they all start from the same."""
        given = [lane.assignment.parameters for lane in batches.lanes]
        if all(model is given[0] for model in given):
            return given[0].unsqueeze(0).to(self._device)
        return torch.stack(given).to(self._device)

    def _go(
        self, batches: Plan, examples: _Examples, rate: float, *, careful: bool
    ) -> tuple[Tensor, Tensor]:
        """Whatever the optimizer and the payload: the payloads, and the losses of each step."""
        run = self._open(batches, rate, careful)
        step = self._step_for(run)
        for number, active in enumerate(batches.active):
            wide = self._wide(active, batches.rows.shape[1])
            masks = self._masks(batches, examples, number, wide)
            batch = examples.batch(number, wide)
            sizes = batches.counts[number, :wide]
            found = self._forward.gradients(run.models[:wide], *batch, masks, sizes)
            if wide > active:
                found = Gradients([g[:active] for g in found.of_parameters], found.losses[:active])
            step(found, active, number)
            run.losses[number, :active] = found.losses
            if careful:
                self._look(run, number, active)
        return self._close(run), run.losses

    def _wide(self, active: int, lanes: int) -> int:
        if lanes == active or not self._compiles:
            return active
        return min(lanes, padded_lanes(active))

    def _open(self, batches: Plan, rate: float, careful: bool) -> _Run:
        assignments = [lane.assignment for lane in batches.lanes]
        # Rows that never work follow, where the plan has such lanes.
        filled = [assignments[-1].parameters] * (batches.rows.shape[1] - len(assignments))
        base = torch.stack([*(a.parameters for a in assignments), *filled]).to(self._device)
        asked = self._proximal(batches)
        proximal = moved(torch.tensor(asked, dtype=base.dtype).unsqueeze(1), self._device)
        count = len(assignments)
        at_base = self._payload == "gradient"
        return _Run(
            plan=batches,
            base=base,
            models=base if at_base else base.clone(),
            rate=rate,
            proximal=proximal if any(asked) else None,
            gradient=torch.zeros_like(base) if at_base or not self._is_plain(asked) else base,
            losses=torch.zeros(batches.num_steps, count, dtype=torch.float64, device=self._device),
            alive=torch.ones(count, dtype=torch.bool),
            kept={},
            careful=careful,
        )

    def _is_plain(self, proximal: Sequence[float]) -> bool:
        if self._payload == "gradient":
            return False
        return self._optimizer.is_plain_sgd and not (
            self._client or self._local.clip_norm or any(proximal)
        )

    def _step_for(self, run: _Run) -> _Step:
        if self._payload == "gradient":
            return self._gatherer(run)
        if run.gradient is run.base:
            return self._plain_descent(run)
        return self._descent(run)

    def _plain_descent(self, run: _Run) -> _Step:
        views: list[Tensor] = []

        def step(found: Gradients, active: int, number: int) -> None:
            if not views or len(views[0]) != active:
                views[:] = self._forward.views(run.models[:active])
            torch._foreach_add_(views, found.of_parameters, alpha=-run.rate)

        return step

    def _descent(self, run: _Run) -> _Step:
        optimizer = RowOptimizer(self._optimizer.make, run.models, run.gradient, run.rate)

        def step(found: Gradients, active: int, number: int) -> None:
            gradient, models, base = (m[:active] for m in (run.gradient, run.models, run.base))
            torch._foreach_copy_(self._forward.views(gradient), found.of_parameters)
            if run.proximal is not None:
                gradient.add_((models - base).mul_(run.proximal[:active]))
            self._finish(gradient, models, base, run)
            optimizer.step(active)
            for span in self._frozen:
                models[:, span] = base[:, span]

        return step

    def _gatherer(self, run: _Run) -> _Step:
        counts = run.plan.counts
        shares = counts.to(run.base.dtype) / counts.sum(dim=0).clamp(min=1)
        shares = moved(shares, self._device)

        def step(found: Gradients, active: int, number: int) -> None:
            share = shares[number, :active]
            views = self._forward.views(run.gradient[:active])
            if run.careful:
                working = run.alive[:active].to(self._device)
            for view, gradient in zip(views, found.of_parameters, strict=True):
                scaled = gradient * widened(share, gradient)
                if run.careful:
                    # Not as a product with 0: 0 times infinity would not be 0.
                    scaled = torch.where(widened(working, gradient), scaled, 0.0)
                view.add_(scaled)

        return step

    def _finish(self, gradient: Tensor, models: Tensor, base: Tensor, run: _Run) -> None:
        """What comes between a batch's gradient and the optimizer."""
        if self._client:
            for row in range(len(gradient)):
                for transform, state in zip(self._client, self._states, strict=True):
                    transform.gradient(gradient[row], models[row], base[row], state)
            for span in self._frozen:
                gradient[:, span] = 0.0
        if self._local.clip_norm is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self._local.clip_norm / (norms + 1e-6)).clamp_(max=1.0))

    def _look(self, run: _Run, number: int, active: int) -> None:
        """A job ends after a step whose loss is not finite, with the model as it is now."""
        finite = torch.isfinite(run.losses[number, :active]).cpu()
        for lane in (run.alive[:active] & ~finite).nonzero().flatten().tolist():
            run.kept[lane] = run.models[lane].clone()
        run.alive[:active] &= finite

    def _close(self, run: _Run) -> Tensor:
        count = len(run.plan.lanes)
        if self._payload == "gradient":
            payloads = run.gradient[:count]
            self._finish(payloads, run.models[:count], run.base[:count], run)
            return payloads
        for row, model in run.kept.items():
            run.models[row] = model
        return run.models if self._payload == "weights" else run.models.sub_(run.base)

    def _results(
        self, batches: Plan, payloads: Tensor, losses: Tensor
    ) -> list[tuple[Lane, LocalResult]]:
        counts = batches.counts[:, : len(batches.lanes)]
        # What comes after a loss that is not finite was not done.
        before = torch.isfinite(losses).cumprod(dim=0).roll(1, dims=0)
        before[0] = 1
        counts = counts * before
        totals = torch.where(counts > 0, losses * counts, 0.0).sum(dim=0)
        seen = counts.sum(dim=0)
        means, steps = (totals / seen).tolist(), (counts > 0).sum(dim=0).tolist()
        results = []
        for lane, mean, processed, num_steps, payload in zip(
            batches.lanes, means, seen.tolist(), steps, payloads, strict=False
        ):
            for transform, state in zip(self._client, self._states, strict=True):
                payload = transform.payload(payload, state)
            held = processed if self._payload == "gradient" else len(lane.inputs)
            home = lane.assignment.parameters.device
            metrics = {"loss": mean}
            result = LocalResult(payload.to(home), held, processed, num_steps, metrics, None)
            results.append((lane, result))
        return results


def _home(batches: Plan, into: Tensor | None, like: Tensor) -> Tensor:
    """A matrix for the payloads: those rows of ``into`` that are theirs, where they are in order."""
    count, first = len(batches.lanes), batches.lanes[0].position
    positions = [lane.position for lane in batches.lanes]
    if into is None or into.device != like.device or positions != [*range(first, first + count)]:
        return like.new_empty(count, like.shape[1])
    return into[first : first + count]
