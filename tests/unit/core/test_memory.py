"""Where parameters and snapshots lie is the shell's affair."""

from __future__ import annotations

import pytest
import torch

from headway import algorithms, core
from headway.core.errors import ConfigurationError
from tests import core_kit as kit


class Counting:
    """Memory that counts what it was asked for."""

    def __init__(self, *, consistent: bool) -> None:
        self.consistent = consistent
        self.made: list[torch.Tensor] = []

    def make(self, parameters, buffers):
        vector = torch.empty_like(parameters)
        self.made.append(vector)
        return vector, None if buffers is None else buffers.clone()


def test_parameters_and_snapshots_lie_in_the_memory_that_is_given() -> None:
    memory = Counting(consistent=True)
    server = core.Server(torch.zeros(3), kit.bare(), memory=memory)
    a = kit.take(server, "a")
    assert [vector.data_ptr() for vector in memory.made] == [
        server.parameters.data_ptr(),
        a.parameters.data_ptr(),
    ]
    kit.send(server, "a", a, 1.0)
    b = kit.take(server, "b")
    assert (a.parameters.tolist(), b.parameters.tolist()) == ([1.0] * 3, [1.0] * 3)
    assert len(memory.made) == 2


def test_a_memory_without_copies_gives_out_the_servers_own_vector() -> None:
    buffers = core.Buffers(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    memory = Counting(consistent=False)
    server = core.Server(torch.zeros(3), kit.bare(), buffers=buffers, memory=memory)
    a, b = kit.take(server, "a"), kit.take(server, "b")
    assert a.parameters is server.parameters
    kit.send(server, "a", a, 1.0)
    assert b.parameters.tolist() == [1.0] * 3
    kit.send(server, "b", b, 1.0)
    assert (server.version, server.parameters.tolist()) == (2, [2.0] * 3)
    assert len(memory.made) == 1


def test_an_algorithm_that_needs_the_base_refuses_such_a_memory() -> None:
    with pytest.raises(ConfigurationError, match="nobody keeps that here"):
        core.Server(torch.zeros(3), algorithms.dc_asgd(), memory=Counting(consistent=False))


def test_a_loaded_server_lies_in_the_same_kind_of_memory() -> None:
    memory = Counting(consistent=True)
    server = core.Server(torch.zeros(3), kit.bare(), memory=memory)
    kit.take(server, "a")
    server.load_state_dict(server.state_dict())
    assert server.parameters.data_ptr() in [vector.data_ptr() for vector in memory.made]
