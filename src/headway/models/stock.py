"""The layers that a description can name, and how their constructor arguments are read back.

Stock layers come from torch.nn's own modules, by an explicit table: a name is looked up there and
nowhere else, so nothing that arrives over a network can import or call anything different.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from torch import nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

from headway.models.language import _Transformer, transformer

__all__ = ["CONTAINERS", "MODULE_OPTIONS", "WORDS", "Kind", "arguments_of", "kind_of", "kinds"]

CONTAINERS: Final[Mapping[str, type[nn.Module]]] = {
    "ModuleDict": nn.ModuleDict,
    "ModuleList": nn.ModuleList,
    "Sequential": nn.Sequential,
}
"""Classes that are described by their children."""

MODULE_OPTIONS: Final = frozenset(
    {"activation", "custom_decoder", "custom_encoder", "decoder_layer", "encoder_layer", "norm"}
)
"""The constructor arguments that may be modules."""

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "activation": ("gelu", "relu"),
    "approximate": ("none", "tanh"),
    "mode": (
        *("area", "bicubic", "bilinear", "linear", "max", "mean"),
        *("nearest", "nearest-exact", "sum", "trilinear"),
    ),
    "nonlinearity": ("relu", "tanh"),
    "padding": ("same", "valid"),
    "padding_mode": ("circular", "reflect", "replicate", "zeros"),
}
"""The strings that each constructor argument may be; all other arguments take none."""

# Not sent: where and in what precision (a description says that once), tensors, process groups, and
# second names of other arguments.
_UNSENT: Final = frozenset(
    {"device", "dtype", "_weight", "_freeze", "_random_samples", "process_group"}
    | {"min_value", "max_value"}
)
_NOT_LAYERS: Final = frozenset(
    {"Container", "Module", "ParameterDict", "ParameterList", "RNNBase", "RNNCellBase"}
)
_REQUIRED: Final = inspect.Parameter.empty

_Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class that a description can name.

    Args:
        name: What it is called in a description.
        cls: The class, exactly; a subclass is another thing.
        make: Makes an instance from keyword arguments.
        options: The arguments that may be given, with their defaults.
        readers: Reads an argument from an instance, where the attribute of that name does not
            say it.
    """

    name: str
    cls: type[nn.Module]
    make: Callable[..., nn.Module]
    options: Mapping[str, Any]
    readers: Mapping[str, _Reader] = field(default_factory=dict)


def kind_of(module: nn.Module) -> Kind | None:
    """Find what a module is, by its exact class.

    Args:
        module: Any module.

    Returns:
        The kind, or ``None`` for a class that a description cannot name.
    """
    return _by_class().get(type(module))


def arguments_of(module: nn.Module, kind: Kind) -> dict[str, Any]:
    """Recover the constructor arguments that differ from their defaults.

    Args:
        module: An instance of exactly ``kind.cls``.
        kind: What it is.

    Returns:
        Names to plain values (None, booleans, numbers, words, lists of these) or modules.

    Raises:
        ValueError: An argument cannot be recovered; the text says which, and why.
    """
    arguments = {}
    for name, default in kind.options.items():
        if name not in kind.readers and not hasattr(module, name):
            raise ValueError(f"argument {name}, which the layer does not keep")
        read = kind.readers.get(name)
        value = _plain(name, _attribute(module, name, default) if read is None else read(module))
        if default is _REQUIRED or isinstance(value, nn.Module) or value != default:
            arguments[name] = value
    return arguments


@cache
def kinds() -> Mapping[str, Kind]:
    """All kinds by name.

    Returns:
        Layers of torch.nn's modules, without containers, losses and layers whose sizes are not
        known yet, and the models of :mod:`headway.models` that are classes of their own.
    """
    found = [
        _stock_kind(thing)
        for name, thing in sorted(vars(nn.modules).items())
        if inspect.isclass(thing) and issubclass(thing, nn.Module) and _is_layer(name, thing)
    ]
    return {kind.name: kind for kind in [*found, _transformer_kind()]}


@cache
def _by_class() -> Mapping[type[nn.Module], Kind]:
    return {kind.cls: kind for kind in kinds().values()}


def _is_layer(name: str, thing: type[nn.Module]) -> bool:
    return (
        not issubclass(thing, LazyModuleMixin)
        and thing.__name__ == name
        and thing.__module__.startswith("torch.nn.modules.")
        and thing.__module__ != "torch.nn.modules.loss"
        and name not in _NOT_LAYERS
        and name not in CONTAINERS
    )


def _stock_kind(cls: type[nn.Module]) -> Kind:
    if issubclass(cls, nn.RNNBase):
        options = _options(nn.RNNBase.__init__, without=_UNSENT | {"mode", "self"})
        if cls is nn.RNN:
            options["nonlinearity"] = "tanh"
    elif cls is nn.Transformer:
        options = dict.fromkeys(("d_model", "nhead"), _REQUIRED) | {"batch_first": False}
        options |= dict.fromkeys(("custom_encoder", "custom_decoder"), _REQUIRED)
    else:
        options = _options(cls.__init__, without=_UNSENT | {"self"})
    return Kind(cls.__name__, cls, cls, options, _READERS.get(cls, {}))


def _transformer_kind() -> Kind:
    readers: dict[str, _Reader] = {
        "vocabulary": lambda module: module.symbols.num_embeddings,
        "dim": lambda module: module.symbols.embedding_dim,
        "layers": lambda module: len(module.layers),
        "heads": lambda module: module.layers[0].attention.heads,
        "length": lambda module: module.positions.shape[0],
        "dropout": lambda module: module.dropout.p,
        "tied": lambda module: module.head is None,
    }
    options = _options(transformer, without=frozenset())

    def make(**settings: Any) -> nn.Module:
        return transformer(**settings)()

    return Kind("headway.transformer", _Transformer, make, options, readers)


def _options(function: Callable[..., Any], *, without: frozenset[str]) -> dict[str, Any]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without and parameter.kind not in several
    }


def _attribute(module: nn.Module, name: str, default: Any) -> Any:
    if name == "bias" and "bias" in module._parameters:
        # A norm without weights has no bias either, whatever the argument was.
        bare = "weight" in module._parameters and module.weight is None
        return default if bare else module.bias is not None
    return getattr(module, name)


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        # JSON has no word for these.
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, str) and value in WORDS.get(name, ()):
        return value
    if isinstance(value, nn.Module) and name in MODULE_OPTIONS:
        return value
    raise ValueError(f"argument {name}, which is {value!r}")


def _activation(module: Any) -> Any:
    words = {F.relu: "relu", F.gelu: "gelu"}
    given = module.activation
    return given if isinstance(given, nn.Module) else words.get(given, given)


_ENCODER_LAYER: Final[Mapping[str, _Reader]] = {
    "d_model": lambda module: module.self_attn.embed_dim,
    "nhead": lambda module: module.self_attn.num_heads,
    "dim_feedforward": lambda module: module.linear1.out_features,
    "dropout": lambda module: module.dropout.p,
    "activation": _activation,
    "layer_norm_eps": lambda module: module.norm1.eps,
    "batch_first": lambda module: module.self_attn.batch_first,
    "bias": lambda module: module.linear1.bias is not None,
}

_READERS: Final[Mapping[type[nn.Module], Mapping[str, _Reader]]] = {
    nn.AdaptiveLogSoftmaxWithLoss: {"cutoffs": lambda module: module.cutoffs[:-1]},
    nn.MultiheadAttention: {
        "bias": lambda module: module.in_proj_bias is not None,
        "add_bias_kv": lambda module: module.bias_k is not None,
        "kdim": lambda module: None if module.kdim == module.embed_dim else module.kdim,
        "vdim": lambda module: None if module.vdim == module.embed_dim else module.vdim,
    },
    nn.PairwiseDistance: {"p": lambda module: module.norm},
    nn.Transformer: {
        "custom_encoder": lambda module: module.encoder,
        "custom_decoder": lambda module: module.decoder,
    },
    nn.TransformerDecoder: {"decoder_layer": lambda module: module.layers[0]},
    nn.TransformerDecoderLayer: _ENCODER_LAYER,
    nn.TransformerEncoder: {"encoder_layer": lambda module: module.layers[0]},
    nn.TransformerEncoderLayer: _ENCODER_LAYER,
}
