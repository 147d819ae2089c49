"""Models as JSON trees: what comes back is what was described."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway.core import ParameterLayout
from headway.core.errors import ArgumentTypeError, ConfigurationError
from headway.models import MODELS, build, describe, transformer
from headway.models.stock import CONTAINERS, kinds


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, **options)


def decoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerDecoderLayer(8, 2, 16, **options)


def quiet(make: Callable[[], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def rows(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape),)


def whole(high: int, *shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(high, shape),)


def several(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.randn(shape) for shape in shapes)


# A layer with arguments that are not the defaults, and an input for it; None where the forward pass
# takes something that is not worth making up.
LAYERS: list[tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]] | None]] = [
    (lambda: nn.AdaptiveAvgPool1d(2), rows(1, 2, 8)),
    (lambda: nn.AdaptiveAvgPool2d((None, 2)), rows(1, 2, 8, 8)),
    (lambda: nn.AdaptiveAvgPool3d(2), rows(1, 2, 4, 4, 4)),
    (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 9], div_value=2.0, head_bias=True),
        lambda: (torch.randn(3, 8), torch.tensor([1, 6, 12])),
    ),
    (lambda: nn.AdaptiveMaxPool1d(2, return_indices=True), None),
    (lambda: nn.AdaptiveMaxPool2d([2, 3]), rows(1, 2, 8, 8)),
    (lambda: nn.AdaptiveMaxPool3d(2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.AlphaDropout(0.3), rows(3, 4)),
    (lambda: nn.AvgPool1d(3, 2, padding=1, ceil_mode=True), rows(1, 2, 8)),
    (lambda: nn.AvgPool2d(3, count_include_pad=False, divisor_override=2), rows(1, 2, 8, 8)),
    (lambda: nn.AvgPool3d(2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.BatchNorm1d(4, eps=1e-3, momentum=None), rows(3, 4)),
    (lambda: nn.BatchNorm2d(4, affine=False), rows(3, 4, 2, 2)),
    (lambda: nn.BatchNorm3d(4, track_running_stats=False), rows(3, 4, 2, 2, 2)),
    (lambda: nn.Bilinear(2, 3, 4, bias=False), several((5, 2), (5, 3))),
    (lambda: nn.CELU(0.7), rows(3, 4)),
    (lambda: nn.ChannelShuffle(2), rows(1, 4, 2, 2)),
    (lambda: nn.CircularPad1d(2), rows(1, 2, 8)),
    (lambda: nn.CircularPad2d((1, 2, 0, 1)), rows(1, 2, 8, 8)),
    (lambda: nn.CircularPad3d(1), rows(1, 2, 4, 4, 4)),
    (lambda: nn.ConstantPad1d(2, float("-inf")), rows(1, 2, 8)),
    (lambda: nn.ConstantPad2d(2, 3.5), rows(1, 2, 8, 8)),
    (lambda: nn.ConstantPad3d(1, 1.0), rows(1, 2, 4, 4, 4)),
    (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, bias=False), rows(1, 2, 8)),
    (lambda: nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), rows(1, 2, 8, 8)),
    (lambda: nn.Conv3d(2, 4, (1, 2, 3), dilation=1, groups=2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.ConvTranspose1d(2, 4, 3, 2, output_padding=1), rows(1, 2, 8)),
    (lambda: nn.ConvTranspose2d(2, 4, 3, dilation=2, groups=2), rows(1, 2, 8, 8)),
    (lambda: nn.ConvTranspose3d(2, 4, 2, bias=False), rows(1, 2, 4, 4, 4)),
    (lambda: nn.CosineSimilarity(0, 1e-6), several((3, 4), (3, 4))),
    (lambda: nn.CrossMapLRN2d(3, 1e-3, 0.5, 2), rows(1, 4, 3, 3)),
    (lambda: nn.Dropout(0.2, inplace=True), rows(3, 4)),
    (lambda: nn.Dropout1d(0.2), rows(1, 2, 8)),
    (lambda: nn.Dropout2d(0.2), rows(1, 2, 8, 8)),
    (lambda: nn.Dropout3d(0.2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.ELU(0.4), rows(3, 4)),
    (lambda: nn.Embedding(9, 4, padding_idx=-1, max_norm=1.0, norm_type=1.0), whole(9, 3, 2)),
    (lambda: nn.EmbeddingBag(9, 4, mode="sum", padding_idx=2), whole(9, 3, 2)),
    (lambda: nn.FeatureAlphaDropout(0.2), rows(3, 4)),
    (lambda: nn.Flatten(0, 1), rows(3, 4, 5)),
    (lambda: nn.Fold((4, 5), (2, 2)), rows(1, 12, 12)),
    (lambda: nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.6)), None),
    (lambda: nn.FractionalMaxPool3d(2, output_size=(2, 2, 1)), None),
    (lambda: nn.GELU("tanh"), rows(3, 4)),
    (lambda: nn.GLU(0), rows(4, 3)),
    (lambda: nn.GRU(3, 4, 2, bias=False, batch_first=True), rows(2, 5, 3)),
    (lambda: nn.GRUCell(3, 4, bias=False), rows(2, 3)),
    (lambda: nn.GroupNorm(2, 4, 1e-3, affine=False), rows(2, 4, 3)),
    (lambda: nn.Hardshrink(0.1), rows(3, 4)),
    (lambda: nn.Hardsigmoid(), rows(3, 4)),
    (lambda: nn.Hardswish(), rows(3, 4)),
    (lambda: nn.Hardtanh(-2.0, float("inf")), rows(3, 4)),
    (lambda: nn.Identity(), rows(3, 4)),
    (lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True), rows(1, 2, 8)),
    (lambda: nn.InstanceNorm2d(2), rows(1, 2, 8, 8)),
    (lambda: nn.InstanceNorm3d(2, momentum=0.2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.LPPool1d(2, 3, stride=2), rows(1, 2, 8)),
    (lambda: nn.LPPool2d(1.5, 2, ceil_mode=True), lambda: (torch.rand(1, 2, 8, 8),)),
    (lambda: nn.LPPool3d(2, 2), rows(1, 2, 4, 4, 4)),
    (lambda: nn.LSTM(3, 6, 2, dropout=0.1, bidirectional=True), rows(5, 2, 3)),
    (lambda: nn.LSTM(3, 6, proj_size=2), None),
    (lambda: nn.LSTMCell(3, 4), rows(2, 3)),
    (lambda: nn.LayerNorm((3, 4), 1e-3, bias=False), rows(2, 3, 4)),
    (lambda: nn.LayerNorm(4, elementwise_affine=False), rows(2, 3, 4)),
    (lambda: nn.LeakyReLU(0.3), rows(3, 4)),
    (lambda: nn.Linear(4, 2, bias=False), rows(3, 4)),
    (lambda: nn.LocalResponseNorm(2, 1e-3, 0.5, 2.0), rows(1, 4, 3, 3)),
    (lambda: nn.LogSigmoid(), rows(3, 4)),
    (lambda: nn.LogSoftmax(1), rows(3, 4)),
    (lambda: nn.MaxPool1d(3, 1, 1), rows(1, 2, 8)),
    (lambda: nn.MaxPool2d([2, 3], dilation=2), rows(1, 2, 8, 8)),
    (lambda: nn.MaxPool3d(2, ceil_mode=True), rows(1, 2, 3, 3, 3)),
    (lambda: nn.MaxUnpool1d(2, 3), None),
    (lambda: nn.MaxUnpool2d(2, padding=1), None),
    (lambda: nn.MaxUnpool3d((2, 1, 1)), None),
    (lambda: nn.Mish(), rows(3, 4)),
    (
        lambda: nn.MultiheadAttention(4, 2, 0.1, bias=False, add_bias_kv=True, kdim=3, vdim=5),
        several((6, 1, 4), (7, 1, 3), (7, 1, 5)),
    ),
    (lambda: nn.MultiheadAttention(4, 2, batch_first=True, add_zero_attn=True), None),
    (lambda: nn.PReLU(4, 0.1), rows(3, 4)),
    (lambda: nn.PairwiseDistance(1.0, 1e-3, keepdim=True), several((3, 4), (3, 4))),
    (lambda: nn.PixelShuffle(2), rows(1, 4, 2, 2)),
    (lambda: nn.PixelUnshuffle(2), rows(1, 1, 4, 4)),
    (lambda: nn.RMSNorm(4, 1e-3), rows(3, 4)),
    (lambda: nn.RNN(3, 4, nonlinearity="relu"), rows(5, 2, 3)),
    (lambda: nn.RNNCell(3, 4, nonlinearity="relu"), rows(2, 3)),
    (lambda: nn.RReLU(0.1, 0.2), rows(3, 4)),
    (lambda: nn.ReLU(inplace=True), rows(3, 4)),
    (lambda: nn.ReLU6(), rows(3, 4)),
    (lambda: nn.ReflectionPad1d(1), rows(1, 2, 8)),
    (lambda: nn.ReflectionPad2d((1, 0, 2, 1)), rows(1, 2, 8, 8)),
    (lambda: nn.ReflectionPad3d(1), rows(1, 2, 4, 4, 4)),
    (lambda: nn.ReplicationPad1d(1), rows(1, 2, 8)),
    (lambda: nn.ReplicationPad2d(1), rows(1, 2, 8, 8)),
    (lambda: nn.ReplicationPad3d(1), rows(1, 2, 4, 4, 4)),
    (lambda: nn.SELU(), rows(3, 4)),
    (lambda: nn.SiLU(), rows(3, 4)),
    (lambda: nn.Sigmoid(), rows(3, 4)),
    (lambda: nn.Softmax(-1), rows(3, 4)),
    (lambda: nn.Softmax2d(), rows(1, 3, 2, 2)),
    (lambda: nn.Softmin(0), rows(3, 4)),
    (lambda: nn.Softplus(2.0, 10.0), rows(3, 4)),
    (lambda: nn.Softshrink(0.2), rows(3, 4)),
    (lambda: nn.Softsign(), rows(3, 4)),
    (lambda: nn.SyncBatchNorm(4, momentum=0.3), rows(3, 4)),
    (lambda: nn.Tanh(), rows(3, 4)),
    (lambda: nn.Tanhshrink(), rows(3, 4)),
    (lambda: nn.Threshold(0.1, 20), rows(3, 4)),
    (
        lambda: nn.Transformer(8, 2, 1, 2, 16, activation="gelu", batch_first=True),
        several((2, 5, 8), (2, 3, 8)),
    ),
    (
        lambda: nn.TransformerDecoder(decoder_layer(), 2, nn.LayerNorm(8, 1e-3)),
        several((5, 2, 8), (6, 2, 8)),
    ),
    (lambda: decoder_layer(activation=nn.SiLU(), dropout=0.3), several((5, 2, 8), (6, 2, 8))),
    (lambda: nn.TransformerEncoder(encoder_layer(norm_first=True), 3), rows(5, 2, 8)),
    (lambda: encoder_layer(activation=nn.LeakyReLU(0.2), bias=False), rows(5, 2, 8)),
    (lambda: encoder_layer(layer_norm_eps=0.1, batch_first=True), rows(5, 2, 8)),
    (lambda: nn.Unflatten(1, (2, -1)), rows(3, 4)),
    (lambda: nn.Unfold((2, 3), padding=1, stride=2), rows(1, 2, 8, 8)),
    (
        lambda: nn.Upsample(scale_factor=(2, 3), mode="bilinear", align_corners=True),
        rows(1, 2, 4, 4),
    ),
    (lambda: nn.Upsample(size=7), rows(1, 2, 4)),
    (lambda: nn.UpsamplingBilinear2d(scale_factor=2), rows(1, 2, 4, 4)),
    (lambda: nn.UpsamplingNearest2d(size=(5, 6)), rows(1, 2, 4, 4)),
    (lambda: nn.ZeroPad1d(1), rows(1, 2, 8)),
    (lambda: nn.ZeroPad2d((1, 2, 3, 0)), rows(1, 2, 8, 8)),
    (lambda: nn.ZeroPad3d(1), rows(1, 2, 4, 4, 4)),
    (lambda: transformer(9, 8, 2, 2, 6, 0.1, tied=False)(), whole(9, 2, 6)),
    (lambda: transformer(9, 8, 1, 2, 6)(), whole(9, 2, 6)),
]


def there_and_back(module: nn.Module) -> nn.Module:
    return build(json.loads(json.dumps(describe(module), allow_nan=False, sort_keys=True)))


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        out = module.eval()(*copy.deepcopy(inputs))
    parts = out if isinstance(out, tuple) else (out,)
    flat = [p for part in parts for p in (part if isinstance(part, tuple) else (part,))]
    return [part for part in flat if isinstance(part, Tensor)]


@pytest.mark.parametrize("case", range(len(LAYERS)))
def test_a_layer_comes_back_as_it_was(case: int) -> None:
    make, inputs = LAYERS[case]
    module = quiet(make)
    back = there_and_back(module)
    assert type(back) is type(module)
    assert repr(back) == repr(module).replace("[", "(").replace("]", ")")
    back.load_state_dict(module.state_dict())
    if inputs is not None:
        given = inputs()
        for mine, theirs in zip(outputs(module, given), outputs(back, given), strict=True):
            torch.testing.assert_close(theirs, mine, rtol=0, atol=0, equal_nan=True)


def test_every_layer_of_torch_is_tried() -> None:
    tried = {type(quiet(make)).__name__ for make, _ in LAYERS}
    assert {kind.cls.__name__ for kind in kinds().values()} == tried


def test_every_class_of_torch_is_a_layer_or_left_out_on_purpose() -> None:
    names = {
        name
        for name, thing in vars(nn).items()
        if isinstance(thing, type) and issubclass(thing, nn.Module)
    }
    left_out = {n for n in names if n.endswith(("Loss", "Loss2d")) or n.startswith("Lazy")}
    left_out |= {"Container", "DataParallel", "Module", "ParameterDict", "ParameterList"}
    left_out |= {"RNNBase", "RNNCellBase"}
    assert names == (kinds().keys() - {"headway.transformer"}) | CONTAINERS.keys() | left_out


@pytest.mark.parametrize("name", sorted(MODELS))
def test_our_own_models_can_be_described(name: str) -> None:
    module = MODELS[name]()()
    back = there_and_back(module)
    assert ParameterLayout.of(back) == ParameterLayout.of(module)
    assert repr(back) == repr(module)


def test_containers_nest_and_keep_their_order() -> None:
    inner = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.ModuleList([nn.Tanh(), nn.Linear(2, 3)])})
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)), inner)
    back = there_and_back(module)
    assert repr(back) == repr(module)
    assert ParameterLayout.of(back) == ParameterLayout.of(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precision_comes_back(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    back = there_and_back(module)
    assert ParameterLayout.of(back) == ParameterLayout.of(module)
    assert {n: b.dtype for n, b in back.named_buffers()} == {
        n: b.dtype for n, b in module.named_buffers()
    }


def test_precision_does_not_depend_on_the_default_of_who_builds() -> None:
    tree = describe(nn.Linear(2, 3))
    torch.set_default_dtype(torch.float64)
    try:
        assert build(tree).weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_frozen_parameters_come_back_frozen() -> None:
    encoder = nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)
    module = nn.Sequential(nn.Linear(2, 3), encoder)
    module[0].weight.requires_grad_(False)
    module[1].layers[1].linear1.bias.requires_grad_(False)
    back = there_and_back(module)
    frozen = [name for name, p in back.named_parameters() if not p.requires_grad]
    assert frozen == ["0.weight", "1.layers.1.linear1.bias"]


def test_a_module_in_two_places_stays_one() -> None:
    shared, relu = nn.Linear(2, 2), nn.ReLU()
    module = nn.Sequential(shared, relu, nn.Sequential(relu, shared), nn.Linear(2, 1))
    back: Any = there_and_back(module)
    assert back[0] is back[2][1]
    assert back[1] is back[2][0]
    assert ParameterLayout.of(back) == ParameterLayout.of(module)


def test_tied_parameters_stay_tied() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    module[2].weight = module[0].weight
    module[2].weight.requires_grad_(False)
    back: Any = there_and_back(module)
    assert back[0].weight is back[2].weight
    assert not back[2].weight.requires_grad
    assert ParameterLayout.of(back) == ParameterLayout.of(module)


def test_a_recurrent_layer_computes_with_tied_weights() -> None:
    module = nn.ModuleList([nn.RNN(3, 3), nn.RNN(3, 3)])
    module[1].weight_hh_l0 = module[0].weight_hh_l0
    back: Any = there_and_back(module)
    back.load_state_dict(module.state_dict())
    inputs = torch.randn(4, 1, 3)
    assert torch.equal(back[1](inputs)[0], module[1](inputs)[0])


def test_settings_that_were_changed_later_count() -> None:
    module = nn.Sequential(nn.Dropout(0.1), nn.BatchNorm1d(3))
    module[0].p, module[1].momentum = 0.7, 0.01
    back: Any = there_and_back(module)
    assert (back[0].p, back[1].momentum) == (0.7, 0.01)


def test_notes_on_a_layer_are_no_matter() -> None:
    module = nn.Sequential(nn.Linear(2, 3))
    module[0].my_label = object()
    assert repr(there_and_back(module)) == repr(module)


def test_attached_to_a_flat_vector_it_is_the_same_model() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    before = describe(module)
    layout = ParameterLayout.of(module)
    layout.attach(module, layout.flatten(module))
    assert describe(module) == before


def test_describing_changes_nothing_and_draws_no_random_numbers() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4)).eval()
    values = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    describe(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, values[name])


class Block(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


class MyLinear(nn.Linear):
    pass


class Linear(nn.Linear):
    """A stranger by a known name."""


class Net(nn.Sequential):
    pass


def patched() -> nn.Module:
    module: Any = nn.Sequential(nn.Linear(2, 2))
    module[0].forward = lambda inputs: inputs
    return module


def with_hook(register: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2))
        getattr(module[0], register)(lambda *_: None)
        return module

    return make


def changed(make: Callable[[], Any], change: Callable[[Any], None]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        module = make()
        change(module)
        return module

    return made


def linear() -> Any:
    return nn.Sequential(nn.Linear(2, 2))


def exchange_dropout(module: Any) -> None:
    module.dropout1.p = 0.9


def nested(depth: int) -> nn.Module:
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


def in_itself() -> nn.Module:
    module = nn.ModuleList([nn.Linear(1, 1)])
    module.append(module)
    return module


REFUSED = [
    (lambda: nn.Sequential(Block()), "0", "Block"),
    (lambda: nn.Sequential(nn.Sequential(MyLinear(2, 2))), "0.0", "MyLinear"),
    (lambda: nn.Sequential(Linear(2, 2)), "0", "Linear, of the Python module"),
    (lambda: Net(nn.Linear(2, 2)), "the model itself", "Net"),
    (lambda: nn.Sequential(nn.LazyLinear(2)), "0", "before a first batch"),
    (lambda: nn.Sequential(nn.CrossEntropyLoss()), "0", "CrossEntropyLoss"),
    (patched, "0", "its own `forward`"),
    *(
        (with_hook(register), "0", "hooks")
        for register in (
            *("register_forward_hook", "register_forward_pre_hook"),
            *("register_full_backward_hook", "register_full_backward_pre_hook"),
        )
    ),
    (
        changed(linear, lambda m: torch.nn.utils.parametrizations.weight_norm(m[0])),
        "0",
        "ParametrizedLinear",
    ),
    (changed(linear, lambda m: torch.nn.utils.spectral_norm(m[0])), "0", "hooks"),
    (changed(linear, lambda m: m[0].register_buffer("more", torch.zeros(1))), "0", "buffers"),
    (
        changed(linear, lambda m: m[0].register_parameter("more", nn.Parameter(torch.zeros(1)))),
        "0",
        "more",
    ),
    (changed(linear, lambda m: m[0].add_module("more", nn.ReLU())), "0", "more"),
    (changed(linear, lambda m: m.register_buffer("more", torch.zeros(1))), "model", "more"),
    (changed(linear, lambda m: m[0].register_parameter("weight", None)), "0", "weight"),
    (changed(linear, lambda m: setattr(m[0], "in_features", 3)), "0", "weight"),
    (changed(linear, lambda m: m[0].double() and m.append(nn.Linear(2, 2))), "model", "float64"),
    (changed(linear, lambda m: m.to(torch.complex64)), "model", "complex64"),
    (changed(encoder_layer, exchange_dropout), "dropout1", "0.9"),
    (
        changed(encoder_layer, lambda m: setattr(m, "linear2", MyLinear(16, 8))),
        "linear2",
        "MyLinear",
    ),
    (lambda: encoder_layer(activation=torch.tanh), "model", "activation"),
    (lambda: encoder_layer(activation=Block()), "activation", "Block"),
    (
        changed(
            lambda: nn.TransformerDecoder(decoder_layer(), 2),
            lambda m: exchange_dropout(m.layers[1]),
        ),
        "layers.1.dropout1",
        "0.9",
    ),
    (lambda: nn.Hardtanh(torch.tensor(0.0), torch.tensor(1.0)), "model", "min_val"),
    (lambda: nested(65), ".0.0", "64 levels"),
    (in_itself, "1.1", "64 levels"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
@pytest.mark.filterwarnings("ignore:.*(weight_norm|spectral_norm|Complex modules)")
def test_what_cannot_be_described_is_named(case: int) -> None:
    make, where, text = REFUSED[case]
    module = make()
    with pytest.raises(ConfigurationError, match="cannot be described") as caught:
        describe(module)
    assert where in str(caught.value.where)
    assert text in str(caught.value)
    assert "model=" in str(caught.value.help)


def test_an_activation_in_two_layers_is_not_silently_split() -> None:
    relu = nn.Tanh()
    module = nn.Sequential(relu, encoder_layer(activation=relu))
    with pytest.raises(ConfigurationError, match="not as its constructor") as caught:
        describe(module)
    assert "several places" in str(caught.value)


def test_a_factory_is_not_a_model() -> None:
    with pytest.raises(ArgumentTypeError, match="not a model"):
        describe(MODELS["mlp"]())  # type: ignore[arg-type]
