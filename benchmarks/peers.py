"""How many clients a second in the same synchronous rounds: Headway, Flower, pfl and the plain loop?

One round: 100 clients, all of them, each 50 examples, 5 epochs, batches of 10, SGD, from the same
initial model on the same data; then the mean. Every candidate is a process of its own (with those
that it starts itself), driven by a short script in ``benchmarks/_peers``. All are alive at the same
time and take turns of a few rounds, while the others wait. Start-up and the first two turns are not
counted. Steps and clients are counted by each candidate where they happen and compared, and at the end
each tells the loss of its model, which must agree.

    python benchmarks/peers.py --install        # once: an environment for each peer in build/peers
    python benchmarks/peers.py [--models 784-200-10] [--repeats 5]

Flower runs as many Ray actors as there are cores; pfl one process, and as many as there are cores
under torch's launcher. One thread in each process. A peer that is not installed says so in its row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
SCRIPTS, ROOT = HERE / "_peers", HERE.parent
# Pinned where Headway's own is: an open range brings several gigabytes along.
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
TORCH = next(pin for pin in PINS if pin.startswith("torch=="))
# Exact, so that a table can be had again. Torch is named in the second step too: nothing else may
# choose another build of it.
PEERS = {"flower": ["flwr[simulation]==1.41.0"], "pfl": ["pfl==0.6.0"]}
ASKED = {("784-200-10", "flower"): 5.0, ("784-200-10", "pfl"): 2.8}
WARM, CLIENTS, STEPS, LIMIT_S = 2, 100, 25, 600.0


def python_of(folder: Path, peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return folder / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(folder: Path) -> None:
    """Make the environments that are not there."""
    for peer, requirements in PEERS.items():
        subprocess.run([sys.executable, "-m", "venv", str(folder / peer)], check=True)
        pip = [str(python_of(folder, peer)), "-m", "pip", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, TORCH, *requirements], check=True)


class Candidate:
    """A process that trains some rounds when it is told to."""

    def __init__(self, name: str, settings: str, command: list[str], folder: Path) -> None:
        self.name, self.settings = name, settings
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        quiet = {
            "OMP_NUM_THREADS": "1",
            "FLWR_HOME": str(folder / "flwr-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")])
            ),
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **quiet},
            text=True,
        )
        self.rates: list[float] = []
        self.version = str(self._hear()["version"])
        self.loss = float("nan")
        self.about: dict[str, Any] = {}

    def turn(self) -> dict[str, Any]:
        """Its counts, and its rate in clients per second."""
        begin = time.perf_counter()
        self._tell("go")
        heard = self._hear()
        return {**heard, "rate": heard["clients"] / (time.perf_counter() - begin)}

    def end(self) -> None:
        """Let it tell its loss and come to its end."""
        self._tell("end")
        heard = self._hear()
        self.loss, self.about = float(heard["loss"]), heard.get("about", {})
        self.close()

    def close(self) -> None:
        """Whatever it does."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=30.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        guard = threading.Timer(LIMIT_S, self._process.kill)
        guard.start()
        try:
            line = self._process.stdout.readline()
        finally:
            guard.cancel()
        if line:
            return dict(json.loads(line))
        self._log.seek(0)
        sys.exit(f"{self.name} has died:\n{self._log.read()[-4000:]}")


def commands(
    model: str, rounds: int, cores: int, folder: Path, compiles: bool
) -> dict[tuple[str, str], list[str] | None]:
    """Name and settings of each candidate, and how it is started; ``None``: it is not installed."""
    work = [model, str(rounds)]

    def script(python: object, name: str, *more: str) -> list[str]:
        return [str(python), str(SCRIPTS / f"run_{name}.py"), *work, *more]

    def peer(name: str, *command: str) -> list[str] | None:
        python = python_of(folder, name)
        return [str(python), *command] if python.exists() else None

    executions: list[dict[str, Any]] = [{"processes": number} for number in sorted({1, cores})]
    if compiles:
        executions += [{"mode": "groups", "compile": True, **one} for one in executions]
    found: dict[tuple[str, str], list[str] | None] = {
        ("plain loop", "1 process"): script(sys.executable, "plain")
    }
    for execution in executions:
        options = ", ".join(f"{name}={value!r}" for name, value in execution.items())
        found["headway", f"Execution({options})"] = script(
            sys.executable, "headway", json.dumps(execution)
        )
    tail = script("", "flower", str(cores))[1:]
    found["flower", f"{cores} actors"] = peer("flower", *tail)
    tail = script("", "pfl")[1:]
    found["pfl", "1 process"] = peer("pfl", *tail)
    if cores > 1:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cores}")
        found["pfl", f"{cores} processes"] = peer("pfl", *launcher, *tail)
    return found


def measure(
    model: str, rounds: int, repeats: int, cores: int, folder: Path, compiles: bool
) -> list[dict[str, Any]]:
    """The rows of one model."""
    asked = commands(model, rounds, cores, folder, compiles)
    alive: dict[tuple[str, str], Candidate] = {}
    try:
        for key, command in asked.items():
            if command is not None:
                alive[key] = Candidate(*key, command, folder)
        for repeat in range(WARM + repeats):
            for candidate in alive.values():
                heard = candidate.turn()
                if repeat >= WARM:
                    check(candidate, heard, rounds)
                    candidate.rates.append(heard["rate"])
        for candidate in alive.values():
            candidate.end()
    except BaseException:
        for candidate in alive.values():
            candidate.close()
        raise
    best = max(median(c.rates) for (name, _), c in alive.items() if name == "headway")
    return [row(model, key, alive.get(key), best) for key in asked]


def check(candidate: Candidate, heard: dict[str, Any], rounds: int) -> None:
    """That a counted turn did all of the work."""
    clients, steps = rounds * CLIENTS, rounds * CLIENTS * STEPS
    if (heard["clients"], heard["steps"]) != (clients, steps):
        sys.exit(f"{candidate.name}: {clients} clients and {steps} steps were due, not {heard}")


def row(
    model: str, key: tuple[str, str], candidate: Candidate | None, best: float
) -> dict[str, Any]:
    """What the table says of a candidate."""
    empty = {"version": "not installed", "clients_per_s": None, "min": None, "max": None}
    told = {"model": model, "candidate": key[0], "settings": key[1]}
    asked = ASKED.get((model, key[0]))
    if candidate is None:
        return {**told, **empty, "headway_over_it": None, "asked": asked, "loss": None, "about": {}}
    rates = candidate.rates
    return {
        **told,
        "version": candidate.version,
        "clients_per_s": round(median(rates), 1),
        "min": round(min(rates), 1),
        "max": round(max(rates), 1),
        "headway_over_it": round(best / median(rates), 2),
        "asked": asked,
        "loss": round(candidate.loss, 4),
        "about": candidate.about,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table, and how to install what is missing."""
    print("| model | candidate | clients/s (min..max) | best Headway / it | asked | loss |")
    print("|---|---|---|---|---|---|")
    for found in rows:
        who = f"{found['candidate']}, {found['settings']}"
        if found["clients_per_s"] is None:
            print(f"| {found['model']} | {who} | not installed | | {found['asked'] or ''} | |")
            continue
        print(
            f"| {found['model']} | {who} | {found['clients_per_s']:,} ({found['min']:,}.."
            f"{found['max']:,}) | {found['headway_over_it']} | {found['asked'] or ''} | "
            f"{found['loss']} |"
        )
    print("\nversions: " + "; ".join(sorted({f"{r['candidate']}: {r['version']}" for r in rows})))
    for found in rows:
        if found["about"]:
            kept = ("mode", "group_size", "processes", "compiled", "mean_group_size")
            about = ", ".join(f"{k} {found['about'][k]}" for k in kept if k in found["about"])
            print(f"{found['model']}, {found['settings']}: {about}")
    if any(found["clients_per_s"] is None for found in rows):
        print("to install what is missing: python benchmarks/peers.py --install")


def main() -> None:
    """Install the peers, or print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="the peers, and nothing else")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--models", nargs="+", default=["784-200-10", "60-16-10"])
    parser.add_argument("--rounds", type=int, default=3, help="in a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.install:
        install(options.folder)
        return
    rows = [
        found
        for model in options.models
        for found in measure(
            model,
            options.rounds,
            options.repeats,
            options.cores,
            options.folder,
            not options.eager,
        )
    ]
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    print(f"torch {torch.__version__}, {options.cores} cores, rounds of {CLIENTS} clients,")
    print(f"medians of {options.repeats} turns of {options.rounds} rounds\n")
    print_table(rows)


if __name__ == "__main__":
    main()
