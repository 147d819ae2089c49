"""Real runs: every kind of algorithm, replay, and a scripted order of arrivals."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import headway as hw
from headway import algorithms, core
from headway.observe import RunFolder
from headway.runtime.exchange import Exchange
from headway.simulation import every, population, until
from headway.simulation.resolve import resolve
from headway.simulation.settings import Settings, server_for
from headway.task import Assignment, LocalTraining
from headway.task.streams import Purpose, job_bits, stream_key
from tests.runtime_kit import LINKS, Scripted, script
from tests.simulation_kit import (
    Chase,
    examples,
    perceptron,
    perceptron_task,
    run_engine,
    same_bits,
    settings_for,
)

SGD = partial(torch.optim.SGD, lr=0.1)

KINDS: dict[str, core.Algorithm] = {
    "asynchronous": algorithms.async_sgd(learning_rate=0.05),
    "deltas": algorithms.async_delta(),
    "buffered": algorithms.fedbuff(buffer_size=3),
    "rounds": algorithms.fedavg(clients_per_round=3),
    "bounded": algorithms.ssp(learning_rate=0.05, bound=2),
    "cancelling": algorithms.ringmaster(learning_rate=0.05, delay_bound=2),
    "answers": algorithms.easgd(mixing=0.2),
    "fragments": algorithms.decoupled_diloco(
        num_fragments=2, sync_every=4, learning_rate=0.5, momentum=0.0, grace=0.0
    ),
    "references": algorithms.zeno(learning_rate=0.3),
}
# What lives with a client, lives where it trains: there, all must be at home.
WITH_A_HOME = {"answers", "fragments"}
# Of several tensors, or with data for the server.
NETWORKS = {"fragments", "references"}


def quadratic(num_clients: int = 4, **options: Any) -> Any:
    local = LocalTraining(steps=2, learning_rate=0.1)
    return hw.tasks.quadratic(
        dim=12, num_clients=num_clients, heterogeneity=0.2, noise=0.1, local=local, **options
    )


def task_of(kind: str, num_clients: int) -> Any:
    return network(num_clients) if kind in NETWORKS else quadratic(num_clients)


def network(num_clients: int) -> Any:
    """A small network with a task that can be learnt: which of three inputs is the largest."""
    inputs = [examples(40, seed)[0] for seed in range(num_clients + 2)]
    *train, test, own = [(x, x[:, :3].argmax(1)) for x in inputs]
    local = LocalTraining(steps=8, batch_size=8, learning_rate=0.3)
    return hw.Task(perceptron, "cross_entropy", train, test, local=local, server_data=own)


def simulated(settings: Settings) -> Any:
    return run_engine(
        settings.task,
        settings.algorithm,
        **{
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if field.name not in ("task", "algorithm")
        },
    )


def settings_of(kind: str, task: Any, num_workers: int) -> Settings:
    return settings_for(
        task,
        KINDS[kind],
        population=population.lognormal(task.num_clients, median_s=1.0, sigma=0.7),
        concurrency=num_workers,
        stop=until(updates=40),
        seed=5,
    )


def own_loop(settings: Settings, events: list[core.Event]) -> core.Server:
    """The server's doors, called in the order of a log, with jobs trained one by one."""
    server = server_for(settings)
    trainer = settings.task.trainer(settings.algorithm, settings.device)
    key = stream_key(settings.seed, Purpose.TRAINING)
    given: dict[int, tuple[core.Checkout, Assignment]] = {}
    numbers: dict[int, int] = {}
    for event in events:
        if isinstance(event, core.Registered):
            server.register(event.workers, event.time)
        elif isinstance(event, core.CheckedOut):
            ticket = server.checkout(event.worker, event.time)
            assert isinstance(ticket, core.Checkout)
            client = int(event.worker.removeprefix("client-"))
            number = numbers[client] = numbers.get(client, -1) + 1
            seed = job_bits(key, client, number) >> 1
            assert ticket.parameters is not None
            work = Assignment(client, ticket.parameters, ticket.buffers, ticket.work, seed)
            given[ticket.job] = ticket, work
        elif isinstance(event, core.Submitted):
            ticket, work = given[event.job]
            result = trainer.train(work)
            update = core.Update(
                result.payload,
                ticket.version,
                event.worker,
                event.job,
                num_examples=result.num_examples,
                num_steps=result.num_steps,
                buffers=result.buffers,
                metrics=result.metrics,
            )
            trainer.receipt(work.client, server.submit(update, event.time, again=True))
    return server


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scripted_order_gives_what_the_simulator_gives(kind: str, link: str) -> None:
    num_workers = 4 if kind in WITH_A_HOME else 3
    task = task_of(kind, num_workers if kind in WITH_A_HOME else 6)
    settings = settings_of(kind, task, num_workers)
    engine = simulated(settings)
    scripted = Scripted(settings, num_workers, link=link)
    try:
        scripted.play(script(engine.server.events))
        assert same_bits(scripted.server.parameters, engine.server.parameters)
        assert scripted.server.version == engine.server.version > 0
        theirs = [e for e in engine.server.events if not isinstance(e, core.Noted | core.Ticked)]
        ours = [e for e in scripted.server.events if not isinstance(e, core.Ticked)]
        assert [str(event) for event in ours] == [str(e) for e in theirs[: len(ours)]]
    finally:
        scripted.close()


@pytest.mark.parametrize(("kind", "is_made_there"), [("buffered", True), ("answers", False)])
def test_a_payload_is_made_where_the_server_reads_it(
    kind: str, is_made_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for clients that keep a model: they keep what they have trained."""
    settings = settings_of(kind, network(3), 3)
    engine = simulated(settings)
    made_there: list[bool] = []
    push = Exchange.push

    def watched(exchange: Exchange, work: Any, payload: Any, **options: Any) -> bool:
        room = exchange.room()
        assert room is not None
        made_there.append(payload.data_ptr() == room.data_ptr())
        return push(exchange, work, payload, **options)

    monkeypatch.setattr(Exchange, "push", watched)
    scripted = Scripted(settings, 3)
    try:
        scripted.play(script(engine.server.events))
        assert made_there == [is_made_there] * len(made_there) != []
        assert same_bits(scripted.server.parameters, engine.server.parameters)
    finally:
        scripted.close()


def test_a_trainer_that_may_keep_its_payloads_is_given_no_room_for_them() -> None:
    task = Chase([1.0, 2.0, 4.0])
    settings = settings_for(task, KINDS["deltas"], concurrency=1, stop=until(updates=6))
    engine = simulated(settings)
    task.trained.clear()
    scripted = Scripted(settings, 1)
    try:
        scripted.play(script(engine.server.events))
        assert [assignment.room() for assignment in task.trained] == [None] * 6
    finally:
        scripted.close()


@pytest.mark.parametrize("link", LINKS)
def test_a_network_with_buffers_of_its_own_is_trained_as_by_hand(link: str) -> None:
    settings = settings_of("buffered", perceptron_task(), 3)
    engine = simulated(settings)
    scripted = Scripted(settings, 3, link=link)
    try:
        events = scripted.play(script(engine.server.events)).server.events
        by_hand = own_loop(settings, events)
        assert same_bits(scripted.server.parameters, by_hand.parameters)
    finally:
        scripted.close()


@pytest.mark.parametrize("link", LINKS)
def test_clients_without_data_are_left_out_and_the_others_keep_their_numbers(link: str) -> None:
    task = Chase([1.0, 2.0, 4.0, 8.0], sizes=[1, 0, 1, 1])
    settings = settings_for(task, KINDS["deltas"], concurrency=1, stop=until(updates=12))
    engine = simulated(settings)
    trained = {job.client for job in task.trained}
    task.trained.clear()
    scripted = Scripted(settings, 1, link=link)
    try:
        scripted.play(script(engine.server.events))
        assert {job.client for job in task.trained} == trained == {0, 2, 3}
        assert same_bits(scripted.server.parameters, engine.server.parameters)
    finally:
        scripted.close()


@pytest.mark.parametrize("link", LINKS)
def test_a_worker_that_asks_ahead_always_has_its_next_job(link: str) -> None:
    settings = dataclasses.replace(
        settings_of("buffered", quadratic(8), 4), scheduler=core.RandomOrder(concurrency=4)
    )
    scripted = Scripted(settings, 2, link=link, prefetch=True)
    try:
        for _ in range(10):
            job = min(scripted.hub.members.by_name["worker-0"].jobs)
            scripted.play([(job, scripted.now + 1.0)])
            assert [len(m.jobs) for m in scripted.hub.members.by_name.values()] == [2, 2]
        assert same_bits(
            scripted.server.parameters,
            own_loop(settings, scripted.server.events).parameters,
        )
    finally:
        scripted.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_algorithm_trains_with_real_processes(kind: str) -> None:
    task = task_of(kind, 4)
    result = hw.run(
        task,
        KINDS[kind],
        runtime=hw.Processes(2, prefetch=kind == "deltas"),
        stop=hw.until(updates=120),
        evaluate_every=40,
        seed=3,
    )
    assert result.updates == 120
    assert result.final("loss") < 0.9 * result.history[0].metrics["loss"]
    assert sum(result.execution["updates"].values()) == 120
    assert result.counts["lost"] == 0
    assert result.stop_reason == "updates >= 120"
    assert result.synchronous is (kind == "rounds")


@pytest.mark.slow
@pytest.mark.parametrize("consistency", ["snapshot", "hogwild"])
def test_a_recorded_run_replays_to_the_same_bits(tmp_path: Path, consistency: Any) -> None:
    task, algorithm, stop = quadratic(), algorithms.fedbuff(buffer_size=3), until(updates=60)
    result = hw.run(
        task,
        algorithm,
        runtime=hw.Processes(2),
        stop=stop,
        seed=7,
        evaluate_every=every(versions=5),
        record="payloads",
        folder=tmp_path / "run",
        consistency=consistency,
        label="recorded",
    )
    folder = RunFolder.open(tmp_path / "run")
    server = server_for(resolve(task, algorithm, stop, concurrency=2, seed=7))
    core.replay(server, folder.events(payloads=True))
    assert result.parameters is not None
    assert same_bits(server.parameters, result.parameters)
    saved = folder.result()
    assert saved.weights_hash == result.weights_hash
    assert saved.log_hash == result.log_hash != ""
    assert [point.versions for point in saved.history] == [0, 5, 10, 15, 20]
    assert saved.label == "recorded"
    assert (tmp_path / "run/report.html").is_file()
    assert folder.config()["runtime"]["num_workers"] == 2
