"""What look-ahead costs: memory by what is wanted, and work by what is used."""

from __future__ import annotations

import torch

import headway as hw
from headway.core import Buffers
from headway.simulation.lookahead import LookAhead
from headway.task import Assignment, LocalResult

SIZE = 8


class Matrix:
    """Trains a group into the rows of one matrix, as real groups are, and counts."""

    def __init__(self, *, buffers: bool = False) -> None:
        self.sizes: list[int] = []
        self.buffers = buffers

    def __call__(self, assignments):
        self.sizes.append(len(assignments))
        rows = torch.stack([assignment.parameters for assignment in assignments]) + 1.0
        state = torch.zeros(len(assignments), 2)
        return [
            LocalResult(
                *(row, 1, 1, 1, {}),
                Buffers(state[index], torch.zeros(0)) if self.buffers else None,
            )
            for index, row in enumerate(rows)
        ]


def begin(executor, jobs):
    for job in jobs:
        executor.begin(job, Assignment(job, torch.full((SIZE,), float(job))), float(job))


def held_bytes(executor):
    storages = {}
    for group, index in executor._ready.values():
        for tensor in (group.look(index).payload, *(group.look(index).buffers or ())):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def test_a_straggler_holds_no_more_than_twice_what_is_wanted():
    executor = LookAhead(Matrix(buffers=True), 64)
    begin(executor, range(64))
    one = 4 * (SIZE + 2)
    for job in range(63):
        result = executor.finish(job)
        assert result.payload.tolist() == [job + 1.0] * SIZE
        assert held_bytes(executor) <= 2 * one * (63 - job)
    assert executor.finish(63).payload.tolist() == [64.0] * SIZE
    assert not executor._ready


def test_results_that_are_discarded_let_go_of_their_group():
    executor = LookAhead(Matrix(), 64)
    begin(executor, range(64))
    executor.finish(0)
    for job in range(1, 60):
        executor.discard(job)
    assert held_bytes(executor) == 4 * 4 * SIZE


def test_groups_get_smaller_where_results_are_thrown_away_and_larger_again():
    train = Matrix()
    executor = LookAhead(train, 64)
    job = 0
    for _ in range(30):
        begin(executor, range(job, job + 64))
        # Four are used, and then all the others are cancelled, as in Ringmaster's stops.
        for used in range(4):
            executor.finish(job + used)
        for other in range(4, 64):
            executor.discard(job + other)
        job += 64
    assert train.sizes[0] == 64
    assert sum(train.sizes) < 8 * 4 * 30
    train.sizes.clear()
    for _ in range(60):
        begin(executor, range(job, job + 64))
        for number in range(job, job + 64):
            executor.finish(number)
        job += 64
    assert train.sizes[-1] == 64


def test_cancelled_jobs_cost_little():
    clients = 64
    inputs, targets = torch.eye(4), torch.tensor([0, 1, 0, 1])
    task = hw.Task(
        hw.models.softmax_regression(inputs=4, classes=2),
        "cross_entropy",
        [(inputs, targets)] * clients,
        (inputs, targets),
    )
    result = hw.simulate(
        task,
        hw.algorithms.ringmaster(delay_bound=4),
        population=hw.population.from_times([float(i + 1) for i in range(clients)]),
        stop=hw.until(updates=400),
        execution=hw.Execution(mode="groups"),
    )
    about = result.execution
    trained = about["num_groups"] * about["mean_group_size"]
    assert result.counts["cancelled"] > 1000
    assert trained < 3 * result.updates


def test_the_appetite_is_saved_too():
    train = Matrix()
    executor = LookAhead(train, 16)
    begin(executor, range(16))
    executor.finish(0)
    for job in range(1, 16):
        executor.discard(job)
    other = LookAhead(Matrix(), 16)
    other.load_state_dict(executor.state_dict(), lambda job, client: (torch.zeros(SIZE), None))
    assert other._appetite == executor._appetite
