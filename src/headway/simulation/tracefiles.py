"""The files that traces stand in: JSON and CSV, with errors that say where in the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from headway.core.errors import ConfigurationError

__all__ = ["Problem", "read_csv", "read_json"]


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """Makes errors about one place in a file.

    Args:
        path: The file.
        place: Where in it.
    """

    path: Path
    place: str = ""

    def error(self, message: str, *, got: str, help: str) -> ConfigurationError:
        """An error about this place.

        Args:
            message: What is wrong.
            got: What was found.
            help: What to do.
        """
        where = str(self.path) + (f", {self.place}" if self.place else "")
        return ConfigurationError(message, where=where, got=got, help=help)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = Problem(path)
        got = error.strerror or str(error)
        raise problem.error("cannot read the file", got=got, help="check its path") from None
    try:
        # A pickle begins with 0x80, which is never the beginning of UTF-8.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(path).error(
            "this is no text file",
            got="bytes that are not UTF-8, such as those of a pickle",
            help="nothing is unpickled here; export its fields to JSON, see docs/populations.md",
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON file in which no key comes twice.

    Args:
        path: The file.

    Returns:
        What stands in it.

    Raises:
        ConfigurationError: It cannot be read.
    """
    text = _read(path)
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except json.JSONDecodeError as error:
        problem = Problem(path, f"line {error.lineno}")
        help = "correct the file; a table is read from a file whose name ends in .csv"
        raise problem.error("this is no JSON", got=error.msg, help=help) from None
    except _TwiceError as error:
        got = repr(error.args[0])
        raise Problem(path).error("a key comes twice", got=got, help="take one out") from None
    except RecursionError:
        problem, got = Problem(path), "brackets within brackets, too deep to be read"
        raise problem.error("this is no trace", got=got, help="correct the file") from None
    except ValueError:
        problem, got = Problem(path), "a number with thousands of digits"
        raise problem.error("this is no number", got=got, help="correct the file") from None


class _TwiceError(Exception):
    """A key comes twice in an object, where JSON would keep the last."""


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def read_csv(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Read a table with a column ``client``, row by row; blanks around values are left out.

    Args:
        path: The file.

    Returns:
        For each row the number of its line, and its values by column.

    Raises:
        ConfigurationError: It cannot be read.
    """
    reader = csv.reader(_read(path).splitlines(), skipinitialspace=True, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        for row in reader:
            if row and len(row) != len(header):
                raise Problem(path, f"line {reader.line_num}").error(
                    "this row has not as many values as the header",
                    got=f"{len(row)} values under a header of {len(header)}",
                    help="every row has a value in every column",
                )
            if row:
                yield reader.line_num, dict(zip(header, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise Problem(path, f"line {reader.line_num}").error(
            "this is no CSV", got=str(error), help="write plain numbers, without quotes"
        ) from None


def _check_header(path: Path, header: list[str]) -> None:
    problem, got = Problem(path, "line 1"), ",".join(header)[:60] or "nothing"
    if "client" not in header:
        raise problem.error(
            "there is no client's number, for no column is called client",
            got=got,
            help="the first line names the columns, with commas between them: client,time_s",
        )
    if len(set(header)) < len(header):
        raise problem.error("a column comes twice", got=got, help="take one out")
