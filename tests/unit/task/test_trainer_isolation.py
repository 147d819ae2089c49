"""A result depends on the assignment, and on nothing else."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.core import Buffers, WorkOrder
from headway.task import Assignment, LocalResult, LocalTraining, Task
from headway.task.trainer import Trainer
from tests.unit.task.jobs import CPU, algorithm, do, examples, make_task


class Normed(nn.Module):
    """With dropout, running statistics, and a buffer that no state dict shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1.0
        hidden = nn.functional.dropout(self.norm(self.first(inputs)), 0.3, self.training)
        return self.last(hidden) * (1.0 + 0.1 * self.calls)


LOCAL = {
    "plain": LocalTraining(epochs=2, batch_size=7),
    "momentum": LocalTraining(epochs=2, batch_size=7, options={"momentum": 0.9}),
    "adam": LocalTraining(epochs=2, batch_size=7, optimizer="adam", learning_rate=0.01),
    "all": LocalTraining(steps=5, batch_size=7, proximal=0.1, clip_norm=0.5, optimizer="adamw"),
}


def _assignments(task: Task) -> list[Assignment]:
    first, other = task.start(0, CPU), task.start(1, CPU)
    assert first.buffers is not None
    seen = Buffers(first.buffers.floating + 0.5, first.buffers.integer + 3)
    return [
        Assignment(0, first.parameters, first.buffers, WorkOrder(), seed=5),
        Assignment(1, other.parameters, seen, WorkOrder(steps=3), seed=6),
        Assignment(0, first.parameters, None, WorkOrder(learning_rate=0.01), seed=2**63 - 1),
    ]


def _same(one: LocalResult, other: LocalResult) -> bool:
    assert one.buffers is not None
    assert other.buffers is not None
    return (
        torch.equal(one.payload, other.payload)
        and torch.equal(one.buffers.floating, other.buffers.floating)
        and torch.equal(one.buffers.integer, other.buffers.integer)
        and one[1:4] == other[1:4]
    )


@pytest.mark.parametrize("payload", ["delta", "gradient"])
@pytest.mark.parametrize("local", LOCAL.values(), ids=LOCAL)
def test_any_order_of_jobs_and_any_trainer_gives_the_same_bits(
    payload: Any, local: LocalTraining
) -> None:
    task = make_task(Normed, local=local)
    jobs = _assignments(task)
    alone = [task.trainer(algorithm(payload), CPU).train(job) for job in jobs]
    shared = task.trainer(algorithm(payload), CPU)
    for order in permutations(range(len(jobs))):
        for index in order:
            torch.rand(3)
            assert _same(shared.train(jobs[index]), alone[index])


def test_results_stay_when_the_next_job_runs() -> None:
    task = make_task(Normed)
    jobs = _assignments(task)
    for payload in ("delta", "weights", "gradient"):
        trainer = task.trainer(algorithm(payload), CPU)
        first = trainer.train(jobs[0])
        assert first.buffers is not None
        copies = first.payload.clone(), first.buffers.clone()
        trainer.train(jobs[1])
        assert torch.equal(first.payload, copies[0])
        assert torch.equal(first.buffers.floating, copies[1].floating)


def test_what_comes_in_is_never_written_to() -> None:
    task = make_task(Normed, local=LOCAL["all"])
    job = _assignments(task)[1]
    assert job.buffers is not None
    before = job.parameters.clone(), job.buffers.clone()
    task.trainer(algorithm(), CPU).train(job)
    assert torch.equal(job.parameters, before[0])
    assert torch.equal(job.buffers.floating, before[1].floating)
    assert torch.equal(job.buffers.integer, before[1].integer)


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    task = make_task(Normed)
    start = task.start(3, CPU)
    task.trainer(algorithm(), CPU).train(_assignments(task)[0])
    task.evaluate(start.parameters, start.buffers)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_is_another_shuffle_and_another_dropout() -> None:
    task = make_task(local=LocalTraining(epochs=1, batch_size=8))
    assert not torch.equal(do(task, seed=1).payload, do(task, seed=2).payload)
    unshuffled = make_task(
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)),
        local=LocalTraining(epochs=1, batch_size=8, shuffle=False),
    )
    assert not torch.equal(do(unshuffled, seed=1).payload, do(unshuffled, seed=2).payload)


def test_a_caller_without_gradients_trains_all_the_same() -> None:
    task = make_task()
    with torch.no_grad():
        inside = do(task).payload
    assert torch.equal(inside, do(task).payload)


class Recorder:
    """A client transform that counts, halves gradients and negates payloads."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.made = 0
        self.receipts: list[Any] = []

    def init(self, num_params: int, dtype: torch.dtype, device: torch.device) -> Any:
        self.made += 1
        return {"jobs": 0} if self.keeps else None

    def gradient(self, gradient: Tensor, parameters: Tensor, base: Tensor, state: Any) -> None:
        gradient.mul_(0.5)

    def payload(self, payload: Tensor, state: Any) -> Tensor:
        if state is not None:
            state["jobs"] += 1
            return payload * state["jobs"]
        return -payload

    def receipt(self, receipt: Any, state: Any) -> None:
        self.receipts.append((receipt, state))


def _job(task: Task, client: int = 0) -> Assignment:
    return Assignment(client, task.start(0, CPU).parameters, None, WorkOrder(), seed=11)


def test_client_transforms_change_each_step_and_the_payload() -> None:
    local = LocalTraining(epochs=2, batch_size=8, learning_rate=0.25)
    task = make_task(local=local)
    chain = (Recorder(keeps=False),)
    found = task.trainer(algorithm(client=chain), CPU).train(_job(task)).payload
    half = make_task(local=LocalTraining(epochs=2, batch_size=8, learning_rate=0.125))
    assert torch.equal(found, -do(half).payload)


def test_states_are_kept_by_client_and_only_where_there_are_any() -> None:
    task = make_task()
    stateful, stateless = Recorder(keeps=True), Recorder(keeps=False)
    trainer: Trainer = task.trainer(algorithm(client=(stateful,)), CPU)
    first, second = (trainer.train(_job(task)).payload for _ in range(2))
    assert torch.equal(second, 2 * first)
    other = trainer.train(_job(task, client=1)).payload
    assert stateful.made == 2
    alone = task.trainer(algorithm(client=(Recorder(keeps=True),)), CPU).train(_job(task, client=1))
    assert torch.equal(other, alone.payload)
    trainer.receipt(0, "receipt")  # type: ignore[arg-type]
    assert stateful.receipts == [("receipt", {"jobs": 2})]
    task.trainer(algorithm(client=(stateless,)), CPU).train(_job(task))
    assert not task.trainer(algorithm(), CPU)._chain.states(0)


def test_the_clients_data_are_not_written_to() -> None:
    inputs, targets = examples(20, 1)
    task = Task(
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)),
        *("cross_entropy", [(inputs, targets)], (inputs, targets)),
        local=LocalTraining(batch_size=None, shuffle=False),
    )
    before = inputs.clone()
    do(task)
    task.evaluate(task.start(0, CPU).parameters)
    assert torch.equal(inputs, before)
