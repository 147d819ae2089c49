"""What workers hold between jobs, for views that do not send the whole model each time.

A view may tell a worker to keep what it has, or send it one fragment. Then the worker's own model
is state, and whoever runs it has to hold it. Other algorithms make no replica. One that hands in
deltas of fragments also remembers what it was last sent of each: its work of several jobs goes into
one delta.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from headway.core import Checkout, ParameterLayout, PayloadKind, tree
from headway.core.errors import ConfigurationError
from headway.task import LocalResult

__all__ = ["Replicas"]


@final
class Replicas:
    """One model per client that was ever given a job.

    Args:
        initial: The model that every worker starts with, flat.
        layout: Of the model; it knows the fragments.
        payload: What the algorithm's workers send.
    """

    def __init__(self, initial: Tensor, layout: ParameterLayout, payload: PayloadKind) -> None:
        self._initial = initial
        self._layout = layout
        self._payload = payload
        self._own: dict[int, Tensor] = {}
        self._bases: dict[int, Tensor] = {}

    def lacks(self, client: int, ticket: Checkout) -> bool:
        """Whether the client is to go on from a model of its own that is not here.

        It was with another process, which has ended. Versions begin with the model that all have.

        Args:
            client: Whose job.
            ticket: It.
        """
        sent = ticket.parameters
        whole = sent is not None and sent.numel() == self._initial.numel()
        return client not in self._own and not whole and ticket.version > 0

    def begin(self, client: int, model: Tensor) -> None:
        """Give a client a model to go on from.

        Args:
            client: Whose.
            model: Flat; copied.
        """
        self._own[client] = model.clone()

    def receive(self, client: int, ticket: Checkout) -> Tensor:
        """The model that the client starts from: its own, with what it was sent put in."""
        own = self._own.get(client)
        if own is None:
            own = self._own[client] = self._initial.clone()
        sent, wanted = ticket.parameters, ticket.work.fragment
        fragment = wanted if ticket.work.sent_fragment is None else ticket.work.sent_fragment
        span = slice(None)
        if sent is not None and sent.numel() != own.numel():
            if fragment is None:
                raise ConfigurationError(
                    "a view sent a part of the model without saying which",
                    got=f"{sent.numel()} of {own.numel()} parameters",
                    help="let the algorithm's `work` order the same fragment",
                )
            span = self._layout.fragment(fragment)
        if sent is not None:
            own[span] = sent
        base = self._bases.get(client)
        if base is not None and sent is not None:
            base[span] = sent
        elif base is None and wanted is not None and self._payload == "delta":
            self._bases[client] = own.clone()
        return own

    def train(self, client: int, result: LocalResult, fragment: int | None) -> LocalResult:
        """Take the job's result into the client's model, and cut out what is sent."""
        own = self._own[client]
        if self._payload == "delta":
            own.add_(result.payload)
        elif self._payload == "weights":
            own.copy_(result.payload)
        if fragment is None:
            return result
        span = self._layout.fragment(fragment)
        if self._payload == "delta":
            return result._replace(payload=own[span] - self._bases[client][span])
        return result._replace(payload=result.payload[span])

    def answer(self, client: int, answer: Tensor) -> None:
        """The server's answer becomes the client's model, as in elastic averaging."""
        self._own[client].copy_(answer)

    def of(self, client: int) -> Tensor:
        """The client's own model, not a copy; it has trained before."""
        return self._own[client]

    def state_dict(self) -> dict[str, Any]:
        """All models, as a plain tree that shares no memory; the initial one is left out."""
        return {"own": tree.dump(self._own), "bases": tree.dump(self._bases)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the replicas that were saved.

        Args:
            state: From :meth:`state_dict` of replicas of the same model.
        """
        device = self._initial.device
        self._own, self._bases = (
            {client: model.to(device) for client, model in tree.copy(state[name]).items()}
            for name in ("own", "bases")
        )

    def state(self) -> dict[int, Tensor]:
        """Every client's model."""
        return {client: torch.clone(own) for client, own in self._own.items()}
