"""A worker's own training: one model, one optimizer that lives from job to job, one job at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
from torch import Tensor

from headway.core import Checkout
from headway.core.errors import ConfigurationError
from headway.task import ClientChain, LocalResult
from headway.task.replicas import Replicas

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from headway.core import Receipt
    from headway.runtime.exchange import Work
    from headway.task.given_optimizer import GivenOptimizer
    from headway.task.metrics import Loss, Metric
    from headway.task.replica import Replica
    from headway.training.batches import Batch
    from headway.training.instructions import Instructions

__all__ = ["Learner", "Meter", "check_optimizer", "move"]

_ME: Final = 0
_CPU: Final = torch.device("cpu")

Batches = Callable[[], "Batch | None"]


@dataclass(slots=True)
class Meter:
    """Means over examples, of the loss and of metrics.

    Attributes:
        loss: Of the training; ``"loss"`` is measured with it.
        metrics: What else is measured.
        examples: How many examples the sums are over.
        totals: Sums, by name.
    """

    loss: Loss
    metrics: Mapping[str, Metric]
    examples: int
    totals: dict[str, float]

    @classmethod
    def of(cls, loss: Loss, metrics: Mapping[str, Metric]) -> Meter:
        """An empty one.

        Args:
            loss: Of the training.
            metrics: By name; what is the loss itself is not computed twice.
        """
        return cls(loss, metrics, 0, dict.fromkeys(metrics, 0.0))

    def add(self, outputs: Any, targets: Any, loss: float | None, count: int) -> None:
        """Take a batch in.

        Args:
            outputs: The model's.
            targets: The data's.
            loss: Of this batch; ``None``: not known yet.
            count: Its examples.
        """
        self.examples += count
        for name, metric in self.metrics.items():
            known = loss if metric is self.loss else None
            value = float(metric(outputs, targets)) if known is None else known
            self.totals[name] += value * count

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total / max(1, self.examples) for name, total in self.totals.items()}
        self.examples, self.totals = 0, dict.fromkeys(self.metrics, 0.0)
        return means


class _Progress(NamedTuple):
    payload: Tensor
    loss: float
    num_processed: int
    num_steps: int


@final
class Learner:
    """Does a worker's jobs.

    With plain SGD and one batch the change is ``-learning_rate * gradient`` itself, so that adding
    it is a step of SGD and nothing is rounded twice. Other optimizers keep their state (momentum,
    moments) from job to job, while each job begins with the server's parameters.

    Memory: the module, its flat gradient, the optimizer's state, one vector that is sent, and what
    the client transforms keep.

    Args:
        replica: The module.
        instructions: What is sent.
        loss: ``(outputs, targets) -> mean loss``.
        optimizer: For deltas and weights; ``None`` for gradients.
        meter: What is measured on the way.
    """

    def __init__(
        self,
        replica: Replica,
        instructions: Instructions,
        *,
        loss: Loss,
        optimizer: GivenOptimizer | None,
        meter: Meter,
    ) -> None:
        self._replica = replica
        self._told = instructions
        self._loss = loss
        self._given = optimizer
        self._meter = meter
        self._device = replica.parameters.device
        self._optimizer: Optimizer | None = None
        self._chain = ClientChain(
            instructions.client,
            num_params=replica.parameters.numel(),
            dtype=replica.parameters.dtype,
            device=self._device,
        )
        self._replicas: Replicas | None = None
        self._spare: dict[str, Tensor] = {}

    @property
    def has_chain(self) -> bool:
        """Whether there are client transforms, which want to know of each receipt in its turn."""
        return bool(self._chain)

    def keep(self, initial: Tensor) -> None:
        """Hold a model of one's own from now on: the server does not send all of it each time.

        Args:
            initial: What it begins with; copied.
        """
        own = initial.to(self._device, copy=True)
        self._replicas = Replicas(own, self._replica.layout, self._told.payload)

    def train(
        self,
        work: Work,
        batches: Batches,
        num_steps: int,
        *,
        is_cancelled: Callable[[], bool],
        held: int | None = None,
    ) -> LocalResult | None:
        """Do a job; ``None``: it was cancelled, or there was no batch.

        Args:
            work: What the server said.
            batches: The next batch each time; ``None`` at the end.
            num_steps: How many steps, at least 1; there may be fewer batches.
            is_cancelled: Asked between two steps.
            held: What the update counts for in a mean; ``None``: the examples of its batches.
        """
        base = self._begin(work)
        with torch.enable_grad():
            if self._told.payload == "gradient":
                progress = self._gradient(work, base, batches, num_steps, is_cancelled)
            elif num_steps == 1 and self._is_bare(work):
                progress = self._single(work, batches)
            else:
                progress = self._descend(work, base, batches, num_steps, is_cancelled)
        if progress is None:
            return None
        payload = self._chain.payload(progress.payload, self._chain.states(_ME))
        result = LocalResult(
            payload=payload,
            num_examples=progress.num_processed if held is None else held,
            num_processed=progress.num_processed,
            num_steps=progress.num_steps,
            metrics={"loss": progress.loss},
            buffers=self._replica.layout.flatten_buffers(self._replica.module),
        )
        if self._replicas is not None:
            result = self._replicas.train(_ME, result, work.order.fragment)
        return self._on_cpu(result)

    def receipt(self, receipt: Receipt) -> None:
        """Learn what became of an update.

        Args:
            receipt: The server's.
        """
        if self._chain:
            self._chain.receipt(_ME, receipt)
        if self._replicas is not None and receipt.answer is not None:
            self._replicas.answer(_ME, receipt.answer.to(self._device))
        if receipt.reason == "not_finite" and self._optimizer is not None:
            # Its moments are not finite either, and would spoil every job to come.
            self._optimizer.state.clear()

    def _begin(self, work: Work) -> Tensor:
        """Load the job's model, and return what it is measured against."""
        given = work.parameters
        if self._replicas is not None:
            if given is not None and self._device != _CPU:
                given = given.to(self._device)
            ticket = Checkout(work.version, given, work.job, work.order, work.buffers)
            base = self._replicas.receive(_ME, ticket)
            self._replica.load(base, work.buffers)
            return base
        assert given is not None, "only a view can send nothing"
        self._replica.load(given, work.buffers)
        if self._device == _CPU and self._told.consistent:
            return given
        # What lies elsewhere, or changes meanwhile, is remembered as it was loaded.
        return self._vector("base").copy_(self._replica.parameters)

    def _is_bare(self, work: Work) -> bool:
        """Whether a single step is nothing but the gradient, times the rate."""
        given = self._given
        return (
            self._told.payload == "delta"
            and given is not None
            and given.choice.is_plain_sgd
            and not self._chain
        )

    def _single(self, work: Work, batches: Batches) -> _Progress | None:
        batch = batches()
        if batch is None:
            return None
        gradients, loss, count = self._step(batch)
        with torch.no_grad():
            gradient = self._replica.store(gradients)
            torch.mul(gradient, -self._rate(work), out=self._vector("sent"))
        return _Progress(self._vector("sent"), loss, count, 1)

    def _gradient(
        self,
        work: Work,
        base: Tensor,
        batches: Batches,
        num_steps: int,
        is_cancelled: Callable[[], bool],
    ) -> _Progress | None:
        replica, gradient = self._replica, self._replica.gradient
        total, seen, steps = 0.0, 0, 0
        while steps < num_steps and (batch := batches()) is not None:
            if steps and is_cancelled():
                return None
            gradients, loss, count = self._step(batch)
            with torch.no_grad():
                if num_steps == 1:
                    replica.store(gradients)
                else:
                    if not steps:
                        gradient.zero_()
                    replica.accumulate(gradients, float(count))
            total, seen, steps = total + loss * count, seen + count, steps + 1
            if not isfinite(loss):
                break
        if not steps:
            return None
        with torch.no_grad():
            if num_steps > 1:
                gradient.mul_(1.0 / seen)
            if self._chain:
                self._chain.gradient(gradient, replica.parameters, base, self._chain.states(_ME))
                self._still_frozen(gradient)
        return _Progress(gradient, total / seen, seen, steps)

    def _descend(
        self,
        work: Work,
        base: Tensor,
        batches: Batches,
        num_steps: int,
        is_cancelled: Callable[[], bool],
    ) -> _Progress | None:
        replica = self._replica
        take_step = self._step_taker(work, base)
        total, seen, steps = 0.0, 0, 0
        while steps < num_steps and (batch := batches()) is not None:
            if steps and is_cancelled():
                return None
            gradients, loss, count = self._step(batch)
            take_step(gradients)
            total, seen, steps = total + loss * count, seen + count, steps + 1
            if not isfinite(loss):
                break
        if not steps:
            return None
        if self._told.payload == "weights":
            return _Progress(replica.parameters, total / seen, seen, steps)
        sent = torch.sub(replica.parameters, base, out=self._vector("sent"))
        return _Progress(sent, total / seen, seen, steps)

    def _step(self, batch: Batch) -> tuple[tuple[Tensor, ...], float, int]:
        inputs, targets = move(batch.inputs, self._device), move(batch.targets, self._device)
        outputs = self._replica.module(inputs)
        loss = self._loss(outputs, targets)
        gradients = self._replica.gradients(loss, where="AsyncWorker.train(loss_fn=...)")
        value, count = loss.item(), batch.size
        with torch.no_grad():
            self._meter.add(outputs, targets, value, count)
        return gradients, value, count

    def _step_taker(self, work: Work, base: Tensor) -> Callable[[tuple[Tensor, ...]], None]:
        given, replica, proximal = self._given, self._replica, work.order.proximal or 0.0
        assert given is not None, "deltas are made by an optimizer"
        rate = self._rate(work)
        if given.choice.is_plain_sgd and not self._chain and not proximal:
            return lambda gradients: replica.descend(gradients, rate)
        optimizer = self._own_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = rate
        states = self._chain.states(_ME)

        def take(gradients: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                gradient = replica.store(gradients)
                if proximal:
                    pull = torch.sub(replica.parameters, base, out=self._vector("pull"))
                    gradient.add_(pull, alpha=proximal)
                if states:
                    self._chain.gradient(gradient, replica.parameters, base, states)
                self._still_frozen(gradient)
                optimizer.step()
                replica.restore_frozen(base)

        return take

    def _own_optimizer(self) -> Optimizer:
        if self._optimizer is None:
            assert self._given is not None
            choice, replica = self._given.choice, self._replica
            parameters = [replica.flat_parameter] if choice.is_elementwise else replica.trainable
            _ = replica.gradient
            self._optimizer = choice.make(list(parameters), self._given.rate)
        return self._optimizer

    def _rate(self, work: Work) -> float:
        assert self._given is not None
        ordered = work.order.learning_rate
        return self._given.rate if ordered is None else ordered

    def _still_frozen(self, gradient: Tensor) -> None:
        for span in self._replica.frozen:
            gradient[span].zero_()

    def _vector(self, name: str) -> Tensor:
        found = self._spare.get(name)
        if found is None:
            found = self._spare[name] = torch.empty_like(self._replica.parameters)
        return found

    def _on_cpu(self, result: LocalResult) -> LocalResult:
        if self._device == _CPU:
            return result
        buffers = result.buffers
        if buffers is not None:
            buffers = buffers._replace(
                floating=buffers.floating.cpu(), integer=buffers.integer.cpu()
            )
        return result._replace(payload=result.payload.cpu(), buffers=buffers)


def move(value: Any, device: torch.device) -> Any:
    """Bring the tensors of a batch to a device.

    Args:
        value: A tensor, or a list, tuple or dict of such values; others stay as they are.
        device: Where to.

    Example:
        >>> move({"x": torch.ones(2), "n": 3}, torch.device("cpu"))
        {'x': tensor([1., 1.]), 'n': 3}
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: move(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(move(part, device) for part in value)
    return value


def check_optimizer(instructions: Instructions, optimizer: object) -> None:
    """Refuse a worker's optimizer where the server owns it, and the lack of one where it does not.

    Args:
        instructions: What is sent.
        optimizer: What the user gave.

    Raises:
        ConfigurationError: It is one too many, or missing.
    """
    where = "AsyncWorker.train(optimizer=...)"
    if instructions.server_optimizer and optimizer is not None:
        raise ConfigurationError(
            "the server owns the optimizer: its workers send gradients",
            where=where,
            got=f"an optimizer, and a server that runs {instructions.algorithm}",
            help='leave optimizer= out, or give the server update_rule="async_sgd"',
        )
    if not instructions.server_optimizer and optimizer is None:
        raise ConfigurationError(
            "a worker of this server trains with an optimizer of its own",
            where=where,
            got=f"none, and a server that runs {instructions.algorithm}",
            help="give one: optimizer=headway.optim.SGD(lr=0.01)",
        )
