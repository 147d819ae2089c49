"""What ``headway status`` shows of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

__all__ = ["status_lines"]


def status_lines(told: Mapping[str, Any]) -> list[str]:
    """A server's status, for people.

    Args:
        told: What it says of itself; an older one says less.

    Returns:
        The lines.
    """
    from headway.observe import text

    reasons = ", ".join(f"{why} {count:,}" for why, count in told.get("reasons", {}).items())
    policy = (told.get("settings") or {}).get("staleness_policy")
    head = [
        f"{told.get('algorithm')} on {told.get('model')} at {told.get('address')}, "
        f"{told.get('state')} for {text.seconds(float(told.get('up_s', 0.0)))}",
        *text.pairs(
            [
                *([("policy", str(policy))] if policy else []),
                ("version", text.number(told.get("version", 0))),
                ("updates", text.number(told.get("updates", 0))),
                ("rejected", f"{told.get('rejected', 0):,}" + (f" ({reasons})" if reasons else "")),
                ("in flight", text.number(told.get("in_flight", 0))),
                ("staleness", f"{told.get('staleness', 0.0):.2f} versions"),
                *([("now", told["waits"])] if told.get("waits") else []),
                *_held(told),
                *_refused(told),
                *_parted(told),
                *_troubles(told),
            ]
        ),
    ]
    workers = told.get("workers", [])
    if not workers:
        return [*head, "no worker has joined"]
    names = ("name", "state", "updates", "applied", "buffered", "rejected", "lost", "staleness")
    rows = [[*(str(one.get(name, "")) for name in names), _why(one)] for one in workers]
    rows.insert(0, [*names, "why rejected"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return [*head, "", *table]


def _held(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many workers wait for a job, and why; of many reasons those of the most."""
    workers = told.get("workers", [])
    reasons = Counter(one.get("waits") for one in workers if one.get("state") == "waiting")
    return [("waiting", f"{count:,} ({why})") for why, count in reasons.most_common(3) if why]


def _refused(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who was not let in; the newest with what it was told."""
    refused = told.get("refused") or {}
    if not refused.get("total"):
        return []
    counts = ", ".join(f"{why} {count:,}" for why, count in refused["reasons"].items())
    newest = refused["newest"][0]
    origin = f" from {newest['from']}" if newest["from"] else ""
    return [
        ("refused", f"{refused['total']:,} ({counts})"),
        ("the newest", f"{newest['code']}{origin}: {newest['message']}"),
    ]


def _parted(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which workers an error has ended, as they said when they left; of many one."""
    said = [one for one in told.get("workers", []) if one.get("farewell")]
    if not said:
        return []
    others = f" and {len(said) - 1:,} more" if len(said) > 1 else ""
    return [("ended", f"{said[-1].get('name')}{others}: {_in_one(said[-1]['farewell'])}")]


def _troubles(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a server cannot write."""
    log, checkpoint = (told.get("log") or {}).get("error"), told.get("checkpoint_error")
    folder = told.get("folder_error")
    troubles = []
    if log:
        troubles.append(("log", f"cannot be written, and nothing is taken: {_in_one(log)}"))
    if checkpoint:
        troubles.append(("checkpoint", f"it could not be written: {_in_one(checkpoint)}"))
    if folder:
        troubles.append(("run folder", f"it cannot be written: {_in_one(folder)}"))
    return troubles


def _in_one(error: str) -> str:
    return " ".join(error.split())


def _why(worker: Mapping[str, Any]) -> str:
    """Why a worker's updates were rejected, and how many of them lately without a good one between."""
    reasons = [f"{count:,} {why}" for why, count in worker.get("reasons", {}).items()]
    row = worker.get("rejected_in_a_row", 0)
    return ", ".join(reasons) + (f"; the last {row:,}" if row > 1 else "")
