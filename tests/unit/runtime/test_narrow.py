"""Which codec a worker's link gets, and how that link is measured. Times are given, not taken."""

from __future__ import annotations

import pytest
import torch

from headway import compression
from headway.core import ParameterLayout
from headway.runtime import encoded, narrow, wire
from headway.runtime.encoded import Meeting, Traffic
from headway.runtime.narrow import Narrow, read_compression

SIZE = 25_450
LADDER = (
    compression.none(),
    compression.bf16(),
    compression.int8(),
    compression.topk(0.1, values="int8"),
    compression.topk(0.01, values="int8"),
)


class Clock:
    def __init__(self, *times):
        self.times = list(times)

    def perf_counter(self):
        return self.times.pop(0)


def decided(monkeypatch, bytes_per_s, job_s=0.0, wanted="auto", **options):
    """What a worker has chosen when its first job, of so many seconds, is done."""
    monkeypatch.setattr(narrow, "time", Clock(0.0, job_s))
    one = Narrow(read_compression(wanted))
    traffic = Traffic(bytes_per_s=bytes_per_s)
    told = {"payload": "gradient", "shared": False, **options}
    one.enter(("none", "bf16", "int8", "topk"), ParameterLayout.flat(SIZE), traffic=traffic, **told)
    one.begins()
    one.encode(1, torch.ones(SIZE), None)
    return one


@pytest.mark.parametrize("job_s", [0.0, 30.0])
@pytest.mark.parametrize("bytes_per_s", [125e6, 1e6, 300e3, 150e3, 32e3, 4e3, 100.0])
def test_the_first_codec_whose_update_travels_in_time_is_taken(monkeypatch, bytes_per_s, job_s):
    """In a quarter of a second, or a tenth of the job; the shortest, where none does."""
    room = bytes_per_s * max(0.25, 0.1 * job_s)
    fitting = [codec for codec in LADDER if codec.max_bytes(SIZE, torch.float32) <= room]
    one = decided(monkeypatch, bytes_per_s, job_s)
    assert one.codec == (fitting[0] if fitting else LADDER[-1])


def test_a_fast_link_compresses_nothing_and_a_narrow_one_does(monkeypatch):
    assert decided(monkeypatch, 125e6).codec == compression.none()
    found = decided(monkeypatch, 32e3)
    assert found.codec == compression.topk(0.1, values="int8")
    assert found.why == "measured 32.0 kB/s, patience 0.25 s"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bytes_per_s": 0.0}, "the link could not be measured"),
        ({"bytes_per_s": 1e3, "shared": True}, "shared memory"),
        ({"bytes_per_s": 1e3, "payload": "weights"}, "its workers send whole models"),
        ({"bytes_per_s": 1e3, "wanted": None, "shared": True}, "as was asked for"),
    ],
)
def test_why_nothing_is_compressed_is_told(monkeypatch, options, why):
    one = decided(monkeypatch, **options)
    assert one.codec == compression.none()
    assert one.why.startswith(why)


def test_a_small_model_s_time_is_what_is_longer_than_a_message_that_carries_nothing(monkeypatch):
    join, ask = wire.ToServer(join=wire.Join()), wire.ToServer(ask=wire.Ask())
    # Joined at 0, let in at 0.3, asked at 1, and the model is here at 1.8.
    monkeypatch.setattr(encoded, "time", Clock(0.0, 0.3, 1.0, 1.8))
    meeting = Meeting()
    meeting.said(join)
    meeting.welcomed()
    meeting.said(ask)
    assert meeting.travelled_s() == pytest.approx(0.5)


def test_a_model_that_had_to_wait_measures_nothing(monkeypatch):
    monkeypatch.setattr(encoded, "time", Clock(0.0, 0.3, 1.0))
    meeting = Meeting()
    meeting.said(wire.ToServer(join=wire.Join()))
    meeting.welcomed()
    meeting.said(wire.ToServer(ask=wire.Ask()))
    meeting.told_to_wait()
    assert meeting.travelled_s() is None


def test_the_first_model_measures_the_link_and_later_ones_do_not():
    traffic = Traffic()
    traffic.measure(32_000, 2.0)
    traffic.measure(32_000, 0.1)
    assert traffic.bytes_per_s == 16_000
