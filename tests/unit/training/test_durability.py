"""What a server with a log promises, and what it refuses; kills are in tests/contract."""

from __future__ import annotations

import errno
import shutil

import pytest
import torch

import headway
from headway.core.errors import CheckpointError, ConfigurationError, UnknownNameError
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange
from tests.log_kit import without_incarnation
from tests.unit.training import server_kit as kit


@pytest.fixture
def start(tmp_path):
    servers, links = [], []

    class House:
        folder = tmp_path / "home"

        def serve(self, folder=None, **options):
            options = {"durability": "log", "shared_memory": False, **options}
            model = options.pop("model", kit.line())
            server = kit.server(model, checkpoint_dir=folder or self.folder, **options)
            servers.append(server)
            return server.start()

        def after_a_crash(self, name="copy", **options):
            """What comes up on the files as they are now."""
            to = tmp_path / name
            shutil.copytree(self.folder, to)
            return self.serve(to, **options)

        def worker(self, server, holds=(), name="w"):
            receipts = []
            link = NetworkLink(server.address)
            links.append(link)
            exchange = Exchange(link, worker=name, instance="i", receipt=receipts.append)
            exchange.join(kit.WAIT_S, holds=holds)
            return exchange, receipts

    yield House()
    for link in links:
        link.close()
    for server in servers:
        server._close()


def _job(exchange):
    exchange.ask()
    work = exchange.next(kit.WAIT_S)
    assert work is not None
    return work


def _push(exchange, work, value=1.0, again=False):
    payload = torch.full((2,), value, dtype=torch.float64)
    exchange.push(work, payload, num_examples=1, again=again)
    assert exchange.settle(kit.WAIT_S)


def _state(server):
    return without_incarnation(server._hub.call(server._hub.server.state_dict))


def _same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return one == two


def test_what_comes_up_after_a_crash_is_the_server_that_was_there(start):
    server = start.serve(update_rule="fedbuff")
    exchange, receipts = start.worker(server)
    for value in range(12):
        _push(exchange, _job(exchange), float(value))
    _job(exchange)
    again = start.after_a_crash(update_rule="fedbuff")
    assert len(receipts) == 12
    assert _same(_state(server), _state(again))
    assert again._hub.server.incarnation > server._hub.server.incarnation
    status = again.status()
    assert status["durability"] == "log"
    assert status["log"]["replayed"] >= 25
    assert status["resumed_from"] is not None


def test_a_job_in_flight_at_the_crash_is_taken_once(start):
    exchange, _ = start.worker(start.serve())
    work = _job(exchange)
    server = start.after_a_crash()
    exchange, receipts = start.worker(server, holds=[work.job])
    _push(exchange, work)
    assert receipts[0].status == "applied"
    exchange.leave()
    exchange, receipts = start.worker(server, holds=[work.job])
    _push(exchange, work)
    assert receipts[0].status == "applied"
    assert kit.weights(server).tolist() == [1.0, 1.0]
    assert server.status()["applied"] == 1


def test_an_update_that_was_acknowledged_gets_its_receipt_again_and_the_worker_another_job(start):
    exchange, before = start.worker(start.serve())
    work = _job(exchange)
    _push(exchange, work, again=True)
    # The next job is out by now, and this worker is taken not to have it.
    assert exchange.next(kit.WAIT_S) is not None
    server = start.after_a_crash()
    exchange, after = start.worker(server, holds=[work.job])
    _push(exchange, work, again=True)
    assert after[0]._replace(answer=None) == before[0]._replace(answer=None)
    following = exchange.next(kit.WAIT_S)
    assert following is not None
    _push(exchange, following)
    assert kit.weights(server).tolist() == [2.0, 2.0]


def test_of_two_jobs_one_was_lost_on_its_way(start):
    exchange, _ = start.worker(start.serve())
    held, astray = _job(exchange), _job(exchange)
    server = start.after_a_crash()
    exchange, receipts = start.worker(server, holds=[held.job])
    _push(exchange, held, again=True)
    following = exchange.next(kit.WAIT_S)
    assert following.job not in (held.job, astray.job)
    _push(exchange, following)
    assert [receipt.status for receipt in receipts] == ["applied", "applied"]
    status = server.status()
    assert (status["lost"], status["in_flight"]) == (1, 0)


def test_a_worker_that_holds_nothing_frees_its_jobs(start):
    exchange, _ = start.worker(start.serve())
    work = _job(exchange)
    server = start.after_a_crash()
    exchange, receipts = start.worker(server)
    assert _job(exchange).job != work.job
    _push(exchange, work)
    assert (receipts[0].status, receipts[0].reason) == ("rejected", "lost")
    assert kit.weights(server).tolist() == [0.0, 0.0]


def test_workers_that_do_not_come_back_are_lost(start):
    exchange, _ = start.worker(start.serve())
    _job(exchange)
    server = start.after_a_crash()
    hub = server._hub
    assert server.status()["in_flight"] == 1
    hub.call(lambda: hub.returning.expire(hub.returning.due_s))
    assert (server.status()["in_flight"], server.status()["lost"]) == (0, 1)


def test_jobs_after_a_crash_have_seeds_of_their_own(start):
    server = start.serve()
    exchange, _ = start.worker(server)
    seeds = {_job(exchange).seed}
    again = start.after_a_crash()
    exchange, _ = start.worker(again)
    assert _job(exchange).seed not in seeds


def test_a_server_that_was_stopped_goes_on(start):
    server = start.serve()
    exchange, _ = start.worker(server)
    _push(exchange, _job(exchange))
    exchange.leave()
    server.stop()
    server = start.serve()
    assert server.version == 1
    assert kit.weights(server).tolist() == [1.0, 1.0]
    assert server.status()["log"]["replayed"] == 0


def test_a_stop_without_room_says_that_the_log_has_everything(start, monkeypatch):
    server = start.serve()
    exchange, _ = start.worker(server)
    _push(exchange, _job(exchange))
    exchange.leave()

    def full(*_):
        raise CheckpointError("cannot write the checkpoint", got="no space left")

    monkeypatch.setattr(server._keeper._store, "save", full)
    with pytest.raises(CheckpointError, match="every update that was acknowledged is in the log"):
        server.stop()
    assert start.serve().version == 1


def test_a_checkpoint_is_due_by_versions_and_by_what_a_replay_would_take(start, monkeypatch):
    server = start.serve(checkpoint_frequency=1_000)
    exchange, _ = start.worker(server)
    _push(exchange, _job(exchange))
    keeper = server._keeper
    assert keeper._writing is None
    monkeypatch.setattr("headway.training.durable._REPLAY_S", 0.0)
    _push(exchange, _job(exchange))
    keeper._writer.shutdown(wait=True)
    assert list(start.folder.glob("checkpoint-*"))[-1].name > "checkpoint-000000000000"


def _hear(exchange, what):
    """Let a worker listen until it is told this."""
    for _ in range(1_000):
        if what in exchange.waiting:
            return
        exchange.next(kit.WAIT_S / 1_000)
    raise AssertionError(exchange.waiting)


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: whether the log of a server has no room."""

    def of(server):
        journal, switch = server._keeper._journal, []
        append = journal.append

        def refusing(call, *, version):
            if switch:
                raise CheckpointError("the disk is full") from OSError(errno.ENOSPC, "full")
            return append(call, version=version)

        monkeypatch.setattr(journal, "append", refusing)
        return switch

    return of


def test_whoever_sends_something_while_the_disk_is_full_is_told(start, full_disk):
    server = start.serve()
    full = full_disk(server)
    first, _ = start.worker(server, name="first")
    second, _ = start.worker(server, name="second")
    works = {exchange: _job(exchange) for exchange in (first, second)}
    full.append(True)
    first.push(works[first], torch.ones(2, dtype=torch.float64), num_examples=1, again=False)
    _hear(first, "full")
    _hear(second, "full")
    # As if its last job had come only now, after the word of the disk.
    second._told.waiting = ""
    second.push(works[second], torch.ones(2, dtype=torch.float64), num_examples=1, again=False)
    _hear(second, "full")
    full.clear()
    assert first.settle(kit.WAIT_S)
    assert second.settle(kit.WAIT_S)
    assert kit.weights(server).tolist() == [2.0, 2.0]


def test_who_comes_while_the_disk_is_full_is_let_in_and_who_goes_has_gone(start, full_disk):
    server = start.serve()
    full = full_disk(server)
    here, _ = start.worker(server, name="here")
    full.append(True)
    here.ask()
    _hear(here, "full")
    late, _ = start.worker(server, name="late")
    late.ask()
    _hear(late, "full")
    gone, _ = start.worker(server, name="gone")
    gone.ask()
    _hear(gone, "full")
    gone.leave()
    for _ in range(1_000):
        states = {one["name"]: one["state"] for one in server.status()["workers"]}
        if states["gone"] in ("left", "lost"):
            break
        here.next(kit.WAIT_S / 1_000)
    full.clear()
    assert here.next(kit.WAIT_S) is not None
    assert late.next(kit.WAIT_S) is not None
    status = server.status()
    states = {one["name"]: one["state"] for one in status["workers"]}
    assert states == {"here": "working", "late": "working", "gone": "lost"}
    assert status["in_flight"] == 2


def test_two_servers_on_one_folder(start):
    start.serve()
    with pytest.raises(CheckpointError, match="another server uses this folder"):
        start.serve()
    with pytest.raises(CheckpointError, match="another server uses this folder"):
        start.serve(durability="checkpoint")


def test_a_log_of_another_model_or_algorithm_is_refused(start):
    start.serve().stop()
    with pytest.raises(ConfigurationError, match="another model"):
        start.serve(model=kit.line((0.0, 0.0, 0.0)))
    with pytest.raises(ConfigurationError, match="another algorithm"):
        start.serve(update_rule="fedasync")


def test_a_log_is_not_left_behind(start):
    start.serve().stop()
    with pytest.raises(ConfigurationError, match="holds a log"):
        start.serve(durability="checkpoint")


def test_a_log_that_is_missing_is_told(start, caplog):
    server = start.serve(checkpoint_frequency=1_000)
    exchange, _ = start.worker(server)
    for _ in range(2):
        _push(exchange, _job(exchange))
    there = start.after_a_crash("there")
    assert there.version == 2
    assert "every update that was acknowledged" in caplog.text
    caplog.clear()
    to = start.folder.parent / "missing"
    shutil.copytree(start.folder, to)
    for path in (to / "log").glob("*.hwlog"):
        path.unlink()
    assert start.serve(to).version == 0
    assert "there is no log in" in caplog.text
    assert "are lost, also those that were acknowledged" in caplog.text
    assert "every update that was acknowledged" not in caplog.text


def test_a_log_that_cannot_grow_is_told_and_has_a_checkpoint_made(start, full_disk, caplog):
    server = start.serve(checkpoint_frequency=1_000)
    full = full_disk(server)
    exchange, _ = start.worker(server)
    _push(exchange, _job(exchange))
    work = _job(exchange)
    assert len(list(start.folder.glob("checkpoint-*"))) == 1
    full.append(True)
    exchange.push(work, torch.ones(2, dtype=torch.float64), num_examples=1, again=False)
    _hear(exchange, "full")
    server._hub.call(lambda: server._keeper.settled(server._hub))
    server._hub.call(lambda: server._keeper._writer.submit(int).result())
    assert len(list(start.folder.glob("checkpoint-*"))) == 2
    assert server._keeper._journal.calls_since_checkpoint == 0
    assert sum("until it can be logged" in line.message for line in caplog.records) == 1
    full.clear()
    assert exchange.settle(kit.WAIT_S)
    server.status()
    assert "the log can be written again" in caplog.text


def test_a_log_begins_at_a_checkpoint_of_the_other_level(start):
    server = start.serve(durability="checkpoint")
    exchange, _ = start.worker(server)
    _push(exchange, _job(exchange))
    exchange.leave()
    server.stop()
    server = start.serve()
    assert (server.version, kit.weights(server).tolist()) == (1, [1.0, 1.0])


def test_arguments():
    with pytest.raises(ConfigurationError, match="a log needs a folder"):
        headway.ParameterServer(kit.line(), durability="log")
    with pytest.raises(UnknownNameError, match="logs"):
        headway.ParameterServer(kit.line(), durability="logs")
