"""The seam for whoever watches."""

from __future__ import annotations

from headway.observe import Observer, Point, Result, RunInfo, Snapshot


class Watcher:
    def started(self, info: RunInfo) -> None: ...

    def progress(self, snapshot: Snapshot) -> None: ...

    def evaluated(self, point: Point) -> None: ...

    def finished(self, result: Result) -> None: ...


def test_an_observer_is_whatever_has_the_four_methods() -> None:
    observer: Observer = Watcher()
    assert isinstance(observer, Observer)
    assert not isinstance(object(), Observer)
