"""What a run leaves: its history, its counts, its model, and how to ask about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from headway.core.errors import ConfigurationError
from headway.core.events import Event
from headway.core.layout import Buffers, ParameterLayout
from headway.observe import text
from headway.observe.points import (
    ClientCount,
    Point,
    best_value,
    check_axis,
    first_to_reach,
    metric_names,
    values_of,
)

__all__ = ["Result"]


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """Everything that one run left. ``print(result)`` shows the essence of it.

    Attributes:
        label: What tables and figures call the run; by default the algorithm's name.
        algorithm: The algorithm's name.
        settings: Its settings, a plain tree.
        task: The task's name.
        seed: The run's seed.
        simulated_staleness: The largest staleness that was drawn, uniformly from 0 on, in a run
            whose staleness did not emerge from the workers' times; ``None`` where it did.
        synchronous: Whether workers waited for each other.
        population: What the clients were like, a plain tree.
        concurrency: How many jobs could be in flight, ``None`` for no limit.
        num_clients: How many clients there were.
        history: One point per evaluation.
        staleness: How many updates that were applied or buffered had each staleness, in versions.
        counts: ``"updates"`` (that arrived), ``"applied"``, ``"buffered"``, ``"rejected"``,
            ``"cancelled"``, ``"lost"`` (jobs that were given and whose update never came: also the
            job that a worker had just been given when it left), ``"duplicates"``, ``"unapplied"``
            (of the buffered ones: still held at the end, or in a flush that was worth nothing), and
            ``"rejected:<reason>"`` each.
        clients: What each client did that ever trained.
        updates: Updates that reached the server, whatever became of them.
        versions: Changes of the model.
        examples: Examples that clients trained on, those of discarded work included.
        discarded_examples: Those in work that changed nothing: rejected, cancelled, lost, or
            buffered and never applied.
        bytes_up: Bytes from clients to the server.
        bytes_down: Bytes from the server to clients.
        virtual_time_s: Virtual seconds at the end.
        wall_time_s: Real seconds that the run took.
        idle_share: Share of the places in flight that stood empty, over the whole run, in [0, 1].
        server: Of a server that takes time: ``"apply_s"`` for each update, ``"mean_wait_s"`` and
            ``"max_wait_s"`` until it began with one, in virtual seconds, ``"max_waiting"`` and
            ``"waiting_at_end"`` updates, and its ``"utilisation"`` in [0, 1]. Empty for others.
        execution: How the clients were trained: ``"mode"``, ``"group_size"``, ``"processes"``, the
            ``"reason"``, and where there were groups, ``"num_groups"`` and ``"mean_group_size"``.
            Of a run with real workers: ``"mode"`` is ``"workers"``, and ``"updates"`` says how many
            came from each.
        stop_reason: What ended the run.
        interrupted: Whether it was stopped from outside.
        warnings: What the user should know, once each.
        log_hash: SHA-256 over the event records, without wall-clock data; 64 hex digits, or empty
            where no events were recorded.
        weights_hash: SHA-256 over the final parameters and buffers, 64 hex digits.
        parameters: The final parameters, flat.
        layout: Their names and shapes.
        buffers: The final buffers, where the model has any.
        events: The events, where they were recorded and kept in memory.
        folder: The run folder, where there is one.

    Example:
        >>> from headway.observe import Point, Result
        >>> result = Result(
        ...     algorithm="fedbuff", settings={}, task="quadratic", seed=0, synchronous=False,
        ...     population={"name": "constant"}, concurrency=None, num_clients=2,
        ...     history=[Point(50, 5, 50, 800, 10.0, 0.1, {"loss": 0.5}),
        ...              Point(100, 10, 100, 1600, 20.0, 0.2, {"loss": 0.25})],
        ...     staleness={0: 60, 1: 40}, counts={"updates": 100, "applied": 10, "buffered": 90},
        ...     clients={}, updates=100, versions=10, examples=100, discarded_examples=0,
        ...     bytes_up=800, bytes_down=800, virtual_time_s=20.0, wall_time_s=0.2, idle_share=0.0,
        ...     stop_reason="updates >= 100", log_hash="", weights_hash="")
        >>> result.to_target("loss", 0.3), result.to_target("loss", 0.3, axis="updates")
        (20.0, 100)
        >>> result.final("loss"), result.staleness_quantile(0.95)
        (0.25, 1)
    """

    algorithm: str
    settings: dict[str, Any]
    task: str
    seed: int
    synchronous: bool
    population: dict[str, Any]
    concurrency: int | None
    num_clients: int
    history: list[Point]
    staleness: dict[int, int]
    counts: dict[str, int]
    clients: dict[int, ClientCount]
    updates: int
    versions: int
    examples: int
    discarded_examples: int
    bytes_up: int
    bytes_down: int
    virtual_time_s: float
    wall_time_s: float
    idle_share: float
    stop_reason: str
    log_hash: str
    weights_hash: str
    server: dict[str, float] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    simulated_staleness: int | None = None
    label: str = ""
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)
    parameters: Tensor | None = None
    layout: ParameterLayout | None = None
    buffers: Buffers | None = None
    events: list[Event] = field(default_factory=list)
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.label = self.label or self.algorithm

    @property
    def is_real(self) -> bool:
        """Whether real workers trained it: its times are not virtual then."""
        return self.execution.get("mode") in ("workers", "server")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were measured."""
        return metric_names(self.history)

    @property
    def discarded_share(self) -> float:
        """Share of the trained examples whose work changed nothing, in [0, 1]."""
        return self.discarded_examples / self.examples if self.examples else 0.0

    @property
    def max_staleness(self) -> int | None:
        """The largest staleness of an update that was taken; ``None`` if none was."""
        return max(self.staleness, default=None)

    def at_target(self, metric: str, value: float, direction: str | None = None) -> Point | None:
        """The first point of the history whose metric reached a value; ``None`` if none did.

        Args:
            metric: Which metric.
            value: What it is to reach.
            direction: ``"max"`` if larger is better, ``"min"`` if smaller is. By default ``"min"``
                for names that speak of a loss or an error, and ``"max"`` for others.

        Raises:
            UnknownNameError: The metric was never measured, or the direction is unknown.
        """
        return first_to_reach(self.history, metric, value, direction)

    def to_target(
        self,
        metric: str,
        value: float,
        axis: str = "virtual_time_s",
        direction: str | None = None,
    ) -> float | None:
        """How much it took until a metric reached a value; ``None`` if it never did.

        Args:
            metric: Which metric.
            value: What it is to reach.
            axis: What to count: one of :data:`~headway.observe.AXES`.
            direction: See :meth:`at_target`.

        Raises:
            UnknownNameError: The metric was never measured, or the axis or direction is unknown.
        """
        check_axis(axis)
        point = self.at_target(metric, value, direction)
        if point is None:
            return None
        taken: float = getattr(point, axis)
        return taken

    def final(self, metric: str) -> float:
        """The metric's value at the last evaluation that measured it.

        Raises:
            ConfigurationError: The run was never evaluated.
            UnknownNameError: The metric was never measured.
        """
        return values_of(self.history, metric)[-1][1]

    def best(self, metric: str, direction: str | None = None) -> float:
        """The best value that the metric ever had; NaN if it never was a number.

        Raises:
            ConfigurationError: The run was never evaluated.
            UnknownNameError: The metric was never measured, or the direction is unknown.
        """
        return best_value(self.history, metric, direction)

    def staleness_quantile(self, q: float) -> int | None:
        """The smallest staleness that at least a share ``q`` of the updates did not exceed.

        Args:
            q: In [0, 1]; 0.5 is the median.

        Returns:
            A staleness in versions; ``None`` if no update was applied or buffered.

        Raises:
            ConfigurationError: ``q`` is outside [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise ConfigurationError("a quantile is a share", got=q, expected="0 to 1")
        # Rounding keeps 0.07 * 100 = 7.000000000000001 from asking for an eighth update.
        wanted = max(1, ceil(round(q * sum(self.staleness.values()), 9)))
        seen = 0
        for value, count in sorted(self.staleness.items()):
            seen += count
            if seen >= wanted:
                return value
        return None

    def load_into(self, module: nn.Module) -> None:
        """Write the final parameters and buffers into a module.

        Args:
            module: Made by the task's model factory. Its parameters and buffers are overwritten.

        Raises:
            ConfigurationError: The result holds no model, or the module has another layout.
        """
        if self.parameters is None or self.layout is None:
            raise ConfigurationError(
                "this result holds no model",
                help="load it from its run folder, which keeps checkpoints/final.safetensors",
            )
        # How the run cut the model into fragments does not matter to a module.
        other = replace(ParameterLayout.of(module), bounds=self.layout.bounds)
        difference = self.layout.difference(other)
        if difference is not None:
            raise ConfigurationError(
                "the module does not have the layout of the result's model",
                got=difference,
                help="build the module with the factory that the task was made with",
            )
        self.layout.attach(module, self.parameters.detach().clone())
        if self.buffers is not None:
            self.layout.load_buffers(module, self.buffers)

    def save(self, folder: str | Path) -> Path:
        """Write the result into a folder, made if it is missing.

        ``result.json`` and ``checkpoints/final.safetensors`` are replaced. ``metrics.jsonl`` and
        ``events.jsonl`` are written too, without payloads, unless this is the result's own run
        folder, which has them already; what another run left there is removed.

        Returns:
            The folder.

        Raises:
            RunFolderError: It cannot be written.
        """
        from headway.observe.saving import save_result

        return save_result(self, folder)

    @classmethod
    def load(cls, folder: str | Path, *, events: bool = True) -> Result:
        """Read a result that :meth:`save` or a run has written.

        Of a run that was killed it is put together from the events and evaluations that reached the
        disk; ``stop_reason`` and ``warnings`` say so, and there is no model.

        Args:
            folder: The folder.
            events: Whether to read the events too, where they are kept.

        Raises:
            RunFolderError: There is no result in this folder, or it cannot be read.
            LogDamagedError: A file in it is damaged.
        """
        from headway.observe.saving import load_result

        return load_result(folder, events=events)

    def report(self, path: str | Path) -> Path:
        """Write a report: one HTML file that opens anywhere, without a network.

        Returns:
            The file.
        """
        from headway.observe.report import write_report

        return write_report(path, [self])

    def __repr__(self) -> str:
        return f"Result({self.label} on {self.task}, seed {self.seed}: {self.updates:,} updates)"

    def __str__(self) -> str:
        return "\n".join([self._headline(), *text.pairs(self._rows())])

    def _headline(self) -> str:
        name = self.label if self.label == self.algorithm else f"{self.label} ({self.algorithm})"
        kind = "synchronous" if self.synchronous else "asynchronous"
        tail = f" on {self.task}, {self.num_clients:,} clients, seed {self.seed}, {kind}"
        return text.shorten(name, text.WIDTH - min(len(tail), 70)) + text.shorten(tail, 70)

    def _rows(self) -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = []
        for metric in self.metrics:
            final, best = text.number(self.final(metric)), text.number(self.best(metric))
            rows.append((text.shorten(metric, 30), f"{final} at the end, {best} at best"))
        discarded = f"{text.number(self.discarded_examples)} ({text.percent(self.discarded_share)})"
        rows += [
            ("updates", self._updates_text()),
            ("versions", text.number(self.versions)),
            ("staleness", self._staleness_text()),
            ("examples", f"{text.number(self.examples)}, discarded {discarded}"),
            (
                "bytes",
                f"{text.bytes_text(self.bytes_up)} up, {text.bytes_text(self.bytes_down)} down",
            ),
            ("idle share", text.percent(self.idle_share)),
            *self._server_rows(),
            *self._execution_rows(),
            *self._virtual_rows(),
            ("wall time", text.seconds(self.wall_time_s)),
            ("stopped by", self._stop_text()),
        ]
        if self.folder is not None:
            rows.append(("folder", str(self.folder)))
        return [*rows, *(("warning", warning) for warning in self.warnings)]

    def _server_rows(self) -> list[tuple[str, str]]:
        if not self.server:
            return []
        busy = text.percent(self.server["utilisation"])
        mean, most = (text.seconds(self.server[key]) for key in ("mean_wait_s", "max_wait_s"))
        return [("server", f"busy {busy}; updates waited {mean} on average, {most} at most")]

    def _virtual_rows(self) -> list[tuple[str, str]]:
        if self.is_real:
            return []
        return [("virtual time", text.seconds(self.virtual_time_s))]

    def _execution_rows(self) -> list[tuple[str, str]]:
        about = self.execution
        if not about or about["mode"] == "server":
            return []
        if about["mode"] == "workers":
            # A run that was killed left none.
            shares = ", ".join(f"{name} {n:,}" for name, n in about.get("updates", {}).items())
            return [("updates from", shares)] if shares else []
        told = f"one by one: {about['reason']}"
        if about["mode"] == "groups":
            told = f"in groups of up to {about['group_size']}"
            if "mean_group_size" in about:
                told += f", {about['mean_group_size']:.1f} on average"
        if about["processes"] > 1:
            told += f", in {about['processes']} processes"
        return [("trained", told)]

    def _updates_text(self) -> str:
        parts = []
        for name in ("applied", "buffered", "rejected", "cancelled", "lost", "duplicates"):
            if count := self.counts.get(name, 0):
                reasons = [
                    f"{key.partition(':')[2]} {number:,}"
                    for key, number in sorted(self.counts.items())
                    if key.startswith(f"{name}:")
                ]
                if name == "buffered" and (unapplied := self.counts.get("unapplied", 0)):
                    reasons = [f"{unapplied:,} never applied"]
                parts.append(f"{name} {count:,}" + (f" ({', '.join(reasons)})" if reasons else ""))
        return f"{self.updates:,}" + (f": {', '.join(parts)}" if parts else "")

    def _stop_text(self) -> str:
        if self.interrupted and self.stop_reason not in ("interrupted", "terminated"):
            return f"interrupted; {self.stop_reason}"
        return self.stop_reason

    def _staleness_text(self) -> str:
        if self.max_staleness is None:
            return "no update was taken"
        median, tail = self.staleness_quantile(0.5), self.staleness_quantile(0.95)
        told = f"p50 {median}, p95 {tail}, max {self.max_staleness} versions"
        if self.simulated_staleness is None:
            return told
        return f"{told}; simulated: drawn from 0 to {self.simulated_staleness}"
