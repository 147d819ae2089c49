"""Random streams: the published generator, bit-for-bit vectorisation, and sanity of the numbers."""

from __future__ import annotations

import itertools
from math import erf, sqrt

import numpy as np
import pytest
import torch

from headway.core.errors import ConfigurationError
from headway.task.streams import (
    Purpose,
    Stream,
    job_bits,
    job_uniform,
    mix,
    stream_key,
    torch_seed,
    uniform,
    uniform_array,
)

PURPOSES = [value for name, value in vars(Purpose).items() if name.isupper()]


def chi_square(counts: np.ndarray) -> tuple[float, float]:
    """The statistic for equal cells, and its mean plus five standard deviations."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic, freedom + 5.0 * sqrt(2.0 * freedom)


def test_the_published_outputs_of_splitmix64() -> None:
    # The outputs of Vigna's splitmix64.c for the seed 1234567, as test vectors give them.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [mix(1234567, n) for n in range(5)] == published


def test_mix_nests_and_takes_any_integer() -> None:
    assert mix(9, 1, 2, 3) == mix(mix(mix(9, 1), 2), 3)
    assert mix(-1, 0) == mix(2**64 - 1, 0)
    assert all(0 <= mix(seed, -5) < 2**64 for seed in (-(10**30), 0, 10**30))


def test_uniform_is_open_symmetric_and_exact() -> None:
    assert uniform(0) == 2.0**-53
    assert uniform(2**64 - 1) == 1.0 - 2.0**-53
    for n in range(1000):
        bits = mix(3, n)
        # Complementing the bits mirrors the number around 1/2, with no rounding anywhere.
        assert uniform(bits ^ (2**64 - 1)) == 1.0 - uniform(bits)


@pytest.mark.parametrize("seed", [0, 1, -7, 2**63, 10**25])
@pytest.mark.parametrize("dispatch", [0, 3, 2**32 - 1])
def test_array_equals_scalar_bit_for_bit(seed: int, dispatch: int) -> None:
    clients = np.array([0, 1, 2, 999_999, 2**31, 2**32 - 1], dtype=np.int64)
    key = stream_key(seed, Purpose.SPEED)
    array = uniform_array(seed, clients, dispatch, purpose=Purpose.SPEED)
    assert array.dtype == np.float64
    assert array.tolist() == [job_uniform(key, client, dispatch) for client in clients.tolist()]
    assert array.tolist() == [uniform(mix(key, (c << 32) + dispatch)) for c in clients.tolist()]


def test_array_broadcasts_and_defaults_to_durations() -> None:
    table = uniform_array(5, np.arange(3)[:, None], np.arange(4, dtype=np.int32))
    key = stream_key(5, Purpose.DURATION)
    assert table.tolist() == [[job_uniform(key, c, d) for d in range(4)] for c in range(3)]
    assert uniform_array(5, np.int64(2), 1).tolist() == [job_uniform(key, 2, 1)]


def test_no_two_jobs_purposes_or_seeds_share_bits() -> None:
    bits = [
        job_bits(stream_key(seed, purpose), client, dispatch)
        for seed, purpose, client, dispatch in itertools.product(
            range(5), PURPOSES, range(40), range(40)
        )
    ]
    assert len(PURPOSES) == len(set(PURPOSES))
    assert len(set(bits)) == len(bits)


@pytest.mark.parametrize("place", ["seed", "client", "dispatch"])
def test_avalanche(place: str) -> None:
    # Flipping any one input bit flips each output bit with probability 1/2.
    width = 64 if place == "seed" else 32
    trials = 200
    flips = np.zeros((width, 64))
    for trial in range(trials):
        at = {"seed": mix(1, trial), "client": mix(2, trial) >> 32, "dispatch": mix(3, trial) >> 32}
        base = job_bits(mix(at["seed"], Purpose.DURATION), at["client"], at["dispatch"])
        for bit in range(width):
            to = {**at, place: at[place] ^ (1 << bit)}
            changed = base ^ job_bits(
                mix(to["seed"], Purpose.DURATION), to["client"], to["dispatch"]
            )
            flips[bit] += [(changed >> k) & 1 for k in range(64)]
    share = flips / trials
    assert abs(share.mean() - 0.5) < 5 * 0.5 / sqrt(flips.size * trials)
    assert np.abs(share - 0.5).max() < 5.5 * 0.5 / sqrt(trials)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equidistribution_along_every_axis(seed: int) -> None:
    axes = {
        "clients": uniform_array(seed, np.arange(64_000), 0),
        "dispatches": uniform_array(seed, np.zeros(64_000, dtype=np.int64), np.arange(64_000)),
        "seeds": np.array(
            [job_uniform(stream_key(seed + s, Purpose.DURATION), 0, 0) for s in range(6_400)]
        ),
        "draws": np.array([uniform(mix(stream_key(seed, 0), n)) for n in range(6_400)]),
    }
    for axis, numbers in axes.items():
        counts, _ = np.histogram(numbers, bins=64, range=(0.0, 1.0))
        statistic, bound = chi_square(counts)
        assert statistic < bound, axis
        assert abs(numbers.mean() - 0.5) < 5 * sqrt(1 / 12 / numbers.size), axis


@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (1, -1)])
def test_neighbouring_jobs_are_independent(step: tuple[int, int]) -> None:
    clients, dispatches = np.arange(1, 257)[:, None], np.arange(1, 257)[None, :]
    here = uniform_array(0, clients, dispatches).ravel()
    there = uniform_array(0, clients + step[0], dispatches + step[1]).ravel()
    counts, _, _ = np.histogram2d(here, there, bins=16, range=((0, 1), (0, 1)))
    statistic, bound = chi_square(counts)
    assert statistic < bound
    assert abs(np.corrcoef(here, there)[0, 1]) < 5 / sqrt(here.size)


def test_a_stream_repeats_and_belongs_to_its_job() -> None:
    def draws(**place: int) -> list[int]:
        stream = Stream(place["seed"], **{k: v for k, v in place.items() if k != "seed"})
        return [stream.bits() for _ in range(20)]

    base = {"seed": 1, "client": 2, "dispatch": 3, "purpose": Purpose.TRAINING}
    first = draws(**base)
    assert draws(**base) == first
    # The sequence is SplitMix64 seeded with the job's own bits.
    job = job_bits(stream_key(1, Purpose.TRAINING), 2, 3)
    assert first == [mix(job, n) for n in range(20)]
    for name in base:
        assert not set(draws(**{**base, name: base[name] + 1})) & set(first)


def test_normal_has_the_distribution_of_a_normal() -> None:
    stream = Stream(0, client=0, dispatch=0, purpose=Purpose.DATA)
    sample = np.sort([stream.normal() for _ in range(10_000)])
    cdf = np.array([0.5 * (1.0 + erf(x / sqrt(2.0))) for x in sample])
    steps = np.arange(1, sample.size + 1) / sample.size
    assert np.abs(cdf - steps).max() < 2.0 / sqrt(sample.size)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_integers_are_even(n: int) -> None:
    stream = Stream(4, client=1, dispatch=0, purpose=Purpose.DATA)
    counts = np.bincount([stream.integer(n) for _ in range(20 * n + 2000)], minlength=n)
    assert counts.size == n
    if n > 1:
        statistic, bound = chi_square(counts)
        assert statistic < bound


@pytest.mark.parametrize("n", [2**64, 2**63 + 1, 3 << 62])
def test_integers_of_a_huge_range_are_even(n: int) -> None:
    # Plain multiplication would hit some values twice as often here; a third falls in each third.
    stream = Stream(4, client=1, dispatch=0, purpose=Purpose.DATA)
    draws = [stream.integer(n) for _ in range(6000)]
    assert all(0 <= draw < n for draw in draws)
    statistic, bound = chi_square(np.bincount([draw * 3 // n for draw in draws], minlength=3))
    assert statistic < bound


@pytest.mark.parametrize("n", [0, -1, 2**64 + 1])
def test_integer_refuses_an_empty_or_too_wide_range(n: int) -> None:
    stream = Stream(4, client=1, dispatch=0, purpose=Purpose.DATA)
    with pytest.raises(ConfigurationError, match="cannot draw an integer"):
        stream.integer(n)


def test_torch_seed_feeds_a_generator() -> None:
    seeds = [torch_seed(0, client, dispatch) for client in range(50) for dispatch in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(seeds)
    draws = [torch.rand(3, generator=torch.Generator().manual_seed(seeds[0])) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert torch_seed(0, 1, 2) != torch_seed(0, 1, 2, Purpose.DATA)


def test_nothing_global_is_touched() -> None:
    before = torch.random.get_rng_state()
    Stream(0, client=0, dispatch=0, purpose=Purpose.DATA).normal()
    uniform_array(0, np.arange(10), 0)
    assert torch.equal(before, torch.random.get_rng_state())
