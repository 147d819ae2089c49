"""How many training steps a second are left when there is an exchange at every step?

MLP 784-200-10, batches of 32, plain SGD, one worker. Claim: a worker that hands in every gradient and
starts each step from the server's model keeps most of the speed of plain local training. Asked:
``Processes(1)`` at least 0.6 of it, aim 0.9 with ``prefetch=True``. Candidates take turns in one run,
one thread of torch in each process; start-up is not counted. Peers run during their own turns only,
after one that is not counted: Ray's daemons take a part of a core, also when they have nothing to do:

- ``plain loop``: a module, ``torch.optim.SGD``, shuffled indices; one process, nothing exchanged.
- ``Processes(1)``: ``headway.run`` with ``async_sgd``.
- ``AsyncWorker``: for a ``ParameterServer`` in a process of its own, over gRPC.
- ``ray``: an actor with the weights and one that takes gradients, as in Ray's own example.
- ``torch.distributed.rpc``: two processes, one call for a step.

The peers' scripts are in ``benchmarks/_peers``. Ray lives in an environment of its own:

    python benchmarks/steps.py --install        # once: build/peers/ray
    python benchmarks/steps.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _peers.steps_work import BATCH, EXAMPLES, RATE, Batches, loss_at, make_data, make_model
from peers import ROOT, SCRIPTS, TORCH, Candidate, python_of
from torch.nn import functional as F

import headway as hw

RAY = "ray==2.55.1"
# Where Flower was installed for `peers.py`, Ray came with it.
WITH_RAY = ("ray", "flower")
ASKED = {"Processes(1)": 0.6, "Processes(1, prefetch=True)": 0.9}

Rate = Callable[[int], float]


def install(folder: Path) -> None:
    """Make Ray's environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "ray")], check=True)
    pip = [str(python_of(folder, "ray")), "-m", "pip", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, TORCH, "numpy"], check=True)
    subprocess.run([*pip, TORCH, RAY], check=True)


def plain() -> Rate:
    """Steps per second of the plain loop."""
    model, batches = make_model(), Batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def rate(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            inputs, targets = batches.next()
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return steps / (time.perf_counter() - begin)

    return rate


def processes(*, prefetch: bool) -> Rate:
    """Steps per second of ``headway.run`` with one process; two clients share the data."""
    inputs, targets = make_data()
    half = EXAMPLES // 2
    task = hw.Task(
        make_model,
        "cross_entropy",
        [(inputs[:half], targets[:half]), (inputs[half:], targets[half:])],
        (inputs[:BATCH], targets[:BATCH]),
        local=hw.LocalTraining(steps=1, batch_size=BATCH),
        name="steps",
    )

    def rate(steps: int) -> float:
        result = hw.run(
            task,
            hw.algorithms.async_sgd(learning_rate=RATE),
            runtime=hw.Processes(1, prefetch=prefetch),
            stop=hw.until(updates=steps),
            evaluate_every=steps,
            record="nothing",
        )
        assert result.updates >= steps
        return result.updates / result.wall_time_s

    return rate


def serve(control: Connection) -> None:
    """A parameter server's process."""
    torch.set_num_threads(1)
    with hw.ParameterServer(make_model(), port=0, update_rule="async_sgd") as server:
        control.send(server.address)
        try:
            control.recv()
        except EOFError:
            return


@contextmanager
def connected(*, shared: bool, prefetch: bool = False) -> Iterator[Rate]:
    """Steps per second of a worker that connects to a server in another process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    address, data = ours.recv(), make_data()

    def rate(steps: int) -> float:
        worker = hw.AsyncWorker(
            address, local_batch_size=BATCH, shared_memory=shared, prefetch=prefetch
        )
        epochs = steps * BATCH / EXAMPLES
        history = worker.train(data, epochs=epochs, optimizer=hw.optim.SGD(lr=RATE))
        assert history.updates == steps
        return steps / history.wall_time_s

    yield rate
    ours.close()
    process.join()


class Peer(Candidate):
    """A peer's script, which counts its own steps and seconds."""

    def turn_of(self, steps: int) -> float:
        """Steps per second."""
        self._tell("go")
        heard = self._hear()
        assert heard["steps"] == steps, heard
        return float(heard["steps"] / heard["seconds"])


def peer(name: str, command: list[str], folder: Path, told: dict[str, dict[str, Any]]) -> Rate:
    """Steps per second of a peer, whose processes live for its own turns only.

    Args:
        name: What it is called.
        command: Starts its script.
        folder: Where it may keep what it needs.
        told: Gets what it says of itself.
    """

    def rate(steps: int) -> float:
        running = Peer(name, "", command, folder)
        try:
            running.turn_of(steps)
            found = running.turn_of(steps)
            running.end()
        finally:
            running.close()
        told[name] = {"version": running.version, "loss": round(running.loss, 3)}
        return found

    return rate


def peers(steps: int, folder: Path) -> dict[str, list[str] | None]:
    """How the peers are started; ``None``: not installed."""
    found = [str(python_of(folder, name)) for name in WITH_RAY if python_of(folder, name).exists()]
    ray = [found[0], str(SCRIPTS / "run_ray_steps.py"), str(steps)] if found else None
    rpc = [sys.executable, str(SCRIPTS / "run_rpc_steps.py"), str(steps)]
    return {"torch.distributed.rpc": rpc, "ray": ray}


def measure(steps: int, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of the table."""
    with ExitStack() as stack:
        rates: dict[str, Rate | None] = {
            "plain loop": plain(),
            "Processes(1)": processes(prefetch=False),
            "Processes(1, prefetch=True)": processes(prefetch=True),
            "AsyncWorker, shared memory": stack.enter_context(connected(shared=True)),
            "AsyncWorker, shared memory, prefetch=True": stack.enter_context(
                connected(shared=True, prefetch=True)
            ),
            "AsyncWorker, inline": stack.enter_context(connected(shared=False)),
        }
        told: dict[str, dict[str, Any]] = {}
        for name, command in peers(steps, folder).items():
            rates[name] = None if command is None else peer(name, command, folder, told)
        runs = []
        for repeat in range(repeats + 1):
            run = {name: rate(steps) for name, rate in rates.items() if rate is not None}
            if repeat:
                runs.append(run)
    return [row(name, runs, told.get(name, {})) for name in rates]


def row(name: str, runs: list[dict[str, float]], told: dict[str, Any]) -> dict[str, Any]:
    """What the table says of a candidate."""
    empty = {"steps_per_s": None, "min": None, "max": None, "of_plain": None}
    span = {"min_ratio": None, "max_ratio": None, "asked": ASKED.get(name)}
    head = {"candidate": name, "version": told.get("version", ""), "loss": told.get("loss")}
    if name not in runs[0]:
        return {**head, "version": "not installed", **empty, **span}
    rates = [run[name] for run in runs]
    ratios = [run[name] / run["plain loop"] for run in runs]
    return {
        **head,
        "steps_per_s": round(median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
        "of_plain": round(median(ratios), 3),
        "min_ratio": round(min(ratios), 3),
        "max_ratio": round(max(ratios), 3),
        "asked": ASKED.get(name),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print("| candidate | steps/s (min..max) | of the plain loop (min..max) | asked |")
    print("|---|---|---|---|")
    for found in rows:
        who = f"{found['candidate']} {found['version']}".strip()
        if found["steps_per_s"] is None:
            print(f"| {who} | | | |")
            continue
        print(
            f"| {who} | {found['steps_per_s']:,} ({found['min']:,}..{found['max']:,}) "
            f"| {found['of_plain']} ({found['min_ratio']}..{found['max_ratio']}) "
            f"| {found['asked'] or ''} |"
        )
    losses = {found["candidate"]: found["loss"] for found in rows if found["loss"] is not None}
    print(f"\nloss at the beginning {loss_at(first_weights()):.3f}; of peers at the end: {losses}")


def first_weights() -> torch.Tensor:
    """Everybody's."""
    return torch.nn.utils.parameters_to_vector(make_model().parameters()).detach()


def main() -> None:
    """Install Ray, or print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="Ray, and nothing else")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--steps", type=int, default=2000, help="in a turn; a multiple of 100")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.install:
        install(options.folder)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rows = measure(options.steps, options.repeats, options.folder)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, one thread in each process, "
        f"medians of {options.repeats} turns of {options.steps} steps"
    )
    print_table(rows)


if __name__ == "__main__":
    main()
