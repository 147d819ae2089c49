"""One table for all algorithms: what each must do, whatever it computes."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch

from headway import algorithms, core
from headway.algorithms import ALGORITHMS
from tests.algorithm_kit import owned_vectors
from tests.core_kit import same
from tests.statements import CASES
from tests.statements.conformance import server_side, start
from tests.statements.kit import SIZES, World
from tests.statements.server_side import Both

SIZE = sum(SIZES)

everyone = pytest.mark.parametrize("case", CASES, ids=str)
stated = pytest.mark.parametrize("case", [case for case in CASES if case.statement], ids=str)


def play(case, arrivals, *, size=SIZE, dtype=torch.float64, seed=0, keep=True, **options):
    """A world with a real server, and what happened."""
    num_workers = options.pop("num_workers", case.num_workers)
    fields, twice = options.pop("fields", None), options.pop("twice", False)
    side = server_side(case, start(size), dtype=dtype, **options)
    side.twice = twice
    world = World(
        side,
        payload=side.algorithm.payload,
        x=start(size),
        num_workers=num_workers,
        seed=seed,
        keep=keep,
        fields=fields,
    )
    world.play(arrivals)
    return world


def long_enough(case):
    """So many arrivals that every rule has moved the model a few times."""
    return 12 * case.patience * max(4, case.buffer or 4)


def test_every_algorithm_is_in_the_table():
    assert {case.name for case in CASES} == set(ALGORITHMS)
    assert list(ALGORITHMS) == sorted(ALGORITHMS)
    assert set(ALGORITHMS) < set(algorithms.__all__)


@everyone
def test_it_says_what_it_is(case):
    algorithm = case.make()
    assert algorithm.name == case.name
    assert json.loads(json.dumps(algorithm.settings)) == algorithm.settings
    assert set(algorithm.settings) == set(inspect.signature(ALGORITHMS[case.name]).parameters)
    assert str(algorithm).startswith(f"{case.name}(")
    assert case.make() == case.make()
    assert case.make().fingerprint == algorithm.fingerprint


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_options_are_given_by_name_and_have_defaults(name):
    for parameter in inspect.signature(ALGORITHMS[name]).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty


@stated
@pytest.mark.parametrize("seed", range(4))
def test_it_computes_its_plain_statement(case, seed):
    """The same arrivals, in random order, to a server and to the rule in NumPy."""
    both = Both(server_side(case), case.statement(start()), case.tolerance)
    world = World(
        both,
        payload=both.server.algorithm.payload,
        x=start(),
        num_workers=case.num_workers,
        seed=seed,
    )
    world.play(long_enough(case))
    assert both.version > 0


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_model_stays_finite_and_keeps_its_form(case, dtype):
    world = play(case, long_enough(case), dtype=dtype)
    x = world.side.server.parameters
    assert x.dtype is dtype
    assert x.shape == (SIZE,)
    assert torch.isfinite(x).all()
    assert world.side.version > 0


@everyone
def test_float32_follows_float64(case):
    single, double = (
        play(case, 10 * max(2, case.buffer or 3), dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single.side.x, double.side.x, rtol=2e-3, atol=2e-4)


@everyone
def test_it_says_how_many_workers_it_needs_and_works_with_so_many(case):
    algorithm = case.make()
    needed = algorithm.needs.min_workers
    if isinstance(algorithm.gate, core.Bulk):
        needed = max(needed, algorithm.gate.cohort)
    assert needed <= case.num_workers
    world = play(case, long_enough(case), num_workers=needed)
    assert world.side.version > 0
    if needed == 1 and case.buffer is not None and algorithm.view is None:
        assert {record["staleness"] for record in world.records if "staleness" in record} == {0}


@everyone
def test_a_payload_is_borrowed(case, monkeypatch):
    """Links read payloads in place: what lies there after ``submit`` is another worker's business."""
    plain = play(case, long_enough(case))
    submit, spoils = core.Server.submit, []

    def spoil(server, update, now, **options):
        payload = update.payload.clone()
        receipt = submit(server, update._replace(payload=payload), now, **options)
        payload.fill_(torch.nan)
        spoils.append(receipt)
        return receipt

    monkeypatch.setattr(core.Server, "submit", spoil)
    spoiled = play(case, long_enough(case))
    assert len(spoils) >= long_enough(case)
    assert torch.equal(spoiled.side.server.parameters, plain.side.server.parameters)
    saved, expected = spoiled.side.server.state_dict(), plain.side.server.state_dict()
    for part in ("chain", "step", "tables"):
        assert same(saved[part], expected[part]), part


@everyone
@pytest.mark.parametrize("cut", [1, 13, 28])
def test_a_save_and_a_load_in_the_middle_change_no_bit(case, cut):
    straight, broken = play(case, 40), play(case, cut)
    broken.side.reload(server_side(case))
    broken.play(40 - cut)
    ours, theirs = broken.side.server, straight.side.server
    assert torch.equal(ours.parameters, theirs.parameters)
    assert ours.version == theirs.version
    saved, expected = ours.state_dict(), theirs.state_dict()
    for part in ("chain", "step", "tables"):
        assert same(saved[part], expected[part]), part


@everyone
def test_weight_0_moves_neither_model_nor_momentum(case):
    weights = {"weight": 1.0}
    world = play(case, long_enough(case), fields=lambda world: dict(weights))
    weights["weight"] = 0.0
    server = world.side.server
    for _ in range(3 * max(2, case.buffer or 5)):
        before, version = server.parameters.clone(), server.version
        saved, told = server.state_dict(), len(world.records)
        receipt = world.step()
        assert world.side.receipts[-1].weight == 0.0
        # What a buffer held already may be flushed by it, or by a timer, and move the model.
        ticked = any(record["event"] == "tick" for record in world.records[told:])
        if receipt["status"] != "applied" and not ticked:
            assert torch.equal(server.parameters, before)
            assert server.version == version
            after = server.state_dict()
            assert same(after["step"], saved["step"])
            # These two put what arrives there, and bring entries up to date whatever it weighs.
            if case.name not in {"fedcompass", "safa"}:
                assert same(after["tables"], saved["tables"])
    # By now nothing of weight is left anywhere.
    before = server.parameters.clone()
    assert "applied" not in {record["status"] for record in world.play(5)}
    assert torch.equal(server.parameters, before)


@pytest.mark.parametrize("case", [case for case in CASES if case.is_buffered], ids=str)
def test_weight_0_counts_in_a_buffer(case):
    weightless = play(case, case.buffer, fields=lambda world: {"weight": 0.0})
    statuses = [record["status"] for record in weightless.records if "status" in record]
    assert "applied" not in statuses
    assert statuses[-1] == "rejected"
    receipts = weightless.side.receipts
    assert receipts[-1].reason == "zero_weight"
    assert weightless.side.version == 0
    assert all(receipt.weight == 0.0 for receipt in receipts)


@everyone
def test_the_memory_is_what_it_declares(case):
    size = 25_000 * SIZE
    world = play(
        case,
        # A fragment has its optimizer's state after its first step.
        3 * max(2, case.buffer or 8),
        size=size,
        dtype=torch.float32,
        keep=False,
        record="nothing",
        fields=lambda world: {"weight": 0.75},
    )
    side = world.side
    needs = side.algorithm.needs
    assert (needs.copies, len(needs.tables)) == (case.copies, case.tables)
    chain = side.server._chain
    tables = [row for table in side.server._context.tables.values() for _, row in table]
    owned = owned_vectors(chain.states, size, foreign=[side.server.parameters, *tables])
    # A sent weight that is not 1 costs async_sgd the copy that it saves while all weights are 1.
    saved = (
        case.name == "async_sgd"
        and case.options.get("momentum")
        and "staleness" not in case.options
    )
    assert owned == pytest.approx(case.copies + bool(saved), abs=0.01)
    assert len(tables) <= case.tables * case.num_workers


@stated
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_the_order_of_equal_times_is_the_order_of_arrival(case, backwards):
    """All hand in at one time, four times: the rule is applied to one after the other, as they came."""
    both = Both(server_side(case), case.statement(start()), case.tolerance)
    payload = both.server.algorithm.payload
    world = World(both, payload=payload, x=start(), num_workers=case.num_workers)
    order = list(range(case.num_workers))[:: -1 if backwards else 1]
    arrived = 0
    for _ in range(4 * case.patience):
        for worker in order:
            world._check_out(worker)
        due = world.now + 1.0
        while (timer := both.timer()) is not None and timer <= due:
            world._tick(timer)
        for worker in order:
            # Who was stopped by those before it has nothing to hand in.
            if worker in world.flying:
                world.flying[worker].due = due
                assert world._arrive(world.flying[worker])["time"] == due
                arrived += 1
    assert arrived > case.num_workers or case.num_workers == 1


@everyone
def test_nothing_that_comes_in_or_went_out_is_written_to(case):
    world = play(case, long_enough(case), fields=lambda world: {"weight": 0.5})
    assert world.side.sound


@everyone
def test_a_job_submitted_twice_counts_once(case):
    once, twice = play(case, 25), play(case, 25, twice=True)
    assert twice.side.sound
    assert np.array_equal(once.side.x, twice.side.x)


@everyone
def test_a_replay_gives_the_same_model(case):
    world = play(case, 30, record="payloads", seed=3)
    server = world.side.server
    server.tick(world.now, closing=True)
    fresh = server_side(case).server
    core.replay(fresh, server.events)
    assert torch.equal(fresh.parameters, server.parameters)


@everyone
def test_a_lost_worker_stops_nobody(case):
    """A worker that dies with its job is not waited for, if there are enough without it."""
    algorithm = case.make()
    needed = algorithm.needs.min_workers
    if isinstance(algorithm.gate, core.Bulk):
        needed = max(needed, algorithm.gate.cohort)
    side = server_side(case)
    count = max(needed + 1, case.num_workers)
    world = World(side, payload=algorithm.payload, x=start(), num_workers=count)
    world.play(2 * count)
    # The last one, in the middle of its job where it has one.
    world.num_workers = gone = count - 1
    world.flying.pop(gone, None)
    side.tickets.pop(gone, None)
    reply = side.server.lose(f"worker-{gone}", world.now)
    world._cancel(side._cancelled(reply.effects))
    version = side.version
    world.play(long_enough(case))
    assert side.version > version
