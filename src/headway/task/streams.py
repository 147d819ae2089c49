"""Random numbers that belong to a job, never to a global generator.

A number is a pure function of ``(seed, purpose, client, dispatch, draw)``: it does not matter who
asks first, how often, or on which process, and there is no generator whose state would have to be
saved.

The function is SplitMix64 read at any position: its output ``n`` from state ``s`` is
``finalize(s + (n + 1) * GAMMA)``, so a position costs one finalizer however far it is. Each level
of the tree takes the output above it as its seed::

    seed --purpose--> key --(client, dispatch)--> job --draw--> 64 bits

Source:
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the
    constants are those of Vigna's public-domain ``splitmix64.c`` (Stafford's variant 13).
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, final

import numpy as np

from headway.core.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Purpose",
    "Stream",
    "job_bits",
    "job_uniform",
    "mix",
    "normal_quantile",
    "stream_key",
    "torch_seed",
    "uniform",
    "uniform_array",
]

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_ULP: Final = 2.0**-53

normal_quantile = NormalDist().inv_cdf
"""The inverse of the standard normal distribution function, on (0, 1)."""


@final
class Purpose:
    """What a stream is for: two purposes of the same job never share a number.

    Plain ints, because arithmetic on an ``enum`` would cost as much as the hash. They are part of
    every recorded run: new ones are added at the end, and none ever changes.
    """

    SPEED: Final = 0
    DURATION: Final = 1
    DROPOUT: Final = 2
    TRAINING: Final = 3
    SCHEDULE: Final = 4
    DATA: Final = 5
    MODEL: Final = 6
    DOWNLINK: Final = 7
    UPLINK: Final = 8
    LATENCY: Final = 9
    AWAY: Final = 10
    DAY: Final = 11
    ARRIVAL: Final = 12
    COMER: Final = 13
    STALENESS: Final = 14


def _output(state: int, position: int) -> int:
    z = (state + (position + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def mix(seed: int, counter: int, /, *counters: int) -> int:
    """Hash a seed and counters into 64 bits.

    ``mix(s, n)`` is output ``n`` (from 0) of SplitMix64 started at ``s``, and ``mix(s, a, b)`` is
    ``mix(mix(s, a), b)``: two counters in the same place never collide.

    Args:
        seed: Any integer, taken modulo 2**64.
        counter: Any integer, taken modulo 2**64.
        *counters: More of them, each a level below the last.

    Returns:
        An integer in [0, 2**64).

    Example:
        >>> mix(1234567, 0)  # the first number that Vigna's program prints for this seed
        6457827717110365317
        >>> mix(7, 1, 2) == mix(mix(7, 1), 2)
        True
    """
    state = _output(seed, counter)
    for position in counters:
        state = _output(state, position)
    return state


def uniform(bits: int) -> float:
    """Turn 64 random bits into a number strictly between 0 and 1.

    The upper 53 bits with the last of them set, over 2**53: an odd multiple of 2**-53. So 0 and 1
    never come, ``1 - u`` is exact and as likely as ``u``, and the mean is exactly 1/2.

    Args:
        bits: An integer in [0, 2**64).

    Returns:
        A float in [2**-53, 1 - 2**-53].

    Example:
        >>> uniform(0) > 0.0, uniform(2**64 - 1) < 1.0
        (True, True)
    """
    return ((bits >> 11) | 1) * _ULP


@lru_cache(maxsize=256)
def stream_key(seed: int, purpose: int) -> int:
    """The key of one purpose's streams in a run: ``mix(seed, purpose)``, remembered.

    Args:
        seed: The seed of the run.
        purpose: One of :class:`Purpose`.

    Returns:
        An integer in [0, 2**64), for :func:`job_bits` and :func:`job_uniform`.

    Example:
        >>> stream_key(0, Purpose.SPEED) != stream_key(0, Purpose.DURATION)
        True
    """
    return mix(seed, purpose)


def job_bits(key: int, client: int, dispatch: int) -> int:
    """The 64 bits of one job: ``mix(key, client * 2**32 + dispatch)``.

    Args:
        key: From :func:`stream_key`.
        client: Index of the client, in [0, 2**32).
        dispatch: Number of the job, in [0, 2**32). Two jobs of one client have different ones.

    Returns:
        An integer in [0, 2**64); two jobs never have the same.

    Example:
        >>> key = stream_key(0, Purpose.TRAINING)
        >>> job_bits(key, 3, 5) == mix(0, Purpose.TRAINING, 3 * 2**32 + 5)
        True
    """
    z = (key + ((client << 32) + dispatch + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def job_uniform(key: int, client: int, dispatch: int) -> float:
    """The uniform number of one job: ``uniform(job_bits(key, client, dispatch))`` in one call.

    Args:
        key: From :func:`stream_key`.
        client: Index of the client, in [0, 2**32).
        dispatch: Number of the job, in [0, 2**32).

    Returns:
        A float strictly between 0 and 1.

    Example:
        >>> key = stream_key(0, Purpose.DURATION)
        >>> job_uniform(key, 3, 5) == uniform(job_bits(key, 3, 5))
        True
    """
    z = (key + ((client << 32) + dispatch + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return (((z ^ (z >> 31)) >> 11) | 1) * _ULP


def uniform_array(
    seed: int,
    clients: NDArray[np.integer],
    dispatch: int | NDArray[np.integer],
    *,
    purpose: int = Purpose.DURATION,
) -> NDArray[np.float64]:
    """The uniform numbers of many jobs at once, the same to the bit as :func:`job_uniform`.

    Args:
        seed: The seed of the run.
        clients: Indices of clients, integers in [0, 2**32), any shape.
        dispatch: Numbers of the jobs, in [0, 2**32), broadcast against ``clients``.
        purpose: One of :class:`Purpose`.

    Returns:
        Float64 array of the broadcast shape (at least 1-d), each strictly between 0 and 1. Extra
        memory: four arrays of that shape.

    Example:
        >>> key = stream_key(0, Purpose.DURATION)
        >>> uniform_array(0, np.arange(3), 5).tolist() == [job_uniform(key, c, 5) for c in range(3)]
        True
    """
    # At least 1-d: numpy warns about an overflow in its scalars and wraps silently in its arrays.
    high = np.atleast_1d(np.asarray(clients)).astype(np.uint64) << np.uint64(32)
    low = np.atleast_1d(np.asarray(dispatch)).astype(np.uint64) + np.uint64(1)
    z = (high + low) * np.uint64(_GAMMA) + np.uint64(stream_key(seed, purpose))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) | np.uint64(1)
    return z.astype(np.float64) * _ULP


def torch_seed(seed: int, client: int, dispatch: int, purpose: int = Purpose.TRAINING) -> int:
    """A seed for ``torch.Generator.manual_seed`` that belongs to one job.

    Args:
        seed: The seed of the run.
        client: Index of the client, in [0, 2**32).
        dispatch: Number of the job, in [0, 2**32).
        purpose: One of :class:`Purpose`.

    Returns:
        An integer in [0, 2**63). Torch's CPU generator uses its lower 32 bits, so among 100,000
        jobs about one pair shuffles its data alike.

    Example:
        >>> import torch
        >>> first = torch.Generator().manual_seed(torch_seed(0, 3, 5))
        >>> again = torch.Generator().manual_seed(torch_seed(0, 3, 5))
        >>> torch.equal(torch.randperm(9, generator=first), torch.randperm(9, generator=again))
        True
    """
    return job_bits(stream_key(seed, purpose), client, dispatch) >> 1


@final
class Stream:
    """A sequence of random numbers that belongs to one job.

    Args:
        seed: The seed of the run.
        client: Index of the client, in [0, 2**32).
        dispatch: Number of the job, in [0, 2**32).
        purpose: One of :class:`Purpose`.

    Example:
        >>> stream = Stream(0, client=3, dispatch=5, purpose=Purpose.TRAINING)
        >>> again = Stream(0, client=3, dispatch=5, purpose=Purpose.TRAINING)
        >>> [stream.integer(6) for _ in range(4)] == [again.integer(6) for _ in range(4)]
        True
    """

    __slots__ = ("_position", "_state")

    def __init__(self, seed: int, *, client: int, dispatch: int, purpose: int) -> None:
        self._state = job_bits(stream_key(seed, purpose), client, dispatch)
        self._position = 0

    def bits(self) -> int:
        """The next integer in [0, 2**64)."""
        position = self._position
        self._position = position + 1
        return _output(self._state, position)

    def uniform(self) -> float:
        """The next float strictly between 0 and 1."""
        return uniform(self.bits())

    def normal(self) -> float:
        """The next standard normal float, by inversion; its magnitude stays below 8.3."""
        return normal_quantile(uniform(self.bits()))

    def integer(self, n: int) -> int:
        """The next integer in [0, n), each exactly as likely as the others.

        Args:
            n: How many there are, in [1, 2**64].

        Returns:
            An integer in [0, n).

        Raises:
            ConfigurationError: If ``n`` is outside its range.

        Source:
            Lemire, "Fast random integer generation in an interval", TOMACS 2019, algorithm 5.
        """
        if not 1 <= n <= 1 << 64:
            raise ConfigurationError(
                "cannot draw an integer below this number",
                where="Stream.integer(n)",
                got=n,
                expected="1 <= n <= 2**64",
                help="pass how many values there are to choose from",
            )
        product = self.bits() * n
        if product & _MASK < n:
            unfair = ((1 << 64) - n) % n
            while product & _MASK < unfair:
                product = self.bits() * n
        return product >> 64
