"""The plain loop: a deep copy of the model, a DataLoader, a new optimizer for each client; averaged."""

from __future__ import annotations

import copy
import sys

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from workload import BATCH, CLIENTS, EPOCHS, RATE, Turns, client_data, loss_of, model_for


def main(name: str, rounds: int) -> None:
    torch.set_num_threads(1)
    turns, model = Turns(), model_for(name)
    data = [TensorDataset(*client_data(name, client)) for client in range(CLIENTS)]
    turns.say(version=f"torch {torch.__version__}")
    while turns.wait():
        steps = 0
        for _ in range(rounds):
            total = [torch.zeros_like(p) for p in model.parameters()]
            for dataset in data:
                local = copy.deepcopy(model)
                optimizer = torch.optim.SGD(local.parameters(), lr=RATE)
                for _ in range(EPOCHS):
                    for inputs, targets in DataLoader(dataset, batch_size=BATCH, shuffle=True):
                        optimizer.zero_grad()
                        F.cross_entropy(local(inputs), targets).backward()
                        optimizer.step()
                        steps += 1
                for mean, parameter in zip(total, local.parameters(), strict=True):
                    mean.add_(parameter.detach(), alpha=1 / CLIENTS)
            for parameter, mean in zip(model.parameters(), total, strict=True):
                parameter.data.copy_(mean)
        turns.say(clients=rounds * CLIENTS, steps=steps)
    turns.say(loss=loss_of(model, name))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
