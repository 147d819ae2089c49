"""Who is let in, and what they are told at the door."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from headway import __version__
from headway.core import ParameterLayout
from headway.core.errors import StateError
from headway.runtime import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.runtime.members import Member

__all__ = ["Porter", "Refusal"]

_NAME: Final = 128
"""Names are kept after their workers have gone, and stand in logs and tables."""


class Refusal(NamedTuple):
    """Why a worker is not let in.

    Attributes:
        code: One word, for programs.
        message: In words.
        help: What to do.
    """

    code: str
    message: str
    help: str


@final
class Porter:
    """Compares a worker with the server, and tells it what to do.

    Args:
        layout: Of the server's model.
        instructions: What workers are told: plain values for JSON.
        model: What the model is made of, where that can be said.
        max_message_bytes: The largest message that is taken.
    """

    def __init__(
        self,
        layout: ParameterLayout,
        instructions: Mapping[str, Any],
        *,
        model: Mapping[str, Any] | None = None,
        max_message_bytes: int = 4 << 20,
    ) -> None:
        self._layout = layout
        self._told = json.dumps(layout.describe())
        self._instructions = json.dumps(dict(instructions))
        self._model = "" if model is None else json.dumps(dict(model))
        self._max_message_bytes = max_message_bytes

    def refusal(self, join: wire.Join, before: Member | None = None) -> Refusal | None:
        """Why this worker cannot join; ``None``: it can.

        Args:
            join: What it said.
            before: Who has had its name; ``None``: nobody.
        """
        if join.protocol != wire.PROTOCOL:
            return Refusal(
                "protocol",
                f"the server speaks protocol {wire.PROTOCOL} (Headway {__version__}), the worker "
                f"protocol {join.protocol} (Headway {join.library or 'unknown'})",
                "install the same version of Headway on both sides",
            )
        if join.library and join.library != __version__:
            return Refusal(
                "library",
                f"the server runs Headway {__version__}, the worker Headway {join.library}",
                "install the same version of Headway on both sides",
            )
        if not (_is_name(join.worker) and _is_name(join.instance)):
            return Refusal(
                "name",
                f"a worker's name and instance are at most {_NAME} printable characters",
                "give a shorter name, or none: the server chooses one then",
            )
        if join.layout and (refused := self._other_model(join.layout)) is not None:
            return refused
        if before is None or before.session is None or before.instance == join.instance != "":
            return None
        return Refusal(
            "name_taken",
            f"a worker named `{join.worker}` is here already",
            "give each worker a name of its own, or none: the server chooses one then",
        )

    def welcome(self, name: str, incarnation: int) -> wire.Welcome:
        """What a worker is told that is let in.

        Args:
            name: It.
            incarnation: Which life of the server this is.
        """
        return wire.Welcome(
            worker=name,
            incarnation=incarnation,
            library=__version__,
            layout=self._told,
            model=self._model,
            instructions=self._instructions,
            max_message_bytes=self._max_message_bytes,
        )

    def _other_model(self, told: str) -> Refusal | None:
        try:
            theirs = ParameterLayout.from_description(json.loads(told))
        except (StateError, ValueError, RecursionError):
            return Refusal("layout", "the worker's description of its model cannot be read", "")
        # How the server cuts its model into fragments is no affair of a worker's.
        mine = self._layout.describe() | {"bounds": []}
        if mine == theirs.describe() | {"bounds": []}:
            return None
        difference = self._layout.difference(theirs) or "buffers differ"
        return Refusal(
            "layout",
            "the worker's model is not the server's: the server has, against the worker, "
            f"{difference}",
            "build both models with the same code, or give the worker none: it gets the server's",
        )


def _is_name(text: str) -> bool:
    return len(text) <= _NAME and text.isprintable()
