"""A parameter server and three workers that come and go, each at its own pace.

    python examples/parameter_server.py

Here they are threads of one program, which is enough to try it out. On several machines the server's
part runs on one of them, with host="0.0.0.0" and a certificate, and each worker's part on another,
with the server's address.
"""

from __future__ import annotations

import threading

import torch

import headway as hw
from headway.models import mlp

POINTS = 3_000
CLASSES = 10


def make_data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around ten centres."""
    centres = torch.randn(CLASSES, 20, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (POINTS,), generator=drawn)
    return centres[labels] + 0.7 * torch.randn(POINTS, 20, generator=drawn), labels


def work(address: str, number: int, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Train on a third of the data. The model comes from the server."""
    worker = hw.AsyncWorker(address, local_batch_size=32, name=f"worker-{number}")
    history = worker.train(
        dataset=data,
        shard=(number, 3),
        epochs=4,
        optimizer=hw.optim.SGD(lr=0.05, momentum=0.5),
        loss_fn="cross_entropy",
        metrics=["accuracy", "loss"],
        log_frequency=50,
    )
    print(history)


def main() -> None:
    """Serve until all three have finished, and measure what came of it."""
    server = hw.ParameterServer(
        mlp(inputs=20, classes=CLASSES, hidden=(32,)),
        port=0,
        update_rule="async_sgd",
        staleness_policy="adaptive_lr",
        staleness_lr_factor=0.9,
        max_staleness=20,
        seed=1,
    )
    with server:
        workers = [
            threading.Thread(target=work, args=(server.address, number, make_data(1)))
            for number in range(3)
        ]
        for worker in workers:
            worker.start()
        result = server.wait_for_workers(num_workers=3)
        for worker in workers:
            worker.join()
        accuracy = hw.AsyncWorker(server.address).evaluate(make_data(2))
    print(result)
    print(f"accuracy of the server's model on new points: {accuracy:.3f}")


if __name__ == "__main__":
    main()
