"""A worker of a parameter server: it connects, trains on its own data, and hands in what it finds."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headway.algorithms.arguments import check_count, check_number
from headway.core import Buffers, ParameterLayout
from headway.core.errors import (
    ArgumentTypeError,
    ConfigurationError,
    ExchangeError,
    ProtocolError,
    ServerLostError,
)
from headway.runtime.connect import NetworkLink
from headway.runtime.exchange import Exchange, Invitation
from headway.runtime.finding import with_port
from headway.runtime.narrow import Narrow, read_compression
from headway.runtime.segments import machine
from headway.runtime.timeouts import Retry
from headway.task.given_optimizer import read_optimizer
from headway.task.metrics import Loss, Metric
from headway.task.replica import Replica
from headway.training.batches import read_data
from headway.training.blame import farewell_of, told_where
from headway.training.comeback import Comeback, go_on
from headway.training.devices import usable_device
from headway.training.ending import Ending, ending
from headway.training.history import History
from headway.training.instructions import Instructions, read_instructions
from headway.training.learner import Learner, Meter, check_optimizer, move
from headway.training.original import described_module, make_module
from headway.training.terms import (
    USUAL_PORT,
    as_loss,
    check_port,
    check_training_terms,
    check_worker_terms,
    chosen_metrics,
)
from headway.training.visit import Diary, Visit

if TYPE_CHECKING:
    from headway.runtime.compression import Codec
    from headway.runtime.parcel import WorkerLink
    from headway.runtime.security import WorkerTLS

__all__ = ["AsyncWorker"]

_LOG: Final = logging.getLogger("headway")
_LOOK_S: Final = 30.0
_REDIAL_S: Final = 5.0
_RETRY: Final = Retry()
_SHORTLY_S: Final = 1.0
_TRAIN: Final = "AsyncWorker.train"
_EVALUATE: Final = "AsyncWorker.evaluate"

Metrics = str | Sequence[str] | Mapping[str, Metric]


class _Seen(NamedTuple):
    """The server's model when it was seen last."""

    version: int
    parameters: Tensor
    buffers: Buffers | None


@final
class AsyncWorker:
    """Trains for a :class:`headway.ParameterServer`, at its own pace.

    What it sends, and whether the optimizer is its own or the server's, the server says when it
    connects. Its optimizer's state (momentum, moments) stays here from one exchange to the next,
    while the model each time is the server's.

    Args:
        server_address: ``"host:port"``, or ``"host"``.
        port: Of the server, where the address names none; to give two is an error.
        model: The model: a module, which it then trains in, or a function that makes one. ``None``:
            the server says what it is, which it can for models of stock layers.
        local_batch_size: Examples in a batch of a dataset, at least 1; a loader has its own.
        update_frequency: Batches from one exchange to the next, at least 1.
        local_epochs: Passes through its data from one exchange to the next, above 0, in place of
            batches: federated work. An update then counts for as many examples as it holds.
        device: Where it trains. One that is not there is replaced by the CPU, with a notice.
        name: What the server calls it, and what must be its alone; empty: the server chooses.
        prefetch: Whether the next model comes while a batch is computed: faster, at the price of
            one version of staleness for each job of this worker.
        tls: How to know the server: :class:`headway.WorkerTLS`; ``None``: no encryption.
        token: What the server wants to be shown.
        insecure: Whether the token may travel without TLS.
        shared_memory: Whether vectors travel through shared memory where the server is on this
            machine.
        compression: How updates are written, with error feedback: a value of
            :mod:`headway.compression`, a list of which the first that the server reads is taken,
            one of the names ``"none"``, ``"bf16"``, ``"int8"`` and ``"topk"`` (6 % of the elements,
            as int8), or ``"auto"``: as the link needs, which is measured. ``None``: as they are. A
            worker that compresses gets models as differences too. Nothing is compressed in shared
            memory.
        connect_timeout_s: How long to wait for a server that does not listen yet, in seconds.
        retry: How it tries to reach a server again that it has lost, and then goes on:
            :class:`headway.Retry`; ``None``: it does not.

    Raises:
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigurationError: One is out of its range.

    Example:
        >>> import torch, headway
        >>> x = torch.randn(64, 3)
        >>> server = headway.ParameterServer(torch.nn.Linear(3, 1), port=0)
        >>> with server:
        ...     worker = headway.AsyncWorker(server.address, local_batch_size=8)
        ...     history = worker.train(
        ...         dataset=(x, x.sum(1, keepdim=True)), epochs=2, loss_fn="mse",
        ...         optimizer=headway.optim.SGD(lr=0.1))
        ...     result = server.wait_for_workers()
        >>> history.updates, result.versions
        (16, 16)
    """

    def __init__(
        self,
        server_address: str = "127.0.0.1",
        *,
        port: int = USUAL_PORT,
        model: nn.Module | Callable[[], nn.Module] | None = None,
        local_batch_size: int = 32,
        update_frequency: int = 1,
        local_epochs: float | None = None,
        device: str | torch.device = "cpu",
        name: str = "",
        prefetch: bool = False,
        tls: WorkerTLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        shared_memory: bool = True,
        compression: Codec | list[Codec] | str | None = None,
        connect_timeout_s: float = 10.0,
        retry: Retry | None = _RETRY,
    ) -> None:
        check_count("local_batch_size", local_batch_size)
        check_count("update_frequency", update_frequency)
        check_number("connect_timeout_s", connect_timeout_s, above=True)
        if local_epochs is not None:
            check_number("local_epochs", local_epochs, above=True)
            if update_frequency != 1:
                raise ConfigurationError(
                    "the work of a job is given twice",
                    where="AsyncWorker",
                    got=f"update_frequency={update_frequency}, local_epochs={local_epochs}",
                    help="give one of them",
                )
        self.address = with_port(server_address, check_port(port, where="AsyncWorker", lowest=1))
        check_worker_terms(
            address=self.address,
            port=port,
            name=name,
            prefetch=prefetch,
            tls=tls,
            token=token,
            insecure=insecure,
            shared_memory=shared_memory,
            retry=retry,
        )
        self.name = name
        self.device = usable_device(device)
        self._batch_size = local_batch_size
        self._update_frequency = update_frequency
        self._local_epochs = local_epochs
        self._prefetch = prefetch
        self._machine = machine() if shared_memory else ""
        self._narrow = Narrow(read_compression(compression))
        self._instance = secrets.token_hex(8)
        self._timeout_s = connect_timeout_s
        self._retry = retry
        self._is_named = bool(name)
        self._dial: Callable[..., WorkerLink] = partial(
            NetworkLink, self.address, security=tls, token=token, insecure=insecure
        )
        self._given = None if model is None else make_module(model, 0, where="AsyncWorker")[0]
        self._replica: Replica | None = None
        self._seen: _Seen | None = None
        self.history: History | None = None
        """Of the last training, also of one that broke off."""

    def train(
        self,
        dataset: Any = None,
        *,
        dataloader: Iterable[Any] | None = None,
        epochs: float = 1,
        optimizer: str | type[Optimizer] | partial[Optimizer] | Optimizer | None = None,
        loss_fn: str | Loss = "cross_entropy",
        metrics: Metrics = ("loss",),
        log_frequency: int = 100,
        shuffle: bool = True,
        drop_last: bool = False,
        shard: tuple[int, int] | None = None,
        seed: int | None = None,
    ) -> History:
        """Connect, and train until the data are used up or the server ends the run.

        Ctrl-C and SIGTERM, where nobody else has taken them, end it after the present batch: what
        is done is handed in, and the history says so. A second one is not caught.

        Args:
            dataset: A :class:`headway.data.Dataset`, a pair of tensors, or a torch ``Dataset`` of
                pairs.
            dataloader: In its place, what yields batches, each a pair of inputs and targets.
            epochs: Passes through the data, above 0.
            optimizer: A ``torch.optim`` class, a ``functools.partial`` of one, a value of
                ``headway.optim``, a name, or an instance, of which the options are taken. ``None``
                where the server owns the optimizer, and only there.
            loss_fn: ``"cross_entropy"``, ``"mse"``, or a function ``(outputs, targets) -> mean``.
            metrics: What the history holds: ``"accuracy"``, ``"bits"``, ``"loss"``, or a mapping of
                names to functions, whose mean over batches is taken.
            log_frequency: Batches from one row of the history to the next, at least 1.
            shuffle: Whether each pass through a dataset has a new order.
            drop_last: Whether a smaller last batch of a dataset is left out.
            shard: ``(i, n)``: of the dataset every ``n``-th example, from the ``i``-th on.
            seed: Of the order of the data; ``None``: it follows from the server's.

        Returns:
            The history, which is :attr:`history` too.

        Raises:
            ConfigurationError: An argument does not go with the server, or with another one.
            RefusedError: The server does not let this worker in.
            ServerLostError: It cannot be reached, or has gone.
        """
        check_training_terms(
            epochs=epochs,
            log_frequency=log_frequency,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
        )
        loss = as_loss(loss_fn, _TRAIN)
        passes = read_data(
            dataset,
            dataloader,
            batch_size=self._batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            shard=shard,
        )
        meter = Meter.of(loss, chosen_metrics(metrics, loss, _TRAIN))
        given = None
        if optimizer is not None:
            where = f"{_TRAIN}(optimizer=...)"
            given = read_optimizer(optimizer, where=where, model=self._given)
        history = self.history = History(device=str(self.device))
        diary = Diary(history, meter, log_frequency)
        learners: list[Learner] = []
        farewell = ""

        def receipt(told: Any) -> None:
            diary.receipt(told)
            for learner in learners:
                learner.receipt(told)

        # What the last training sent and heard nothing of.
        self._narrow.lost()
        exchange, invitation = self._join(self._timeout_s, receipt, self._narrow)
        try:
            history.worker = self.name
            told, replica = self._enter(invitation)
            check_optimizer(told, optimizer)
            replica.module.train()
            learner = Learner(replica, told, loss=loss, optimizer=given, meter=meter)
            learners.append(learner)

            def at() -> str:
                begun = f"batches begun: {history.batches:,}, updates: {history.updates:,}"
                return f"{_TRAIN} of {self.name}, {begun}"

            with ending() as wanted, told_where(at):
                visit = Visit(
                    exchange,
                    learner,
                    diary,
                    passes=passes,
                    epochs=epochs,
                    update_frequency=self._update_frequency,
                    local_epochs=self._local_epochs,
                    prefetch=self._prefetch and not told.keeps_model,
                    comeback=self._comeback(exchange, invitation, wanted),
                    wanted=wanted,
                )
                try:
                    if told.keeps_model:
                        visit.keep()
                    visit.run(seed)
                except ServerLostError:
                    if not wanted:
                        raise
            history.stopped = wanted.reason or exchange.stopped or ""
            with suppress(ServerLostError):
                self._seen = _look(exchange, _SHORTLY_S if wanted else _LOOK_S) or self._seen
        except ServerLostError as error:
            if exchange.stopped is None:
                error.add_note(f"Headway: after {history.done()}, see worker.history")
                raise
            # It had said that it was about to.
            history.stopped = exchange.stopped
        except Exception as error:
            farewell = farewell_of(error)
            raise
        finally:
            diary.close()
            history.dismissed = exchange.is_dismissed
            if history.dismissed:
                _LOG.warning("Headway: the server told this worker to stop: %s", history.stopped)
            elif history.stopped:
                _LOG.warning("Headway: ended after %s: %s", history.done(), history.stopped)
            history.encoding = f"{self._narrow!r}"
            history.traffic = exchange.traffic.describe()
            exchange.leave(farewell)
        return history

    def evaluate(
        self,
        data: Any,
        *,
        metrics: Metrics = "accuracy",
        loss_fn: str | Loss = "cross_entropy",
        batch_size: int = 1000,
    ) -> Any:
        """Measure the server's model as it is now.

        Where the server has ended, it is the model that this worker saw when it left, with a notice.

        Args:
            data: A loader, or a dataset, as for :meth:`train`.
            metrics: A name, or several, or a mapping of names to functions.
            loss_fn: What ``"loss"`` means.
            batch_size: For a dataset.

        Returns:
            The value for one name, else a dict: means over the examples; those of functions of
            one's own are means over batches, weighed by their size.

        Raises:
            RefusedError: The server does not let this worker in.
            ServerLostError: It cannot be reached, and this worker has not trained for it.
        """
        loss = as_loss(loss_fn, _EVALUATE)
        check_count("batch_size", batch_size)
        if data is None:
            raise ArgumentTypeError(
                "there is nothing to measure on",
                where=f"{_EVALUATE}(data=...)",
                got="None",
                expected="a loader, or a dataset as for train",
            )
        passes = read_data(
            None, data, batch_size=batch_size, shuffle=False, where=_EVALUATE, loader="data"
        )
        seen, replica = self._current()
        replica.load(seen.parameters, seen.buffers)
        meter = Meter.of(loss, chosen_metrics(metrics, loss, _EVALUATE))
        replica.module.eval()
        done = 0
        with torch.no_grad(), told_where(lambda: f"{_EVALUATE}, at batch {done + 1:,}"):
            for batch in passes.once(torch.Generator()):
                targets = move(batch.targets, self.device)
                outputs = replica.module(move(batch.inputs, self.device))
                meter.add(outputs, targets, None, batch.size)
                done += 1
        means = meter.take()
        return means[metrics] if isinstance(metrics, str) else means

    @property
    def model(self) -> nn.Module:
        """The module that this worker trains in.

        Raises:
            ConfigurationError: It has none yet, because the server was to say what it is.
        """
        module = self._given if self._replica is None else self._replica.module
        if module is None:
            raise ConfigurationError(
                "this worker has no model before it has connected", help="train first"
            )
        return module

    def __repr__(self) -> str:
        return f"AsyncWorker({self.address}{f', {self.name}' if self.name else ''}, {self.device})"

    # --- the server

    def _join(
        self,
        timeout_s: float,
        receipt: Callable[[Any], None] | None = None,
        narrow: Narrow | None = None,
    ) -> tuple[Exchange, Invitation]:
        link = self._dial(connect_timeout_s=timeout_s)
        exchange = Exchange(
            link,
            worker=self.name,
            layout=None if self._given is None else self._layout(self._given),
            instance=self._instance,
            machine=self._machine,
            receipt=receipt,
            narrow=narrow,
            keeps=self._retry is not None and receipt is not None,
        )
        try:
            invitation = exchange.join()
        except BaseException:
            link.close()
            raise
        self.name = invitation.worker
        return exchange, invitation

    def _comeback(self, exchange: Exchange, invitation: Invitation, wanted: Ending) -> Comeback:
        def resume() -> None:
            timeout_s = min(self._timeout_s, _REDIAL_S)
            link = self._dial(connect_timeout_s=timeout_s, once=True)
            self.name = go_on(exchange, link, invitation, is_named=self._is_named).worker

        return Comeback(
            self._retry,
            resume,
            wanted=lambda: bool(wanted),
            stream=Random(self._instance),
            done=lambda: "" if self.history is None else self.history.done(in_full=True),
        )

    def _layout(self, module: nn.Module) -> ParameterLayout:
        return ParameterLayout.of(module) if self._replica is None else self._replica.layout

    def _enter(self, invitation: Invitation) -> tuple[Instructions, Replica]:
        told = read_instructions(invitation.instructions)
        if self._replica is not None and self._same(self._replica.layout, invitation.layout):
            return told, self._replica
        module = self._given
        if module is None:
            module = described_module(invitation)
        elif self._replica is not None:
            raise ProtocolError("the server has another model than before")
        self._replica = Replica(module, invitation.layout, self.device)
        return told, self._replica

    def _same(self, one: ParameterLayout, other: ParameterLayout) -> bool:
        return one.describe() == other.describe()

    def _current(self) -> tuple[_Seen, Replica]:
        """The server's model, or what it was when this worker left."""
        try:
            exchange, invitation = self._join(
                self._timeout_s if self._seen is None else min(_SHORTLY_S, self._timeout_s)
            )
            try:
                # First, so that the server knows it for somebody who only looks.
                seen = _look(exchange, _LOOK_S)
                _, replica = self._enter(invitation)
            finally:
                exchange.leave()
        except ExchangeError as error:
            if self._seen is None:
                raise
            _LOG.warning("Headway: the server is not there (%s)", error.message)
        else:
            if seen is not None:
                self._seen = seen
                return seen, replica
        if self._seen is None or self._replica is None:
            raise ServerLostError("the server is about to end", where=self.address)
        version = f"{self._seen.version:,}"
        _LOG.warning("Headway: this is version %s, as this worker left it", version)
        return self._seen, self._replica


def _look(exchange: Exchange, timeout_s: float) -> _Seen | None:
    seen = None if exchange.stopped is not None else exchange.look(timeout_s)
    if seen is None or seen.parameters is None:
        return None
    buffers = None if seen.buffers is None else seen.buffers.clone()
    return _Seen(seen.version, seen.parameters.clone(), buffers)
