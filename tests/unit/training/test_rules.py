"""Update rules: which algorithm a name or a value makes, and what contradicts what."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from headway import algorithms, optim
from headway.algorithms import ALGORITHMS
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from headway.training import RULES, choose_algorithm
from headway.training.rules import IN_FILES
from tests.algorithm_kit import Rig

SIZE = 4


def step_of(algorithm):
    """How far one fresh gradient of ones moves a model of zeros."""
    rig = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    rig.turn("worker", torch.ones(SIZE).double())
    return rig.x


def test_the_usual_rule_adds_deltas():
    algorithm = choose_algorithm()
    assert str(algorithm) == str(algorithms.async_delta())
    torch.testing.assert_close(step_of(algorithm), torch.ones(SIZE).double())


def test_async_sgd_with_plain_sgd_and_one_batch_is_asynchronous_sgd_exactly():
    rate, generator = 0.25, torch.Generator().manual_seed(0)
    deltas = Rig(choose_algorithm("async_sgd"), torch.zeros(SIZE))
    gradients = Rig(algorithms.async_sgd(learning_rate=rate), torch.zeros(SIZE))
    for turn in range(30):
        worker = f"worker-{turn * turn % 3}"
        for rig in (deltas, gradients):
            rig.checkout("worker-0", "worker-1", "worker-2")
        base = deltas.base(worker)
        torch.testing.assert_close(base, gradients.base(worker))
        gradient = base - torch.randn(SIZE, generator=generator)
        deltas.submit(worker, (base - rate * gradient) - base)
        gradients.submit(worker, gradient)
    torch.testing.assert_close(deltas.x, gradients.x)
    assert max(receipt.staleness for receipt in deltas.receipts) > 0


@pytest.mark.parametrize("name", RULES)
def test_every_name_makes_its_algorithm(name):
    algorithm = choose_algorithm(name)
    assert algorithm.name == ("async_delta" if name == "async_sgd" else name)
    able = {name for name, make in ALGORITHMS.items() if not make().needs.reference_gradient}
    assert set(RULES) == {*able, "async_adam", "async_momentum"}


@pytest.mark.parametrize(
    ("rule", "options", "optimizer"),
    [
        ("async_momentum", {}, partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
        ("async_adam", {}, partial(torch.optim.Adam, lr=1e-3)),
        ("async_adam", {"learning_rate": 0.5}, partial(torch.optim.Adam, lr=0.5)),
        (
            "async_adam",
            {"server_optimizer": optim.AdamW(lr=0.2)},
            partial(torch.optim.AdamW, lr=0.2),
        ),
        ("async_adam", {"server_optimizer": torch.optim.Adam}, torch.optim.Adam),
        ("async_momentum", {"server_optimizer": "sgd"}, partial(torch.optim.SGD, lr=1e-3)),
        (
            "async_momentum",
            {"server_optimizer": partial(torch.optim.SGD, momentum=0.5), "learning_rate": 0.3},
            partial(torch.optim.SGD, lr=0.3, momentum=0.5),
        ),
        (
            "async_adam",
            {"server_optimizer": torch.optim.Adam([torch.zeros(2)], lr=0.1, betas=(0.5, 0.9))},
            partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.9)),
        ),
    ],
)
def test_the_server_owns_the_optimizer_of_gradients(rule, options, optimizer):
    algorithm = choose_algorithm(rule, **options)
    assert algorithm.payload == "gradient"
    x = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    own = optimizer([x])
    rig = Rig(algorithm, torch.zeros(SIZE, dtype=torch.float64))
    for size in (1.0, -3.0, 0.5):
        x.grad = size * torch.arange(SIZE).double()
        own.step()
        rig.turn("worker", size * torch.arange(SIZE).double())
    torch.testing.assert_close(rig.x, x.detach())


def test_names_of_the_gallery_take_what_they_have():
    assert choose_algorithm("dc_asgd", learning_rate=0.5).settings["learning_rate"] == 0.5
    buffered = choose_algorithm("fedbuff", server_optimizer=optim.Adam(lr=0.1))
    assert buffered.settings["server_optimizer"] == "Adam(lr=0.1)"


def test_an_algorithm_is_taken_as_it_is():
    value = algorithms.fedbuff(buffer_size=3)
    assert choose_algorithm(value) is value
    assert choose_algorithm(algorithm=value) is value


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"update_rule": "async_sdg"}, UnknownNameError, "did you mean `async_sgd`"),
        ({"update_rule": 3}, ArgumentTypeError, "no algorithm"),
        ({"update_rule": algorithms.fedbuff}, ArgumentTypeError, "call it: algorithms.fedbuff()"),
        ({"algorithm": "fedbuff"}, ArgumentTypeError, "update_rule= takes names"),
        (
            {"update_rule": "fedbuff", "algorithm": algorithms.fedasync()},
            ConfigurationError,
            "given twice",
        ),
        ({"server_optimizer": torch.optim.Adam}, ConfigurationError, "workers own the optimizer"),
        ({"learning_rate": 0.1}, ConfigurationError, "the worker's optimizer"),
        (
            {"update_rule": "fedasync", "server_optimizer": torch.optim.Adam},
            ConfigurationError,
            "`server_optimizer` does not go with",
        ),
        (
            {"update_rule": algorithms.fedbuff(), "learning_rate": 0.1},
            ConfigurationError,
            "`learning_rate` does not go with the algorithm `fedbuff`",
        ),
        (
            {
                "update_rule": "async_adam",
                "server_optimizer": optim.Adam(lr=0.1),
                "learning_rate": 0.2,
            },
            ConfigurationError,
            "learning rate is given twice",
        ),
        ({"update_rule": "async_adam", "learning_rate": 0.0}, ConfigurationError, "learning_rate"),
        (
            {"update_rule": "async_adam", "server_optimizer": torch.optim.LBFGS},
            ConfigurationError,
            "server_optimizer=...",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(options, kind, words):
    with pytest.raises(kind) as caught:
        choose_algorithm(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize("given", [{"update_rule": "zeno"}, {"algorithm": algorithms.zeno()}])
def test_a_rule_that_needs_data_at_the_server_is_refused_before_it_starts(given):
    with pytest.raises(ConfigurationError, match="data of the server's own") as caught:
        choose_algorithm(**given)
    assert "core.Server" in caught.value.help
    assert "zeno" not in RULES


def test_none_is_no_rule_and_no_function_without_a_name():
    with pytest.raises(ArgumentTypeError, match="that is no algorithm") as caught:
        choose_algorithm(None)
    assert (caught.value.got, caught.value.help) == ("None", None)


def test_what_a_file_has_in_place_of_rules_without_a_place_in_the_gallery_is_the_same():
    assert set(IN_FILES) == set(RULES) - set(ALGORITHMS)
    for name, value in (("learning_rate", 0.01), ("momentum", 0.9)):
        assert f"{name} = {value}" in IN_FILES["async_momentum"]
    same = algorithms.async_sgd(learning_rate=0.01, momentum=0.9)
    rule = choose_algorithm("async_momentum")
    assert (rule.step, rule.chain, rule.payload) == (same.step, same.chain, same.payload)
    # Adam takes no notice of the rate of a plain step: it is the same step but for its epsilon.
    adam = choose_algorithm("async_delta", server_optimizer=partial(torch.optim.Adam, lr=0.001))
    torch.testing.assert_close(step_of(adam), -step_of(choose_algorithm("async_adam")))
