"""Doing the jobs of a :class:`~headway.task.Task`, one by one, on flat buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
from torch import Tensor

from headway.core.errors import ConfigurationError, DataError
from headway.task.chain import ClientChain
from headway.task.contract import Assignment, Cancelled, LocalResult
from headway.task.convolutional import Convolutional
from headway.task.randomness import own_randomness

if TYPE_CHECKING:
    from headway.core import Algorithm, Receipt, WorkOrder
    from headway.task.clients import ClientData
    from headway.task.local import LocalTraining
    from headway.task.metrics import Loss
    from headway.task.replica import Replica

__all__ = ["Trainer", "batches"]

_ONE_VALUE: Final = "Expected more than 1 value per channel"
"""How torch's error begins when BatchNorm gets a batch of one example."""

_Use = Callable[[tuple[Tensor, ...], int], None]


def batches(
    num_examples: int,
    batch_size: int | None,
    num_batches: int,
    *,
    generator: torch.Generator | None,
    per_pass: int | None = None,
) -> Iterator[Tensor]:
    """Yield the row numbers of each batch, pass after pass through the data.

    Args:
        num_examples: Rows to choose from, at least 1.
        batch_size: Rows in a batch; the last batch of a pass may have fewer. ``None``: all.
        num_batches: How many batches in all.
        generator: Shuffles each pass anew; ``None`` leaves the rows in their order.
        per_pass: How many of the rows a pass goes through; ``None``: all.

    Yields:
        Row numbers, int64 on the CPU. No row comes twice in a pass.

    Example:
        >>> [rows.tolist() for rows in batches(5, 2, 4, generator=None)]
        [[0, 1], [2, 3], [4], [0, 1]]
    """
    size, stop = batch_size or num_examples, num_examples if per_pass is None else per_pass
    left = num_batches
    while left > 0:
        if generator is None:
            order = torch.arange(num_examples)
        else:
            order = torch.randperm(num_examples, generator=generator)
        # Not split as a whole: a gradient takes one batch of a pass.
        for start in range(0, min(stop, left * size), size):
            yield order[start : min(start + size, stop)]
            left -= 1


class _Job(NamedTuple):
    """What the methods of the trainer share about the job at hand."""

    forward: Callable[[Tensor], Any]
    inputs: Tensor
    targets: Tensor
    base: Tensor
    states: tuple[Any, ...]
    num_steps: int
    learning_rate: float
    proximal: float
    generator: torch.Generator | None
    is_cancelled: Callable[[], bool]
    room: Callable[[], Tensor | None]


class _Progress(NamedTuple):
    """How far the job came: training ends early when the loss is no longer finite."""

    payload: Tensor
    loss: float
    num_processed: int
    num_steps: int


@final
class Trainer:
    """Does any client's jobs with one module, never built anew.

    The result depends on the assignment alone. States of the algorithm's client transforms are the
    exception: they are kept here, by client, for as long as the trainer lives.

    Memory: the module, its flat gradient, what the local optimizer keeps, one vector more once a
    job had a proximal term, and one vector per result that is not written to the job's ``room``.

    Args:
        replica: The module; it is put into training mode.
        data: Who has what.
        loss: ``(outputs, targets) -> mean loss``.
        local: How to train.
        algorithm: Which payload is due, and the client chain.
    """

    def __init__(
        self,
        replica: Replica,
        data: ClientData,
        *,
        loss: Loss,
        local: LocalTraining,
        algorithm: Algorithm,
    ) -> None:
        self._replica = replica
        self._module = replica.module.train()
        self._data = data
        self._loss = loss
        self._local = local
        self._optimizer = local.choice
        self._payload = algorithm.payload
        self._device = replica.parameters.device
        is_cpu = self._device.type == "cpu"
        self._written_out = Convolutional.of(self._module) if is_cpu else None
        self._chain = ClientChain(
            algorithm.client,
            num_params=replica.parameters.numel(),
            dtype=replica.parameters.dtype,
            device=self._device,
        )
        self._generator = torch.Generator()
        # Whether a job may take the fast way; one with a proximal term may not.
        self._is_plain = self._optimizer.is_plain_sgd and not (self._chain or local.clip_norm)
        self._scratch: Tensor | None = None

    def num_steps(self, client: int, work: WorkOrder) -> int:
        """How many local steps (for gradients: batches) a job will take; 0 without data."""
        num_examples = self._data.num_examples(client)
        return self._local.num_steps(num_examples, work, self._payload) if num_examples else 0

    def num_processed(self, client: int, work: WorkOrder) -> int:
        """How many examples a job will go through, repeated ones counted each time."""
        held = self._data.num_examples(client)
        if not held:
            return 0
        batch_size, per_pass = self._local.batch_size or held, self._local.per_pass(held)
        passes, rest = divmod(self.num_steps(client, work), -(-per_pass // batch_size))
        return passes * per_pass + rest * batch_size

    def receipt(self, client: int, receipt: Receipt) -> None:
        """Tell the client's transforms what became of its last payload."""
        self._chain.receipt(client, receipt)

    def state_dict(self) -> dict[str, Any]:
        """What the clients keep from job to job, as a plain tree."""
        return self._chain.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what the clients kept.

        Args:
            state: From :meth:`state_dict`, of the same task and algorithm.

        Raises:
            StateError: It is not such a state.
        """
        self._chain.load_state_dict(state)

    def train(self, assignment: Assignment) -> LocalResult:
        """Do a job.

        A loss that is not finite ends the training after that step. The payload is then what it
        is, most often not finite either, and the server will say so; the metrics tell it too.

        Raises:
            Cancelled: Nobody wants it any more; what the client keeps from job to job is as it was
                after the last step.
            DataError: The client has no examples.
            ConfigurationError: The model normalises over a batch, and one holds one example.
        """
        job = self._open(assignment)
        self._replica.load(job.base, assignment.buffers)
        try:
            with torch.enable_grad(), own_randomness(assignment.seed, self._device):
                run = self._gradient_at_base if self._payload == "gradient" else self._descend
                progress = run(job)
        except Cancelled:
            raise
        except Exception as error:
            error.add_note(f"while client {assignment.client} was training")
            if str(error).startswith(_ONE_VALUE):
                raise self._batch_of_one(assignment.client, len(job.inputs)) from error
            raise
        payload = self._chain.payload(progress.payload, job.states)
        return LocalResult(
            payload=payload.to(assignment.parameters.device),
            num_examples=(
                progress.num_processed if self._payload == "gradient" else len(job.inputs)
            ),
            num_processed=progress.num_processed,
            num_steps=progress.num_steps,
            metrics={"loss": progress.loss},
            buffers=self._replica.layout.flatten_buffers(self._module),
        )

    def _open(self, assignment: Assignment) -> _Job:
        inputs, targets = self._data.client(assignment.client)
        if len(inputs) == 0:
            raise DataError(
                f"client {assignment.client} has no examples to train on",
                where="Task(train=...)",
                help="leave such clients out: task.num_examples(client) is 0 for them",
            )
        forward, inputs = self._forward(inputs.to(self._device))
        work = assignment.work
        rate, proximal = work.learning_rate, work.proximal
        return _Job(
            forward=forward,
            inputs=inputs,
            targets=targets.to(self._device),
            base=assignment.parameters.to(self._device),
            states=self._chain.states(assignment.client),
            num_steps=self._local.num_steps(len(inputs), work, self._payload),
            learning_rate=self._local.learning_rate if rate is None else rate,
            proximal=self._local.proximal if proximal is None else proximal,
            generator=(
                self._generator.manual_seed(assignment.seed) if self._local.shuffle else None
            ),
            is_cancelled=assignment.is_cancelled,
            room=assignment.room,
        )

    def _forward(self, inputs: Tensor) -> tuple[Callable[[Tensor], Any], Tensor]:
        """What makes outputs of the rows of a tensor, and the tensor."""
        written_out = self._written_out
        prepared = None if written_out is None else written_out.prepared(inputs)
        if written_out is None or prepared is None:
            return self._module, inputs
        return written_out, prepared

    def _batch_of_one(self, client: int, held: int) -> ConfigurationError:
        size = self._local.batch_size
        ways = ["choose another batch_size"] if held > 1 else ["leave so small a client out"]
        if size is not None and 1 < size < held:
            ways.insert(0, "set drop_last=True")
        return ConfigurationError(
            f"client {client} trains on a batch of one example, which BatchNorm cannot normalise",
            where="LocalTraining(batch_size=...)",
            got=f"{held} examples, batch_size={size}",
            expected="at least 2 examples in each batch",
            help=f"{', '.join(ways)}, or use GroupNorm or LayerNorm in the model",
        )

    def _descend(self, job: _Job) -> _Progress:
        replica = self._replica
        counted = self._run(job, self._batches(job), self._step_for(job))
        if self._payload == "weights":
            return _Progress(self._kept(replica.parameters, job), *counted)
        return _Progress(torch.sub(replica.parameters, job.base, out=self._room(job)), *counted)

    def _gradient_at_base(self, job: _Job) -> _Progress:
        replica, chosen = self._replica, list(self._batches(job))
        planned = sum(rows.numel() for rows in chosen)
        single: Tensor | None = None

        def add(gradients: tuple[Tensor, ...], count: int) -> None:
            nonlocal single
            if len(chosen) == 1:
                single = replica.joined(gradients, self._room(job))
            else:
                replica.accumulate(gradients, count / planned)

        if len(chosen) != 1:
            replica.gradient.zero_()
        counted = self._run(job, chosen, add)
        gradient = self._kept(replica.gradient, job) if single is None else single
        with torch.no_grad():
            self._finish(gradient, replica.parameters, job)
        return _Progress(gradient, *counted)

    def _room(self, job: _Job) -> Tensor | None:
        """Where the payload may be written; ``None``: nowhere in particular."""
        if self._chain or self._device.type != "cpu":
            # A client transform may keep what it is given.
            return None
        room, own = job.room(), self._replica.parameters
        fits = room is not None and (room.dtype, room.shape) == (own.dtype, own.shape)
        return room if fits else None

    def _kept(self, vector: Tensor, job: _Job) -> Tensor:
        """A copy of a vector that the next job overwrites."""
        room = self._room(job)
        return vector.clone() if room is None else room.copy_(vector)

    def _run(self, job: _Job, chosen: Iterable[Tensor], use: _Use) -> tuple[float, int, int]:
        """Hand each batch's gradients to ``use``; count mean loss, examples and steps."""
        total, seen, done = 0.0, 0, 0
        for rows in chosen:
            if done and job.is_cancelled():
                raise Cancelled
            inputs, targets = job.inputs.index_select(0, rows), job.targets.index_select(0, rows)
            loss = self._loss(job.forward(inputs), targets)
            count = rows.numel()
            use(self._replica.gradients(loss), count)
            value = loss.item()
            total += value * count
            seen += count
            done += 1
            if not isfinite(value):
                break
        return total / seen, seen, done

    def _step_for(self, job: _Job) -> _Use:
        replica = self._replica
        if self._is_plain and not job.proximal:
            return lambda gradients, count: replica.descend(gradients, job.learning_rate)
        take_step = self._optimizer.step_for(replica, job.learning_rate)
        if job.proximal and self._scratch is None:
            self._scratch = torch.empty_like(replica.parameters)
        scratch = self._scratch if job.proximal else None

        def step(gradients: tuple[Tensor, ...], count: int) -> None:
            with torch.no_grad():
                gradient = replica.store(gradients)
                if scratch is not None:
                    torch.sub(replica.parameters, job.base, out=scratch)
                    gradient.add_(scratch, alpha=job.proximal)
                self._finish(gradient, replica.parameters, job)
                take_step()
                replica.restore_frozen(job.base)

        return step

    def _finish(self, gradient: Tensor, parameters: Tensor, job: _Job) -> None:
        if self._chain:
            self._chain.gradient(gradient, parameters, job.base, job.states)
            for span in self._replica.frozen:
                gradient[span].zero_()
        if self._local.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            # The same guard against a norm of 0 as in torch.nn.utils.clip_grad_norm_.
            gradient.mul_((self._local.clip_norm / (norm + 1e-6)).clamp_(max=1.0))

    def _batches(self, job: _Job) -> Iterator[Tensor]:
        held = len(job.inputs)
        chosen = batches(
            held,
            self._local.batch_size,
            job.num_steps,
            generator=job.generator,
            per_pass=self._local.per_pass(held),
        )
        if self._device.type == "cpu":
            return chosen
        return (rows.to(self._device) for rows in chosen)
