"""The named algorithms: their chains, their errors, and how few lines a new one takes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from headway import algorithms, core, staleness
from headway.algorithms.transforms import server_step, stateless
from headway.core.errors import ArgumentTypeError, ConfigurationError, UnknownNameError
from tests.algorithm_kit import Rig


def test_a_new_algorithm_takes_ten_lines():
    # From here ...
    @stateless
    def at_most(update, context, *, delay):
        """Delay-adaptive: min(1, delay / staleness)."""
        share = min(1.0, delay / max(1, context.staleness))
        return core.Pass(update._replace(weight=update.weight * share))

    def delay_adaptive_sgd(*, learning_rate=0.1, delay=4.0):
        step = server_step(partial(torch.optim.SGD, lr=learning_rate))
        chain = (at_most(delay=delay),)
        return core.Algorithm(name="delay_adaptive", payload="gradient", chain=chain, step=step)

    # ... to here. min(1, M / staleness) at 0, 1, ..., with M = 2:
    rig = Rig(delay_adaptive_sgd(learning_rate=1.0, delay=2.0), torch.zeros(1))
    rig.checkout(*"abcdefgh")
    weights = [rig.submit(worker, torch.ones(1)).weight for worker in "abcdefgh"]
    assert weights == [1.0, 1.0, 1.0, 2 / 3, 0.5, 0.4, 2 / 6, 2 / 7]
    assert rig.x.item() == pytest.approx(-sum(weights))


def test_the_chains_hold_no_stage_that_does_nothing():
    def chain(name, **options):
        return str(algorithms.ALGORITHMS[name](**options).chain)

    assert chain("async_sgd") == "()"
    assert chain("async_delta") == "()"
    assert chain("async_sgd", max_norm=1) == "(clip(1.0),)"
    assert chain("fedasync") == "(scale_by_staleness(polynomial(exponent=0.5)),)"
    assert chain("fedasync", max_staleness=3).startswith("(drop_stale(3), ")


def test_stale_updates_are_dropped_before_they_reach_a_buffer():
    rig = Rig(algorithms.fedbuff(buffer_size=2, max_staleness=0), torch.zeros(1))
    rig.checkout(*"abc")
    for worker in "ab":
        rig.submit(worker, torch.ones(1))
    receipt = rig.submit("c", torch.ones(1))
    assert (receipt.status, receipt.reason) == ("rejected", "too_stale")
    assert rig.chain_states[-1].count == 0


def test_the_proximal_term_is_the_clients():
    assert algorithms.fedasync().client == ()
    (pull,) = algorithms.fedasync(proximal=0.01).client
    assert pull == algorithms.transforms.proximal(0.01)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("async_sgd", {"learning_rate": -0.1}),
        ("async_sgd", {"momentum": 1.5}),
        ("async_sgd", {"max_norm": 0.0}),
        ("async_sgd", {"staleness": lambda tau: -1.0}),
        ("bounded_staleness_sgd", {"max_staleness": -1}),
        ("fedasync", {"mixing": 0.0}),
        ("fedasync", {"mixing": 1.1}),
        ("fedasync", {"staleness": staleness.constant(2.0)}),
        ("fedasync", {"proximal": -1.0}),
        ("async_fedavg", {"decay": 0.0}),
        ("async_fedavg", {"damping": -1.0}),
        ("async_fedavg", {"form": "gradient"}),
        ("fedbuff", {"buffer_size": 0}),
        ("fedbuff", {"on_close": "keep"}),
        ("fedbuff", {"server_optimizer": torch.optim.LBFGS}),
        ("async_delta", {"max_norm": -1.0}),
        ("minibatch_sgd", {"num_workers": 0}),
        ("minibatch_sgd", {"momentum": -0.1}),
        ("minibatch_sgd", {"over_selection": 0.5}),
        ("fedavg", {"clients_per_round": 0}),
        ("fedavg", {"over_selection": float("nan")}),
        ("fedavg", {"reduce": "median"}),
    ],
    ids="-".join,
)
def test_an_option_out_of_its_range_is_an_error(name, options):
    with pytest.raises(ConfigurationError):
        algorithms.ALGORITHMS[name](**options)


def test_an_option_of_another_kind_is_a_type_error():
    for name, options in [
        ("fedbuff", {"buffer_size": 2.5}),
        ("fedbuff", {"staleness": 0.5}),
        ("fedbuff", {"staleness": staleness.polynomial}),
        ("fedbuff", {"server_optimizer": "SGD"}),
        ("fedasync", {"mixing": "0.6"}),
        ("fedavg", {"clients_per_round": None}),
    ]:
        with pytest.raises(ArgumentTypeError):
            algorithms.ALGORITHMS[name](**options)


def test_the_nearest_form_is_named():
    with pytest.raises(UnknownNameError) as caught:
        algorithms.async_fedavg(form="weight")
    assert caught.value.help == "did you mean `weights`?"


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_the_text_names_source_equation_use_and_memory(name):
    text = algorithms.ALGORITHMS[name].__doc__
    for part in (".. math::", "When to use it:", "Memory:", "Args:", "Example:", "Source:"):
        assert part in text
    assert "Workers send:" in text or "Clients send:" in text
