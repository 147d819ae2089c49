"""An algorithm of your own, in ten lines, in the simulator beside one of the library's.

An algorithm is a value: what the clients send, a chain of transforms, a server step. This one
distrusts an update the more, the later it comes and the further it leaps.

    python examples/custom_algorithm.py
"""

from __future__ import annotations

from functools import partial

import torch

import headway as hw
from headway.algorithms import transforms


@transforms.stateless
def distrust_late_leaps(update, context, *, scale):
    leap = float(update.payload.norm()) / scale
    return hw.core.Pass(update._replace(weight=update.weight / (1.0 + context.staleness * leap)))


def cautious(*, scale=1.0, buffer_size=10):
    chain = (distrust_late_leaps(scale=scale), transforms.buffer(buffer_size))
    step = transforms.server_step(partial(torch.optim.SGD, lr=1.0))
    settings = {"scale": scale, "buffer_size": buffer_size}  # for reports
    return hw.Algorithm(name="cautious", payload="delta", chain=chain, step=step, settings=settings)


if __name__ == "__main__":
    comparison = hw.compare(
        hw.tasks.quadratic(dim=100, num_clients=50, heterogeneity=1.0),
        {"fedbuff": hw.algorithms.fedbuff(buffer_size=10), "cautious": cautious(scale=1.0)},
        population=hw.population.lognormal(num_clients=50, median_s=2.0, sigma=0.8),
        stop=hw.until(virtual_time_s=200),
        target=("loss", 1.0),
    )
    print(comparison)
