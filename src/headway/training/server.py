"""The parameter server: a model, an algorithm, and whoever connects."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast, final

from torch import nn
from torch.optim import Optimizer

from headway import __version__
from headway.algorithms.arguments import check_count, check_number
from headway.core import Algorithm, Server
from headway.core.errors import HeadwayError, UsageError
from headway.core.scheduler import FirstCome
from headway.observe.folder import free_part
from headway.runtime.compression import KINDS
from headway.runtime.dismissals import MAX_REJECTIONS
from headway.runtime.hub import Hub
from headway.runtime.narrow import check_offer
from headway.runtime.network import NetworkServer
from headway.runtime.porter import Porter
from headway.runtime.segments import Segments, SharedMemory
from headway.runtime.timeouts import Timeouts
from headway.training.durable import LogKeeper, keeper_at, kept
from headway.training.ending import Ending, ending
from headway.training.home import Durability, check_durability
from headway.training.instructions import instructions_for
from headway.training.ledger import Ledger, plain, too_few
from headway.training.original import Original
from headway.training.policies import USUAL_FACTOR, Policy
from headway.training.rules import choose_algorithm
from headway.training.saving import Keeper, save_last
from headway.training.terms import check_server_terms

if TYPE_CHECKING:
    from headway.algorithms.transforms import OptimizerFactory
    from headway.observe import Result
    from headway.runtime.compression import Codec
    from headway.runtime.security import ServerTLS

__all__ = ["ParameterServer"]

_LOOK_EVERY_S: Final = 0.5
_WHERE: Final = "ParameterServer"
_TIMEOUTS: Final = Timeouts()


@final
class ParameterServer:
    """Holds a model, gives it to workers that connect, and applies what they send back.

    Nobody waits for anybody, unless the algorithm says so. Workers come and go; one that
    disappears is noticed, and nobody waits for it.

    Args:
        model: A module, which stays as it is; or a function that makes one, such as
            ``headway.models.mlp(...)``. Where it is made of stock layers, workers need no model.
        port: Where to listen, 0 to 65535; 0: any free port, see :attr:`address`.
        host: The address to listen at. Other than this machine's own it needs ``tls``, or
            ``insecure=True``.
        update_rule: What an update is worth: ``"async_sgd"``, ``"async_momentum"``,
            ``"async_adam"``, ``"fedasync"``, ``"fedbuff"`` and the other names of
            :data:`headway.training.RULES`, or an algorithm. Rules with rounds wait for eight or ten
            workers, as ``"basgd"`` does, unless a value says otherwise:
            ``headway.algorithms.fedavg(clients_per_round=3)``.
        algorithm: An algorithm, in place of ``update_rule``.
        staleness_policy: What is done about stale updates: ``"adaptive_lr"``, ``"filter"``,
            ``"momentum_correction"``, ``"ssp"``, ``"delay_compensation"``, ``"none"``, or values;
            several in a list.
        staleness_lr_factor: For ``"adaptive_lr"``, above 0 and at most 1.
        max_staleness: In versions, at least 0: later updates are rejected; with ``"ssp"`` the bound
            in jobs. ``None``: no bound.
        server_optimizer: For rules whose workers send gradients: a ``torch.optim`` class, a partial,
            a value of ``headway.optim``, or a name.
        learning_rate: The server's, for rules that have one.
        concurrency: How many jobs may be in flight, at least 1; who asks beyond that waits.
            ``None``: no limit.
        consistency: ``"snapshot"``: what a worker pulls is one version of the model.
            ``"hogwild"``: it may be torn between two, and costs no copy.
        checkpoint_dir: Where checkpoints are written; a server that is started on a folder that
            has some goes on from the newest. ``None``: none are written.
        checkpoint_frequency: The distance between checkpoints in versions, at least 1.
        durability: What survives when the server is killed. ``"checkpoint"``: what was in the newest
            checkpoint, and no update after it. ``"log"``: every update that was acknowledged,
            applied once; an acknowledgement waits for the disk, and needs a ``checkpoint_dir``.
        folder: A run folder to write, new or empty, with the events and metrics; ``None``: none. With
            a ``checkpoint_dir``, one that is in use is left as it is, and ``<folder>-2`` written.
        record: What the folder holds: ``"events"``, or with ``"payloads"`` all that a replay needs.
        tls: The server's certificate: :class:`headway.ServerTLS`. ``None``: no encryption.
        token: What workers have to show; ``None``: nothing.
        insecure: Whether it may listen to the network without TLS.
        shared_memory: Whether workers of this machine get the model through memory that they share
            with the server, instead of through the connection.
        compression: What workers may compress their updates with, of ``"none"``, ``"bf16"``,
            ``"int8"`` and ``"topk"``; ``()``: nothing. A worker chooses.
        pulls: How models go to workers that compress: ``"exact"``: as lossless differences to what
            each was sent before, where that is shorter; a value of :mod:`headway.compression`:
            differences written so; ``None``: whole.
        max_workers: How many may be connected at the same time, at least 1.
        max_rejections: When a worker is told to stop because its updates are rejected: after so many
            in a row with something wrong in them, at least 1 (not finite, of another size, a version
            that it was not given, ...). A sound one that the algorithm does not take, as it is too
            stale, say, counts a fiftieth. ``None``: never.
        timeouts: When a silent worker is taken for lost: :class:`headway.Timeouts`.
        drain_s: How long :meth:`stop` waits for workers to hand in what they are at, in seconds.
        seed: Of the model's initial values, where ``model`` makes them, and of all that the server
            draws.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range, they contradict each other, or the address may
            not be listened at.

    Example:
        >>> import torch, headway
        >>> model = torch.nn.Linear(3, 1)
        >>> with headway.ParameterServer(model, port=0, update_rule="async_sgd") as server:
        ...     server.version, server.address.partition(":")[0]
        (0, '127.0.0.1')
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        *,
        port: int = 5000,
        host: str = "127.0.0.1",
        update_rule: str | Algorithm = "async_sgd",
        algorithm: Algorithm | None = None,
        staleness_policy: Policy | Sequence[Policy] = "none",
        staleness_lr_factor: float = USUAL_FACTOR,
        max_staleness: int | None = None,
        server_optimizer: OptimizerFactory | Optimizer | str | None = None,
        learning_rate: float | None = None,
        concurrency: int | None = None,
        consistency: Literal["snapshot", "hogwild"] = "snapshot",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_frequency: int = 1000,
        durability: Durability = "checkpoint",
        folder: str | Path | None = None,
        record: Literal["events", "payloads"] = "events",
        tls: ServerTLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        shared_memory: bool = True,
        compression: Sequence[str] = KINDS,
        pulls: Codec | Literal["exact"] | None = "exact",
        max_workers: int = 256,
        max_rejections: int | None = MAX_REJECTIONS,
        timeouts: Timeouts = _TIMEOUTS,
        drain_s: float = 5.0,
        seed: int = 0,
    ) -> None:
        self.algorithm = choose_algorithm(
            update_rule,
            algorithm=algorithm,
            staleness_policy=staleness_policy,
            staleness_lr_factor=staleness_lr_factor,
            max_staleness=max_staleness,
            server_optimizer=server_optimizer,
            learning_rate=learning_rate,
        )
        check_server_terms(
            host=host,
            port=port,
            consistency=consistency,
            checkpoint_dir=checkpoint_dir,
            checkpoint_frequency=checkpoint_frequency,
            folder=folder,
            record=record,
            tls=tls,
            token=token,
            insecure=insecure,
            shared_memory=shared_memory,
            max_workers=max_workers,
            max_rejections=max_rejections,
            timeouts=timeouts,
            seed=seed,
        )
        check_durability(durability, checkpoint_dir, where=_WHERE)
        self._scheduler = FirstCome(concurrency=concurrency)
        self._drain_s = check_number("drain_s", drain_s)
        self._original = Original(model, seed)
        self._consistent = consistency == "snapshot"
        self._shares = shared_memory
        self._timeouts = timeouts
        self._checkpoints = (checkpoint_dir, checkpoint_frequency)
        self._durability: Durability = durability
        self._folder, self._recording = folder, record
        self._seed = seed
        self._max_rejections = max_rejections
        self._offer = check_offer(compression, pulls)
        self._place = (host, port, tls, token, insecure, max_workers)
        self._description, why_not = self._original.described()
        self._instructions = {
            **instructions_for(self.algorithm, consistent=self._consistent),
            "no_model": why_not,
        }
        self._segments: Segments | None = None
        self._hub: Hub | None = None
        self._network: NetworkServer | None = None
        self._keeper: Keeper | LogKeeper | None = None
        self._ledger: Ledger | None = None
        self._began_s = 0.0
        self._offset_s = 0.0
        self._result: Result | None = None
        self.resumed_from: Path | None = None
        """The checkpoint that it went on from; ``None``: it began anew."""
        self.config: Mapping[str, Any] | None = None
        """What the run folder's ``config.toml`` says, to be set before the start; ``None``: a summary."""

    # --- life

    def start(self) -> Self:
        """Listen, in threads of its own.

        Raises:
            ConfigurationError: The checkpoint that is there is of another model or algorithm, the
                algorithm does not go with the options.
            CheckpointError: No checkpoint that is there can be read.
            HeadwayError: Something else listens there; or there is no room for shared memory.
        """
        if self._hub is not None:
            raise UsageError("this server was started before", where=_WHERE, help="make a new one")
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def _start(self) -> None:
        self._segments = Segments() if self._shares else None
        layout = self._original.layout_for(self.algorithm)
        keeper = keeper_at(*self._checkpoints, self.algorithm, layout, self._durability)
        self._keeper = keeper
        server = self._server(0) if keeper is None else keeper.open(self._server)
        self._offset_s, self._began_s = server.now, time.monotonic()
        porter = Porter(server.layout, self._instructions, model=self._description)
        logged = None if keeper is None else keeper.logged
        hub = Hub(
            server,
            porter,
            seed=self._seed,
            clock=self._clock,
            logged=logged,
            max_rejections=self._max_rejections,
        )
        found, folder = None, self._folder
        if keeper is not None:
            found, self.resumed_from = keeper.restore(hub), keeper.resumed_from
            folder = None if folder is None else free_part(Path(folder))
        self._ledger = Ledger(
            folder,
            hub,
            task=self._original.name,
            seed=self._seed,
            concurrency=self._scheduler.concurrency,
            began_s=self._offset_s,
            config=self.config,
            keeps_payloads=self._recording == "payloads",
        )
        if found is not None:
            self._ledger.goes_on(found)
        hub.settled = self._settled
        host, port, tls, token, insecure, max_workers = self._place
        network = NetworkServer(
            hub,
            server.layout,
            host=host,
            port=port,
            segments=self._segments,
            security=tls,
            token=token,
            insecure=insecure,
            max_workers=max_workers,
            compression=self._offer[0],
            # A torn model is another one at the second look.
            pulls=self._offer[1] if self._consistent else None,
            timeouts=self._timeouts,
            status=lambda: json.dumps(self.status(), allow_nan=False),
        )
        self._network = network
        hub.start()
        self._hub = hub
        network.start()

    def wait_for_workers(self, num_workers: int = 1, timeout_s: float | None = None) -> Result:
        """Wait until so many workers have joined, and all that joined have finished or are lost.

        Ctrl-C and SIGTERM, where nobody else has taken them, stop the server in order: what workers
        are at is taken, a checkpoint written. The result says so. A second one is not caught.

        Args:
            num_workers: At least 1. More may come. Who only looks at the model, as
                :meth:`headway.AsyncWorker.evaluate` does, is not counted; while one does, it is
                waited for.
            timeout_s: How long to wait for it, in seconds; ``None``: for ever.

        Returns:
            What the run came to so far; the server goes on.

        Raises:
            ExchangeError: It took too long.
            Exception: What an algorithm raised, which ended the server.
        """
        check_count("num_workers", num_workers)
        hub, ledger = self._running()
        if timeout_s is not None:
            check_number("timeout_s", timeout_s)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with ending(ledger.ring) as wanted:
            while not wanted and not ledger.is_over(num_workers) and hub.state != "ended":
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0.0:
                    raise too_few(ledger, num_workers, timeout_s)
                ledger.wait(_LOOK_EVERY_S if left_s is None else min(left_s, _LOOK_EVERY_S))
        if wanted:
            return self._interrupted(wanted)
        if hub.error is not None:
            raise hub.error
        if self._result is not None:
            return self._result
        return hub.call(lambda: ledger.result(hub, "all workers have left"))

    def serve(self) -> Result:
        """Run until Ctrl-C or SIGTERM, whoever comes and goes; then stop in order.

        Returns:
            What the run came to.
        """
        hub, ledger = self._running()
        with ending(ledger.ring) as wanted:
            while not wanted and hub.state != "ended":
                ledger.wait(_LOOK_EVERY_S)
        return self._interrupted(wanted) if wanted else self.stop()

    def stop(self, reason: str = "stopped") -> Result:
        """End in order: workers hand in what they are at, a checkpoint is written. May be repeated.

        Args:
            reason: What workers and the result are told.

        Returns:
            What the run came to.

        Raises:
            CheckpointError: The last checkpoint cannot be written.
            Exception: What an algorithm raised, which had ended the server.
        """
        if self._result is not None:
            return self._result
        hub, ledger = self._running()
        try:
            hub.stop(reason, drain=True, within_s=self._drain_s)
            hub.join()
            if hub.error is not None:
                reason = f"failed: {type(hub.error).__name__}"
            # Before anything else can fail.
            unsaved = save_last(self._keeper, hub)
            told = [f"a checkpoint could not be written: {unsaved}"] if unsaved else []
            self._result = ledger.finished(hub, reason, told)
            if (error := hub.error or unsaved) is not None:
                raise error
        finally:
            self._close()
        return self._result

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
            return
        # The first error is the one that counts.
        with suppress(Exception):
            self.stop(f"failed: {kind.__name__}")

    # --- looking

    @property
    def address(self) -> str:
        """Where it listens: ``"host:port"``, with the host that was given and the port that it got.

        At ``0.0.0.0`` or ``::``, which is all that this machine has, a worker of another machine is
        to be given this one's name or address in its place, with the same port.
        """
        self._running()
        assert self._network is not None
        return self._network.address

    @property
    def version(self) -> int:
        """How often the model has changed."""
        return self._running()[0].server.version

    @property
    def model(self) -> nn.Module:
        """A copy of the model, as it is now."""
        hub, _ = self._running()

        def state() -> tuple[Any, Any]:
            buffers = hub.server.buffers
            return hub.server.parameters.clone(), None if buffers is None else buffers.clone()

        return self._original.with_values(*hub.call(state))

    def status(self) -> dict[str, Any]:
        """Who is in, who was refused, how stale they are, why updates were dropped: plain JSON."""
        hub, _ = self._running()
        return cast("dict[str, Any]", plain(hub.call(self._status)))

    def _status(self) -> dict[str, Any]:
        hub, ledger = self._running()
        return {
            "library": __version__,
            "address": self.address,
            "state": hub.state,
            "model": self._original.name,
            **ledger.describe(hub),
            **kept(self._keeper, hub),
            "workers": [member.describe(hub.now) for member in hub.members.by_name.values()],
        }

    def __repr__(self) -> str:
        where = "not started" if self._network is None else f"at {self._network.address}"
        return f"ParameterServer({self._original.name}, {self.algorithm.name}, {where})"

    # --- parts

    def _server(self, starts: int) -> Server:
        layout, parameters, buffers = self._original.values()
        memory: Any = self._original.plain_memory(consistent=self._consistent)
        if self._segments is not None:
            divided = self._original.layout_for(self.algorithm)
            memory = SharedMemory(self._segments, divided, consistent=self._consistent)
        return Server(
            parameters,
            self.algorithm,
            layout=layout,
            scheduler=self._scheduler,
            buffers=buffers,
            seed=self._seed,
            record=self._recording,
            incarnation=starts,
            memory=memory,
        )

    def _clock(self) -> float:
        return self._offset_s + time.monotonic() - self._began_s

    def _settled(self, hub: Hub) -> None:
        if self._ledger is not None:
            self._ledger.settled(hub)
        if self._keeper is not None and hub.state == "running":
            self._keeper.settled(hub)

    def _running(self) -> tuple[Hub, Ledger]:
        if self._hub is None or self._ledger is None:
            raise UsageError(
                "the server has not been started",
                where=_WHERE,
                help="call start(), or write: with ParameterServer(...) as server",
            )
        return self._hub, self._ledger

    def _interrupted(self, wanted: Ending) -> Result:
        result = self.stop(wanted.reason)
        result.interrupted = True
        return result

    def _close(self) -> None:
        if self._network is not None:
            self._network.stop()
        if self._hub is not None and self._hub.state != "ended":
            self._hub.stop("the server ends", within_s=0.0)
            self._hub.join()
        if self._keeper is not None:
            self._keeper.close()
        if self._ledger is not None:
            with suppress(HeadwayError):
                self._ledger.close()
        if self._segments is not None:
            self._segments.close()
