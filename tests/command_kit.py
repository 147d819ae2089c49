"""The command ``headway server`` in a process of its own, to be killed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from headway.checkpoint.segments import BadRecordError, SegmentReader
from headway.runtime.connect import fetch_status
from tests.waiting_kit import WAIT_S, until

CONFIG = """
[data]
name = "digits"
[data.partition]
name = "iid"
num_clients = 3
[model]
name = "softmax_regression"
[local]
epochs = 1
batch_size = 50
learning_rate = 0.1
[algorithm]
name = "{algorithm}"
{options}
[stop]
updates = 10
"""


class Command:
    """``headway server``, started as often as it is killed, with one folder and at one port.

    Args:
        place: A folder for all that it leaves.
        arguments: Of the command.
        algorithm: By its name.
        options: Of the algorithm, as lines of TOML.
    """

    def __init__(
        self, place: Path, *arguments: str, algorithm: str = "async_delta", options: str = ""
    ) -> None:
        self.home = place / "home"
        self._place = place
        self._arguments = arguments
        self._config = place / "run.toml"
        self._config.write_text(CONFIG.format(algorithm=algorithm, options=options), "utf-8")
        self._starts = 0
        self.address = ""
        # Of each record of the log that was seen: the worker and the job of an update.
        self.submitted: dict[int, tuple[str, int]] = {}
        self.start()

    @property
    def told(self) -> str:
        """What the present process has said to people."""
        return self._told.read_text("utf-8")

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._starts += 1
        self._told = self._place / f"told-{self._starts}.txt"
        port = self.address.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "headway", "server", str(self._config), "--port", port]
        command += ["--checkpoint-dir", str(self.home), "--json", *self._arguments]
        with self._told.open("wb") as told:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        until(lambda: "serving " in self.told or self.process.poll() is not None)
        assert self.process.poll() is None, self.told
        line = next(line for line in self.told.splitlines() if line.startswith("serving "))
        self.address = line.rpartition(" at ")[2].strip()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a crash does."""
        self.send(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self._look_at_the_log()

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def end(self) -> None:
        """Be rid of it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)

    def status(self) -> dict[str, Any]:
        """What ``headway status`` is told."""
        return fetch_status(self.address, timeout_s=WAIT_S)

    def _look_at_the_log(self) -> None:
        for path in sorted((self.home / "log").glob("log-*.hwlog")):
            with SegmentReader(path) as reader:
                try:
                    for entry in reader.entries():
                        if entry.call.door == "submit":
                            who = entry.call.arguments
                            self.submitted[entry.sequence] = (who["worker"], who["sequence"])
                except BadRecordError:
                    # Where a record was being written: nothing of it was acknowledged.
                    break
