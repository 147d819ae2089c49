"""Servers of the contract tests, which end with the test."""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest
import torch

from tests.link_kit import CARRIERS, SIZE, Rig


@pytest.fixture
def rigs():
    """Makes servers, and ends them."""
    with ExitStack() as made:
        yield lambda *arguments, **options: made.enter_context(closing(Rig(*arguments, **options)))


@pytest.fixture(params=CARRIERS)
def carrier(request):
    """Each of the ways in which vectors travel."""
    return request.param


@pytest.fixture
def rig(rigs, carrier):
    """Makes servers that their workers reach in one of the ways."""

    def make(initial=None, algorithm=None, **options):
        initial = torch.zeros(SIZE) if initial is None else initial
        return rigs(carrier, initial, algorithm, **options)

    return make
