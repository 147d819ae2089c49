"""pfl (pfl-research): ``FederatedAveraging`` on its simulated backend, one process or several.

Several are started by torch's launcher, as pfl documents it. The first one hears when a turn begins;
the others wait for it at a barrier.
"""

from __future__ import annotations

import importlib.metadata
import sys

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F
from workload import BATCH, CLIENTS, EPOCHS, RATE, Turns, client_data, loss_of, model_for


class Module(nn.Module):
    """The model with the two methods that pfl asks for; it counts its steps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner = model_for(name)
        self.steps = 0

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.steps += 1
        return F.cross_entropy(self.inner(inputs), targets)

    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(float(F.cross_entropy(self.inner(inputs), targets)), 1)}


class Pauses(TrainingProcessCallback):
    """Waits before the first round of each turn."""

    def __init__(self, turns: Turns, module: Module, rounds: int) -> None:
        self._turns, self._module, self._rounds, self._done = turns, module, rounds, 0
        context = pytorch_ops.distributed
        self._is_first = context.global_rank == 0
        self._processes = context.world_size
        self._goes_on = True

    def _wait(self) -> bool:
        go = torch.tensor([int(self._is_first and self._turns.wait())])
        if self._processes > 1:
            torch.distributed.broadcast(go, src=0)
        return bool(go)

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        if self._is_first:
            self._turns.say(version=f"pfl {importlib.metadata.version('pfl')}")
        self._wait()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self._done += 1
        if self._done % self._rounds:
            return False, Metrics()
        steps = torch.tensor([self._module.steps])
        self._module.steps = 0
        if self._processes > 1:
            torch.distributed.all_reduce(steps)
        if self._is_first:
            self._turns.say(clients=self._rounds * CLIENTS, steps=int(steps))
        return not self._wait(), Metrics()


def main(name: str, rounds: int) -> None:
    torch.set_num_threads(1)
    turns, module = Turns(), Module(name)
    datasets = {c: PyTorchTensorDataset(client_data(name, c)) for c in range(CLIENTS)}
    users = FederatedDataset(
        datasets.__getitem__, get_user_sampler("minimize_reuse", list(range(CLIENTS)))
    )
    model = PyTorchModel(
        module, torch.optim.SGD, central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0)
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=10**9,
            evaluation_frequency=10**9,
            train_cohort_size=CLIENTS,
            val_cohort_size=0,
        ),
        SimulatedBackend(users, users),
        model,
        NNTrainHyperParams(
            local_batch_size=BATCH, local_num_epochs=EPOCHS, local_learning_rate=RATE
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Pauses(turns, module, rounds)],
    )
    if pytorch_ops.distributed.global_rank == 0:
        turns.say(loss=loss_of(module.inner, name))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
