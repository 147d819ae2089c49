"""A worker: what it sends, by the equations, from what data, with which optimizer and which model."""

from __future__ import annotations

import json
import logging
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import headway
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    DataError,
    RefusedError,
)
from headway.training.batches import Stream, read_data
from tests.unit.training import server_kit as kit

SGD = headway.optim.SGD
X, Y = kit.regression()


# --- equations


def test_plain_sgd_with_one_batch_per_exchange_is_asynchronous_sgd():
    with kit.server(kit.line()) as server:
        history = kit.train(server, optimizer=SGD(lr=0.1), epochs=2)
        found = kit.weights(server)
    expected = torch.zeros(2, dtype=torch.float64)
    for x, y in kit.batches(6) * 2:
        expected -= 0.1 * kit.gradient(expected, x, y)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=1e-14)
    assert history.updates == history.batches == 8


def test_it_is_the_state_machine_asked_for_gradients_to_the_last_bit():
    # Halves and quarters: nothing is rounded, whatever the order of the operations.
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 4.0], [1.0, 1.0]])
    y = torch.tensor([[1.0], [2.0], [-1.0], [3.0]])
    core = headway.Server(torch.zeros(2), headway.algorithms.async_sgd(learning_rate=0.25))
    with kit.server(kit.line(dtype=torch.float32)) as server:
        worker = kit.worker(server, local_batch_size=1)
        worker.train(dataset=(x, y), loss_fn="mse", epochs=1, shuffle=False, optimizer=SGD(lr=0.25))
        for row, target in zip(x.split(1), y.split(1), strict=True):
            ticket = core.checkout("w", now=0.0)
            update = kit.gradient(ticket.parameters, row, target)
            core.submit(headway.Update(update, ticket.version, "w", ticket.job), now=0.0)
        assert torch.equal(kit.weights(server), core.parameters)


def test_a_pulled_model_in_advance_is_asynchronous_sgd_with_a_delay_of_one():
    with kit.server(kit.line()) as server:
        history = kit.train(server, optimizer=SGD(lr=0.1), epochs=2, worker={"prefetch": True})
        found = kit.weights(server)
    models = [torch.zeros(2, dtype=torch.float64)]
    for step, (x, y) in enumerate(kit.batches(6) * 2):
        base = models[max(0, step - 1)]
        models.append(models[-1] - 0.1 * kit.gradient(base, x, y))
    torch.testing.assert_close(found, models[-1], atol=1e-14, rtol=1e-13)
    assert history.staleness == {0: 1, 1: 7}


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.05, momentum=0.9),
        partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        headway.optim.Adam(lr=0.05),
        torch.optim.AdamW,
        torch.optim.SGD(kit.line().parameters(), lr=0.05, momentum=0.9, nesterov=True),
    ],
    ids=["momentum", "partial", "adam", "class", "instance"],
)
@pytest.mark.parametrize("every", [1, 3])
def test_an_optimizers_state_lives_from_exchange_to_exchange(optimizer, every):
    with kit.server(kit.line()) as server:
        kit.train(server, optimizer=optimizer, epochs=3, worker={"update_frequency": every})
        found = kit.weights(server)
    # With one worker, that is torch's own loop over the same batches.
    module = kit.line()
    if isinstance(optimizer, torch.optim.Optimizer):
        own = type(optimizer)(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    else:
        own = optimizer(module.parameters())
    for x, y in kit.batches(6) * 3:
        own.zero_grad()
        torch.nn.functional.mse_loss(module(x), y).backward()
        own.step()
    torch.testing.assert_close(found, module.weight.detach().flatten(), atol=1e-12, rtol=1e-10)


def test_k_batches_of_gradients_are_one_gradient_of_them_all():
    rule = headway.algorithms.async_sgd(learning_rate=0.1)
    with kit.server(kit.line(), update_rule=rule) as server:
        history = kit.train(server, epochs=2, size=5, worker={"update_frequency": 2})
        found = kit.weights(server)
    expected = torch.zeros(2, dtype=torch.float64)
    rows = [torch.arange(24)] * 2
    order = [part for each in rows for part in each.split(5)]
    for first, second in zip(order[::2], order[1::2], strict=True):
        both = torch.cat([first, second])
        expected -= 0.1 * kit.gradient(expected, X[both], Y[both])
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-13)
    assert history.updates == 5


def test_the_servers_optimizer_takes_the_steps_where_workers_send_gradients():
    options = {"update_rule": "async_adam", "server_optimizer": headway.optim.Adam(lr=0.1)}
    with kit.server(kit.line(), **options) as server:
        kit.train(server, epochs=2)
        found = kit.weights(server)
    weight = torch.zeros(2, dtype=torch.float64)
    adam = torch.optim.Adam([weight], lr=0.1)
    for x, y in kit.batches(6) * 2:
        weight.grad = kit.gradient(weight, x, y)
        adam.step()
    torch.testing.assert_close(found, weight, atol=1e-12, rtol=1e-10)


def test_weights_are_mixed_and_the_servers_proximal_pull_travels_by_name():
    rule = headway.algorithms.fedasync(mixing=0.5, proximal=0.3, staleness=lambda tau: 1.0)
    with kit.server(kit.line((1.0, 1.0)), update_rule=rule) as server:
        kit.train(server, optimizer=SGD(lr=0.1), epochs=1, worker={"update_frequency": 4})
        found = kit.weights(server)
    base = local = torch.ones(2, dtype=torch.float64)
    for x, y in kit.batches(6):
        local = local - 0.1 * (kit.gradient(local, x, y) + 0.3 * (local - base))
    torch.testing.assert_close(found, 0.5 * base + 0.5 * local, atol=1e-13, rtol=1e-12)


def test_a_workers_own_momentum_travels_by_name_too():
    rule = headway.algorithms.dana(variant="slim", learning_rate=0.05, momentum=0.5)
    with kit.server(kit.line(), update_rule=rule) as server:
        kit.train(server, epochs=1)
        found = kit.weights(server)
    weight, momentum = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for x, y in kit.batches(6):
        gradient = kit.gradient(weight, x, y)
        momentum = 0.5 * momentum + gradient
        weight = weight - 0.05 * (gradient + 0.5 * momentum)
    torch.testing.assert_close(found, weight, atol=1e-13, rtol=1e-12)


def test_orders_of_the_server_are_obeyed():
    rule = headway.algorithms.local_work(
        headway.algorithms.async_delta(), steps=2, learning_rate=0.2, proximal=0.4
    )
    with kit.server(kit.line(), update_rule=rule) as server:
        history = kit.train(
            server, optimizer=SGD(lr=0.01), epochs=1, worker={"update_frequency": 3}
        )
        found = kit.weights(server)
    base = torch.zeros(2, dtype=torch.float64)
    for first, second in (kit.batches(6)[:2], kit.batches(6)[2:]):
        local = base - 0.2 * kit.gradient(base, *first)
        local = local - 0.2 * (kit.gradient(local, *second) + 0.4 * (local - base))
        base = local
    torch.testing.assert_close(found, base, atol=1e-13, rtol=1e-12)
    assert history.updates == 2


def test_local_epochs_are_federated_work_and_count_for_what_the_worker_holds():
    rule = headway.algorithms.fedavg(clients_per_round=2)
    parts = [(X[:6], Y[:6]), (X[6:], Y[6:])]
    with kit.server(kit.line(), update_rule=rule) as server:
        threads = kit.Threads()
        for part in parts:
            worker = kit.worker(server, local_batch_size=6, local_epochs=2)
            threads.go(
                lambda worker=worker, part=part: worker.train(
                    dataset=part, loss_fn="mse", epochs=2, shuffle=False, optimizer=SGD(lr=0.1)
                )
            )
        threads.join()
        found = kit.weights(server)
    expected = torch.zeros(2, dtype=torch.float64)
    for x, y in parts:
        local = torch.zeros(2, dtype=torch.float64)
        for _ in range(2):
            for rows in torch.arange(len(x)).split(6):
                local = local - 0.1 * kit.gradient(local, x[rows], y[rows])
        expected += len(x) / 24 * local
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)


def test_elastic_averaging_keeps_a_replica_at_the_worker():
    rule = headway.algorithms.easgd(mixing=0.25)
    with kit.server(kit.line(), update_rule=rule) as server:
        kit.train(server, optimizer=SGD(lr=0.1), epochs=1)
        found = kit.weights(server)
    centre = own = torch.zeros(2, dtype=torch.float64)
    for x, y in kit.batches(6):
        own = own - 0.1 * kit.gradient(own, x, y)
        pull = 0.25 * (own - centre)
        own, centre = own - pull, centre + pull
    torch.testing.assert_close(found, centre, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["decoupled_diloco", "ringleader", "fedbuff", "mifa", "async_diloco", "dana"]
)
def test_algorithms_of_the_gallery_learn(name):
    if name not in headway.algorithms.ALGORITHMS:
        pytest.skip(f"no {name} in the gallery")
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 8, dtype=torch.float64),
        torch.nn.Tanh(),
        torch.nn.Linear(8, 1, dtype=torch.float64),
    )
    with kit.server(module, update_rule=headway.algorithms.ALGORITHMS[name]()) as server:
        before = kit.loss(server)
        needs = server.algorithm.payload != "gradient"
        threads = kit.Threads()
        for _ in range(2):
            threads.go(
                lambda: kit.worker(server, local_batch_size=6, update_frequency=2).train(
                    dataset=(X, Y),
                    loss_fn="mse",
                    epochs=30,
                    optimizer=SGD(lr=0.05) if needs else None,
                )
            )
        threads.join()
        server.stop()
        assert kit.loss(server) < before


def test_batch_norm_statistics_come_back_with_the_update():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    x = X.float() + 5.0
    with kit.server(module) as server:
        kit.worker(server, local_batch_size=24).train(
            dataset=(x, torch.zeros(24, 3)), loss_fn="mse", optimizer=SGD(lr=1e-9), epochs=1
        )
        found = server.model[1]
        assert int(found.num_batches_tracked) == 1
        outputs = server.model[0](x)
    torch.testing.assert_close(found.running_mean, 0.1 * outputs.mean(0).detach())


def test_frozen_parameters_stay_as_they_are():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    module[0].weight.requires_grad_(False)
    frozen = module[0].weight.clone()
    for optimizer in (SGD(lr=0.1), SGD(lr=0.1, weight_decay=0.5)):
        with kit.server(module) as server:
            kit.worker(server, local_batch_size=6).train(
                dataset=(X.float(), Y.float()), loss_fn="mse", optimizer=optimizer
            )
            assert torch.equal(server.model[0].weight, frozen)
            assert not torch.equal(server.model[1].weight, module[1].weight)


# --- models


class _Own(torch.nn.Module):
    def __init__(self, outputs=1):
        super().__init__()
        self.layer = torch.nn.Linear(2, outputs, dtype=torch.float64)

    def forward(self, inputs):
        return self.layer(inputs)


def test_a_model_of_ones_own_is_given_to_the_worker_and_the_error_says_so():
    with kit.server(_Own()) as server:
        with pytest.raises(ConfigurationError, match="must be given it") as caught:
            kit.train(server, optimizer=SGD(lr=0.1))
        assert "_Own" in str(caught.value.got)
        history = kit.train(server, optimizer=SGD(lr=0.1), worker={"model": _Own})
        assert history.receipts["applied"] == 4


def test_another_model_is_refused_and_both_sides_are_named():
    with (
        kit.server(_Own()) as server,
        pytest.raises(RefusedError, match=r"layer\.weight") as caught,
    ):
        kit.train(server, optimizer=SGD(lr=0.1), worker={"model": _Own(outputs=2)})
    assert "layer.weight[1, 2] against layer.weight[2, 2]" in str(caught.value)


def test_a_users_module_is_what_the_worker_trains_in():
    mine = kit.line((5.0, 5.0))
    with kit.server(kit.line()) as server:
        worker = kit.worker(server, model=mine, local_batch_size=24)
        worker.train(dataset=(X, Y), loss_fn="mse", optimizer=SGD(lr=0.1))
        assert worker.model is mine
    assert float(mine.weight.detach().abs().max()) < 5.0


# --- data


def test_every_kind_of_data_gives_the_same_training():
    pair = TensorDataset(X, Y)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return X[index], Y[index]

    class Flow(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    kinds = [
        {"dataset": (X, Y)},
        {"dataset": pair},
        {"dataset": Rows()},
        {"dataset": Flow()},
        {"dataloader": DataLoader(pair, 6), "dataset": None},
        {"dataloader": kit.batches(6), "dataset": None},
        {"dataset": DataLoader(pair, 6)},
    ]
    found = []
    for kind in kinds:
        with kit.server(kit.line()) as server:
            kit.train(server, optimizer=SGD(lr=0.1), epochs=2, **kind)
            found.append(kit.weights(server))
    for other in found[1:]:
        assert torch.equal(found[0], other)


def test_a_labelled_data_set_and_shuffling_by_seed():
    data = headway.data.Dataset("tiny", torch.eye(8), torch.arange(8) % 2, num_classes=2)
    found = []
    for seed in (1, 1, 2):
        with kit.server(torch.nn.Linear(8, 2, bias=False), seed=4) as server:
            server._hub.server.parameters.zero_()
            worker = kit.worker(server, local_batch_size=3)
            worker.train(dataset=data, optimizer=SGD(lr=0.5, momentum=0.9), epochs=2, seed=seed)
            found.append(server.model.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_shards_divide_a_dataset():
    rows = torch.arange(10.0).unsqueeze(1)
    seen = []
    for index in range(3):
        passes = read_data((rows, rows), batch_size=2, shard=(index, 3))
        seen += [
            v for batch in passes.once(torch.Generator()) for v in batch.targets.flatten().tolist()
        ]
    assert sorted(seen) == rows.flatten().tolist()


def test_parts_of_epochs_and_a_look_ahead_lose_no_batch():
    passes = read_data((X, Y), batch_size=6, shuffle=False)
    stream = Stream(passes, 1.5, 0)
    assert stream.has(6)
    assert not stream.has(7)
    taken = []
    while (batch := stream.take()) is not None:
        taken.append(batch.inputs)
    assert torch.equal(torch.cat(taken), torch.cat([X, X[:12]]))
    assert stream.taken == 6


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ConfigurationError, "neither"),
        ({"dataset": (X, Y), "dataloader": []}, ConfigurationError, "both"),
        ({"dataset": (X, Y[:3])}, DataError, "24 and 3"),
        ({"dataset": (X,)}, ArgumentTypeError, "a pair of tensors"),
        ({"dataset": 7}, ArgumentTypeError, "no data set"),
        ({"dataset": (X[:0], Y[:0])}, DataError, "no batches"),
        ({"dataloader": 7}, ArgumentTypeError, "no loader"),
        ({"dataloader": []}, DataError, "no batches"),
        ({"dataset": (X, Y), "shard": (3, 3)}, ConfigurationError, "no shard"),
        ({"dataloader": kit.batches(6), "shard": (0, 2)}, ConfigurationError, "cannot be sharded"),
    ],
)
def test_wrong_data_are_refused_before_anything_connects(given, error, words):
    worker = headway.AsyncWorker("127.0.0.1:1")
    with pytest.raises(error) as caught:
        worker.train(optimizer=SGD(lr=0.1), **given)
    assert words in str(caught.value)


def test_batches_that_are_no_pairs_are_refused():
    with kit.server(kit.line()) as server, pytest.raises(ArgumentTypeError, match="pair"):
        kit.train(server, dataset=None, dataloader=[X], optimizer=SGD(lr=0.1))


def test_an_iterator_has_one_pass_only():
    with kit.server(kit.line()) as server, pytest.raises(DataError, match="only once"):
        kit.train(
            server, dataset=None, dataloader=iter(kit.batches(6)), epochs=2, optimizer=SGD(lr=0.1)
        )


# --- the history, and measuring


def test_the_history_has_means_of_the_batches_between_its_rows():
    with kit.server(kit.line()) as server:
        history = kit.train(
            server,
            optimizer=SGD(lr=0.1),
            epochs=2,
            log_frequency=4,
            metrics={"mse": torch.nn.functional.mse_loss, "bias": lambda out, y: (out - y).mean()},
        )
    weight, losses = torch.zeros(2, dtype=torch.float64), []
    for x, y in kit.batches(6) * 2:
        losses.append(float(((x @ weight - y.squeeze(1)) ** 2).mean()))
        weight -= 0.1 * kit.gradient(weight, x, y)
    assert history["mse"] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])
    assert history["batches"] == [4, 8]
    assert history.metrics == ["mse", "bias"]
    assert history.final("mse") == history["mse"][-1]
    assert history.samples_per_s > 0.0
    assert json.loads(json.dumps(history.to_dict()))["receipts"] == {"applied": 8}
    assert "8 updates, 48 examples" in repr(history)
    assert "8: 8 applied" in str(history)
    with pytest.raises(KeyError, match="accuracy; known are mse"):
        history["accuracy"]


def test_a_worker_measures_the_servers_model():
    with kit.server(kit.line((1.0, -2.0))) as server:
        worker = kit.worker(server)
        assert worker.evaluate((X, Y), metrics="loss", loss_fn="mse", batch_size=5) < 1e-20
        told = worker.evaluate(
            kit.batches(6), metrics={"first": lambda out, y: out[0]}, loss_fn="mse"
        )
        assert told["first"] == pytest.approx(float(sum(Y[::6]) / 4))
        assert server.version == 0
        assert server.status()["in_flight"] == server.status()["lost"] == 0


def test_a_worker_measures_what_it_saw_last_when_the_server_has_ended(caplog):
    with kit.server(kit.line()) as server:
        worker = kit.worker(server, local_batch_size=6, connect_timeout_s=0.5)
        with pytest.raises(ConfigurationError, match="no model before"):
            worker.model  # noqa: B018
        worker.train(dataset=(X, Y), loss_fn="mse", epochs=20, optimizer=SGD(lr=0.1))
        at_end = kit.loss(server)
    with caplog.at_level(logging.WARNING):
        assert worker.evaluate((X, Y), metrics="loss", loss_fn="mse") == pytest.approx(at_end)
    assert "this is version 80, as this worker left it" in caplog.text
