"""Whatever workers say, in whatever order: a hub raises nothing, and its books agree."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headway import algorithms, core
from headway.runtime import wire
from headway.runtime.hub import Hub
from headway.runtime.parcel import Parcel
from headway.runtime.porter import Porter

SIZE = 3
LAYOUT = core.ParameterLayout.flat(SIZE, torch.float32)
HUGE = 2**64 - 1
ALGORITHMS = {
    "async_sgd": lambda: algorithms.async_sgd(learning_rate=0.5),
    "fedbuff": lambda: algorithms.fedbuff(buffer_size=2),
    "fedavg": lambda: algorithms.fedavg(clients_per_round=2),
    "ssp": lambda: algorithms.ssp(bound=1),
}
counts = st.integers(0, 9) | st.sampled_from([2**40 - 1, 2**40, 2**53, 2**63, HUGE])
numbers = st.floats() | st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e308])
# Of protobuf's strings: no lone surrogates.
texts = st.text(max_size=12) | st.sampled_from(["", "ada", "bob", "w" * 129, "loss", "a\0b"])
jobs = st.integers(0, 6) | counts


class Stranger:
    """A connection that keeps what it is sent."""

    carrier = "inline"

    def __init__(self) -> None:
        self.got: list[wire.ToWorker] = []
        self.is_open = True

    @cached_property
    def traffic(self) -> Any:
        from headway.runtime.encoded import Traffic

        return Traffic()

    def send(self, header: wire.ToWorker, vector: Any = None, buffers: Any = None) -> None:
        # As a real link does, in another thread.
        header.SerializeToString()
        self.got.append(header)

    def welcome(self, header: wire.ToWorker) -> None:
        self.send(header)

    def close(self) -> None:
        self.is_open = False


payloads = st.one_of(
    st.none(),
    st.lists(st.floats(width=32), min_size=SIZE, max_size=SIZE).map(torch.tensor),
    st.integers(0, 5).map(torch.ones),
    st.just(torch.ones(SIZE, dtype=torch.float64)),
    st.just(torch.full((SIZE,), math.nan)),
    st.just(torch.full((SIZE,), 3e38)),
)
buffer_sets = st.sampled_from(
    [None, core.Buffers(torch.zeros(2), torch.zeros(0, dtype=torch.int64))]
)


class Strangers(RuleBasedStateMachine):
    """Workers that follow no rule, at a real server."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sessions = [Stranger() for _ in range(3)]

    @initialize(name=st.sampled_from(sorted(ALGORITHMS)))
    def begin(self, name: str) -> None:
        server = core.Server(torch.zeros(SIZE), ALGORITHMS[name](), layout=LAYOUT)
        self.hub = Hub(server, Porter(LAYOUT, {}), clock=lambda: self.now)
        self.hub.turn()

    def say(self, who: int, header: wire.ToServer, vector: Any = None, buffers: Any = None) -> None:
        session = self.sessions[who]
        if not session.is_open:
            self.hub.gone(session)
            self.sessions[who] = session = Stranger()
        done: list[None] = []
        # What a link hands over was bytes before.
        header = wire.ToServer.FromString(header.SerializeToString())
        self.hub.post(session, Parcel(header, vector, buffers), lambda: done.append(None))
        self.hub.turn()
        assert done == [None]

    @rule(who=st.integers(0, 2), name=st.sampled_from(["", "ada", "bob"]), instance=texts)
    def join(self, who: int, name: str, instance: str) -> None:
        join = wire.Join(protocol=wire.PROTOCOL, worker=name, instance=instance)
        self.say(who, wire.ToServer(join=join))

    @rule(
        who=st.integers(0, 2),
        protocol=counts.map(lambda n: n % 2**32),
        words=st.tuples(texts, texts, texts, texts),
        holds=st.lists(jobs, max_size=4),
    )
    def join_oddly(self, who: int, protocol: int, words: Any, holds: list[int]) -> None:
        library, worker, instance, layout = words
        join = wire.Join(
            protocol=wire.PROTOCOL if protocol % 2 else protocol,
            library=library,
            worker=worker,
            instance=instance,
            layout=layout,
            holds=holds,
        )
        self.say(who, wire.ToServer(join=join))

    @rule(who=st.integers(0, 2), shared=st.booleans(), look=st.booleans(), times=st.integers(1, 4))
    def ask(self, who: int, shared: bool, look: bool, times: int) -> None:
        for _ in range(times):
            self.say(who, wire.ToServer(ask=wire.Ask(shared=shared, look=look)))

    def push(self, who: int, vector: Any, buffers: Any, **fields: Any) -> None:
        self.say(who, wire.ToServer(push=wire.Push(**fields)), vector, buffers)

    @rule(
        who=st.integers(0, 2),
        vector=payloads,
        buffers=buffer_sets,
        numbers_=st.tuples(jobs, counts, counts, counts, counts),
        fragment=st.none() | st.sampled_from([0, 1, 2**31, 2**32 - 1]),
        metrics=st.dictionaries(texts, numbers, max_size=3),
        again=st.booleans(),
    )
    def push_oddly(self, who, vector, buffers, numbers_, fragment, metrics, again):
        job, base, examples, steps, processed = numbers_
        self.push(
            who,
            vector,
            buffers,
            job=job,
            base_version=base,
            num_examples=examples,
            num_steps=steps,
            num_processed=processed,
            fragment=fragment,
            metrics=metrics,
            again=again,
        )

    @rule(
        who=st.integers(0, 2),
        vector=payloads,
        place=st.integers(0, 3),
        examples=counts,
        again=st.booleans(),
    )
    def push_a_job_that_is_out(self, who, vector, place, examples, again):
        """Its own, or another worker's."""
        out = [letter.job for session in self.sessions for letter in session.got]
        out = [job for job in out if job.id]
        if out:
            job = out[-1 - place % len(out)]
            told = {"job": job.id, "base_version": job.version, "num_examples": examples}
            self.push(who, vector, None, again=again, **told)

    @rule(
        who=st.integers(0, 2),
        header=st.sampled_from(
            [
                wire.ToServer(),
                wire.ToServer(leave=wire.Leave(reason="x" * 1000)),
                wire.ToServer(beat=wire.Beat(number=HUGE, slack_s=math.nan)),
                wire.ToServer(chunk=wire.Chunk(data=b"abc")),
            ]
        ),
    )
    def say_something_else(self, who: int, header: wire.ToServer) -> None:
        self.say(who, header)

    @rule(who=st.integers(0, 2), twice=st.booleans())
    def break_off(self, who: int, twice: bool) -> None:
        for _ in range(1 + twice):
            self.hub.gone(self.sessions[who])
        self.hub.turn()
        self.sessions[who] = Stranger()

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.hub.turn()

    @invariant()
    def the_books_agree(self) -> None:
        hub, server = self.hub, self.hub.server
        assert hub.error is None
        assert hub.state == "running"
        members = hub.members.by_name.values()
        held = {job: member for member in members for job in member.jobs}
        assert sum(len(member.jobs) for member in members) == len(held)
        assert held == {job: given.member for job, given in hub._deals.in_flight.items()}
        assert server.num_in_flight == len(held)
        assert max([0, *(len(member.jobs) for member in members)]) <= 2
        assert all(member.name == name for name, member in hub.members.by_name.items())
        for session, member in hub.members.here.items():
            assert member.session is session
            assert session.is_open
        assert torch.isfinite(server.parameters).all()
        tally = hub.tally
        assert tally.reasons.total() == server.counts["rejected"]
        assert tally.updates == sum(
            count.accepted + count.rejected for count in tally.clients.values()
        )
        for member in members:
            counts_ = member.counts
            told = counts_["applied"] + counts_["buffered"] + counts_["rejected"]
            assert counts_["updates"] == told
        json.dumps([member.describe(self.now) for member in members], allow_nan=False)


TestStrangers = Strangers.TestCase
TestStrangers.settings = settings(settings(), stateful_step_count=30)


# --- the layout that a worker says it has

HEAD = '{"dtype": "float32", "parameters": [["parameters", [%s]]], '
TAIL = '"floating_buffers": [], "integer_buffers": [], "bounds": [0, 3]}'
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 2**63, "float32", "_dynamo", "\ud800", "dtype"])
    | st.floats()
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


def told_at_the_door(layout: str) -> str:
    """What a hub answers to a worker with this layout."""
    hub = Hub(
        core.Server(torch.zeros(SIZE), ALGORITHMS["async_sgd"](), layout=LAYOUT), Porter(LAYOUT, {})
    )
    hub.turn()
    session = Stranger()
    join = wire.Join(protocol=wire.PROTOCOL, layout=layout)
    hub.take(session, Parcel(wire.ToServer(join=join)))
    (answer,) = session.got
    assert answer.ByteSize() < 4096
    return answer.refused.code if answer.HasField("refused") else "welcome"


# Found while this was written, each the end of the server: characters that JSON can spell and a
# message cannot carry; a number that is no int; names of torch that are modules to import.
@pytest.mark.parametrize(
    "layout",
    [
        json.dumps(LAYOUT.describe() | {"parameters": [["\ud800", [3]]]}),
        HEAD % "Infinity" + TAIL,
        HEAD % "1e400" + TAIL,
        HEAD % "NaN" + TAIL,
        HEAD % ("9" * 4000) + TAIL,
        HEAD % ("9" * 5000) + TAIL,
        HEAD % "-3" + TAIL,
        HEAD % ",".join(["1"] * 10_000) + TAIL,
        json.dumps(LAYOUT.describe() | {"dtype": "_dynamo"}),
        json.dumps(LAYOUT.describe() | {"dtype": ["float32"]}),
        json.dumps(LAYOUT.describe() | {"parameters": [["x" * 500_000, [3]]]}),
        "[" * 100_000,
        '{"a":' * 100_000,
        "null",
        "{}",
    ],
    ids=lambda text: text[:60],
)
def test_a_layout_that_lies_is_refused(layout: str) -> None:
    assert told_at_the_door(layout) == "layout"


@given(st.sampled_from(sorted(LAYOUT.describe())), json_values)
@example("parameters", [["\ud800", [3]]])
@example("bounds", [math.inf])
def test_a_layout_with_something_else_in_it_is_refused_or_the_same(key: str, value: Any) -> None:
    told = json.dumps(LAYOUT.describe() | {key: value})
    assert told_at_the_door(told) in ("layout", "welcome")


@given(st.text(max_size=60))
def test_a_layout_that_is_no_json_is_refused(text: str) -> None:
    assert told_at_the_door("{" + text) == "layout"


@pytest.mark.parametrize(
    "metrics", [{str(n): 1.0 for n in range(257)}, {"x" * 129: 1.0}], ids=["many", "long"]
)
def test_more_metrics_than_are_written_down_are_refused(metrics: dict[str, float]) -> None:
    hub = Hub(
        core.Server(torch.zeros(SIZE), ALGORITHMS["async_sgd"](), layout=LAYOUT), Porter(LAYOUT, {})
    )
    hub.turn()
    session = Stranger()
    for header in (
        wire.ToServer(join=wire.Join(protocol=wire.PROTOCOL)),
        wire.ToServer(ask=wire.Ask()),
        wire.ToServer(push=wire.Push(job=1, metrics=metrics)),
    ):
        hub.take(session, Parcel(header))
    assert session.got[-1].refused.code == "protocol_error"
    assert not hub.members.here
    assert hub.server.num_in_flight == 0
