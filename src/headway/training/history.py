"""What a worker's training came to: averages along the way, and what became of its updates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from headway.observe import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.core import Receipt

__all__ = ["History", "Row"]

_PLAIN: Final = "none() (as was asked for)"
_FEWER: Final = 1.1


class Row(NamedTuple):
    """The means over the batches since the row before.

    Attributes:
        batches: Batches that this worker had gone through.
        examples: Examples likewise.
        updates: Updates that it had handed in.
        version: Of the model that it worked on last.
        staleness: Mean staleness of the updates with a receipt that was not a rejection, in
            versions; NaN where there were none.
        samples_per_s: Examples per second, waiting included.
        time_s: Seconds since the training began.
        metrics: The mean of each over the examples.
    """

    batches: int
    examples: int
    updates: int
    version: int
    staleness: float
    samples_per_s: float
    time_s: float
    metrics: Mapping[str, float]


@final
@dataclass(slots=True, eq=False, repr=False)
class History:
    """Everything that one call of :meth:`headway.AsyncWorker.train` leaves.

    ``history["loss"]`` is the column of a metric, or of a field of :class:`Row`.

    Attributes:
        worker: The worker's name, as the server knows it.
        device: Where it trained.
        rows: One for every ``log_frequency`` batches, and one for the rest.
        receipts: Updates by ``"applied"``, ``"buffered"`` and ``"rejected"``, and
            ``"rejected:<reason>"`` each; ``"cancelled"`` for jobs that the server took back.
        staleness: How many updates that were taken had each staleness, in versions.
        batches: Batches in all.
        examples: Examples in all.
        updates: Updates that were handed in.
        version: The newest version that the worker has heard of.
        reconnects: How often it found a server again that it had lost.
        waited_s: Seconds in which it had no job.
        waits_for: Why it has none now, or had none at the end, in the server's words.
        wall_time_s: Seconds in all.
        stopped: Why the training ended before its data did; empty where it did not.
        dismissed: Whether the server told this worker to stop, because its updates were rejected
            again and again; :attr:`stopped` says with which reasons.
        encoding: How its updates were compressed, and why so; empty: that was not decided.
        traffic: Bytes up and down, as they travelled and before compression (``"raw"``); how models
            came.
    """

    worker: str = ""
    device: str = "cpu"
    rows: list[Row] = field(default_factory=list)
    receipts: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    batches: int = 0
    examples: int = 0
    updates: int = 0
    version: int = 0
    reconnects: int = 0
    waited_s: float = 0.0
    waits_for: str = ""
    wall_time_s: float = 0.0
    stopped: str = ""
    dismissed: bool = False
    encoding: str = ""
    traffic: dict[str, Any] = field(default_factory=dict)

    @property
    def samples_per_s(self) -> float:
        """Examples per second over the whole training, waiting included."""
        return self.examples / self.wall_time_s if self.wall_time_s else 0.0

    @property
    def unanswered(self) -> int:
        """How many updates were handed in, and had no receipt when the training ended."""
        kinds = ("applied", "buffered", "rejected")
        return max(0, self.updates - sum(self.receipts[kind] for kind in kinds))

    def done(self, *, in_full: bool = False) -> str:
        """How many updates have a receipt, and how many have none, in words.

        Args:
            in_full: Whether receipts are spoken of although none is missing.

        Example:
            >>> History(updates=1).done(), History(updates=0).done()
            ('0 updates with a receipt and 1 without one', '0 updates')
        """
        count, missing = self.updates - self.unanswered, self.unanswered
        more = f" with a receipt and {missing:,} without one"
        return f"{count:,} update{'s' * (count != 1)}{more if missing or in_full else ''}"

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order in which they were asked for."""
        return list(self.rows[-1].metrics) if self.rows else []

    def __getitem__(self, name: str) -> list[float]:
        """A column: of a metric, or of a field of the rows."""
        if name in self.metrics:
            return [row.metrics[name] for row in self.rows]
        if name in Row._fields and name != "metrics":
            return [getattr(row, name) for row in self.rows]
        raise KeyError(f"{name}; known are {', '.join([*self.metrics, *Row._fields[:-1]])}")

    def final(self, metric: str) -> float:
        """The metric's mean over the last row.

        Args:
            metric: Its name.

        Raises:
            KeyError: It was not measured.
        """
        return self[metric][-1]

    def note(self, receipt: Receipt) -> None:
        """Count what became of an update.

        Args:
            receipt: The server's.
        """
        self.receipts[receipt.status] += 1
        self.version = max(self.version, receipt.version)
        if receipt.status == "rejected":
            self.receipts[f"rejected:{receipt.reason}"] += 1
        else:
            self.staleness[receipt.staleness] += 1

    def to_dict(self) -> dict[str, Any]:
        """All of it, as plain values for JSON."""
        return {
            "worker": self.worker,
            "device": self.device,
            "rows": [{**row._asdict(), "metrics": dict(row.metrics)} for row in self.rows],
            "receipts": dict(self.receipts),
            "staleness": {str(value): count for value, count in sorted(self.staleness.items())},
            "batches": self.batches,
            "examples": self.examples,
            "updates": self.updates,
            "unanswered": self.unanswered,
            "version": self.version,
            "reconnects": self.reconnects,
            "waited_s": self.waited_s,
            "waits_for": self.waits_for,
            "wall_time_s": self.wall_time_s,
            "samples_per_s": self.samples_per_s,
            "stopped": self.stopped,
            "dismissed": self.dismissed,
            "encoding": self.encoding,
            "traffic": dict(self.traffic),
        }

    def __repr__(self) -> str:
        updates = f"{self.updates:,} update{'s' * (self.updates != 1)}"
        return f"History({self.worker}: {updates}, {self.examples:,} examples)"

    def __str__(self) -> str:
        kinds = ("applied", "buffered", "rejected", "cancelled")
        became = ", ".join(
            [f"{self.receipts[k]:,} {k}" for k in kinds if self.receipts[k]]
            + [f"{self.unanswered:,} without a receipt"] * bool(self.unanswered)
        )
        pairs = [(name, text.number(self.final(name))) for name in self.metrics]
        pairs += [
            ("updates", f"{self.updates:,}" + (f": {became}" if became else "")),
            ("staleness", self._staleness_text()),
            (
                "examples",
                f"{self.examples:,} in {self.batches:,} batches, "
                f"{text.number(self.samples_per_s)} per second",
            ),
            ("waited", text.seconds(self.waited_s) + (self.waits_for and f"; {self.waits_for}")),
            ("wall time", text.seconds(self.wall_time_s)),
        ]
        if self.encoding and self.encoding != _PLAIN:
            pairs.append(("compression", self.encoding))
        if self.traffic.get("bytes_up_raw"):
            pairs.append(("bytes", self._bytes_text()))
        why = [
            f"{key.partition(':')[2]} {count:,}"
            for key, count in sorted(self.receipts.items())
            if key.startswith("rejected:")
        ]
        if why:
            pairs.append(("rejected", ", ".join(why)))
        if self.reconnects:
            pairs.append(("reconnects", f"{self.reconnects:,}"))
        if self.stopped:
            pairs.append(("told to stop" if self.dismissed else "ended by", self.stopped))
        return "\n".join([f"{self.worker} on {self.device}", *text.pairs(pairs)])

    def _bytes_text(self) -> str:
        told = self.traffic
        ways = []
        for way in ("up", "down"):
            went, raw = told[f"bytes_{way}"], told[f"bytes_{way}_raw"]
            fewer = raw / max(1, went)
            few = f" for {raw:,}: {fewer:.1f} times fewer" if fewer > _FEWER else ""
            ways.append(f"{went:,} {way}{few}")
        return ", ".join(ways)

    def _staleness_text(self) -> str:
        if not self.staleness:
            return "no update was taken"
        mean = sum(v * n for v, n in self.staleness.items()) / self.staleness.total()
        return f"mean {mean:.2f}, max {max(self.staleness)} versions"
