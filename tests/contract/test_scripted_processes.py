"""One order of arrivals: virtual time, worker processes, and processes that come over gRPC."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

import headway as hw
from headway import algorithms, core
from headway.algorithms.staleness import polynomial
from headway.observe import Result
from headway.simulation import population
from tests.gate_kit import Gate, GatedChase, visit
from tests.simulation_kit import Chase, same_bits
from tests.waiting_kit import WAIT_S

TARGETS = [1.0, -0.7, 3.1]
DIM = 3
UPDATES = 30
pytestmark = pytest.mark.slow


def rule() -> core.Algorithm:
    """One for which it matters who comes when, and how late."""
    return algorithms.async_sgd(learning_rate=0.07, momentum=0.6, staleness=polynomial(0.5))


def simulated() -> Result:
    """The run in virtual time, whose order of arrivals is the script."""
    return hw.simulate(
        Chase(TARGETS, dim=DIM),
        rule(),
        population=population.lognormal(len(TARGETS), median_s=1.0, sigma=0.3),
        stop=hw.until(updates=UPDATES),
        seed=3,
    )


def arrivals(result: Result) -> list[core.Submitted]:
    return [event for event in result.events if isinstance(event, core.Submitted)]


def order(result: Result) -> list[int]:
    """Which client's update came when."""
    return [int(event.worker.removeprefix("client-")) for event in arrivals(result)]


@contextmanager
def gate() -> Iterator[tuple[Gate, str]]:
    """A gate, and where it is: the paths of sockets must be short."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate"
        with closing(Gate(path)) as made:
            yield made, str(path)


def test_worker_processes_give_what_virtual_time_gives() -> None:
    expected = simulated()
    errors: list[BaseException] = []
    with gate() as (door, path):

        def play() -> None:
            try:
                door.play(order(expected), len(TARGETS))
            except BaseException as error:  # noqa: BLE001 (raised below)
                errors.append(error)
            finally:
                door.close()

        player = threading.Thread(target=play, daemon=True)
        player.start()
        result = hw.run(
            GatedChase(path, TARGETS, dim=DIM),
            rule(),
            runtime=hw.Processes(len(TARGETS)),
            stop=hw.until(updates=UPDATES),
            seed=3,
        )
        player.join(WAIT_S)
        assert errors == []
    told = [(e.worker, e.staleness, e.version) for e in arrivals(result)]
    assert told == [(e.worker, e.staleness, e.version) for e in arrivals(expected)]
    assert expected.max_staleness > 1
    assert result.parameters is not None
    assert expected.parameters is not None
    assert same_bits(result.parameters, expected.parameters)


def test_processes_over_grpc_give_what_virtual_time_gives() -> None:
    """For a server with vectors in the messages, and then for one that shares its memory."""
    expected = simulated()
    script = order(expected)
    context = get_context("spawn")
    with ExitStack() as open_now:
        doors = [open_now.enter_context(gate()) for _ in range(2)]
        servers = [
            open_now.enter_context(
                hw.ParameterServer(zeros(), port=0, algorithm=rule(), shared_memory=shared)
            )
            for shared in (False, True)
        ]
        places = [(server.address, path) for server, (_, path) in zip(servers, doors, strict=True)]
        workers = [
            context.Process(
                target=visit,
                args=(places, client, target, DIM, script.count(client)),
                daemon=True,
            )
            for client, target in enumerate(TARGETS)
        ]
        for worker in workers:
            worker.start()
            open_now.callback(ended, worker)
        for door, _ in doors:
            door.play(script, len(TARGETS))
        for worker in workers:
            worker.join(WAIT_S)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        results = [server.stop() for server in servers]
    assert [result.updates for result in results] == [UPDATES, UPDATES]
    assert [result.staleness for result in results] == [expected.staleness] * 2
    assert expected.parameters is not None
    for server in servers:
        assert same_bits(server.model.weight.detach().flatten(), expected.parameters)


def zeros() -> torch.nn.Linear:
    """The model of the chase, as a module."""
    model = torch.nn.Linear(1, DIM, bias=False)
    torch.nn.init.zeros_(model.weight)
    return model


def ended(worker: BaseProcess) -> None:
    """See that a process has ended."""
    worker.kill()
    worker.join()
    worker.close()
