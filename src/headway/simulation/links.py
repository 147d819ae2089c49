"""The networks of clients: how long bytes travel, and how many bytes a job moves.

A :class:`Link` is a value, and part of a population. Not here: what is sent, which is the
algorithm's affair, and how long a server works on what arrives (``BusyServer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

from headway.simulation.arguments import check_number, check_positive, is_list
from headway.simulation.laws import Law
from headway.task.streams import Purpose, job_uniform, stream_key

if TYPE_CHECKING:
    from torch import Tensor

    from headway.core import Checkout, ParameterLayout

__all__ = ["Link", "Quantity", "moved_bytes"]

Quantity = float | tuple[float, ...] | Law
"""One value for all clients, one for each, or a law whose draw for a client it is."""

_BITS: Final = 8
_REMEMBERED_CLIENTS: Final = 1 << 16


@final
@dataclass(frozen=True, slots=True)
class Link:
    """What lies between each client and the server.

    Bytes that travel one way take ``latency_s + 8 * num_bytes / bits_per_second``.

    Args:
        down_bps: Bandwidth to the client, in bits per second, above 0.
        up_bps: Bandwidth from the client, in bits per second, above 0.
        latency_s: What each message takes on top, one way, in virtual seconds, 0 or above.

    Raises:
        ConfigurationError: A value is outside its range.

    Example:
        >>> Link(8e6, 1e6, 0.05).transfer_s(0, 1_000_000, 125_000, seed=0)
        2.1
    """

    down_bps: Quantity
    up_bps: Quantity
    latency_s: Quantity = 0.0

    def __post_init__(self) -> None:
        for name in ("down_bps", "up_bps", "latency_s"):
            value = getattr(self, name)
            if not hasattr(value, "draw_s"):
                object.__setattr__(self, name, _checked(name, value))

    @property
    def lengths(self) -> tuple[int, ...]:
        """For how many clients there are values, of each that is given for each client."""
        given = (self.down_bps, self.up_bps, self.latency_s)
        return tuple(len(value) for value in given if isinstance(value, tuple))

    def transfer_s(self, client: int, bytes_down: int, bytes_up: int, seed: int) -> float:
        """How long a job's model and its update travel together, in virtual seconds.

        Args:
            client: Its index.
            bytes_down: Of what is sent to it.
            bytes_up: Of what it sends.
            seed: Of the run.

        Returns:
            A pure function of the arguments: the time down plus the time up.
        """
        down = _of(self.down_bps, client, seed, Purpose.DOWNLINK)
        up = _of(self.up_bps, client, seed, Purpose.UPLINK)
        latency = _of(self.latency_s, client, seed, Purpose.LATENCY)
        return (latency + _BITS * bytes_down / down) + (latency + _BITS * bytes_up / up)

    def transfers(self, seed: int) -> Callable[[int, int, int], float]:
        """:meth:`transfer_s` with the seed put in, which remembers what it drew.

        Args:
            seed: Of the run.

        Returns:
            ``(client, bytes_down, bytes_up) -> virtual seconds``.
        """
        remembered: dict[int, tuple[float, float, float]] = {}

        def transfer_s(client: int, bytes_down: int, bytes_up: int) -> float:
            drawn = remembered.get(client)
            if drawn is None:
                if len(remembered) >= _REMEMBERED_CLIENTS:
                    remembered.clear()
                remembered[client] = drawn = (
                    _of(self.down_bps, client, seed, Purpose.DOWNLINK),
                    _of(self.up_bps, client, seed, Purpose.UPLINK),
                    _of(self.latency_s, client, seed, Purpose.LATENCY),
                )
            down, up, latency = drawn
            return (latency + _BITS * bytes_down / down) + (latency + _BITS * bytes_up / up)

        return transfer_s

    def describe(self) -> dict[str, Any]:
        """Its values as a plain tree; a law as its name and options."""
        return {name: _plain(getattr(self, name)) for name in ("down_bps", "up_bps", "latency_s")}


def moved_bytes(ticket: Checkout, model: Tensor, layout: ParameterLayout) -> tuple[int, int]:
    """How many bytes a job moves, as they are counted in a run's result.

    Args:
        ticket: What the server gave out.
        model: The server's parameters.
        layout: Of the model.

    Returns:
        Bytes to the client and from it. A worker that keeps its model is sent none.
    """
    buffers = ticket.buffers
    extra = 0 if buffers is None else buffers.floating.nbytes + buffers.integer.nbytes
    fragment = ticket.work.fragment
    up = model.nbytes if fragment is None else model[layout.fragment(fragment)].nbytes
    if ticket.parameters is None:
        return 0, up + extra
    return ticket.parameters.nbytes + extra, up + extra


def _of(quantity: Quantity, client: int, seed: int, purpose: int) -> float:
    if isinstance(quantity, float):
        return quantity
    if isinstance(quantity, tuple):
        return quantity[client]
    return quantity.draw_s(client, job_uniform(stream_key(seed, purpose), client, 0))


def _checked(name: str, value: object) -> float | tuple[float, ...]:
    # An array without a dimension is one number, and calls itself iterable all the same.
    if is_list(value) and isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0:
        return tuple([_number(f"{name}[{k}]", item) for k, item in enumerate(value)])
    return _number(name, value)


def _number(name: str, value: object) -> float:
    where = "population.with_link"
    if name.startswith("latency"):
        return check_number(name, value, where=where, minimum=0)
    # An infinite bandwidth is one that costs no time.
    is_one = not getattr(value, "ndim", 0)
    return inf if is_one and value == inf else check_positive(name, value, where=where)


def _plain(quantity: Quantity) -> Any:
    if isinstance(quantity, float):
        return quantity
    if isinstance(quantity, tuple):
        return list(quantity)
    return {"name": quantity.name, **asdict(quantity)}
