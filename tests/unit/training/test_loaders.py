"""A loader that reads in processes of its own."""

from __future__ import annotations

import os
from multiprocessing import get_context

import pytest

from tests.unit.training import server_kit as kit


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_loader_with_processes_works_over_grpc_and_leaves_none_behind():
    with kit.server(kit.line()) as server:
        # Not a daemon: those may have no processes of their own.
        child = get_context("spawn").Process(target=kit.load_in_processes, args=(server.address,))
        child.start()
        try:
            child.join(kit.WAIT_S * 3)
            assert child.exitcode == 0
            # Whoever is left of its session would be found there.
            with pytest.raises(ProcessLookupError):
                os.killpg(child.pid, 0)
        finally:
            if child.is_alive():
                child.kill()
            child.join()
            child.close()
        result = server.stop()
    assert result.updates == 4 + 2 + 8
    assert result.counts["rejected"] == 0
