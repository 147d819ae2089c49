"""What do faults cost, and is every acknowledged update there afterwards, once?

Sixteen worker processes whose jobs take a fixed time (they wait), each behind a proxy of its own, and
a server process with a durable log. Three runs of the same length: undisturbed; with faults of workers
and their links; with faults of the server. Faults are drawn from a seed. Afterwards the log, what
workers wrote down and the weights are compared by arithmetic: a run with an update that was lost or
doubled ends with an error. With ``--together`` the runs are side by side, so that a machine with
other work is as busy for each. Asked: 97.7 % of the undisturbed updates per second under faults of
workers, and at most 5 s of work lost by each kill of the server.

    python benchmarks/chaos.py [--minutes 10] [--worker-faults 66] [--server-faults 18] [--together]

POSIX only, with ``prlimit``, which fills the disk for the server alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

# As for a script, whose own folder comes first.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.chaos_audit import Account, audit, lost_s
from tests.chaos_kit import SERVER_FAULTS, WORKER_FAULTS, Chaos, Fault, draw_faults

KINDS: dict[str, Sequence[str]] = {
    "faults of workers": WORKER_FAULTS,
    "faults of the server": (*SERVER_FAULTS, "server_kill"),
}


def measure(plans: dict[str, list[Fault]], options: argparse.Namespace) -> Iterator[Finding]:
    """Runs, all at the same time: what was found in each.

    Args:
        plans: What happens in each, by its name.
        options: Of the command line.
    """
    seconds = 60.0 * options.minutes
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = [
            stack.enter_context(
                Chaos(
                    place / str(number), num_workers=options.workers, work_s=options.work_ms / 1e3
                )
            )
            for number in range(len(plans))
        ]
        for chaos in runs:
            chaos.until_all_work()
        pool = stack.enter_context(ThreadPoolExecutor(len(runs)))
        done = [pool.submit(one.run, plans[n], seconds) for one, n in zip(runs, plans, strict=True)]
        for one in done:
            one.result()
        load = os.getloadavg()[2]
        for name, chaos in zip(plans, runs, strict=True):
            yield Finding(name, len(plans[name]), chaos, audit(chaos), load)


class Finding(NamedTuple):
    """A run that is over."""

    name: str
    num_faults: int
    chaos: Chaos
    account: Account
    load: float

    def row(self, usual_per_s: float) -> dict[str, Any]:
        """What it came to.

        Args:
            usual_per_s: Of the undisturbed run, updates in a second.
        """
        account = self.account
        return {
            "run": self.name,
            "faults": self.num_faults,
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
            "load": self.load,
        }

    def kinds(self, usual_per_s: float) -> list[dict[str, Any]]:
        """What each kind of fault cost.

        Args:
            usual_per_s: Of the undisturbed run, updates in a second.
        """
        return [
            {
                "fault": kind,
                "times": len(took),
                "recovery_s": median(took),
                "min_s": min(took),
                "max_s": max(took),
                "lost_s": lost_s(self.chaos, kind, usual_per_s) if kind in SERVER_FAULTS else None,
            }
            for kind, took in self.account.recoveries_s.items()
        ]


def draw_plans(options: argparse.Namespace) -> dict[str, list[Fault]]:
    """What happens in each run, by its name: first the undisturbed one.

    Args:
        options: Of the command line.
    """
    nums = {
        "faults of workers": options.worker_faults,
        "faults of the server": options.server_faults,
    }
    plans: dict[str, list[Fault]] = {"undisturbed": []}
    for name, num in nums.items():
        if num:
            plans[name] = draw_faults(
                options.seed,
                KINDS[name],
                num=num,
                num_workers=options.workers,
                duration_s=60.0 * options.minutes,
            )
    return plans


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
    parser.add_argument("--worker-faults", type=int, default=66, help="0: no such run")
    parser.add_argument("--server-faults", type=int, default=18, help="0: no such run")
    parser.add_argument("--together", action="store_true", help="all runs at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plans = draw_plans(options)
    groups = [plans] if options.together else [{name: plan} for name, plan in plans.items()]
    rows: list[dict[str, Any]] = []
    kinds: list[dict[str, Any]] = []
    for found in (one for group in groups for one in measure(group, options)):
        usual_per_s = rows[0]["updates_per_s"] if rows else found.account.updates_per_s
        rows.append(found.row(usual_per_s))
        kinds += found.kinds(usual_per_s)
        # A long run says how far it is.
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
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
