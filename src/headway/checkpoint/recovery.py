"""A server that survives: its checkpoints and its log, put together."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec, TypeVar, final

from headway.checkpoint.calls import Call, began, begin_anew, make_again, submitted
from headway.checkpoint.journal import Journal
from headway.checkpoint.segments import Entry
from headway.checkpoint.store import Checkpoint, CheckpointStore
from headway.core import Checkout, Receipt, Reply, Server, Update, Wait
from headway.core.errors import CheckpointError, ReplayMismatchError

__all__ = ["LoggedServer", "recover", "save_checkpoint"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_NOTHING: Final[Mapping[str, Any]] = {}


@final
class LoggedServer:
    """A server's doors, each call in the log before the server sees it.

    An answer may leave once ``journal.durable`` has reached ``journal.sequence`` as it was after the
    call: then the call survives whatever happens. A call that cannot be logged is not made.

    Args:
        server: The state machine; from now on nobody else calls its doors.
        journal: Begun, by :func:`recover`.

    Attributes:
        busy_s: How long the server's doors have taken, in seconds: about what they will take when
            the calls are made again.

    Example:
        >>> import tempfile, torch
        >>> from headway import algorithms
        >>> from headway.checkpoint import CheckpointStore
        >>> def make_server():
        ...     return Server(torch.zeros(1), algorithms.async_sgd(learning_rate=0.5))
        >>> def start(folder):
        ...     journal = Journal(f"{folder}/log")
        ...     server = recover(CheckpointStore(f"{folder}/checkpoints"), journal, make_server)
        ...     return LoggedServer(server, journal)
        >>> folder = tempfile.mkdtemp()
        >>> one = start(folder)
        >>> ticket = one.checkout("worker-0", 0.0)
        >>> update = Update(torch.ones(1), ticket.version, "worker-0", ticket.job)
        >>> one.submit(update, 1.0).status, one.journal.sync()
        ('applied', 2)
        >>> one.journal.close()
        >>> two = start(folder)
        >>> two.server.parameters, two.submit(update, 2.0).status, two.server.version
        (tensor([-0.5000]), 'applied', 1)
        >>> two.journal.close()
    """

    def __init__(self, server: Server, journal: Journal) -> None:
        self.server = server
        self.journal = journal
        self.busy_s = 0.0

    def register(self, workers: Iterable[str], now: float) -> Reply:
        """See :meth:`headway.core.Server.register`.

        Args:
            workers: Names.
            now: The time, in seconds.

        Raises:
            CheckpointError: It cannot be logged; nothing has changed.
        """
        names = tuple(workers)
        call = Call("register", {"workers": names, "now": now})
        return self._make(call, self.server.register, names, now)

    def checkout(self, worker: str, now: float) -> Checkout | Wait:
        """See :meth:`headway.core.Server.checkout`.

        Args:
            worker: Its name.
            now: The time, in seconds.

        Raises:
            CheckpointError: It cannot be logged; nothing has changed.
        """
        call = Call("checkout", {"worker": worker, "now": now})
        return self._make(call, self.server.checkout, worker, now)

    def submit(self, update: Update, now: float, *, again: bool = False) -> Receipt:
        """See :meth:`headway.core.Server.submit`.

        Args:
            update: What came.
            now: The time, in seconds.
            again: The worker asks for its next job in the same trip.

        Raises:
            CheckpointError: It cannot be logged; nothing has changed.
        """
        device = self.server.parameters.device
        call = submitted(update, now, again=again, device=device)
        return self._make(call, self.server.submit, update, now, again=again)

    def lose(self, worker: str, now: float, *, again: bool = False) -> Reply:
        """See :meth:`headway.core.Server.lose`.

        Args:
            worker: Its name.
            now: The time, in seconds.
            again: Only its jobs are lost.

        Raises:
            CheckpointError: It cannot be logged; nothing has changed.
        """
        call = Call("lose", {"worker": worker, "now": now, "again": again})
        return self._make(call, self.server.lose, worker, now, again=again)

    def tick(self, now: float, *, closing: bool = False) -> Reply:
        """See :meth:`headway.core.Server.tick`.

        Args:
            now: The time, in seconds.
            closing: The run ends now.

        Raises:
            CheckpointError: It cannot be logged; nothing has changed.
        """
        call = Call("tick", {"now": now, "closing": closing})
        return self._make(call, self.server.tick, now, closing=closing)

    def _make(
        self, call: Call, door: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs
    ) -> _T:
        self.journal.append(call, version=self.server.version)
        began = time.perf_counter()
        try:
            return door(*arguments, **options)
        finally:
            self.busy_s += time.perf_counter() - began


def save_checkpoint(
    store: CheckpointStore,
    journal: Journal,
    server: Server,
    beside: Mapping[str, Any] = _NOTHING,
) -> Callable[[], None]:
    """Begin a checkpoint of a server as it is now, between two calls.

    Args:
        store: Where it is kept.
        journal: The server's log. It goes on in a new segment at once.
        server: It is copied here, and not used afterwards.
        beside: What else is in the checkpoint, by names other than ``"server"``.

    Returns:
        What writes the checkpoint, from any thread, and then removes what nobody needs of the log.
        It raises a ``CheckpointError`` where that fails; the log and the checkpoints that are there
        stay good.

    Raises:
        CheckpointError: The log cannot go on in a new segment; it goes on as it was.
    """
    number = journal.rotate()
    tree = {**beside, "server": server.state_dict()}

    def write() -> None:
        store.save(number, tree)
        journal.covered(number, oldest=store.numbers()[0])

    return write


def recover(
    store: CheckpointStore,
    journal: Journal,
    make_server: Callable[[], Server],
    *,
    found: Callable[[Checkpoint], None] | None = None,
    beside: Mapping[str, Any] = _NOTHING,
) -> Server:
    """Bring a server back to its last logged call, and go on with its log.

    From the newest sound checkpoint the calls in the log are made again, with their times: versions,
    job ids, receipts and weights are what they were, to the bit on the same hardware. Jobs that were
    in flight still are; the next ones belong to a new incarnation. Where nothing was saved, the
    server begins, and is saved as it is then.

    Args:
        store: Of the server's checkpoints. Their numbers are those of the log's records.
        journal: Of the server's log, as it was made; it is begun here.
        make_server: Makes a server with the same algorithm, scheduler, seed and model size. Its
            incarnation is the lowest that may be taken.
        found: Shown the checkpoint before anything is done with it, to refuse it or to read what
            else is in it.
        beside: What else is in the first checkpoint, where there is none.

    Returns:
        The server, without events of what was made again. Set its ``timers`` and wake its
        ``woken``; ``server.now`` is the time from which its clock goes on.

    Raises:
        CheckpointError: An acknowledged call is damaged or missing, or the disk does not do its part.
        ReplayMismatchError: The calls do not fit the server: another configuration, or another seed.
        StateError: The checkpoint is of another algorithm or another model.
    """
    try:
        return _recovered(store, journal, make_server(), found, beside)
    except BaseException:
        journal.close()
        raise


def _recovered(
    store: CheckpointStore,
    journal: Journal,
    server: Server,
    found: Callable[[Checkpoint], None] | None,
    beside: Mapping[str, Any],
) -> Server:
    lowest = server.incarnation
    numbers = store.numbers()
    after = 0
    if numbers:
        newest = store.load()
        after = newest.number
        if found is not None:
            found(newest)
        server.load_state_dict(_state_of(newest.tree, store))
    for entry in journal.read(after):
        if not numbers:
            raise _no_beginning(store, journal)
        _make_again(server, entry)
        server.take_events()
    if not numbers:
        store.save(0, {**beside, "server": server.state_dict()})
        journal.begin()
        return server
    begin_anew(server, max(server.incarnation + 1, lowest))
    journal.begin()
    journal.append(began(server.incarnation), version=server.version)
    # No job may be given out before it is certain that its incarnation is not given out again.
    journal.sync()
    return server


def _make_again(server: Server, entry: Entry) -> None:
    if entry.version != server.version:
        raise ReplayMismatchError(
            f"record {entry.sequence} of the log does not follow from the records before it",
            where=f"record {entry.sequence}, {entry.call.door}",
            got=f"the server is at version {server.version}",
            expected=f"version {entry.version}",
            help="start with the configuration, seed and version of Headway that wrote the log",
        )
    error = make_again(server, entry.call)
    if error is not None:
        warnings.warn(
            f"record {entry.sequence} of the log, {entry.call.door}, raises {error!r}, as it must "
            "have done before",
            RuntimeWarning,
            stacklevel=3,
        )


def _state_of(tree: Any, store: CheckpointStore) -> dict[str, Any]:
    try:
        state: dict[str, Any] = tree["server"]
    except (LookupError, TypeError) as error:
        raise CheckpointError(
            "these are not the checkpoints of a server with a log",
            where=str(store.folder),
            got=repr(error),
            help="use another folder",
        ) from error
    return state


def _no_beginning(store: CheckpointStore, journal: Journal) -> CheckpointError:
    return CheckpointError(
        "there is a log, and no checkpoint that it begins from",
        where=str(store.folder),
        got=f"records in {journal.folder}",
        help="restore the checkpoints; or remove the log, and the server begins anew",
    )
