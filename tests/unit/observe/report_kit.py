"""Small runs for tests of the report, and a reader that is strict about markup."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from headway.core import CheckedOut, Event, Submitted
from headway.observe import ClientCount, Point, Result
from headway.observe.html import Goal, render

VOID = {"br", "hr", "input", "link", "meta"}
GOAL = Goal("accuracy", 0.8, "max")


def made(label: str = "fedbuff", seed: int = 0, **changes: Any) -> Result:
    """A run of ten evaluations, one each 10 s, that ends at accuracy 0.9; without events."""
    history = changes.pop("history", None) or accuracies([0.1 * n for n in range(10)])
    last = history[-1]
    values: dict[str, Any] = {
        "settings": {"buffer_size": 10},
        "task": "digits",
        "synchronous": label.startswith("fedavg"),
        "population": {"name": "constant"},
        "concurrency": 2,
        "num_clients": 4,
        "staleness": {0: 70, 1: 20, 2: 10},
        "counts": {"updates": 100, "applied": 10, "buffered": 90},
        "clients": {0: ClientCount(60, 58, 1, 1, 0, 600, 50.0), 1: ClientCount(40, 40, 0, 0, 0)},
        "examples": last.examples,
        "discarded_examples": 0,
        "bytes_up": last.bytes // 2,
        "bytes_down": last.bytes // 2,
        "wall_time_s": last.wall_time_s,
        "idle_share": 0.25,
        "stop_reason": "updates >= 100",
        "log_hash": "a" * 64,
        "weights_hash": "b" * 64,
    } | changes
    return Result(
        algorithm=label.split()[0],
        label=label,
        seed=seed,
        history=history,
        updates=last.updates,
        versions=last.versions,
        virtual_time_s=last.virtual_time_s,
        **values,
    )


def accuracies(values: list[float], *, every_s: float = 10.0) -> list[Point]:
    """A history with an evaluation each ``every_s`` virtual seconds, the first at once."""
    return [
        Point(10 * n, n, 320 * n, 1000 * n, every_s * n, 0.1 * n, {"accuracy": value})
        for n, value in enumerate(values)
    ]


def worked(num_workers: int, num_jobs: int, length_s: float = 1.0) -> list[Event]:
    """Workers that each do one job after another, without a pause."""
    return list(_worked(num_workers, num_jobs, length_s))


def _worked(num_workers: int, num_jobs: int, length_s: float) -> Iterator[Event]:
    for turn in range(num_jobs):
        for worker in range(num_workers):
            yield checked_out(turn * length_s, worker, turn * num_workers + worker, turn)
        for worker in range(num_workers):
            job = turn * num_workers + worker
            yield submitted((turn + 1) * length_s, worker, job, version=turn + 1)


def checked_out(time: float, worker: int, job: int, version: int = 0) -> CheckedOut:
    return CheckedOut(time, f"client-{worker}", job, version, False)


def submitted(
    time: float,
    worker: int,
    job: int,
    *,
    status: str = "applied",
    reason: str = "",
    staleness: int = 0,
    version: int = 0,
    cancelled: tuple[int, ...] = (),
) -> Submitted:
    return Submitted(
        time=time,
        worker=f"client-{worker}",
        job=job,
        status=status,
        reason=reason,
        staleness=staleness,
        weight=1.0,
        version=version,
        base_version=max(0, version - staleness),
        num_examples=1,
        num_steps=1,
        metrics={},
        cancelled=cancelled,
        again=True,
        sent_weight=1.0,
        fragment=None,
        payload_bytes=0,
        payload=None,
        buffers=None,
    )


class Reader(HTMLParser):
    """Reads a page and complains of whatever is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in <{tag}>: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def values(self, name: str, tag: str | None = None) -> list[str]:
        """The values of one attribute, of all elements or of those with one tag."""
        return [had[name] for kind, had in self.elements if name in had and tag in (None, kind)]

    def all_of(self, tag: str, class_: str) -> list[dict[str, str]]:
        """The attributes of the elements with a tag and a class."""
        wanted = (had for kind, had in self.elements if kind == tag)
        return [had for had in wanted if class_ in had.get("class", "").split()]

    @property
    def text(self) -> str:
        """What people read, all white space alike."""
        kept = (data for tag, data in self.texts if tag not in ("style", "script"))
        return re.sub(r"\s+", " ", " ".join(kept))

    def of_class(self, name: str) -> int:
        """How many elements have a class."""
        return sum(name in classes.split() for classes in self.values("class"))


def read(*results: Result, goal: Goal | None = GOAL) -> Reader:
    return Reader(render(results, goal=goal))


def heading(page: Reader) -> str:
    """The verdict, with plain spaces."""
    return next(data for tag, data in page.texts if tag == "h1").replace("\N{NO-BREAK SPACE}", " ")
