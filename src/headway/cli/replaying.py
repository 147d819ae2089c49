"""A run's model rebuilt from its log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from headway import config
from headway.config import Resolved
from headway.core import Event, ParameterLayout, Server
from headway.core import replay as replay_events
from headway.core.errors import ConfigurationError, LogError, ReplayMismatchError
from headway.core.scheduler import FirstCome
from headway.observe import LogHash, RunFolder, weights_hash
from headway.simulation.reference import reference_for
from headway.simulation.sampled import imposed
from headway.training.rules import choose_algorithm

__all__ = ["Replayed", "rebuild"]


class Replayed(NamedTuple):
    """What came of a replay.

    Attributes:
        events: How many events were repeated.
        version: The model's.
        weights_hash: SHA-256 of the rebuilt weights.
        bit_identical: Whether they are the run's final ones; ``None`` for a run that never ended,
            and so has none to compare with.
    """

    events: int
    version: int
    weights_hash: str
    bit_identical: bool | None


def rebuild(path: Path) -> Replayed:
    """Make every call of a run's log again, and compare the answers and the final weights.

    Args:
        path: The run folder.

    Raises:
        RunFolderError: There is no run.
        LogError: The log holds no payloads, or is damaged.
        ReplayMismatchError: Something came out differently.
    """
    folder = RunFolder.open(path)
    if not folder.has_payloads:
        raise LogError(
            "this run kept no payloads, so its model cannot be rebuilt",
            where=str(path),
            help='run it again with --record payloads (in Python: record="payloads", folder=...)',
        )
    resolved = _configuration(path)
    _same_threads(folder)
    server = _server(folder, resolved)
    counter = _Counter(folder.events(payloads=True))
    replay_events(server, counter)
    found = weights_hash(server.parameters, server.buffers)
    if not folder.has_result:
        return Replayed(counter.count, server.version, found, None)
    result = folder.result(events=False)
    if counter.hash.hexdigest() != result.log_hash:
        raise ReplayMismatchError(
            "the log is not the one that the run ended with",
            where=str(path),
            got=f"{counter.count} events, log {counter.hash.hexdigest()[:16]}",
            expected=f"log {result.log_hash[:16]}, as in result.json",
            help="it was cut off or changed; take events.jsonl and payloads.bin from a copy",
        )
    if found != result.weights_hash:
        raise ReplayMismatchError(
            "every event is as in the log, but the weights are not",
            where=str(path),
            got=f"weights {found[:16]}",
            expected=f"weights {result.weights_hash[:16]}",
            help="replay on the hardware, with the versions and the threads of environment.json",
        )
    return Replayed(counter.count, server.version, found, True)


class _Counter:
    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.count = 0
        self.hash = LogHash()

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            self.count += 1
            self.hash.update(event)
            yield event


def _configuration(path: Path) -> Resolved:
    try:
        # The file of a run is complete: nothing of the present surroundings may get into it.
        return config.load(path, environment={})
    except ConfigurationError as error:
        if "made_by" in str(error.got):
            raise
        raise ConfigurationError(
            "this run was not made from a configuration, so the command cannot build it again",
            where=error.where,
            got=error.message,
            help="replay it in Python: headway.core.replay(server, folder.events(payloads=True)); "
            "docs/cli.md says how to make the server",
        ) from error


def _same_threads(folder: RunFolder) -> None:
    threads = folder.environment().get("torch_threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)


def _server(folder: RunFolder, resolved: Resolved) -> Server:
    initial = folder.initial()
    if initial.meta.get("resumed"):
        raise LogError(
            "this run went on from a checkpoint, and its log begins there",
            where=str(folder.path),
            expected="the folder of a run from its beginning",
            help="replay the folder that was written before it; later ones cannot be replayed",
        )
    layout, buffers = _layout(folder, resolved), initial.buffers
    run: Any = resolved.config.run
    algorithm, reference = config.make_algorithm(resolved), None
    scheduler, device = config.make_scheduler(resolved, run.concurrency), run.device
    if initial.meta.get("mode") == "server":
        # Of the file, a server that workers connect to takes neither.
        scheduler, device = FirstCome(concurrency=run.concurrency), "cpu"
        algorithm = choose_algorithm(algorithm=algorithm, **config.make_terms(resolved))
    elif (staleness := config.make_staleness(resolved)) is not None:
        algorithm = imposed(algorithm, staleness)
    if algorithm.needs.reference_gradient:
        task = config.make_task(resolved, config.make_data(resolved))
        reference = reference_for(task, algorithm)
    server = Server(
        initial.tensors["payload"].to(device),
        algorithm,
        layout=layout,
        scheduler=scheduler,
        buffers=buffers,
        seed=resolved.config.seed,
        record="nothing",
        incarnation=int(initial.meta.get("incarnation", 0)),
        reference_gradient=reference,
    )
    if reference is not None:
        reference.server = server
    return server


def _layout(folder: RunFolder, resolved: Resolved) -> ParameterLayout:
    if folder.has_result:
        layout = folder.result(events=False).layout
        if layout is not None:
            return layout
    task = config.make_task(resolved, config.make_data(resolved))
    return task.start(resolved.config.seed, torch.device("cpu")).layout
