"""What cannot be done now, because the log has no room for it, and is done when it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, final

from headway.core.errors import CheckpointError

__all__ = ["Patience"]

_AGAIN_S: Final = 0.25


class _Held(NamedTuple):
    """An action that waits, what is called when it is done, and for whom it is."""

    action: Callable[[], object]
    done: Callable[[], None] | None
    owner: object = None


@final
class Patience:
    """Does one thing after the other, and waits where one raises a ``CheckpointError``.

    Such an action has changed nothing, and is tried again; those that come later wait behind it. So
    nothing is refused because a disk is full, and workers, who wait for their receipts, send no more
    meanwhile.

    Args:
        changed: Called with the error when waiting begins, and with ``None`` when it is over.

    Attributes:
        problem: Why something waits; ``None``: nothing does.

    Example:
        >>> patience, room = Patience(lambda problem: print(problem and problem.message)), []
        >>> def write(what):
        ...     if not room:
        ...         raise CheckpointError("the disk is full")
        ...     print("wrote", what)
        >>> patience.do(lambda: write(1), 0.0)
        the disk is full
        >>> patience.do(lambda: write(2), 0.1)
        >>> room.append("plenty"); patience.try_again(1.0)
        wrote 1
        wrote 2
        None
    """

    def __init__(self, changed: Callable[[CheckpointError | None], None]) -> None:
        self.problem: CheckpointError | None = None
        self._changed = changed
        self._held: deque[_Held] = deque()
        self._again_s = 0.0

    @property
    def num_waiting(self) -> int:
        """How many actions wait."""
        return len(self._held)

    @property
    def due_s(self) -> float | None:
        """When to try again; ``None``: nothing waits."""
        return self._again_s if self._held else None

    def do(
        self,
        action: Callable[[], object],
        now: float,
        done: Callable[[], None] | None = None,
        *,
        owner: object = None,
    ) -> None:
        """Do something now, or when it is its turn.

        Args:
            action: It raises a ``CheckpointError`` before it changes anything, or not at all.
            now: The time, in seconds.
            done: Called when it is done, or has failed otherwise.
            owner: Who wants it; ``None``: the server itself.

        Raises:
            Exception: What the action raised, other than a ``CheckpointError``.
        """
        held = _Held(action, done, owner)
        if self._held:
            self._held.append(held)
            return
        try:
            self._do(held)
        except CheckpointError as error:
            # What it had others do may wait already.
            self._held.appendleft(held)
            self._begin(error, now)
        else:
            self._end()

    def at_once(self, action: Callable[[], object], done: Callable[[], None] | None = None) -> None:
        """Do something that needs nothing of what the others wait for.

        Args:
            action: It raises no ``CheckpointError``.
            done: Called when it is done, or has failed.

        Raises:
            Exception: What the action raised.
        """
        self._do(_Held(action, done))

    def try_again(self, now: float) -> None:
        """Do what waits, if it is time to try and as far as that goes.

        Args:
            now: The time, in seconds.

        Raises:
            Exception: What an action raised, other than a ``CheckpointError``.
        """
        if not self._held or now < self._again_s:
            return
        while self._held:
            held = self._held.popleft()
            try:
                self._do(held)
            except CheckpointError as error:
                self._held.appendleft(held)
                self.problem, self._again_s = error, now + _AGAIN_S
                return
        self._end()

    def forget(self, owner: object) -> None:
        """Do not do any more what somebody wanted who is gone.

        Args:
            owner: Who.
        """
        given_up = [held for held in self._held if held.owner is owner]
        if given_up:
            self._held = deque(held for held in self._held if held.owner is not owner)
            _finish(given_up)

    def drop(self) -> None:
        """Forget what waits; it was never done."""
        given_up, self._held = self._held, deque()
        _finish(given_up)

    def _do(self, held: _Held) -> None:
        try:
            held.action()
        except CheckpointError:
            raise
        except BaseException:
            if held.done is not None:
                held.done()
            raise
        if held.done is not None:
            held.done()

    def _begin(self, error: CheckpointError, now: float) -> None:
        self.problem, self._again_s = error, now + _AGAIN_S
        self._changed(error)

    def _end(self) -> None:
        if self.problem is not None and not self._held:
            self.problem = None
            self._changed(None)


def _finish(given_up: Iterable[_Held]) -> None:
    for held in given_up:
        if held.done is not None:
            held.done()
