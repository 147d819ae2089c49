"""Flower's simulation: ``FedAvg`` over its Ray backend, as many actors as cores."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from typing import Any

from flower_client import client_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workload import CLIENTS, Turns, loss_of, model_for


class Pausing(FedAvg):
    """The strategy as it is; it waits before the first round of each turn and counts replies."""

    def __init__(self, turns: Turns, rounds: int, **options: Any) -> None:
        super().__init__(**options)
        self._turns, self._rounds = turns, rounds
        self._clients = self._steps = 0
        self.ended = False

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if (server_round - 1) % self._rounds == 0 and not self._turns.wait():
            self.ended = True
            raise EOFError
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        sound = [reply.content["metrics"] for reply in replies if not reply.has_error()]
        self._clients += len(sound)
        self._steps += sum(int(metrics["steps"]) for metrics in sound)
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.arrays = arrays
        if server_round % self._rounds == 0:
            self._turns.say(clients=self._clients, steps=self._steps)
            self._clients = self._steps = 0
        return arrays, metrics


def main(name: str, rounds: int, cores: int) -> None:
    turns, model = Turns(), model_for(name)
    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Pausing(
            turns, rounds, fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=CLIENTS
        )
        version = importlib.metadata.version
        turns.say(version=f"flwr {version('flwr')}, ray {version('ray')}")
        try:
            strategy.start(
                grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=10**9
            )
        except EOFError:
            assert strategy.ended
            model.load_state_dict(strategy.arrays.to_torch_state_dict())
            turns.say(loss=loss_of(model, name))

    run_simulation(
        server_app=app,
        client_app=client_app(name),
        num_supernodes=CLIENTS,
        backend_config={
            "init_args": {"num_cpus": cores, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
