"""Threads for calls, which do not outlive their process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar, final

__all__ = ["Pool"]

_T = TypeVar("_T")
_OVER: Final = None
_Task = tuple["Future[Any]", Callable[[], Any]]


@final
class Pool(Executor):
    """Threads that wait for calls.

    Not :class:`concurrent.futures.ThreadPoolExecutor`: a process waits for its threads before it
    ends, and a connection's thread ends only with the connection.

    Args:
        max_threads: How many there are at most, at least 1; each starts when it is needed.
        name: What they are called, with a number behind it.

    Example:
        >>> pool = Pool(2, "example")
        >>> pool.submit(divmod, 7, 2).result()
        (3, 1)
        >>> pool.shutdown()
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_over = False

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Have a function called; it waits while all threads are busy.

        Args:
            fn: What to call.
            args: Its arguments.
            kwargs: Likewise.

        Returns:
            What will hold its value.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._is_over:
                raise RuntimeError("the pool was shut down")
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._max_threads:
                self._start()
            self._tasks.put((future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; what was submitted is still done. May be called twice.

        Args:
            wait: Whether to wait until it is.
            cancel_futures: Whether what has not begun is cancelled.
        """
        with self._lock:
            if not self._is_over:
                self._is_over = True
                if cancel_futures:
                    self._cancel()
                for _ in self._threads:
                    self._tasks.put(_OVER)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel(self) -> None:
        while not self._tasks.empty():
            task = self._tasks.get()
            if task is not _OVER:
                task[0].cancel()

    def _start(self) -> None:
        thread = threading.Thread(
            target=_serve,
            args=(self._tasks, self._idle),
            name=f"{self._name}_{len(self._threads)}",
            daemon=True,
        )
        thread.start()
        self._threads.append(thread)


def _serve(tasks: SimpleQueue[_Task | None], idle: threading.Semaphore) -> None:
    while (task := tasks.get()) is not _OVER:
        _do(*task)
        # Nothing of a call stays until the next one.
        del task
        idle.release()


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 (it is raised where the value is asked for)
        future.set_exception(error)
