"""Calls of a server's doors as records: what goes in, before the server has seen it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from headway.core import Buffers, Server, Update
from headway.core.checks import readable
from headway.core.errors import LogDamagedError, ReplayMismatchError
from headway.observe import odd

__all__ = ["Call", "began", "begin_anew", "make_again", "submitted"]


class Call(NamedTuple):
    """A call of one of the doors.

    Attributes:
        door: ``"register"``, ``"checkout"``, ``"submit"``, ``"lose"``, ``"tick"``; or ``"began"``:
            the server was started again.
        arguments: The plain ones.
        tensors: Flat, by their names; those of an update.
    """

    door: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = {}


def began(incarnation: int) -> Call:
    """A server was started again from what was saved.

    Args:
        incarnation: The one that its next jobs belong to.
    """
    return Call("began", {"incarnation": incarnation})


def begin_anew(server: Server, incarnation: int) -> None:
    """Let a server give out jobs of another incarnation from now on.

    Args:
        server: It is otherwise as it was; ``parameters`` is another tensor afterwards.
        incarnation: Above the server's.

    Raises:
        ReplayMismatchError: It is not above the server's.
    """
    if incarnation <= server.incarnation:
        raise ReplayMismatchError(
            "the log is not of this server",
            got=f"incarnation {server.incarnation}",
            expected=f"one below {incarnation}",
            help="use the checkpoints and the log of one folder together",
        )
    state = server.state_dict()
    state["incarnation"] = incarnation - 1
    server.load_state_dict(state, restarted=True)


def submitted(update: Update, now: float, *, again: bool, device: torch.device) -> Call:
    """A submit, whatever is in the update: one that is refused now is refused again.

    Args:
        update: It is not changed. Its tensors are used until the call is in the log.
        now: The time, in seconds.
        again: Whether the worker asks for its next job.
        device: The server's.
    """
    update = readable(update)
    sent: Any = update.payload
    named = {} if sent is None else {"payload": sent}
    if update.buffers is not None:
        named |= {"floating": update.buffers.floating, "integer": update.buffers.integer}
    flat = {name: odd.flatten(tensor, device) for name, tensor in named.items()}
    arguments: dict[str, Any] = {
        "now": now,
        "again": again,
        "base_version": update.base_version,
        "worker": update.worker,
        "sequence": update.sequence,
        "num_examples": update.num_examples,
        "num_steps": update.num_steps,
        "weight": update.weight,
        "fragment": update.fragment,
    }
    if update.metrics:
        arguments["metrics"] = dict(update.metrics)
    about = {name: told for name, (_, told) in flat.items() if told is not None}
    if about:
        arguments["odd"] = about
    return Call("submit", arguments, {name: tensor for name, (tensor, _) in flat.items()})


def make_again(server: Server, call: Call) -> BaseException | None:
    """Make a call that was made before: the error that it ended with then, too, if it did.

    Args:
        server: In the state that it had before the call.
        call: From the log.

    Raises:
        LogDamagedError: There is no such call.
        ReplayMismatchError: The server is not in that state.
    """
    again = _DOORS.get(call.door)
    if again is None:
        raise LogDamagedError(
            "this is not a call of a server", got=repr(call.door), expected=", ".join(_DOORS)
        )
    try:
        prepared = again(server, call)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LogDamagedError("a call lacks what belongs to it", got=repr(error)) from error
    if call.door == "began":
        prepared()
        return None
    try:
        prepared()
    except Exception as error:  # noqa: BLE001 (a transform raised it then, and raises it now)
        return error
    return None


def _register(server: Server, call: Call) -> Callable[[], Any]:
    workers, now = tuple(map(str, call.arguments["workers"])), float(call.arguments["now"])
    return lambda: server.register(workers, now)


def _checkout(server: Server, call: Call) -> Callable[[], Any]:
    worker, now = str(call.arguments["worker"]), float(call.arguments["now"])
    return lambda: server.checkout(worker, now)


def _lose(server: Server, call: Call) -> Callable[[], Any]:
    worker, now = str(call.arguments["worker"]), float(call.arguments["now"])
    again = bool(call.arguments["again"])
    return lambda: server.lose(worker, now, again=again)


def _tick(server: Server, call: Call) -> Callable[[], Any]:
    now, closing = float(call.arguments["now"]), bool(call.arguments["closing"])
    return lambda: server.tick(now, closing=closing)


def _submit(server: Server, call: Call) -> Callable[[], Any]:
    told = dict(call.arguments)
    now, again, about = float(told.pop("now")), bool(told.pop("again")), told.pop("odd", {})
    device = server.parameters.device
    tensors = {}
    for name, flat in call.tensors.items():
        tensor = odd.restore(flat, about.get(name))
        tensors[name] = tensor if tensor.is_meta else tensor.to(device)
    buffers = Buffers(tensors["floating"], tensors["integer"]) if "floating" in tensors else None
    payload: Any = tensors.get("payload")
    update = Update(payload, buffers=buffers, **told)
    return lambda: server.submit(update, now, again=again)


def _began(server: Server, call: Call) -> Callable[[], Any]:
    incarnation = int(call.arguments["incarnation"])
    return lambda: begin_anew(server, incarnation)


_DOORS: Final[dict[str, Callable[[Server, Call], Callable[[], Any]]]] = {
    "began": _began,
    "register": _register,
    "checkout": _checkout,
    "submit": _submit,
    "lose": _lose,
    "tick": _tick,
}
