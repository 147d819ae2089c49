"""A run that is stopped at any event and goes on from what was saved ends as if it had not been.

The oracle is the run that nobody disturbed: the same log, event for event, the same weights, bit for
bit, and the same counts. Everything goes through a checkpoint on the disk, and into a new engine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from headway import algorithms
from headway.algorithms import ALGORITHMS
from headway.checkpoint import CheckpointStore
from headway.core.errors import StateError
from headway.observe import weights_hash
from headway.simulation import BusyServer, Execution, every, until
from headway.simulation import population as populations
from headway.simulation.engine import Engine
from tests.core_kit import logged, same
from tests.simulation_kit import Chase, perceptron_task, settings_for

SIZES = (13, 10, 3, 9, 4, 8, 11, 6)
SPEEDS = populations.lognormal(8, median_s=2.0, sigma=0.8)
UNRELIABLE = populations.with_dropout(SPEEDS, 0.15)
GROUPS, ONE_BY_ONE = (Execution(mode=m, group_size=3) for m in ("groups", "one_by_one"))

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fedbuff in groups": (algorithms.fedbuff(buffer_size=3), {"execution": GROUPS}),
    "fedbuff one by one": (algorithms.fedbuff(buffer_size=3), {"concurrency": 5}),
    "noise of the server": (algorithms.fedbuff(buffer_size=3, clip_norm=1.0, noise_multiplier=0.1), {}),
    "a timeout": (algorithms.fedbuff(buffer_size=6, timeout_s=1.0), {"population": UNRELIABLE}),
    "momentum": (algorithms.async_sgd(learning_rate=0.05, momentum=0.9), {}),
    "dropout in groups": (
        algorithms.async_sgd(),
        {"execution": GROUPS, "population": UNRELIABLE, "evaluate_every": every(versions=4)},
    ),
    "a busy server": (
        algorithms.fedasync(),
        {"server": BusyServer(apply_s=0.7, inbox="freshest"), "population": UNRELIABLE},
    ),
    "cancelled at a busy server": (
        algorithms.fedavg(clients_per_round=3, over_selection=1.6),
        {"server": BusyServer(apply_s=0.4, inbox="priority")},
    ),
    "over-selection": (
        algorithms.fedavg(clients_per_round=3, over_selection=1.6),
        {"evaluate_every": every(virtual_time_s=1.5), "execution": GROUPS},
    ),
    "states of clients": (algorithms.dana(variant="slim", learning_rate=0.05), {}),
    "replicas": (algorithms.easgd(mixing=0.3), {"population": UNRELIABLE}),
    "replicas in groups": (algorithms.easgd(mixing=0.3), {"execution": GROUPS}),
    "fragments and timers": (
        algorithms.decoupled_diloco(num_fragments=2, quorum=2, sync_every=4, grace=0.5),
        {"execution": GROUPS},
    ),
    "tables": (algorithms.ringleader(learning_rate=0.05), {}),
    "groups of arrivals": (algorithms.fedcompass(max_steps=8), {"population": UNRELIABLE}),
    "the server's data": (algorithms.zeno(refresh=3), {}),
    "clients that go and return": (
        algorithms.fedbuff(buffer_size=3),
        {"population": populations.with_dropout(SPEEDS, 0.3, away_s=2.0)},
    ),
    "hours": (
        algorithms.async_sgd(),
        {"population": populations.with_diurnal(SPEEDS, period_s=8.0, open_s=4.0)},
    ),
    "a limit of time": (algorithms.ringmaster(), {"stop": until(virtual_time_s=6.0)}),
}  # fmt: skip


class Saved(NamedTuple):
    """A run between two events: its number in the store, and how much of the log was written."""

    number: int
    num_events: int


class EnoughError(Exception):
    """Raised where a test wants a run to end as if it had been killed."""


def fresh(algorithm: Any, settled: Any = None, task: Any = None, **changes: Any) -> Engine:
    changes = {
        "population": SPEEDS,
        "execution": ONE_BY_ONE,
        "stop": until(updates=22),
        "evaluate_every": every(updates=5),
        **changes,
    }
    task = task or perceptron_task(SIZES, epochs=1)
    settings = settings_for(task, algorithm, **changes)
    return Engine(settings, evaluated=lambda *_: None, reported=lambda *_: None, settled=settled)


def saved_at_every_event(
    store: CheckpointStore, *what: Any, **how: Any
) -> tuple[Engine, list[Saved]]:
    """An undisturbed run, and itself after each of its events."""
    saved: list[Saved] = []

    def save(engine: Engine) -> None:
        saved.append(Saved(len(saved), len(engine.server.events)))
        store.save(saved[-1].number, engine.state_dict())

    engine = fresh(*what, save, **how)
    engine.begin()
    engine.run()
    return engine, saved


def outcome(engine: Engine) -> dict[str, Any]:
    """All that a result is made of, but for the log and the clock on the wall."""
    return {
        "weights": weights_hash(engine.server.parameters, engine.server.buffers),
        "tally": engine.tally.state_dict(),
        "counts": dict(engine.server.counts),
        "history": [point._replace(wall_time_s=0.0) for point in engine.history],
        "time": engine.progress.virtual_time_s,
        "line": None
        if engine.line is None
        else engine.line.describe(engine.progress.virtual_time_s),
        "execution": engine.choice.describe(),
        "warnings": engine.warnings,
    }


def assert_each_goes_on(store: CheckpointStore, *what: Any, **how: Any) -> int:
    undisturbed, saved = saved_at_every_event(store, *what, **how)
    log = logged(undisturbed.server.events)
    for number, num_events in saved:
        engine = fresh(*what, **how)
        engine.load_state_dict(store.load(number).tree)
        engine.run()
        assert logged(engine.server.events) == log[num_events:], f"event {number}"
        assert same(outcome(engine), outcome(undisturbed)), f"event {number}"
    return len(saved)


@pytest.fixture
def store(tmp_path: Any) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep_last=1_000)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_any_event_ends_as_if_it_had_not_been(store, case):
    algorithm, how = CASES[case]
    assert assert_each_goes_on(store, algorithm, **how) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("mode", ["groups", "one_by_one"])
def test_every_algorithm_goes_on_in_a_new_engine_after_each_event(store, name, mode):
    """One run through as many engines as it has events, each killed after one of them."""
    how = {
        "task": perceptron_task((*SIZES, 5, 7, 12, 9), epochs=1),
        "population": populations.with_dropout(
            populations.lognormal(12, median_s=2.0, sigma=0.8), 0.05
        ),
        "stop": until(updates=40),
        "execution": Execution(mode=mode, group_size=4),
    }
    undisturbed = fresh(ALGORITHMS[name](), **how)
    undisturbed.begin()
    undisturbed.run()

    log: list[Any] = []
    state, ended = None, False
    while not ended:
        engine = fresh(ALGORITHMS[name](), None, **how)
        tree = [None]

        def settled(engine: Engine, tree: list[Any] = tree) -> None:
            tree[0] = engine.state_dict()
            raise EnoughError

        engine._settled = settled
        try:
            if state is None:
                engine.begin()
            else:
                engine.load_state_dict(state)
            engine.run()
            ended = True
        except EnoughError:
            store.save(0, tree[0])
            state = store.load().tree
        log += logged(engine.server.take_events())
    assert log == logged(undisturbed.server.events)
    assert same(outcome(engine), outcome(undisturbed))


def test_a_short_run_goes_on_after_each_of_its_events(store):
    how = {"stop": until(updates=8), "population": UNRELIABLE, "execution": GROUPS}
    assert assert_each_goes_on(store, algorithms.fedbuff(buffer_size=2), **how) >= 7


def test_buffers_of_a_model_and_clients_that_send_nan(store):
    """Chase's model has buffers; a NaN that a client sent stays one, in the log and in the counts."""
    task = Chase([1.0, 2.0, 3.0, 4.0], broken=[2], has_buffers=True, sizes=[1, 2, 0, 5])
    task.sizes[2] = 3
    how = {"task": task, "population": populations.from_times([1.0, 1.5, 0.7, 2.0])}
    assert_each_goes_on(store, algorithms.fedavg(clients_per_round=2, over_selection=1.5), **how)


def test_what_was_loaded_shares_no_memory_with_what_was_saved():
    kept: list[dict[str, Any]] = []
    engine = fresh(algorithms.easgd(mixing=0.3), lambda e: kept.append(e.state_dict()))
    engine.begin()
    engine.run()
    state = kept[3]
    parameters = state["server"]["parameters"].clone()
    other = fresh(algorithms.easgd(mixing=0.3))
    other.load_state_dict(state)
    other.run()
    assert torch.equal(state["server"]["parameters"], parameters)
    again = fresh(algorithms.easgd(mixing=0.3))
    again.load_state_dict(state)
    again.run()
    assert same(outcome(again), outcome(engine))


def test_a_job_that_was_trained_ahead_is_not_trained_again():
    kept: list[dict[str, Any]] = []
    how = {"execution": Execution(mode="groups", group_size=8)}
    engine = fresh(algorithms.fedbuff(buffer_size=3), lambda e: kept.append(e.state_dict()), **how)
    engine.begin()
    engine.run()
    first = kept[0]["executor"]
    # All eight were trained together for the first of them; its successor is not trained yet.
    assert (len(first["ready"]), len(first["pending"])) == (7, 1)


def test_an_interruption_is_saved_and_one_with_the_last_event_ends_the_run(store):
    algorithm = algorithms.fedbuff(buffer_size=3)
    undisturbed = fresh(algorithm)
    undisturbed.begin()
    undisturbed.run()
    for updates in (7, 22):
        kept: list[dict[str, Any]] = []

        def interrupt(engine: Engine, point: Any, updates: int = updates) -> None:
            if point.updates == updates:
                engine.interrupt()

        how = {"evaluate_every": every(updates=1)}
        engine = fresh(algorithm, lambda e, kept=kept: kept.append(e.state_dict()), **how)
        engine._evaluated = interrupt
        engine.begin()
        assert engine.run() == "interrupted"
        other = fresh(algorithm, **how)
        other.load_state_dict(kept[-1])
        assert other.run() == "updates >= 22"
        assert torch.equal(other.server.parameters, undisturbed.server.parameters)
        assert other.tally.updates == 22


def test_the_clock_on_the_wall_goes_on():
    kept: list[dict[str, Any]] = []
    engine = fresh(algorithms.async_sgd(), lambda e: kept.append(e.state_dict()))
    engine.begin()
    engine.run()
    kept[0]["progress"]["wall_time_s"] = 3600.0
    other = fresh(algorithms.async_sgd())
    other.load_state_dict(kept[0])
    other.run()
    assert 3600.0 < other.progress.wall_time_s < 3660.0
    late = fresh(algorithms.async_sgd(), stop=until(updates=22, wall_time_s=3000.0))
    late.load_state_dict(kept[0])
    assert late.run() == "wall_time_s >= 3000"


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("queue"),
        lambda state: state.update(form=99),
        lambda state: state["flights"].append([1, 2]),
        lambda state: state["executor"]["pending"].append([99, [0, [None] * 6, 1]]),
        lambda state: state["parts"].pop("trainer"),
        lambda state: state["tally"].pop("held"),
        lambda state: state["tally"].update(clients=[]),
        lambda state: state["parts"]["trainer"].update(clients={0: [1, 2, 3]}),
        lambda state: state["progress"].update(more=1),
    ],
)
def test_what_is_no_saved_run_is_refused(damage):
    kept: list[dict[str, Any]] = []
    engine = fresh(algorithms.async_sgd(), lambda e: kept.append(e.state_dict()))
    engine.begin()
    engine.run()
    damage(kept[2])
    with pytest.raises(StateError):
        fresh(algorithms.async_sgd()).load_state_dict(kept[2])


def test_a_run_of_another_kind_is_refused():
    kept: list[dict[str, Any]] = []
    engine = fresh(algorithms.async_sgd(), lambda e: kept.append(e.state_dict()))
    engine.begin()
    engine.run()
    with pytest.raises(StateError, match="not like this one"):
        fresh(algorithms.async_sgd(learning_rate=0.2)).load_state_dict(kept[0])
    busy = fresh(algorithms.async_sgd(), server=BusyServer(apply_s=1.0))
    with pytest.raises(StateError, match="not like this one") as caught:
        busy.load_state_dict(kept[0])
    assert caught.value.expected == "trainer, line"
