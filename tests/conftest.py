"""What holds for every test: one torch thread, repeatable examples, and the ledger of seconds."""

from __future__ import annotations

import os
import sys
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

from scripts import ledger

# Two pytest workers on two cores: more threads than that only get in each other's way. Torch reads
# this when it is first imported, which nothing above does; processes that tests start inherit it.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# How long an example takes says nothing on a shared machine, so neither deadlines nor slowness fail.
_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _ANY_SPEED, max_examples=50)
settings.register_profile("ci", _ANY_SPEED, max_examples=100, derandomize=True, database=None)
settings.register_profile("thorough", _ANY_SPEED, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ledger",
        action="store_true",
        help="note the seconds of each suite in build/ledger.json (see scripts/ledger.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Plugins of their own, because a conftest's hooks do not reach the doctests under src/.
    config.pluginmanager.register(_TorchSeed(config), "torch-seed")
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--ledger") and not is_worker:
        config.pluginmanager.register(_Ledger(), "ledger")


class _TorchSeed:
    """Seeds torch's global generator as pytest-randomly seeds Python's and NumPy's."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self.seed()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self.seed()

    def seed(self) -> None:
        # A test that has not imported torch shall not pay for it.
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(self.config.getoption("randomly_seed", 0))


class _Ledger:
    """Adds up what the tests of each suite took."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        top, suite, *_ = [*report.nodeid.partition("::")[0].split("/"), ""]
        name = suite if top == "tests" else "doctest"
        self.tests[name].add(report.nodeid)
        self.seconds[name] += report.duration

    def pytest_sessionfinish(self) -> None:
        for name, tests in self.tests.items():
            ledger.note("suites", name, tests=len(tests), seconds=self.seconds[name])
