"""One run with real workers, from the start of the processes to the result.

The hub's thread owns the server and says when a measurement or the end is due. The calling thread
measures, writes and tells observers, so that none of this keeps an update waiting.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
from torch import Tensor

from headway.core import Buffers, Event, Noted, Server
from headway.observe import Observer, Point, Result, RunFolder
from headway.observe.closing import Closing
from headway.observe.journal import Journal, result_of, usual_warnings
from headway.runtime.hub import Hub
from headway.runtime.porter import Porter
from headway.runtime.processes import Processes, Team, all_gone
from headway.runtime.segments import Segments, SharedMemory
from headway.simulation.population import client_name
from headway.simulation.settings import Settings, server_for
from headway.simulation.simulate import about_run, run_info, snapshot_of
from headway.simulation.stop import Progress
from headway.training.going_on import Saved, keeper_for

if TYPE_CHECKING:
    from headway.core import Algorithm, ParameterLayout

__all__ = ["Live", "keeps_clients"]

_LOOK_EVERY_S: Final = 0.2
_WAITING: Final = 2
_HOPELESS: Final = 100
_CPU: Final = torch.device("cpu")


class _Shot(NamedTuple):
    """The server's model at one moment, and how far the run was."""

    parameters: Tensor
    buffers: Buffers | None
    updates: int
    versions: int
    examples: int
    num_bytes: int
    time_s: float


@final
class Live(Closing):
    """A run. It is a context: at its end no process and no shared memory is left.

    Args:
        settings: What to run.
        runtime: The workers.
        folder: Where it is written.
        observers: Who watches.
        label: What tables call it.
        consistency: ``"snapshot"`` or ``"hogwild"``.
        saved: Where checkpoints go, and how many versions from one to the next; ``None``: nowhere.
        is_unwanted: Whether it shall end before it has begun; asked while processes start.

    Raises:
        ConfigurationError: The task cannot be sent to another process, no process started, or the
            checkpoint that is there is of something else.
        CheckpointError: No checkpoint that is there can be read, or another run writes there.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Processes,
        folder: RunFolder | None,
        observers: Sequence[Observer],
        label: str,
        consistency: str,
        saved: Saved | None = None,
        is_unwanted: Callable[[], bool] = bool,
    ) -> None:
        self._settings = settings
        told = {"population": runtime.describe(), "execution": {"mode": "workers"}}
        self._about = {**about_run(settings, label), **told}
        # Of those who have a turn, as many are at work as there are jobs for.
        turns = self._about["concurrency"] or runtime.num_jobs
        self._about["concurrency"] = min(turns, runtime.num_jobs)
        self._label = label
        self._journal = Journal(folder, observers, settings.record)
        self._pinned = runtime.num_workers if keeps_clients(settings.algorithm) else 0
        self._segments = Segments()

        self._consistent = consistency == "snapshot"
        self._history: list[Point] = []
        self._began: float | None = None
        keeper = None if saved is None else keeper_for(settings, saved, self._beside)
        self._keeper = keeper
        try:
            self._server = self._new_server() if keeper is None else keeper.open(self._new_server)
            self._offset_s = self._server.now
            self._hub = self._make_hub()
            self._go_on()
            self._team = Team(
                runtime,
                settings.task,
                settings.algorithm,
                seed=settings.seed,
                device=settings.device,
                is_unwanted=is_unwanted,
            )
        except BaseException:
            self._segments.close()
            if keeper is not None:
                keeper.close()
            raise
        self._team.connect(self._hub, self._segments, self._server.layout, self._gone)
        self._progress = Progress()
        self._shots: queue.SimpleQueue[_Shot | None] = queue.SimpleQueue()
        self._num_skipped = 0
        every = settings.evaluate_every.versions or 0
        self._next_versions = self._server.version + every
        self._bad = self._bad_in_a_row = 0
        self._reason: str | None = None
        self._failed_in = ""
        self._deserted = False
        self._next_report_s = 0.0
        self.interrupted = False

    def close(self) -> None:
        """End the processes, and give back what was shared. May be called twice."""
        self._close()
        if self._keeper is not None:
            self._keeper.close()

    def interrupt(self, reason: str = "interrupted") -> None:
        """End it: workers hand in what they are doing, if that is soon. For a signal handler.

        Args:
            reason: ``"interrupted"`` or ``"terminated"``.
        """
        self.interrupted = True
        self._reason = self._reason or reason
        self._hub.stop(reason, drain=True)
        self._journal.interrupted()

    def run(self) -> Result:
        """Train until the end: the result.

        Raises:
            Exception: What a job, an evaluation or the algorithm raised.
        """
        info = run_info(self._settings, self._label)._replace(is_real=True)
        self._journal.started(info, self._about, self._server)
        try:
            self._measure(self._shot())
            self._began = time.monotonic()
            if not self.interrupted:
                self._hub.start()
            self._attend()
            self._raise()
            self._close()
            return self._finish()
        except Exception as error:
            self._fail(error)
            raise
        except BaseException:
            self._close()
            self._journal.broken_off(self._server.take_events())
            raise

    # --- in the hub's thread

    def _arrived(self, hub: Hub) -> None:
        """After each update: is a measurement or the end due?"""
        tally, progress, every = hub.tally, self._progress, self._settings.evaluate_every
        self._look()
        if every.updates is not None and progress.updates % every.updates == 0:
            self._take_shot()
        bad = tally.reasons["not_finite"]
        self._bad_in_a_row = self._bad_in_a_row + 1 if bad > self._bad else 0
        self._bad = bad
        if self._bad_in_a_row >= max(_HOPELESS, 2 * tally.peak_in_flight):
            self._end(f"diverged: the last {self._bad_in_a_row} updates were not finite")

    def _settled(self, hub: Hub) -> None:
        """After each turn; time and lost workers change things too."""
        if hub.state == "ended":
            self._shots.put(None)
            return
        self._look()
        if hub.is_stuck and hub.state == "running":
            self._end("stalled: nobody is training and nobody may start")
        if self._keeper is not None and hub.state == "running":
            self._keeper.settled(hub)

    def _look(self) -> None:
        hub, progress, stop = self._hub, self._progress, self._settings.stop
        progress.updates, progress.versions = hub.tally.updates, self._server.version
        progress.wall_time_s = progress.virtual_time_s = hub.now
        every = self._settings.evaluate_every.versions
        if every is not None and progress.versions >= self._next_versions:
            self._next_versions = progress.versions + every
            self._take_shot()
        if hub.state == "running" and stop.is_due(progress):
            # The target is looked at where the model is measured.
            self._end(replace(stop, target=None).reason(progress) or "stopped")

    def _take_shot(self) -> None:
        if self._shots.qsize() < _WAITING:
            self._shots.put(self._shot())
        else:
            self._num_skipped += 1

    def _gone(self) -> None:
        """A worker process has ended, or a job of its raised an error."""
        team, running = self._team, self._hub.state == "running"
        if team.failure is None and running and not team.num_here and not team.deaths():
            # Whoever told all of them to end, means the run.
            self.interrupt("terminated")
        elif team.failure is None and running:
            self._deserted = not team.num_here
        if team.failure is not None or self._deserted:
            self._end("failed")

    def _shot(self) -> _Shot:
        server, tally = self._server, self._hub.tally
        buffers = server.buffers
        return _Shot(
            server.parameters.clone(),
            None if buffers is None else buffers.clone(),
            tally.updates,
            server.version,
            tally.examples,
            tally.bytes_up + tally.bytes_down,
            self._hub.now,
        )

    # --- in any thread

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._hub.stop(reason, within_s=0.0)

    # --- in the calling thread

    def _attend(self) -> None:
        """Measure, report and look at the clock until the hub has ended."""
        while self._hub.state != "new" and not self._hub.join(0.0):
            try:
                shot = self._shots.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                shot = None
            if shot is not None:
                self._measure(shot)
            self._report()
            limit = self._settings.stop.wall_time_s
            if limit is not None and self._hub.now >= limit:
                self._end(f"wall_time_s >= {limit:.10g}")

    def _measure(self, shot: _Shot) -> None:
        """Judge a model, and look whether that ends the run."""
        settings, device = self._settings, self._settings.device
        buffers = shot.buffers
        if buffers is not None:
            buffers = Buffers(buffers.floating.to(device), buffers.integer.to(device))
        try:
            metrics = settings.task.evaluate(shot.parameters.to(device), buffers)
        except Exception:
            self._failed_in = "evaluation"
            raise
        point = Point(
            shot.updates,
            shot.versions,
            shot.examples,
            shot.num_bytes,
            shot.time_s,
            shot.time_s,
            dict(metrics),
        )
        if self._history and self._history[-1][:2] == point[:2]:
            # That of the run that goes on here.
            self._history.pop()
        self._history.append(point)
        self._progress.metrics = metrics
        self._take_events(Noted(0.0, "evaluated", {"updates": shot.updates, "metrics": metrics}))
        self._journal.evaluated(point)
        seen = Progress(metrics=metrics)
        target = settings.stop.target
        if target is not None and settings.stop.reason(seen) is not None:
            self._end(f"target {target}")
        if not bool(torch.isfinite(shot.parameters).all()):
            self._end("diverged: the model is not finite")

    def _report(self) -> None:
        now = self._hub.now
        if not self._journal.is_watched or now < self._next_report_s:
            return
        self._next_report_s = now + _LOOK_EVERY_S
        hub, stop = self._hub, self._settings.stop
        snapshot = hub.call(
            lambda: snapshot_of(self._progress, hub.tally, self._server.num_in_flight, stop)
        )
        self._journal.progress(snapshot)

    def _take_events(self, note: Noted | None = None) -> None:
        """Have the hub's thread write a note and hand over what has happened."""

        def take() -> list[Event]:
            if note is not None and self._settings.record != "nothing":
                self._server.events.append(note._replace(time=self._hub.now))
            return self._server.take_events()

        self._journal.take(self._hub.call(take))

    def _raise(self) -> None:
        team, hub = self._team, self._hub
        if team.failure is not None:
            if team.failed_in >= 0:
                self._failed_in = client_name(team.failed_in)
            raise team.failure
        if hub.error is not None:
            raise hub.error
        if self._deserted:
            raise all_gone(team.deaths())

    def _finish(self) -> Result:
        while True:
            try:
                shot = self._shots.get_nowait()
            except queue.Empty:
                break
            if shot is not None:
                self._measure(shot)
        last = self._history[-1]
        if (last.updates, last.versions) != (self._hub.tally.updates, self._server.version):
            self._measure(self._shot())
        if self._keeper is not None:
            self._keeper.finish(self._hub)
        reason = self._reason or "stopped"
        kind = "interrupted" if self.interrupted else "stopped"
        self._take_events(Noted(0.0, kind, {"reason": reason}))
        return self._journal.finished(self._result(reason))

    def _fail(self, error: Exception) -> None:
        self._hub.stop("failed", within_s=0.0)
        self._close()
        said = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")
        told = {"error": type(error).__name__, "message": str(error)}
        if self._settings.record != "nothing":
            data = {"worker": self._failed_in, **told}
            self._server.events.append(Noted(self._hub.now, "failed", data))
        where = self._failed_in or "the run"
        note = f"Headway: in {where}, after {self._hub.tally.updates:,} updates"
        events = self._server.take_events()
        self._journal.failed(self._result(said), events, error, note)

    def _result(self, reason: str) -> Result:
        hub, tally = self._hub, self._hub.tally
        members = hub.members.by_name.values()
        shares = {m.name: m.counts["updates"] for m in sorted(members, key=lambda m: m.name)}
        time_s = self._progress.wall_time_s
        return result_of(
            self._server,
            tally,
            self._about,
            history=self._history,
            virtual_time_s=time_s,
            wall_time_s=time_s,
            idle_share=tally.idle_share(time_s),
            execution={"mode": "workers", "updates": shares},
            stop_reason=reason,
            interrupted=self.interrupted,
            warnings=[*self._warnings(reason), *usual_warnings(self._history, tally)],
        )

    def _warnings(self, reason: str) -> list[str]:
        settings, warnings = self._settings, []
        if reason.startswith("failed"):
            warnings.append("the run did not finish, its numbers are those until it failed")
        if reason.startswith("stalled"):
            warnings.append(
                f"{reason}; the algorithm waits for more workers than there are, or for a timer "
                "that never comes"
            )
        if reason.startswith("diverged"):
            warnings.append(f"{reason}; lower the server's or the workers' learning rate")
        warnings += self._losses()
        keeper = self._keeper
        if keeper is not None and keeper.resumed_from is not None:
            warnings.append(
                f"the run went on from {keeper.resumed_from}: events and the workers' shares are "
                "those since then"
            )
        if keeper is not None and keeper.error is not None:
            warnings.append(f"a checkpoint could not be written: {keeper.error}")
        if self._num_skipped:
            warnings.append(
                f"{self._num_skipped:,} evaluations were left out because those before were not "
                "done yet; evaluate more rarely"
            )
        without = settings.task.num_clients - len(_with_data(settings))
        if without:
            warnings.append(f"{without} clients have no data and never train")
        return warnings

    def _losses(self) -> list[str]:
        """Which workers were lost, and what with them."""
        team, members = self._team, self._hub.members.by_name
        told = [f"{death} ended before the run; its jobs went to others" for death in team.deaths()]
        told += [
            f"{name} was silent for too long {count}x; its jobs went to others"
            for name, count in team.silences().items()
        ]
        told += [
            f"{member.counts['homeless']} clients had what they keep between their jobs (a model of "
            f"their own, error feedback, momentum) in {member.name}, and began it anew elsewhere"
            for member in members.values()
            if member.counts["homeless"] and self._pinned
        ]
        return told

    def _clock(self) -> float:
        """Seconds for which the workers could train, those before the checkpoint included."""
        passed_s = 0.0 if self._began is None else time.monotonic() - self._began
        return self._offset_s + passed_s

    def _new_server(self, starts: int = 0) -> Server:
        def memory(layout: ParameterLayout) -> SharedMemory:
            return SharedMemory(self._segments, layout, consistent=self._consistent, strict=True)

        return server_for(replace(self._settings, device=_CPU), memory, incarnation=starts)

    def _beside(self) -> dict[str, Any]:
        return {"history": [point._asdict() for point in self._history]}

    def _go_on(self) -> None:
        kept = None if self._keeper is None else self._keeper.restore(self._hub, clients=True)
        if kept is not None:
            self._history = [Point.from_record(record) for record in kept["history"]]

    def _make_hub(self) -> Hub:
        return Hub(
            self._server,
            Porter(self._server.layout, {}),
            seed=self._settings.seed,
            clients={client_name(client): client for client in _with_data(self._settings)},
            pinned=self._pinned,
            clock=self._clock,
            settled=self._settled,
            arrived=self._arrived,
        )

    def _close(self) -> None:
        """End the processes and give the shared memory back. May be called twice."""
        if self._hub.state == "new":
            self._hub.loop.close()
        elif self._hub.state != "ended":
            self._hub.stop("ended", within_s=0.0)
            self._hub.join()
        self._team.close()
        self._segments.close()


def _with_data(settings: Settings) -> list[int]:
    task = settings.task
    return [client for client in range(task.num_clients) if task.num_examples(client) > 0]


def keeps_clients(algorithm: Algorithm) -> bool:
    """Whether clients keep something from job to job, and so stay with the process that has it.

    Args:
        algorithm: What is run.
    """
    return bool(algorithm.client) or algorithm.view is not None
