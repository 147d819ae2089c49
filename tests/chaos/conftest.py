"""Houses for strangers to visit, and certificates."""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

from headway.runtime.network import NetworkServer
from headway.training import server as training
from tests.certificate_kit import issue
from tests.house_kit import SHORT, House


@pytest.fixture
def house(monkeypatch):
    """Builds servers whose connections may be useless for so long, and ends them."""
    timeouts = [SHORT]

    def made(*arguments, **options):
        return NetworkServer(*arguments, **{**options, "timeouts": timeouts[-1]})

    monkeypatch.setattr(training, "NetworkServer", made)
    with ExitStack() as houses:

        def build(*, waits=SHORT, **options):
            timeouts.append(waits)
            return houses.enter_context(closing(House(**options)))

        yield build


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return issue(tmp_path_factory.mktemp("certificates"))
