"""How a module's tensors lie in flat ones."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headway import core


class Tied(nn.Module):
    """Output and input embedding are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(tokens))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_a_shared_parameter_stands_there_once_and_stays_shared() -> None:
    model = Tied()
    layout = core.ParameterLayout.of(model)
    assert [(e.name, e.shape, e.offset) for e in layout.parameters] == [
        ("embed.weight", (5, 3), 0),
        ("out.bias", (5,), 15),
    ]
    flat = layout.flatten(model)
    layout.attach(model, flat)
    assert model.out.weight is model.embed.weight
    flat[0] = 42.0
    assert model.out.weight[0, 0].item() == model.embed.weight[0, 0].item() == 42.0
    model(torch.tensor([0])).sum().backward()
    assert model.embed.weight.grad is not None


@pytest.mark.parametrize("factory", [Tied, normed, lambda: nn.Linear(1, 1)])
def test_attach_and_flatten_are_inverse(factory: Callable[[], nn.Module]) -> None:
    model, other = factory(), factory()
    layout = core.ParameterLayout.of(model)
    flat = layout.flatten(other)
    layout.attach(model, flat)
    assert torch.equal(layout.flatten(model), flat)
    assert layout.flatten(model).data_ptr() != flat.data_ptr()
    for (name, mine), (_, theirs) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(flat, layout.flatten(other) + 1.0)
    assert all(
        view.data_ptr() == dict(model.named_parameters())[name].data_ptr()
        for name, view in layout.views(flat).items()
    )


def test_an_optimizer_of_an_attached_module_moves_the_flat_tensor() -> None:
    model = nn.Linear(2, 1)
    layout = core.ParameterLayout.of(model)
    flat = layout.flatten(model)
    before = flat.clone()
    layout.attach(model, flat)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(flat, before - 0.5 * torch.tensor([1.0, 2.0, 1.0]))


def test_buffers_of_batch_norm_go_out_and_in() -> None:
    model, other = normed(), normed()
    layout = core.ParameterLayout.of(model)
    assert [e.name for e in layout.floating_buffers] == ["1.running_mean", "1.running_var"]
    assert [e.name for e in layout.integer_buffers] == ["1.num_batches_tracked"]
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    buffers = layout.flatten_buffers(model)
    assert buffers is not None
    assert buffers.floating.shape == (6,)
    assert buffers.integer.tolist() == [1]
    layout.load_buffers(other, buffers)
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    copy = buffers.clone()
    model(torch.ones(8, 2))
    assert torch.equal(copy.floating, buffers.floating)


def test_buffers_that_are_not_saved_are_left_out() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    layout = core.ParameterLayout.of(model)
    assert layout.floating_buffers == ()
    assert layout.flatten_buffers(model) is None


def test_a_description_comes_back_through_json() -> None:
    layout = core.ParameterLayout.of(normed().double()).with_fragments(3)
    described = json.loads(json.dumps(layout.describe()))
    back = core.ParameterLayout.from_description(described)
    assert back == layout
    assert layout.difference(back) is None
    for damaged in ({}, {**described, "dtype": "nn"}, {**described, "parameters": 3}):
        with pytest.raises(core.errors.StateError):
            core.ParameterLayout.from_description(damaged)


def test_a_difference_is_told_in_words() -> None:
    layout = core.ParameterLayout.of(nn.Linear(3, 2))
    others = {
        "dtype torch.float32 against torch.float64": nn.Linear(3, 2).double(),
        "weight[2, 3] against weight[2, 4]": nn.Linear(4, 2),
        "2 against 1 parameters": nn.Linear(3, 2, bias=False),
    }
    for words, model in others.items():
        assert layout.difference(core.ParameterLayout.of(model)) == words
    assert layout.difference(layout.with_fragments(2)) == "buffers or fragments differ"


def test_another_model_is_refused() -> None:
    layout = core.ParameterLayout.of(nn.Linear(3, 2))
    with pytest.raises(core.errors.ConfigurationError, match="does not have this layout"):
        layout.flatten(nn.Linear(2, 3))
    with pytest.raises(core.errors.ConfigurationError, match="no parameters"):
        core.ParameterLayout.of(nn.ReLU())
    mixed = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    with pytest.raises(core.errors.ConfigurationError, match="one dtype"):
        core.ParameterLayout.of(mixed)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.data())
def test_fragments_cover_everything_once_and_cut_no_parameter(
    sizes: list[int], data: st.DataObject
) -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])
    count = data.draw(st.integers(1, len(sizes)))
    layout = core.ParameterLayout.of(model).with_fragments(count)
    assert layout.num_fragments == count
    spans = [layout.fragment(index) for index in range(count)]
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == sum(sizes)
    assert all(span.start < span.stop for span in spans)
    assert {span.stop for span in spans} <= {entry.stop for entry in layout.parameters}


def test_more_fragments_than_parameters_are_refused() -> None:
    layout = core.ParameterLayout.of(nn.Linear(3, 2))
    for count in (0, 3):
        with pytest.raises(core.errors.ConfigurationError, match="that many fragments"):
            layout.with_fragments(count)


def test_a_description_that_no_tensor_has_is_refused() -> None:
    described = core.ParameterLayout.flat(3).describe()
    for odd in (
        {"dtype": "_dynamo"},
        {"dtype": ["float32"]},
        {"parameters": [["a", [float("inf")]]]},
        {"parameters": [["a", [-1]]]},
        {"parameters": [["a", [10**400]]]},
        {"parameters": [["a", [1] * 65]]},
        {"bounds": [float("inf")]},
    ):
        with pytest.raises(core.errors.StateError, match="not the description of a layout"):
            core.ParameterLayout.from_description(described | odd)
