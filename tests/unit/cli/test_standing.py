"""The status as people read it."""

from __future__ import annotations

from typing import Any

from headway.cli.standing import status_lines


def _worker(name: str, farewell: str | None) -> dict[str, Any]:
    return {"name": name, "state": "left", "farewell": farewell}


def _line(workers: list[dict[str, Any]]) -> list[str]:
    lines = [" ".join(line.split()) for line in status_lines({"workers": workers})]
    return [line for line in lines if line.startswith("ended ")]


def test_who_was_ended_by_an_error_stands_there_with_its_words() -> None:
    words = "ConfigurationError: the server owns\nthe optimizer"
    assert _line([_worker("ada", words), _worker("bob", None)]) == [
        "ended ada: ConfigurationError: the server owns the optimizer"
    ]
    assert _line([_worker("ada", words), _worker("eve", "ValueError")]) == [
        "ended eve and 1 more: ValueError"
    ]


def test_who_left_in_order_is_in_the_table_alone() -> None:
    assert _line([_worker("bob", None)]) == []
