"""What do faults cost, and is every acknowledged update there afterwards, once?

Sixteen worker processes whose jobs take a fixed time (they wait), each behind a proxy of its own, and
a server process with a durable log. Three runs of the same length: undisturbed; with faults of workers
and their links; with faults of the server. Faults are drawn from a seed. Afterwards the log, what
workers wrote down and the weights are compared by arithmetic: a run with an update that was lost or
doubled ends with an error. Asked: 97.7 % of the undisturbed updates per second under faults of
workers, and at most 5 s of work lost by each kill of the server.

    python benchmarks/chaos.py [--minutes 10] [--worker-faults 66] [--server-faults 18]

POSIX only, with ``prlimit``, which fills the disk for the server alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

# As for a script, whose own folder comes first.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.chaos_audit import Account, audit, lost_s
from tests.chaos_kit import SERVER_FAULTS, WORKER_FAULTS, Chaos, Fault, draw_faults

RUNS: dict[str, Sequence[str]] = {
    "undisturbed": (),
    "faults of workers": WORKER_FAULTS,
    "faults of the server": (*SERVER_FAULTS, "server_kill"),
}
ASKED_SHARE, ASKED_LOST_S = 0.977, 5.0


def measure(
    name: str, faults: list[Fault], seconds: float, workers: int, work_s: float, usual_per_s: float
) -> tuple[dict[str, Any], list[dict[str, Any]], Account]:
    """One run: its row, those of its kinds of faults, and its account.

    Args:
        name: Of the run.
        faults: What happens.
        seconds: How long.
        workers: How many.
        work_s: How long a job takes.
        usual_per_s: Of the undisturbed run, updates in a second; 0: this is it.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Chaos(Path(folder), num_workers=workers, work_s=work_s) as chaos,
    ):
        chaos.run(faults, seconds)
        account = audit(chaos)
        usual_per_s = usual_per_s or account.updates_per_s
        kinds = [
            {
                "fault": kind,
                "times": len(took),
                "recovery_s": median(took),
                "min_s": min(took),
                "max_s": max(took),
                "lost_s": lost_s(chaos, kind, usual_per_s) if kind in SERVER_FAULTS else None,
            }
            for kind, took in account.recoveries_s.items()
        ]
    row = {
        "run": name,
        "faults": len(faults),
        "applied": account.applied,
        "acknowledged": account.acknowledged,
        "unheard": account.unheard,
        "rejected": account.rejected.total(),
        "repeated": account.repeated,
        "rejoined": account.rejoined,
        "updates_per_s": account.updates_per_s,
        "share": account.updates_per_s / usual_per_s,
        "loss": account.loss,
        "loss_sd": account.loss_sd,
        "first_loss": account.first_loss,
    }
    return row, kinds, account


def print_tables(rows: list[dict[str, Any]], kinds: list[dict[str, Any]]) -> None:
    """Both."""
    print(
        "| run | faults | acknowledged | lost | doubled | sent again | rejected | updates/s "
        "| of undisturbed | loss x 1000, mean ± sd |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        # The audit ends the run where there is one.
        print(
            f"| {row['run']} | {row['faults']} | {row['acknowledged']:,} | 0 | 0 "
            f"| {row['repeated']} | {row['rejected']} | {row['updates_per_s']:.1f} "
            f"| {row['share']:.1%} | {1e3 * row['loss']:.2f} ± {1e3 * row['loss_sd']:.2f} |"
        )
    print("\n| fault | times | recovery, s: median (min..max) | work lost by each, s |")
    print("|---|---|---|---|")
    for kind in kinds:
        lost = kind["lost_s"]
        told = (
            ""
            if lost is None
            else f"{sum(lost) / len(lost):.1f} ({min(lost):.1f}..{max(lost):.1f})"
        )
        print(
            f"| {kind['fault']} | {kind['times']} | {kind['recovery_s']:.2f} "
            f"({kind['min_s']:.2f}..{kind['max_s']:.2f}) | {told} |"
        )


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of one run")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--work-ms", type=float, default=200.0, help="of one job")
    parser.add_argument("--worker-faults", type=int, default=66)
    parser.add_argument("--server-faults", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds, work_s = 60.0 * options.minutes, options.work_ms / 1e3
    rows: list[dict[str, Any]] = []
    kinds: list[dict[str, Any]] = []
    for name, chosen in RUNS.items():
        num = options.server_faults if "server_kill" in chosen else options.worker_faults
        faults = draw_faults(
            options.seed,
            chosen,
            num=num if chosen else 0,
            num_workers=options.workers,
            duration_s=seconds,
        )
        usual_per_s = rows[0]["updates_per_s"] if rows else 0.0
        load = os.getloadavg()[0]
        row, found, _ = measure(name, faults, seconds, options.workers, work_s, usual_per_s)
        row["load"] = max(load, os.getloadavg()[0])
        rows.append(row)
        kinds += found
        # A long run says how far it is.
        print(json.dumps({"row": row, "kinds": found}), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"rows": rows, "faults": kinds}))
        return
    print(
        f"torch {torch.__version__}, {options.workers} workers, jobs of {options.work_ms:g} ms, "
        f"runs of {options.minutes:g} min, seed {options.seed}, load "
        f"{min(row['load'] for row in rows):.1f}..{max(row['load'] for row in rows):.1f}\n"
    )
    print_tables(rows, kinds)


if __name__ == "__main__":
    main()
