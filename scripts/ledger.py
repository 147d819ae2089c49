"""Seconds per test suite and per step, kept in build/ledger.json and printed as a table.

    python3 scripts/ledger.py run NAME -- COMMAND...   run a command and note how long it took
    python3 scripts/ledger.py print                    print the table of docs/testing.md

The tests write their part themselves: ``pytest --ledger`` (see tests/conftest.py). Suites count the
seconds of all their tests added up, steps count what a clock on the wall shows, so that with several
pytest workers the suites add up to more than the step that runs them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

LEDGER = Path(__file__).resolve().parent.parent / "build" / "ledger.json"


def read(path: Path = LEDGER) -> dict[str, dict[str, dict[str, float]]]:
    """Read the ledger; an absent one is empty."""
    if not path.exists():
        return {"steps": {}, "suites": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def note(kind: str, name: str, path: Path = LEDGER, **numbers: float) -> None:
    """Enter numbers under a kind ("steps" or "suites") and a name, over what stood there."""
    ledger = read(path)
    ledger[kind][name] = numbers
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ledger, indent=2) + "\n", encoding="utf-8")


def table(ledger: dict[str, dict[str, dict[str, float]]]) -> str:
    """Lay the ledger out as a Markdown table."""
    rows = [("suite", "tests", "seconds"), ("---", "---:", "---:")]
    for name, entry in sorted(ledger["suites"].items()):
        rows.append((name, f"{entry['tests']:.0f}", f"{entry['seconds']:.1f}"))
    for name, entry in ledger["steps"].items():
        rows.append((f"*{name}*, by the clock", "", f"{entry['seconds']:.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    rows[1] = ("-" * widths[0], "-" * (widths[1] - 1) + ":", "-" * (widths[2] - 1) + ":")
    return "\n".join(
        f"| {name:<{widths[0]}} | {tests:>{widths[1]}} | {seconds:>{widths[2]}} |"
        for name, tests, seconds in rows
    )


def main(arguments: list[str]) -> int:
    """Run the script; the exit status of `run` is the command's own."""
    if arguments == ["print"]:
        print(table(read()))
        return 0
    if len(arguments) < 4 or arguments[0] != "run" or arguments[2] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    started = time.perf_counter()
    status = subprocess.run(arguments[3:], check=False).returncode
    note("steps", arguments[1], seconds=time.perf_counter() - started)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
