"""How a module's parameters and buffers lie in flat tensors.

A :class:`ParameterLayout` is what two parties compare when they meet: names, shapes, dtype, offsets
and fragments. It holds no values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from headway.core.errors import ConfigurationError, StateError

__all__ = ["Buffers", "Entry", "ParameterLayout"]

_MAX_SIZE: Final = 2**48
_MAX_DIMS: Final = 64


class Entry(NamedTuple):
    """One named tensor inside a flat one: ``flat[offset : offset + numel].view(shape)``."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def stop(self) -> int:
        """The offset just past its last element."""
        return self.offset + self.numel


class Buffers(NamedTuple):
    """A module's persistent buffers (a BatchNorm's running statistics), flat.

    Attributes:
        floating: Floating-point buffers, one flat tensor in the layout's dtype. Averaged with the
            same weights as the parameters.
        integer: Integer and boolean buffers, one flat int64 tensor. The newest value is taken.
    """

    floating: Tensor
    integer: Tensor

    def clone(self) -> Buffers:
        """A copy that shares no memory."""
        return Buffers(self.floating.clone(), self.integer.clone())


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Names, shapes, dtype, offsets and fragments of a model's flat parameter tensor.

    Args:
        parameters: One entry per parameter; a parameter that is shared stands here once.
        dtype: The dtype that all floating-point values have.
        floating_buffers: Entries of the flat floating-point buffer tensor.
        integer_buffers: Entries of the flat integer buffer tensor.
        bounds: Fragment ``f`` is ``flat[bounds[f] : bounds[f + 1]]``. One fragment by default.

    Example:
        >>> layout = ParameterLayout.of(nn.Linear(3, 2))
        >>> layout.num_params, [entry.name for entry in layout.parameters]
        (8, ['weight', 'bias'])
        >>> layout.flatten(nn.Linear(3, 2)).shape
        torch.Size([8])
    """

    parameters: tuple[Entry, ...]
    dtype: torch.dtype = torch.float32
    floating_buffers: tuple[Entry, ...] = ()
    integer_buffers: tuple[Entry, ...] = ()
    bounds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.bounds:
            object.__setattr__(self, "bounds", (0, self.num_params))

    @classmethod
    def of(cls, module: nn.Module) -> ParameterLayout:
        """Read a module's layout.

        Args:
            module: Any module whose parameters share one dtype and one device.

        Raises:
            ConfigurationError: The module has no parameters, or they have several dtypes.
        """
        named = list(module.named_parameters())
        if not named:
            raise ConfigurationError(
                "the model has no parameters",
                got=type(module).__name__,
                help="give a module with at least one nn.Parameter",
            )
        dtypes = sorted({str(parameter.dtype) for _, parameter in named})
        if len(dtypes) > 1:
            raise ConfigurationError(
                "all parameters must have one dtype",
                got=", ".join(dtypes),
                help="convert the model first, for example model.float()",
            )
        buffers = _persistent_buffers(module)
        return cls(
            parameters=_entries((name, p.shape) for name, p in named),
            dtype=named[0][1].dtype,
            floating_buffers=_entries((n, b.shape) for n, b in buffers if b.is_floating_point()),
            integer_buffers=_entries((n, b.shape) for n, b in buffers if not b.is_floating_point()),
        )

    @classmethod
    def flat(cls, num_params: int, dtype: torch.dtype = torch.float32) -> ParameterLayout:
        """The layout of one unnamed vector, for models that are not modules."""
        return cls(parameters=(Entry("parameters", (num_params,), 0),), dtype=dtype)

    @property
    def num_params(self) -> int:
        """Length of the flat parameter tensor."""
        return self.parameters[-1].stop if self.parameters else 0

    @property
    def num_fragments(self) -> int:
        """How many fragments the flat tensor is divided into."""
        return len(self.bounds) - 1

    def fragment(self, index: int) -> slice:
        """The span of a fragment in the flat tensor."""
        return slice(self.bounds[index], self.bounds[index + 1])

    def with_fragments(self, num_fragments: int) -> ParameterLayout:
        """Divide into fragments of nearly equal size that never cut through a parameter.

        Raises:
            ConfigurationError: There are fewer parameters than fragments.
        """
        stops = [entry.stop for entry in self.parameters]
        if not 1 <= num_fragments <= len(stops):
            raise ConfigurationError(
                "cannot divide the model into that many fragments",
                got=num_fragments,
                expected=f"1 to {len(stops)}, the number of parameter tensors",
            )
        bounds = [0]
        for index in range(1, num_fragments):
            target = index * self.num_params / num_fragments
            choices = stops[stops.index(bounds[-1]) + 1 if bounds[-1] else 0 :]
            choices = choices[: len(choices) - (num_fragments - index)]
            bounds.append(min(choices, key=lambda stop: abs(stop - target)))
        return replace(self, bounds=(*bounds, self.num_params))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat parameter tensor; writing to them writes to it."""
        return {e.name: flat[e.offset : e.stop].view(e.shape) for e in self.parameters}

    def flatten(self, module: nn.Module) -> Tensor:
        """Copy a module's parameters into one new flat tensor, shape ``[num_params]``."""
        named = dict(module.named_parameters())
        self._check(named)
        with torch.no_grad():
            return torch.cat([named[e.name].detach().reshape(-1) for e in self.parameters])

    def flatten_buffers(self, module: nn.Module) -> Buffers | None:
        """Copy a module's persistent buffers; ``None`` when it has none."""
        if not self.floating_buffers and not self.integer_buffers:
            return None
        named = dict(module.named_buffers())
        floating = [named[e.name].reshape(-1).to(self.dtype) for e in self.floating_buffers]
        integer = [named[e.name].reshape(-1).to(torch.int64) for e in self.integer_buffers]
        return Buffers(
            torch.cat(floating) if floating else torch.empty(0, dtype=self.dtype),
            torch.cat(integer) if integer else torch.empty(0, dtype=torch.int64),
        )

    def attach(self, module: nn.Module, flat: Tensor) -> None:
        """Make a module's parameters views of ``flat``: from now on they are the same memory."""
        named = dict(module.named_parameters())
        self._check(named)
        for name, view in self.views(flat).items():
            named[name].data = view

    def load_buffers(self, module: nn.Module, buffers: Buffers) -> None:
        """Write flat buffers into a module's own."""
        named = dict(module.named_buffers())
        with torch.no_grad():
            for entries, flat in (
                (self.floating_buffers, buffers.floating),
                (self.integer_buffers, buffers.integer),
            ):
                for e in entries:
                    named[e.name].copy_(flat[e.offset : e.stop].view(e.shape))

    def describe(self) -> dict[str, Any]:
        """A JSON description, read back by :meth:`from_description`."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "parameters": [[e.name, list(e.shape)] for e in self.parameters],
            "floating_buffers": [[e.name, list(e.shape)] for e in self.floating_buffers],
            "integer_buffers": [[e.name, list(e.shape)] for e in self.integer_buffers],
            "bounds": list(self.bounds),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ParameterLayout:
        """Rebuild a layout from :meth:`describe`.

        Raises:
            StateError: The description is not one of a layout.
        """
        try:
            # Looked up in torch itself, a name could have it import things.
            dtype = _dtypes()[description["dtype"]]
            layout = cls(
                *(_entries(_sized(description["parameters"])), dtype),
                floating_buffers=_entries(_sized(description["floating_buffers"])),
                integer_buffers=_entries(_sized(description["integer_buffers"])),
                bounds=tuple(int(bound) for bound in description["bounds"]),
            )
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise StateError("this is not the description of a layout", got=repr(error)) from error
        return layout

    def difference(self, other: ParameterLayout) -> str | None:
        """The first difference to another layout, in words; ``None`` when they are equal."""
        if self.dtype != other.dtype:
            return f"dtype {self.dtype} against {other.dtype}"
        for mine, theirs in zip(self.parameters, other.parameters, strict=False):
            if mine != theirs:
                return f"{mine.name}{list(mine.shape)} against {theirs.name}{list(theirs.shape)}"
        if len(self.parameters) != len(other.parameters):
            return f"{len(self.parameters)} against {len(other.parameters)} parameters"
        return None if self == other else "buffers or fragments differ"

    def _check(self, named: Mapping[str, Tensor]) -> None:
        expected = [(e.name, e.shape) for e in self.parameters]
        if [(name, tuple(p.shape)) for name, p in named.items()] != expected:
            raise ConfigurationError(
                "the model does not have this layout",
                got=f"{len(named)} parameters: {', '.join(list(named)[:4])} ...",
                expected=f"{len(expected)} parameters: {', '.join(n for n, _ in expected[:4])} ...",
                help="build the model with the same factory as the one the layout was read from",
            )


def _sized(named: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, tuple[int, ...]]]:
    for name, shape in named:
        sizes = tuple(int(size) for size in shape)
        # What a stranger wrote is multiplied and shown: no numbers of a thousand digits.
        if len(sizes) > _MAX_DIMS or not all(0 <= size <= _MAX_SIZE for size in sizes):
            raise ValueError("a shape that no tensor has")
        yield name, sizes


@cache
def _dtypes() -> dict[str, torch.dtype]:
    return {name: kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)}


def _persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]


def _entries(named: Iterable[Sequence[Any]]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for name, shape in named:
        offset = entries[-1].stop if entries else 0
        entries.append(Entry(str(name), tuple(int(size) for size in shape), offset))
    return tuple(entries)
