"""Server steps: torch's own optimizers, on a model in its own shapes, are the oracle."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from headway import core
from headway.algorithms.transforms import server_step
from headway.core.errors import ArgumentTypeError, ConfigurationError, StateError, UsageError

ELEMENTWISE = [
    partial(torch.optim.SGD, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, weight_decay=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, maximize=True),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=False),
    partial(torch.optim.SGD, lr=torch.tensor(0.1)),
    partial(torch.optim.Adam, lr=0.1, weight_decay=0.1, amsgrad=True),
    partial(torch.optim.AdamW, lr=0.1),
    partial(torch.optim.NAdam, lr=0.1),
    partial(torch.optim.RAdam, lr=0.1),
    partial(torch.optim.Adamax, lr=0.1),
    partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.1),
    partial(torch.optim.Adadelta, lr=1.0),
    partial(torch.optim.RMSprop, lr=0.1, centered=True, momentum=0.5),
    partial(torch.optim.ASGD, lr=0.1),
    partial(torch.optim.Rprop, lr=0.1),
    torch.optim.Adam,
]
SHAPED = [partial(torch.optim.Adafactor, lr=0.1)]
BLOCK = 512 * 1024 // 8


def name_of(optimizer):
    if not isinstance(optimizer, partial):
        return getattr(optimizer, "__name__", None)
    return (
        f"{optimizer.func.__name__}-{'-'.join(f'{k}={v}' for k, v in optimizer.keywords.items())}"
    )


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


class Step:
    """A step on a context, fed by hand."""

    def __init__(self, optimizer, parameters, *, payload="gradient", layout=None, **options):
        self.step = server_step(optimizer, **options)
        self.context = core.Context(parameters, layout=layout, payload=payload)
        self.state = self.step.init(self.context)

    def __call__(self, payload, **fields):
        update = core.Update(payload, 0, "worker-0", 1, **fields)
        self.step.apply(update, self.state, self.context)
        return self.context.parameters


def directions(size, count, seed=1):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(size)) for _ in range(count)]


@pytest.mark.parametrize("optimizer", ELEMENTWISE + SHAPED, ids=name_of)
@pytest.mark.parametrize("kind", ["gradient", "delta"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_it_is_torchs_optimizer_on_the_modules_own_parameters(optimizer, kind, weight):
    module = model()
    layout = core.ParameterLayout.of(module)
    step = Step(optimizer, layout.flatten(module), payload=kind, layout=layout)
    theirs = optimizer(module.parameters())
    sign = 1.0 if kind == "gradient" else -1.0
    for direction in directions(layout.num_params, 5):
        before = direction.clone()
        ours = step(direction, weight=weight)
        assert torch.equal(direction, before)
        for name, view in layout.views(sign * weight * direction).items():
            dict(module.named_parameters())[name].grad = view.clone()
        theirs.step()
        np.testing.assert_allclose(ours, layout.flatten(module), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ELEMENTWISE, ids=name_of)
def test_blocks_do_not_show(optimizer):
    size = 2 * BLOCK + 17
    step = Step(optimizer, torch.ones(size, dtype=torch.float64))
    whole = torch.ones(size, dtype=torch.float64)
    theirs = optimizer([whole])
    for direction in directions(size, 3):
        ours = step(direction)
        whole.grad = direction.clone()
        theirs.step()
    np.testing.assert_allclose(ours, whole, rtol=1e-12, atol=1e-14)


def test_plain_sgd_is_one_addition_to_the_bit():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal(1001)).float()
    g = torch.from_numpy(rng.standard_normal(1001)).float()
    theirs = x.clone()
    theirs.grad = g
    torch.optim.SGD([theirs], lr=0.3).step()
    step = Step(partial(torch.optim.SGD, lr=0.3), x.clone())
    assert step.state is None
    assert torch.equal(step(g), theirs)
    assert step.step.needs == core.Needs()


def test_a_gradient_is_subtracted_and_a_delta_is_added():
    for optimizer in (torch.optim.SGD, partial(torch.optim.SGD, momentum=0.9)):
        one = torch.ones(2)
        assert Step(partial(optimizer, lr=0.5), torch.zeros(2))(one).tolist() == [-0.5, -0.5]
        step = Step(partial(optimizer, lr=0.5), torch.zeros(2), payload="delta")
        assert step(one).tolist() == [0.5, 0.5]
        step = Step(partial(optimizer, lr=0.5, maximize=True), torch.zeros(2))
        assert step(one).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "optimizer", [ELEMENTWISE[0], ELEMENTWISE[2], ELEMENTWISE[13]], ids=name_of
)
def test_an_updates_own_learning_rate_holds_for_its_step_alone(optimizer):
    step, own = Step(optimizer, torch.ones(3).double()), torch.ones(3).double()
    theirs = optimizer([own])
    for rate, direction in zip((None, 0.7, None, 0.0), directions(3, 4), strict=True):
        own.grad = direction
        theirs.param_groups[0]["lr"] = 0.1 if rate is None else rate
        theirs.step()
        ours = step(direction, learning_rate=rate)
        np.testing.assert_allclose(ours, own, rtol=1e-13)


def test_mixed_weights_do_not_leave_a_wrong_gradient_behind():
    """A payload that was the gradient itself must not be the gradient of the next step."""
    step, own = Step(ELEMENTWISE[2], torch.ones(3).double()), torch.ones(3).double()
    theirs = ELEMENTWISE[2]([own])
    for weight, direction in zip((1.0, 0.5, 1.0, 1.0, 0.25, 0.25), directions(3, 6), strict=True):
        own.grad = weight * direction
        theirs.step()
        np.testing.assert_allclose(step(direction, weight=weight), own, rtol=1e-13)
    assert all(
        p.grad is None for p in Step(ELEMENTWISE[2], torch.ones(3)).state.of(None)._parameters
    )


def test_a_strided_payload_is_taken_too():
    step, own = Step(ELEMENTWISE[2], torch.ones(3).double()), torch.ones(3).double()
    theirs = ELEMENTWISE[2]([own])
    direction = directions(6, 1)[0]
    own.grad = direction[::2].clone()
    theirs.step()
    np.testing.assert_allclose(step(direction[::2]), own, rtol=1e-13)


class TestFragments:
    def layout(self):
        return core.ParameterLayout.of(model()).with_fragments(2)

    @pytest.mark.parametrize("optimizer", [*ELEMENTWISE[:3], *SHAPED], ids=name_of)
    def test_each_has_an_optimizer_of_its_own(self, optimizer):
        module, layout = model(), self.layout()
        step = Step(optimizer, layout.flatten(module), layout=layout)
        own = layout.flatten(module)
        parts = [own[layout.fragment(f)] for f in range(2)]
        views = [
            [view for name, view in layout.views(own).items() if inside(layout, name, f)]
            for f in range(2)
        ]
        theirs = [optimizer(group) for group in views]
        for fragment in (0, 1, 1, 0, 1):
            (direction,) = directions(parts[fragment].numel(), 1, seed=fragment)
            offset = 0
            for view in views[fragment]:
                view.grad = direction[offset : offset + view.numel()].view(view.shape).clone()
                offset += view.numel()
            theirs[fragment].step()
            ours = step(direction, fragment=fragment, weight=1.0)
            np.testing.assert_allclose(ours, own, rtol=1e-12)

    def test_one_that_cuts_through_a_parameter_is_refused_where_shapes_count(self):
        module = model()
        layout = core.ParameterLayout.of(module)
        cut = core.ParameterLayout(layout.parameters, torch.float64, bounds=(0, 5, 23))
        Step(ELEMENTWISE[2], layout.flatten(module), layout=cut)
        with pytest.raises(ConfigurationError, match="cuts through a parameter"):
            Step(SHAPED[0], layout.flatten(module), layout=cut)

    def test_state_survives_a_save_and_a_load(self):
        module, layout = model(), self.layout()
        first, second = (
            Step(ELEMENTWISE[2], layout.flatten(module), layout=layout) for _ in range(2)
        )
        sizes = [layout.fragment(f).stop - layout.fragment(f).start for f in range(2)]
        first(torch.ones(sizes[0]).double(), fragment=0)
        saved = core.tree.dump(first.state)
        assert sorted(saved) == ["0", "1"]
        second.state = core.tree.load(second.state, saved)
        second.context.parameters.copy_(first.context.parameters)
        for fragment in (0, 1):
            for step in (first, second):
                x = step(torch.ones(sizes[fragment]).double(), fragment=fragment)
        assert torch.equal(x, first.context.parameters)


def inside(layout, name, fragment):
    span = layout.fragment(fragment)
    entry = next(entry for entry in layout.parameters if entry.name == name)
    return span.start <= entry.offset < span.stop


@pytest.mark.parametrize("optimizer", ELEMENTWISE + SHAPED, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_optimizer_state_survives_a_save_and_a_load(optimizer, dtype):
    module = model().to(dtype)
    layout = core.ParameterLayout.of(module)
    first, second = (Step(optimizer, layout.flatten(module), layout=layout) for _ in range(2))
    pushes = [direction.to(dtype) for direction in directions(layout.num_params, 6)]
    for number, push in enumerate(pushes):
        if number == 3:
            second.state = core.tree.load(second.state, core.tree.dump(first.state))
            second.context.parameters.copy_(first.context.parameters)
        first(push, weight=0.5)
        if number >= 3:
            second(push, weight=0.5)
    assert torch.equal(first.context.parameters, second.context.parameters)


def test_the_state_of_another_model_is_refused():
    step = Step(SHAPED[0], torch.zeros(6))
    two = core.ParameterLayout((core.Entry("a", (2,), 0), core.Entry("b", (4,), 2)))
    other = Step(SHAPED[0], torch.zeros(6), layout=two)
    with pytest.raises(StateError, match="not one of this server optimizer"):
        core.tree.load(other.state, core.tree.dump(step.state))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon yet")
class TestMuon:
    OPTIMIZER = (
        partial(getattr(torch.optim, "Muon", None), lr=0.1)
        if hasattr(torch.optim, "Muon")
        else None
    )

    def test_gets_the_layouts_matrices(self):
        module = nn.Linear(4, 3, bias=False)
        layout = core.ParameterLayout.of(module)
        step = Step(self.OPTIMIZER, layout.flatten(module), layout=layout, payload="delta")
        theirs = self.OPTIMIZER(module.parameters())
        for direction in directions(12, 3):
            direction = direction.float()
            module.weight.grad = -direction.view(3, 4)
            theirs.step()
            ours = step(direction)
            np.testing.assert_allclose(
                ours.view(3, 4), module.weight.detach(), rtol=1e-4, atol=1e-6
            )
        assert step.step.needs.copies == 2

    def test_is_refused_before_training_on_parameters_that_it_does_not_take(self):
        module = nn.Linear(4, 3)
        layout = core.ParameterLayout.of(module)
        with pytest.raises(ConfigurationError, match="does not work on this model"):
            Step(self.OPTIMIZER, layout.flatten(module), layout=layout)


class Halving(torch.optim.Optimizer):
    """An optimizer that is not torch's own, and writes into the gradient."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)
                p.add_(p.grad, alpha=-group["lr"])


def test_an_unknown_class_gets_shapes_and_a_gradient_of_its_own():
    payload = torch.ones(6)
    layout = core.ParameterLayout((core.Entry("w", (2, 3), 0),))
    step = Step(partial(Halving, lr=0.2), torch.zeros(6), payload="delta", layout=layout)
    np.testing.assert_allclose(step(payload), 0.1)
    np.testing.assert_allclose(step(payload), 0.2)
    assert torch.equal(payload, torch.ones(6))
    assert step.state.of(None).optimizer.param_groups[0]["params"][0].shape == (2, 3)


class TestMemory:
    @pytest.mark.parametrize(
        ("optimizer", "copies"),
        [
            (partial(torch.optim.SGD, momentum=0.9), 1),
            (torch.optim.Adam, 2),
            (partial(torch.optim.Adam, amsgrad=True), 3),
            (torch.optim.Adagrad, 1),
            (partial(torch.optim.RMSprop, centered=True, momentum=0.1), 3),
            (torch.optim.Rprop, 2),
            (partial(torch.optim.SGD, weight_decay=0.1), 0),
        ],
        ids=name_of,
    )
    def test_is_declared(self, optimizer, copies):
        assert server_step(optimizer).needs.copies == copies + 1
        assert server_step(optimizer, unit_weights=True).needs.copies == copies

    def test_what_may_write_into_the_gradient_always_has_one_of_its_own(self):
        foreach = partial(torch.optim.SGD, momentum=0.9, nesterov=True, foreach=True)
        assert server_step(foreach, unit_weights=True).needs.copies == 2
        assert server_step(Halving, unit_weights=True).needs.copies == 1

    def test_the_scratch_is_not_saved(self):
        step = Step(ELEMENTWISE[2], torch.zeros(5))
        step(torch.ones(5), weight=0.5)
        saved = core.tree.dump(step.state)
        assert list(saved) == ["whole"]


class TestRefusals:
    def test_a_closure(self):
        with pytest.raises(
            ConfigurationError, match="LBFGS cannot be a server optimizer"
        ) as caught:
            server_step(torch.optim.LBFGS)
        assert "again and again" in str(caught.value)

        class Needy(torch.optim.SGD):
            def step(self, closure):
                return closure()

        with pytest.raises(ConfigurationError, match="Needy cannot be a server optimizer"):
            server_step(Needy)

    def test_sparse_gradients(self):
        with pytest.raises(ConfigurationError, match=r"SparseAdam cannot .* sparse gradients"):
            server_step(partial(torch.optim.SparseAdam, lr=0.1))

    def test_what_is_no_optimizer_class(self):
        for wrong in (0.1, "SGD", nn.Linear, lambda params: None, None):
            with pytest.raises(ArgumentTypeError, match=r"must be a torch\.optim class"):
                server_step(wrong)
        with pytest.raises(ArgumentTypeError, match=r"must be a torch\.optim class") as caught:
            server_step(torch.optim.SGD([torch.zeros(1)], lr=0.1))
        assert caught.value.help == "use for example functools.partial(torch.optim.SGD, lr=1.0)"

    def test_options(self):
        with pytest.raises(ConfigurationError, match="SGD has no option `learning_rate`") as caught:
            server_step(partial(torch.optim.SGD, learning_rate=0.1))
        assert "lr" in caught.value.known
        with pytest.raises(ConfigurationError, match="by name"):
            server_step(partial(torch.optim.SGD, [torch.zeros(1)]))
        with pytest.raises(ConfigurationError, match="`lr` is out of its range"):
            server_step(partial(torch.optim.SGD, lr=-1.0))

    def test_what_only_shows_when_it_is_tried_comes_out_with_the_server(self):
        for options in ({"lr": -1.0}, {"betas": (2.0, 0.9)}, {"lr": "fast"}):
            algorithm = core.Algorithm(
                name="wrong",
                payload="delta",
                step=server_step(partial(torch.optim.Adam, **options)),
            )
            with pytest.raises(UsageError, match="does not work"):
                core.Server(torch.zeros(3), algorithm)

    def test_no_learning_rate(self):
        class Rateless(Halving):
            def __init__(self, params):
                torch.optim.Optimizer.__init__(self, params, {})

        with pytest.raises(ConfigurationError, match="no learning rate"):
            Step(Rateless, torch.zeros(3))

    def test_whole_weights(self):
        with pytest.raises(ConfigurationError, match="cannot apply this payload"):
            core.Algorithm(name="wrong", payload="weights", step=server_step(torch.optim.SGD))


def test_it_shows_its_optimizer():
    assert repr(server_step(torch.optim.Adam)) == "server_step(Adam())"
    maximize = server_step(partial(torch.optim.SGD, lr=0.5, maximize=True))
    assert repr(maximize) == "server_step(SGD(lr=0.5, maximize=True))"
