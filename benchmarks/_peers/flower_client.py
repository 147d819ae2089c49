"""The client side of Flower's candidate: a module, because Ray's actors import it.

It is the lean loop of ``workload.train_one``: no DataLoader, one model kept by each actor and loaded
anew, no metrics but those that the strategy needs.
"""

from __future__ import annotations

import functools
import os

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from workload import EXAMPLES, model_for, train_one


@functools.cache
def actor_model(name: str) -> tuple[nn.Module, torch.Generator]:
    """One for each actor's process."""
    torch.set_num_threads(1)
    return model_for(name), torch.Generator().manual_seed(os.getpid())


def client_app(name: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        module, shuffle = actor_model(name)
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        client = int(context.node_config["partition-id"])
        steps = train_one(module, name, client, shuffle)
        content = RecordDict(
            {
                "arrays": ArrayRecord(module.state_dict()),
                "metrics": MetricRecord({"num-examples": EXAMPLES, "steps": steps}),
            }
        )
        return Message(content=content, reply_to=message)

    return app
