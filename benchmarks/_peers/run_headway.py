"""Headway's simulator, whole: ``fedavg`` in rounds of all clients."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import nn
from workload import (
    BATCH,
    CLIENTS,
    EPOCHS,
    RATE,
    STEPS,
    Turns,
    client_data,
    loss_of,
    model_for,
)

import headway as hw
from headway.observe import Point
from headway.simulation.engine import Engine
from headway.simulation.resolve import resolve


def task_for(name: str) -> hw.Task:
    local = hw.LocalTraining(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE)
    data = [client_data(name, client) for client in range(CLIENTS)]
    return hw.Task(model_for(name), "cross_entropy", data, data[0], local=local)


class Rounds:
    """Lets the simulation wait after each turn, where it evaluates."""

    def __init__(self, turns: Turns, name: str, rounds: int) -> None:
        self._turns, self._name, self._rounds = turns, name, rounds
        self._examples = 0

    def evaluated(self, engine: Engine, point: Point) -> None:
        if point.updates:
            # Counted from the examples that trainers went through, not from what was asked.
            examples, self._examples = point.examples - self._examples, point.examples
            self._turns.say(clients=self._rounds * CLIENTS, steps=examples // BATCH)
        else:
            self._turns.say(version=f"headway {hw.__version__}")
        if not self._turns.wait():
            engine.interrupt()

    def settings(self, execution: hw.Execution) -> Any:
        every = self._rounds * CLIENTS
        return resolve(
            task_for(self._name),
            hw.algorithms.fedavg(clients_per_round=CLIENTS),
            hw.until(updates=10**9),
            population=hw.population.constant(CLIENTS),
            execution=execution,
            evaluate_every=every,
            record="nothing",
        )


def loss_after(engine: Engine, name: str) -> float:
    module: nn.Module = model_for(name)
    nn.utils.vector_to_parameters(engine.server.parameters, module.parameters())
    return loss_of(module, name)


def main(name: str, rounds: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    turns = Turns()
    pauses = Rounds(turns, name, rounds)
    engine = Engine(
        pauses.settings(hw.Execution(**options)),
        evaluated=pauses.evaluated,
        reported=lambda _: None,
    )
    try:
        engine.begin()
        engine.run()
        turns.say(loss=loss_after(engine, name), about=engine.choice.describe(), steps=STEPS)
    finally:
        engine.choice.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
