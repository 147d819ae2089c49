"""A checksum of data: cheap enough to take at every start, and other for other data."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from headway.task.clients import ClientData

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Fingerprinted", "data_fingerprint"]

_WHOLE_BYTES: Final = 1 << 24
"""Up to so many bytes, all of the data is read."""

_CLIENTS: Final = 256
"""Of how many clients a part is read, where there is more data."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A task whose description does not say what its data are, and whose data can be told apart."""

    def data_fingerprint(self) -> str:
        """A checksum of the data, the same in every process."""
        ...


def data_fingerprint(data: ClientData, *held: tuple[Tensor, Tensor] | None) -> str:
    """SHA-256 over the sizes of all clients and over their data, 64 hex digits.

    Up to 16 MiB all bytes are read. Of more, those of 256 clients evenly spaced, and of each of
    their tensors at most a 256th of 16 MiB in rows evenly spaced: data that differ in a few rows
    alone may then have one fingerprint. Of each tensor that the server holds at most 16 MiB.

    Args:
        data: Of the clients.
        held: Pairs that the server holds, such as the test set.

    Example:
        >>> inputs, targets = torch.eye(4), torch.arange(4)
        >>> one = ClientData([(inputs, targets)])
        >>> data_fingerprint(one) == data_fingerprint(ClientData([(inputs.clone(), targets)]))
        True
        >>> data_fingerprint(one) == data_fingerprint(ClientData([(inputs.flip(0), targets)]))
        False
    """
    sha = sha256()
    sizes = [data.num_examples(client) for client in range(data.num_clients)]
    sha.update(",".join(map(str, sizes)).encode())
    clients = [client for client, size in enumerate(sizes) if size]
    example = sum(_row_bytes(part) for part in data.client(clients[0])) if clients else 0
    share = _WHOLE_BYTES
    if example * sum(sizes) > _WHOLE_BYTES:
        clients = _spaced(clients, _CLIENTS)
        share //= len(clients)
    for client in clients:
        for part in data.client(client):
            _take(sha, part, share)
    for pair in held:
        sha.update(b"none" if pair is None else b"pair")
        for part in pair or ():
            _take(sha, part, _WHOLE_BYTES)
    return sha.hexdigest()


def _take(sha: _Hash, part: Tensor, share: int) -> None:
    """Hash a tensor's dtype and shape, and as many of its rows, evenly spaced, as the share allows."""
    sha.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
    count = max(1, share // max(1, _row_bytes(part)))
    if len(part) > count:
        part = part[torch.tensor(_spaced(range(len(part)), count), device=part.device)]
    flat = part.detach().cpu().contiguous().reshape(-1)
    sha.update(flat.view(torch.uint8).numpy().data)


def _row_bytes(part: Tensor) -> int:
    return part.element_size() * (part[:1].numel() if len(part) else 0)


def _spaced(among: range | list[int], count: int) -> list[int]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(among) <= count:
        return list(among)
    return [among[k * (len(among) - 1) // max(1, count - 1)] for k in range(count)]
